package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/seed-a5f25c57/applebusiness"
)

// compare says in one line each how page differs from catalog.
func compare(catalog, page []applebusiness.Entry) []string {
	missing := subtract(catalog, page)
	added := subtract(page, catalog)
	var findings []string

	// pair reports an added row together with the missing row that it stands for: the one most like it.
	pair := func(likeness func(missing, added applebusiness.Entry) int, report func(missing, added applebusiness.Entry) string) {
		added = slices.DeleteFunc(added, func(new applebusiness.Entry) bool {
			best, most := -1, 0
			for i, old := range missing {
				if n := likeness(old, new); n > most {
					best, most = i, n
				}
			}
			if best < 0 {
				return false
			}
			findings = append(findings, report(missing[best], new))
			missing = slices.Delete(missing, best, best+1)
			return true
		})
	}
	pair(func(old, new applebusiness.Entry) int {
		old.StatusCode = new.StatusCode
		return same(old, new)
	}, func(old, new applebusiness.Entry) string {
		return fmt.Sprintf("status moved from %d to %d: %s", old.StatusCode, new.StatusCode, row(new))
	})
	pair(func(old, new applebusiness.Entry) int {
		old.Code = new.Code
		return same(old, new)
	}, func(old, new applebusiness.Entry) string {
		return fmt.Sprintf("code changed from %q: %s", string(old.Code), row(new))
	})
	pair(func(old, new applebusiness.Entry) int {
		words := sharedWords(old.Description, new.Description)
		old.Description = new.Description
		return same(old, new) * words
	}, func(old, new applebusiness.Entry) string {
		return fmt.Sprintf("worded differently, the catalog says %q: %s", old.Description, row(new))
	})
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
	var rest []applebusiness.Entry
	for _, entry := range a {
		if !slices.ContainsFunc(b, func(other applebusiness.Entry) bool { return same(entry, other) == 1 }) {
			rest = append(rest, entry)
		}
	}
	return rest
}

// same is 1 if the rows are equal, else 0. The Reason does not count: no page knows it.
func same(a, b applebusiness.Entry) int {
	a.Reason = b.Reason
	if a == b {
		return 1
	}
	return 0
}

// sharedWords counts the words that two texts share; 0 if they are not even half of the shorter text.
func sharedWords(a, b string) int {
	words, others := strings.Fields(strings.ToLower(a)), strings.Fields(strings.ToLower(b))
	shared := 0
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
	if entry.StatusCode == 0 {
		return fmt.Sprintf("%s %q %q", entry.Endpoint, string(entry.Code), entry.Description)
	}
	return fmt.Sprintf("%s %d %q %q", entry.Endpoint, entry.StatusCode, string(entry.Code), entry.Description)
}
