package drift

import (
	"fmt"
	"slices"
	"strings"

	"github.com/seed-a5f25c57/applebusiness"
)

type entry = applebusiness.Entry

// compare says in one line each how page differs from the catalog.
func compare(page []entry) (findings []string) {
	var missing []entry
	added := slices.Clone(page)
	for e := range applebusiness.Catalog() {
		e.Reason = "" // which no page knows
		before := len(added)
		if added = slices.DeleteFunc(added, func(row entry) bool { return row == e }); len(added) == before {
			missing = append(missing, e)
		}
	}
	for _, change := range []struct {
		forget func(*entry) // what may have changed
		report string       // of both statuses, the code and the description that were, and the new row
	}{
		{func(e *entry) { e.StatusCode = 0 }, "status moved from %[1]d to %[2]d: %[5]s"},
		{func(e *entry) { e.Code = "" }, "code changed from %[3]q: %[5]s"},
		{func(e *entry) { e.Description = "" }, "worded differently, the catalog says %[4]q: %[5]s"},
	} {
		added = slices.DeleteFunc(added, func(new entry) bool {
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
				old := missing[best]
				findings = append(findings, fmt.Sprintf(change.report, old.StatusCode, new.StatusCode, string(old.Code), old.Description, row(new)))
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
func row(e entry) string {
	where := strings.TrimSuffix(fmt.Sprintf("%s %d", e.Endpoint, e.StatusCode), " 0")
	return fmt.Sprintf("%s %q %q", where, string(e.Code), e.Description)
}
