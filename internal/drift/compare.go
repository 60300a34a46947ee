package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/seed-a5f25c57/applebusiness"
)

// compare says in one line each how page differs from catalog. No page knows a Reason, and here neither does the catalog.
func compare(catalog, page []applebusiness.Entry) []string {
	missing, added := subtract(catalog, page), subtract(page, catalog)
	var findings []string
	for _, change := range []struct {
		forget func(*applebusiness.Entry) // what may have changed
		report func(old, new applebusiness.Entry) string
	}{
		{func(e *applebusiness.Entry) { e.StatusCode = 0 }, func(old, new applebusiness.Entry) string {
			return fmt.Sprintf("status moved from %d to %d: %s", old.StatusCode, new.StatusCode, row(new))
		}},
		{func(e *applebusiness.Entry) { e.Code = "" }, func(old, new applebusiness.Entry) string {
			return fmt.Sprintf("code changed from %q: %s", string(old.Code), row(new))
		}},
		{func(e *applebusiness.Entry) { e.Description = "" }, func(old, new applebusiness.Entry) string {
			return fmt.Sprintf("worded differently, the catalog says %q: %s", old.Description, row(new))
		}},
	} {
		added = slices.DeleteFunc(added, func(new applebusiness.Entry) bool {
			best, most := 0, 0 // the missing row that it stands for is the one most like it
			for i, old := range missing {
				a, b := old, new
				change.forget(&a)
				change.forget(&b)
				if shared := sharedWords(old.Description, new.Description); a == b && shared > most {
					best, most = i, shared
				}
			}
			if most > 0 {
				findings = append(findings, change.report(missing[best], new))
				missing = slices.Delete(missing, best, best+1)
			}
			return most > 0
		})
	}
	for _, new := range added {
		findings = append(findings, "the catalog lacks: "+row(new))
	}
	for _, old := range missing {
		findings = append(findings, "no longer on the page: "+row(old))
	}
	return findings
}

// subtract returns the entries of a that b has not.
func subtract(a, b []applebusiness.Entry) []applebusiness.Entry {
	return slices.DeleteFunc(slices.Clone(a), func(entry applebusiness.Entry) bool { return slices.Contains(b, entry) })
}

// sharedWords counts the words that two texts share; 0 if they are not even half of the shorter text.
func sharedWords(a, b string) (shared int) {
	words, others := strings.Fields(strings.ToLower(a)), strings.Fields(strings.ToLower(b))
	for _, word := range words {
		if slices.Contains(others, word) {
			shared++
		}
	}
	if 2*shared < min(len(words), len(others)) {
		return 0
	}
	return shared
}

// row shows what came from outside in quotes.
func row(entry applebusiness.Entry) string {
	status := ""
	if entry.StatusCode != 0 {
		status = fmt.Sprintf(" %d", entry.StatusCode)
	}
	return fmt.Sprintf("%s%s %q %q", entry.Endpoint, status, string(entry.Code), entry.Description)
}
