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

func TestReadmeTable(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	var rows []string
	for line := range strings.Lines(string(readme)) {
		if strings.HasPrefix(line, "| token |") || strings.HasPrefix(line, "| authorization |") {
			rows = append(rows, strings.TrimSuffix(line, "\n"))
		}
	}
	names := constantNames(t)
	var want []string
	for entry := range applebusiness.Catalog() {
		status := fmt.Sprint(entry.StatusCode)
		if entry.StatusCode == 0 {
			status = "redirect"
		}
		want = append(want, fmt.Sprintf("| %s | %s | `%s` | `%s` | `%s` |", entry.Endpoint, status, string(entry.Code), entry.Description, names[entry.Reason]))
	}
	assert.Equal(t, want, rows)
}

// Every test that the README names exists.
func TestReadmeNamesTests(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	files, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	var sources strings.Builder
	for _, file := range files {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		sources.Write(source)
	}
	count := 0
	for word := range strings.FieldsFuncSeq(string(readme), func(r rune) bool { return r == '`' || r == ' ' || r == '\n' }) {
		if strings.HasPrefix(word, "Test") && !strings.HasPrefix(word, "Testing") {
			assert.Contains(t, sources.String(), "func "+word+"(t *testing.T)")
			count++
		}
	}
	assert.GreaterOrEqual(t, count, 6)
}
