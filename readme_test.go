package applebusiness_test

import (
	"fmt"
	"os"
	"path/filepath"
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

// linesWith returns the lines of text that begin so, without what begins them.
func linesWith(text, beginning string) []string {
	var found []string
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, beginning); ok {
			found = append(found, strings.TrimSuffix(rest, "\n"))
		}
	}
	return found
}

func TestReadmeTable(t *testing.T) {
	readme := readFile(t, "README.md")
	rows := append(linesWith(readme, "| token "), linesWith(readme, "| authorization ")...)
	names := constantNames(t)
	var want []string
	for entry := range applebusiness.Catalog() {
		status := fmt.Sprint(entry.StatusCode)
		if entry.StatusCode == 0 {
			status = "redirect"
		}
		want = append(want, fmt.Sprintf("| %s | `%s` | `%s` | `%s` |", status, string(entry.Code), entry.Description, names[entry.Reason]))
	}
	assert.Equal(t, want, rows)
}

// The table of advice in the README and the one in Troubleshoot's documentation say what the functions say.
func TestAdviceTables(t *testing.T) {
	isOfRedirect := make(map[applebusiness.Reason]bool)
	for entry := range applebusiness.Catalog() {
		isOfRedirect[entry.Reason] = entry.Endpoint == applebusiness.AuthorizationEndpoint && entry.Reason != applebusiness.ErrServer
	}
	var markdown, comment []string
	for _, c := range constants(t, "codes.go") {
		if c.typ != "Reason" {
			continue
		}
		failed := &applebusiness.Error{Endpoint: applebusiness.TokenEndpoint, Reason: applebusiness.Reason(c.value), GrantType: applebusiness.GrantTypeRefreshToken}
		switch {
		case isOfRedirect[failed.Reason], failed.Reason == applebusiness.ErrStateMismatch, failed.Reason == applebusiness.ErrMalformedRedirect, failed.Reason == applebusiness.ErrUserDenied:
			failed.Endpoint, failed.GrantType = applebusiness.AuthorizationEndpoint, ""
		}
		advice := applebusiness.Troubleshoot(failed)
		retryable := "no"
		if applebusiness.Retryable(failed) {
			retryable = "yes"
		}
		impact := string(advice.Impact)
		if impact == "" {
			impact = "unknown"
		}
		markdown = append(markdown, fmt.Sprintf("%s` | `%s` | `%s` | %s |", strings.TrimPrefix(c.name, "Err"), advice.Action, impact, retryable))
		comment = append(comment, strings.TrimRight(fmt.Sprintf("%-24s%-18s%-10s%s", strings.TrimPrefix(c.name, "Err"), advice.Action, impact, retryable), " "))
	}
	assert.Equal(t, markdown, linesWith(readFile(t, "README.md"), "| `Err"), "README.md")
	assert.Equal(t, comment, linesWith(readFile(t, "troubleshoot.go"), "//\tErr"), "troubleshoot.go")
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
	for word := range strings.FieldsFuncSeq(readFile(t, ".github/CONTRIBUTING.md"), func(r rune) bool { return strings.ContainsRune("` \n,.|", r) }) {
		if strings.HasPrefix(word, "Test") && !strings.HasPrefix(word, "Testing") {
			assert.Contains(t, sources.String(), "func "+word+"(t *testing.T)")
			count++
		}
	}
	assert.GreaterOrEqual(t, count, 6)
}
