package applebusiness_test

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write what is derived: testdata/api.txt and the tables of the documentation")

// The exported API is fixed to the letter, so that it never changes by accident. After a change that is meant:
//
//	go test -run TestAPI -update .
func TestAPI(t *testing.T) {
	const golden = "testdata/api.txt"
	var api []string
	for _, folder := range []string{".", "grants", "grants/grantstest", "grants/pgxstore", "applebusinesstest"} {
		if _, err := os.Stat(folder); os.IsNotExist(err) {
			t.Logf("%s is left out: there is no such folder", folder)
			continue
		}
		api = append(api, exportedAPI(t, folder)...)
	}
	if *update {
		require.NoError(t, os.WriteFile(golden, []byte(strings.Join(api, "\n")+"\n"), 0o644))
	}
	text, err := os.ReadFile(golden)
	require.NoError(t, err)
	want := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	for _, line := range want {
		assert.True(t, slices.Contains(api, line), "gone or changed: %s", line)
	}
	for _, line := range api {
		assert.True(t, slices.Contains(want, line), "new, or changed to: %s", line)
	}
	assert.Equal(t, len(want), len(api), "the number of lines")
}

// exportedAPI returns one sorted line for each exported constant, variable, function, type, field and method of the
// package in folder.
func exportedAPI(t *testing.T, folder string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*.go"))
	require.NoError(t, err)
	files := token.NewFileSet()
	var lines []string
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, declaration := range file.Decls {
			for _, line := range exportedLines(t, declaration) {
				lines = append(lines, file.Name.Name+": "+line)
			}
		}
	}
	slices.Sort(lines)
	return lines
}

func exportedLines(t *testing.T, declaration ast.Decl) []string {
	switch declaration := declaration.(type) {
	case *ast.FuncDecl:
		if declaration.Name.IsExported() && (declaration.Recv == nil || ast.IsExported(receiver(t, declaration))) {
			signature := ast.FuncDecl{Recv: declaration.Recv, Name: declaration.Name, Type: declaration.Type}
			if signature.Recv != nil {
				signature.Recv.List[0].Names = nil
			}
			return []string{source(t, &signature)}
		}
	case *ast.GenDecl:
		var lines []string
		for _, spec := range declaration.Specs {
			switch spec := spec.(type) {
			case *ast.ValueSpec:
				lines = append(lines, valueLines(t, declaration.Tok, spec)...)
			case *ast.TypeSpec:
				lines = append(lines, typeLines(t, spec)...)
			}
		}
		return lines
	}
	return nil
}

func valueLines(t *testing.T, kind token.Token, spec *ast.ValueSpec) []string {
	var lines []string
	for i, name := range spec.Names {
		if !name.IsExported() {
			continue
		}
		line := kind.String() + " " + name.Name
		if spec.Type != nil {
			line += " " + source(t, spec.Type)
		}
		if i < len(spec.Values) {
			line += " = " + source(t, spec.Values[i])
		}
		lines = append(lines, line)
	}
	return lines
}

func typeLines(t *testing.T, spec *ast.TypeSpec) []string {
	if !spec.Name.IsExported() {
		return nil
	}
	name := "type " + spec.Name.Name
	structure, ok := spec.Type.(*ast.StructType)
	if !ok {
		if spec.Assign.IsValid() {
			name += " ="
		}
		return []string{name + " " + source(t, spec.Type)}
	}
	lines := []string{name + " struct"}
	for _, field := range structure.Fields.List {
		for _, fieldName := range field.Names {
			if fieldName.IsExported() {
				lines = append(lines, name+" struct, "+fieldName.Name+" "+source(t, field.Type)+tag(field))
			}
		}
		if field.Names == nil {
			lines = append(lines, name+" struct, embedded "+source(t, field.Type)+tag(field))
		}
	}
	return lines
}

func tag(field *ast.Field) string {
	if field.Tag == nil {
		return ""
	}
	return " " + field.Tag.Value
}

