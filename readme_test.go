package applebusiness_test

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
)

// constantNames maps each Reason to the name of its constant.
func constantNames(t *testing.T) map[applebusiness.Reason]string {
	names := make(map[applebusiness.Reason]string)
	for _, c := range constants(t, "codes.go") {
		if c.typ == "Reason" {
			names[applebusiness.Reason(c.value)] = c.name
		}
	}
	return names
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// The tables of the README and of Troubleshoot's documentation are written from the catalog and the advice. In the README
// each stands between <!-- name --> and <!-- /name -->. After a change:
//
//	go test -run TestTables -update .
func TestTables(t *testing.T) {
	tables := map[string]func(*testing.T) string{"errors": errorsTable, "advice": adviceTable, "actions": actionsTable}
	count := 0
	readme := regexp.MustCompile(`(?s)(<!-- (\w+) -->\n)(.*?)(<!-- /\w+ -->\n)`)
	rewrite(t, "README.md", func(text string) string {
		return readme.ReplaceAllStringFunc(text, func(section string) string {
			parts := readme.FindStringSubmatch(section)
			table := tables[parts[2]]
			require.NotNil(t, table, "no table is called %s", parts[2])
			require.Equal(t, "<!-- /"+parts[2]+" -->\n", parts[4])
			count++
			return parts[1] + table(t) + parts[4]
		})
	})
	assert.NotZero(t, count, "the README has no table")
	comment := regexp.MustCompile(`//\tReason  .*\n(//\tErr.*\n)+`)
	rewrite(t, "troubleshoot.go", func(text string) string {
		require.Len(t, comment.FindAllString(text, -1), 1)
		return comment.ReplaceAllLiteralString(text, adviceComment(t))
	})
}

// rewrite compares the text of a file with what change makes of it, or with -update writes that.
func rewrite(t *testing.T, path string, change func(string) string) {
	text := readFile(t, path)
	changed := change(text)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(changed), 0o644))
		return
	}
	assert.Equal(t, changed, text, "%s: go test -run TestTables -update .", path)
}

func errorsTable(t *testing.T) string {
	table := "| Endpoint | HTTP | `error` | `error_description` | Reason |\n|---|---|---|---|---|\n"
	names := constantNames(t)
	for entry := range applebusiness.Catalog() {
		status := strconv.Itoa(entry.StatusCode)
		if entry.StatusCode == 0 {
			status = "redirect"
		}
		table += fmt.Sprintf("| %s | %s | `%s` | `%s` | `%s` |\n", string(entry.Endpoint), status, string(entry.Code), entry.Description, names[entry.Reason])
	}
	return table
}

// advised is a Reason with its advice, as the tables have it.
type advised struct{ name, action, impact, retryable string }

// advisedReasons returns the advice for each Reason, in the order of codes.go: for a refresh, or for a redirect that has it.
func advisedReasons(t *testing.T) []advised {
	isOfRedirect := map[applebusiness.Reason]bool{applebusiness.ErrStateMismatch: true, applebusiness.ErrMalformedRedirect: true, applebusiness.ErrUserDenied: true}
	for entry := range applebusiness.Catalog() {
		isOfRedirect[entry.Reason] = entry.Endpoint == applebusiness.AuthorizationEndpoint && entry.Reason != applebusiness.ErrServer
	}
	var all []advised
	for _, c := range constants(t, "codes.go") {
		if c.typ != "Reason" {
			continue
		}
		failed := &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: applebusiness.Reason(c.value), GrantType: applebusiness.GrantTypeRefreshToken}
		if isOfRedirect[failed.Reason] {
			failed.Endpoint, failed.GrantType = applebusiness.AuthorizationEndpoint, ""
		}
		advice := applebusiness.Troubleshoot(failed)
		row := advised{c.name, string(advice.Action), cmp.Or(string(advice.Impact), "unknown"), "no"}
		if applebusiness.Retryable(failed) {
			row.retryable = "yes"
		}
		all = append(all, row)
	}
	return all
}

func adviceTable(t *testing.T) string {
	table := "| Reason | Action | Impact | Retryable |\n|---|---|---|---|\n"
	for _, row := range advisedReasons(t) {
		table += fmt.Sprintf("| `%s` | `%s` | `%s` | %s |\n", row.name, row.action, row.impact, row.retryable)
	}
	return table
}

func adviceComment(t *testing.T) string {
	rows := append([]advised{{"Reason", "Action", "Impact", "Retryable"}}, advisedReasons(t)...)
	table := ""
	for _, row := range rows {
		table += fmt.Sprintf("//\t%-27s%-18s%-10s%s\n", row.name, row.action, row.impact, row.retryable)
	}
	return table
}

// actionsTable has a row for each Action, with the first sentence of its documentation.
func actionsTable(t *testing.T) string {
	table := "| Action | It means that | Reasons |\n|---|---|---|\n"
	for _, c := range constants(t, "troubleshoot.go") {
		if c.typ != "Action" || c.value == "" {
			continue
		}
		var names []string
		for _, row := range advisedReasons(t) {
			if row.action == c.value {
				names = append(names, "`"+row.name+"`")
			}
		}
		sentence, _, _ := strings.Cut(strings.Join(strings.Fields(c.doc), " "), ". ")
		table += fmt.Sprintf("| `%s` | %s | %s |\n", c.name, strings.TrimPrefix(sentence, c.name+" means that "), strings.Join(names, ", "))
	}
	return table
}

// Every test that the guide for contributors names exists.
func TestContributingNamesTests(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	var sources strings.Builder
	for _, file := range files {
		sources.WriteString(readFile(t, file))
	}
	count := 0
	for word := range strings.FieldsFuncSeq(readFile(t, ".github/CONTRIBUTING.md"), func(r rune) bool { return strings.ContainsRune("` \n,.|'", r) }) {
		if strings.HasPrefix(word, "Test") && !strings.HasPrefix(word, "Testing") {
			assert.True(t, strings.Contains(sources.String(), "func "+word+"(t *testing.T)"), word)
			count++
		}
	}
	assert.GreaterOrEqual(t, count, 6)
}
