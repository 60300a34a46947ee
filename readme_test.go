package applebusiness_test

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
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

// actionNames maps each Action to the name of its constant.
func actionNames(t *testing.T) map[applebusiness.Action]string {
	names := make(map[applebusiness.Action]string)
	for _, c := range constants(t, "troubleshoot.go") {
		if c.typ == "Action" {
			names[applebusiness.Action(c.value)] = c.name
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

// The tables of the README and of Troubleshoot's documentation are written from the catalog and the advice, and the README's
// handlers are copied from an example. After a change:
//
//	go test -run TestTables -update .
func TestTables(t *testing.T) {
	rewrite(t, "README.md", func(text string) string {
		text = replaceOnce(t, text, `(?m)^\| Endpoint .*\n(\|.*\n)+`, errorsTable(t))
		text = replaceOnce(t, text, `(?m)^\| Action .*\n(\|.*\n)+`, actionsTable(t))
		return replaceOnce(t, text, "```go\nconst loginCookie (.*\n)+?```\n", "```go\n"+handlers(t)+"```\n")
	})
	rewrite(t, "troubleshoot.go", func(text string) string {
		return replaceOnce(t, text, `//\tReason  .*\n(//\tErr.*\n)+`, adviceComment(t))
	})
}

// replaceOnce replaces the one match of a pattern.
func replaceOnce(t *testing.T, text, pattern, replacement string) string {
	t.Helper()
	found := regexp.MustCompile(pattern)
	require.Len(t, found.FindAllString(text, -1), 1, pattern)
	return found.ReplaceAllLiteralString(text, replacement)
}

// handlers returns the two handlers that connect a customer, and their constant, without the comments before them.
func handlers(t *testing.T) string {
	const path = "grants/example_connect_test.go"
	text := readFile(t, path)
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, text, parser.SkipObjectResolution)
	require.NoError(t, err)
	var found []string
	for _, declaration := range file.Decls {
		code := text[files.Position(declaration.Pos()).Offset:files.Position(declaration.End()).Offset]
		for _, start := range []string{"const loginCookie ", "func (p *partner) start(", "func (p *partner) redirect("} {
			if strings.HasPrefix(code, start) {
				found = append(found, code+"\n")
			}
		}
	}
	require.Len(t, found, 3, path)
	return strings.Join(found, "\n")
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
	table := "| Endpoint | HTTP | `error` | `error_description` | Reason | Action |\n|---|---|---|---|---|---|\n"
	names, actions := constantNames(t), actionNames(t)
	for entry := range applebusiness.Catalog() {
		status, grantType := strconv.Itoa(entry.StatusCode), applebusiness.GrantTypeRefreshToken
		if entry.Endpoint == applebusiness.AuthorizationEndpoint {
			status, grantType = "redirect", ""
		}
		action := applebusiness.Troubleshoot(&applebusiness.Error{
			Endpoint: entry.Endpoint, StatusCode: entry.StatusCode, Code: entry.Code, Description: entry.Description, Reason: entry.Reason, GrantType: grantType,
		}).Action
		table += fmt.Sprintf("| %s | %s | `%s` | `%s` | `%s` | `%s` |\n",
			string(entry.Endpoint), status, string(entry.Code), entry.Description, names[entry.Reason], actions[action])
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

func adviceComment(t *testing.T) string {
	rows := append([]advised{{"Reason", "Action", "Impact", "Retryable"}}, advisedReasons(t)...)
	table := ""
	for _, row := range rows {
		table += fmt.Sprintf("//\t%-27s%-18s%-10s%s\n", row.name, row.action, row.impact, row.retryable)
	}
	return table
}

// actionsTable has a row for each Action, with the first sentence of its documentation and the Reasons that are in no row of
// Apple's.
func actionsTable(t *testing.T) string {
	isApples := make(map[string]bool)
	names := constantNames(t)
	for entry := range applebusiness.Catalog() {
		isApples[names[entry.Reason]] = true
	}
	table := "| Action | It means that | Reasons beside Apple's |\n|---|---|---|\n"
	for _, c := range constants(t, "troubleshoot.go") {
		if c.typ != "Action" || c.value == "" {
			continue
		}
		var beside []string
		for _, row := range advisedReasons(t) {
			if row.action == c.value && !isApples[row.name] {
				beside = append(beside, "`"+row.name+"`")
			}
		}
		sentence, _, _ := strings.Cut(strings.Join(strings.Fields(c.doc), " "), ". ")
		table += fmt.Sprintf("| `%s` | %s | %s |\n", c.name, strings.TrimPrefix(sentence, c.name+" means that "), strings.Join(beside, ", "))
	}
	return table
}

// What the README's Go needs beside itself: what the partner has, and pgxpool, which is of no module that this one requires.
const (
	readmeImports = `import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
	"github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
)
`
	partnersNames = `
var (
	ctx, closing                                                                      context.Context
	manager                                                                           *grants.Manager
	config                                                                            *oauth2.Config
	aead                                                                              grants.AEAD
	pool                                                                              *pgxpool.Pool
	orgID, url, clientID, clientSecret, redirectURL, authBaseURL, apiBaseURL string
)

type partner struct {
	config  *oauth2.Config
	manager *grants.Manager
}

func use(*oauth2.Token)      {}
func page(string, error)     {}
func askToReconnect(string)  {}
func tryLater(string)        {}
`
	pgxpoolStandIn = `package pgxpool
type Pool struct{}
`
)

// The README's Go compiles: declarations as they stand, and statements as the body of a function.
func TestREADMECompiles(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(readFile(t, "README.md"), -1)
	assert.GreaterOrEqual(t, len(blocks), 4)
	files := token.NewFileSet()
	packages := readmePackages(t, files)
	for _, block := range blocks {
		code := block[1]
		formatted, err := format.Source([]byte(code))
		assert.NoError(t, err, code)
		assert.Equal(t, string(formatted), code, "gofmt")
		if !regexp.MustCompile(`(?m)^(const|func|type|var) `).MatchString(code) {
			code = "func _() {\n" + code + "}\n"
		}
		file, err := parser.ParseFile(files, "README.md", "package partner\n"+readmeImports+code+partnersNames, parser.SkipObjectResolution)
		if !assert.NoError(t, err, block[1]) {
			continue
		}
		check := types.Config{Importer: packages, Error: func(err error) {
			if err := err.(types.Error); !err.Soft { // that something is not used is soft
				t.Errorf("%v in\n%s", err, block[1])
			}
		}}
		_, _ = check.Check("partner", files, []*ast.File{file}, nil)
	}
}

// importers imports by path: the packages in the map, and others by the function.
type importers struct {
	known map[string]*types.Package
	types.Importer
}

func (i importers) Import(path string) (*types.Package, error) {
	if found := i.known[path]; found != nil {
		return found, nil
	}
	return i.Importer.Import(path)
}

// readmePackages imports what the README uses: from what the go command has compiled, and pgxstore from its source, since its
// module's requirements may not be here.
func readmePackages(t *testing.T, files *token.FileSet) types.Importer {
	list := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", "./grants")
	list.Stderr = os.Stderr
	output, err := list.Output()
	require.NoError(t, err)
	exports := make(map[string]string)
	for line := range strings.Lines(string(output)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		exports[path] = file
	}
	packages := importers{make(map[string]*types.Package), importer.ForCompiler(files, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, errors.New("the README's test does not know this package")
		}
		return os.Open(exports[path])
	})}
	standIn, err := parser.ParseFile(files, "pgxpool.go", pgxpoolStandIn, 0)
	require.NoError(t, err)
	const pgxpool, pgxstore = "github.com/jackc/pgx/v5/pgxpool", "github.com/seed-a5f25c57/applebusiness/grants/pgxstore"
	check := types.Config{Importer: packages, IgnoreFuncBodies: true, Error: func(error) {}} // what is exported is found nevertheless
	packages.known[pgxpool], err = check.Check(pgxpool, files, []*ast.File{standIn}, nil)
	require.NoError(t, err)
	paths, err := filepath.Glob("grants/pgxstore/*.go")
	require.NoError(t, err)
	var sources []*ast.File
	for _, path := range paths {
		if !strings.HasSuffix(path, "_test.go") {
			file, err := parser.ParseFile(files, path, nil, 0)
			require.NoError(t, err)
			sources = append(sources, file)
		}
	}
	packages.known[pgxstore], _ = check.Check(pgxstore, files, sources, nil)
	return packages
}

// The README can be read at once, its shell commands can be pasted into any shell, and the links of all guides lead somewhere.
func TestGuides(t *testing.T) {
	readme := readFile(t, "README.md")
	assert.LessOrEqual(t, strings.Count(readme, "\n"), 200, "lines of the README")
	for _, path := range []string{"README.md", "grants/pgxstore/README.md", "internal/foreignclients/README.md", ".github/CONTRIBUTING.md", ".github/SECURITY.md"} {
		text := readFile(t, path)
		for _, link := range regexp.MustCompile(`\]\(([^):#]+)\)`).FindAllStringSubmatch(text, -1) {
			_, err := os.Stat(filepath.Join(filepath.Dir(path), link[1]))
			assert.NoError(t, err, "%s links to %s", path, link[1])
		}
		for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1) {
			unquoted := regexp.MustCompile(`'[^']*'|"[^"]*"|#.*`).ReplaceAllString(block[1], "")
			assert.NotContains(t, unquoted, "?", "zsh takes it for a pattern of file names: quote it")
		}
	}
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