func receiver(t *testing.T, function *ast.FuncDecl) string {
	kind := function.Recv.List[0].Type
	if pointer, ok := kind.(*ast.StarExpr); ok {
		kind = pointer.X
	}
	return source(t, kind)
}

// source returns node as gofmt writes it, on one line and without comments.
func source(t *testing.T, node ast.Node) string {
	t.Helper()
	var text strings.Builder
	require.NoError(t, printer.Fprint(&text, token.NewFileSet(), node))
	return strings.Join(strings.Fields(text.String()), " ")
}

// noExample says why there is no Example, by package and name.
var noExample = map[string]string{
	"applebusiness.Cause.Description":              "in the one of Troubleshoot",
	"applebusiness.Reason.Description":             "in the one of Catalog, as a field",
	"applebusiness.TokenSource.Token":              "in the one of TokenSource",
	"applebusiness.Transport.RoundTrip":            "called by net/http",
	"applebusiness.Transport.CloseIdleConnections": "called by net/http",
	"grants.NewMemoryStore":                        "in most of the package",
	"grants.StoreError.Foreign":                    "called by package applebusiness",
	"grantstest.TestStores":                        "as the one of TestStore, with two Stores",
	"grants.UnmarshalVerdict":                      "in the one of MarshalVerdict",
	"grants.OpenToken":                             "in the one of SealToken",
	"grants.DirStore.Close":                        "in the one of NewDirStore",
	"pgxstore.New":                                 "in the one of the package",
	"pgxstore.Migrate":                             "in the one of the package",
	"pgxstore.Store.Migrate":                       "in the one of Options",
	"pgxstore.Store.Limiter":                       "in the one of the package",
	"pgxstore.Limiter.Wait":                        "called by package grants",
	"pgxstore.Limiter.Pause":                       "called by package grants",
	"applebusinesstest.Server.Close":               "in all of the package",
	"applebusinesstest.Server.Endpoint":            "in most of the package",
	"applebusinesstest.Server.Start":               "in the one of NewUnstartedServer",
	"applebusinesstest.Server.Heal":                "in the one of FailNext",
}

// Every function and method that a user calls has an Example, or a reason not to have one.
func TestExamples(t *testing.T) {
	function := regexp.MustCompile(`^(\w+): func (?:\(\*?(\w+)\) )?(\w+)\(`)
	ofInterfaces := regexp.MustCompile(`\.(Error|Is|As|Unwrap|Format|LogValue|MarshalJSON|MarshalText|Timeout)$|^(grants\.MemoryStore|grants\.DirStore|pgxstore\.Store)\.(Load|Lease|Save|Mark|Release|Put|Delete|Due|Dead)$`)
	for _, folder := range []string{".", "grants", "grants/grantstest", "grants/pgxstore", "applebusinesstest"} {
		paths, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
		require.NoError(t, err)
		var tests strings.Builder
		for _, path := range paths {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			tests.Write(text)
		}
		examples := make(map[string]bool)
		for _, example := range regexp.MustCompile(`(?ms)^func (Example\w*)\(\) \{$.*?^\}$`).FindAllStringSubmatch(tests.String(), -1) {
			examples[regexp.MustCompile(`_[a-z]\w*$`).ReplaceAllString(example[1], "")] = true
			assert.Contains(t, example[0], "// Output:", "%s is compiled, and not run", example[1])
		}
		for _, line := range exportedAPI(t, folder) {
			found := function.FindStringSubmatch(line)
			if found == nil {
				continue
			}
			example, name := found[3], found[1]+"."+found[3]
			if found[2] != "" {
				example, name = found[2]+"_"+found[3], found[1]+"."+found[2]+"."+found[3]
			}
			has := examples["Example"+example]
			_, excused := noExample[name]
			if ofInterfaces.MatchString(name) {
				continue
			}
			assert.True(t, has || excused, "%s has neither an Example nor a reason", name)
			assert.False(t, has && excused, "%s has an Example after all", name)
		}
	}
}
