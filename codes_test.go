package applebusiness_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
)

// oracleRow is a row of testdata/catalog.tsv, the copy of Apple's table.
type oracleRow struct {
	endpoint    applebusiness.Endpoint
	status      int
	code        applebusiness.Code
	description string
}

func oracle(t testing.TB) []oracleRow {
	t.Helper()
	text, err := os.ReadFile("testdata/catalog.tsv")
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	var rows []oracleRow
	for _, line := range lines[1:] {
		cells := strings.Split(line, "\t")
		require.Len(t, cells, 5)
		status, err := strconv.Atoi(cells[1])
		require.NoError(t, err)
		rows = append(rows, oracleRow{applebusiness.Endpoint(cells[0]), status, applebusiness.Code(cells[2]), cells[3]})
	}
	return rows
}

// reasons is the Reason of each row of the oracle, written down here once more, by hand. Apple's page has no such column:
// the same hands wrote both lists, so the comparison finds a slip and not a misunderstanding.
var reasons = []applebusiness.Reason{
	applebusiness.ErrInvalidGrantType, applebusiness.ErrInvalidRefreshToken, applebusiness.ErrInvalidClientID, applebusiness.ErrMissingFields, applebusiness.ErrMissingParameter, applebusiness.ErrEmptyBody,
	applebusiness.ErrUnsupportedMediaType, applebusiness.ErrScopeNotAccepted, applebusiness.ErrInvalidCredentials, applebusiness.ErrInvalidRefreshToken, applebusiness.ErrEndpointNotFound,
	applebusiness.ErrUnknownServerError, applebusiness.ErrServer,
	applebusiness.ErrInvalidResponseType, applebusiness.ErrInvalidChallengeMethod, applebusiness.ErrUnregisteredClientID, applebusiness.ErrBadRequest, applebusiness.ErrEmptyRedirectURI,
	applebusiness.ErrInvalidRedirectURI, applebusiness.ErrLocalhostRedirectURI, applebusiness.ErrUnregisteredRedirectURI, applebusiness.ErrEmptyScope, applebusiness.ErrInvalidScope,
	applebusiness.ErrEmptyClientID, applebusiness.ErrServer,
}

func TestCatalogIsApplesTable(t *testing.T) {
	rows := oracle(t)
	entries := slices.Collect(applebusiness.Catalog())
	require.Len(t, entries, len(rows))
	for i, row := range rows {
		want := applebusiness.Entry{row.endpoint, row.status, row.code, row.description, reasons[i]}
		assert.Equal(t, want, entries[i], "row %d", i+1)
	}
	for range applebusiness.Catalog() {
		break // stopping early does no harm
	}
	entries[0].Reason = "changed"
	assert.Equal(t, rows[0].description, reasons[0].Description(), "the catalog cannot be changed from outside")
	assert.Equal(t, applebusiness.ErrInvalidGrantType, slices.Collect(applebusiness.Catalog())[0].Reason)
}

func TestReasonDescription(t *testing.T) {
	for i, row := range oracle(t) {
		assert.Equal(t, row.description, reasons[i].Description())
	}
	for _, own := range []applebusiness.Reason{applebusiness.ErrStateMismatch, applebusiness.ErrMalformedRedirect, applebusiness.ErrMalformedResponse, applebusiness.ErrUnsafeTokenRequest, applebusiness.ErrNoRefreshToken, applebusiness.ErrUnsafeState, "", "unheard_of"} {
		assert.Empty(t, own.Description(), own)
	}
}

func TestReasonsAndCodesAreErrors(t *testing.T) {
	wrapped := fmt.Errorf("refresh for customer 7: %w", applebusiness.ErrInvalidRefreshToken)
	assert.ErrorIs(t, wrapped, applebusiness.ErrInvalidRefreshToken)
	assert.NotErrorIs(t, wrapped, applebusiness.ErrServer)
	assert.EqualError(t, wrapped, "refresh for customer 7: applebusiness: invalid_refresh_token")
	assert.EqualError(t, applebusiness.CodeInvalidGrant, "applebusiness: invalid_grant")
	assert.EqualError(t, applebusiness.CodeNotFound, "applebusiness: 404 Not Found")
	assert.EqualError(t, applebusiness.Code("slow_down"), `applebusiness: "slow_down"`)
	assert.EqualError(t, applebusiness.Code("slow\ndown"), `applebusiness: "***"`)
	assert.EqualError(t, applebusiness.Reason("two\nlines"), `applebusiness: "***"`)
	assert.EqualError(t, applebusiness.Code(""), `applebusiness: ""`)
	assert.False(t, errors.Is(applebusiness.ErrInvalidScope, applebusiness.CodeInvalidScope), "the same label on two levels is not the same error")
}

// constant is a constant of a source file as its reader sees it.
type constant struct{ name, typ, value, doc string }

func constants(t *testing.T, file string) []constant {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	require.NoError(t, err)
	var found []constant
	for _, decl := range parsed.Decls {
		group, ok := decl.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			spec := spec.(*ast.ValueSpec)
			if !spec.Names[0].IsExported() {
				continue
			}
			require.Len(t, spec.Names, 1)
			require.NotNil(t, spec.Type, "%s has no type", spec.Names[0])
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			found = append(found, constant{spec.Names[0].Name, spec.Type.(*ast.Ident).Name, value, spec.Doc.Text()})
		}
	}
	return found
}

// snakeCase turns InvalidClientID into invalid_client_id.
func snakeCase(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		startsWord := i > 0 && unicode.IsUpper(r) &&
			(unicode.IsLower(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1]))
		if startsWord {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func TestConstantsAreDocumented(t *testing.T) {
	count := map[string]int{}
	for _, file := range []string{"codes.go", "troubleshoot.go"} {
		for _, c := range constants(t, file) {
			count[c.typ]++
			assert.True(t, strings.HasPrefix(c.doc, c.name+" "), "the doc comment of %s starts with its name", c.name)
			assert.True(t, strings.HasSuffix(strings.TrimSpace(c.doc), "."), "the doc comment of %s is a whole sentence", c.name)
			label := c.name
			for _, affix := range []string{"Err", "Code", "Action", "Impact", "Cause"} {
				label = strings.TrimPrefix(label, affix)
			}
			label = snakeCase(strings.TrimSuffix(label, "Endpoint"))
			switch c.name {
			case "CodeNotFound": // Apple's spelling
				label = "404 Not Found"
			case "ActionUnknown", "ImpactUnknown":
				label = ""
			}
			assert.Equal(t, label, c.value, c.name)
			if text := applebusiness.Reason(c.value).Description(); c.typ == "Reason" && text != "" {
				assert.Contains(t, c.doc, strconv.Quote(text)[1:len(text)+1], "the doc comment of %s gives Apple's text", c.name)
			}
		}
	}
	assert.Len(t, count, 6, "of Endpoint, Code, Reason, Action, Impact and Cause; which ones there are is in testdata/api.txt")
}

func TestMatching(t *testing.T) {
	for _, test := range []struct {
		status            int
		code, description string
		want              applebusiness.Reason
		parameter         string
	}{
		// The status does not matter, nor does the endpoint.
		{400, "invalid_grant", "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken, ""},
		{401, "invalid_grant", "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken, ""},
		{418, "invalid_grant", "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken, ""},
		{500, "internal_server_error", "server error", applebusiness.ErrServer, ""},
		{500, "server_error", "server error", applebusiness.ErrServer, ""},
		{400, "invalid_request", "redirect_uri is not valid", applebusiness.ErrInvalidRedirectURI, ""},
		// The code does: it must be one that Apple lists for the text, or absent.
		{400, "", "Invalid refresh_token", applebusiness.ErrInvalidRefreshToken, ""},
		{400, "invalid_request", "Invalid refresh_token", "", ""},
		{400, "slow_down", "server error", "", ""},
		{400, "INVALID_GRANT", "Invalid refresh_token", "", ""},
		// Templates and lists.
		{400, "invalid_request", "OAuth 2.0 Parameter: redirect_uri missing", applebusiness.ErrMissingParameter, "redirect_uri"},
		{400, "invalid_request", "oauth 2.0 PARAMETER:++Code_Verifier  missing.", applebusiness.ErrMissingParameter, "Code_Verifier"},
		{400, "invalid_request", "OAuth 2.0 Parameter: two words missing", "", ""},
		{400, "invalid_request", "OAuth 2.0 Parameter:  missing", "", ""},
		{400, "invalid_request", "OAuth 2.0 Parameter: missing", "", ""},
		{400, "invalid_request", "OAuth 2.0 Parameter: <b> missing", "", ""},
		{400, "invalid_scope", "scope is invalid. Accepted values: business", applebusiness.ErrScopeNotAccepted, ""},
		{400, "invalid_scope", "scope is invalid. Accepted values: business, business_connect.", applebusiness.ErrScopeNotAccepted, ""},
		{400, "invalid_scope", "scope is invalid. Accepted values: business OR business_connect", applebusiness.ErrScopeNotAccepted, ""},
		{400, "invalid_scope", "scope is invalid. Accepted values: and then some more text", "", ""},
		{400, "invalid_grant", "grant_type is invalid. Accepted values: refresh_token", applebusiness.ErrInvalidGrantType, ""},
		{400, "invalid_request", "Missing fields in POST body client_id, grant_type required.", applebusiness.ErrMissingFields, ""},
		{400, "invalid_request", "missing fields in post body CLIENT_ID AND SCOPE required", applebusiness.ErrMissingFields, ""},
		// Case, runs of space or "+", a full stop.
		{400, "invalid_request", "post BODY is empty", applebusiness.ErrEmptyBody, ""},
		{400, "invalid_request", "POST++body + is  empty..", applebusiness.ErrEmptyBody, ""},
		{401, "invalid_client", " Invalid+client_id+or+client_secret. ", applebusiness.ErrInvalidCredentials, ""},
		{400, "invalid_request", "POST body is not empty.", "", ""},
		{400, "invalid_request", "Our proxy says: POST body is empty.", "", ""},
		{400, "invalid_request", "POST body is empty. Try again.", "", ""},
		{400, "invalid_request", "POSTbody is empty.", "", ""},
		// 404, in both orders of the columns and by halves; at no other status.
		{404, "404 Not Found", "invalid_request", applebusiness.ErrEndpointNotFound, ""},
		{404, "invalid_request", "404 Not Found", applebusiness.ErrEndpointNotFound, ""},
		{404, "invalid_request", "", applebusiness.ErrEndpointNotFound, ""},
		{404, "404 Not Found", "", applebusiness.ErrEndpointNotFound, ""},
		{404, "", "404+not  found.", applebusiness.ErrEndpointNotFound, ""},
		{404, "", "", applebusiness.ErrMalformedResponse, ""},
		{404, "not_found", "", "", ""},
		{404, "invalid_request", "Invalid client_id", applebusiness.ErrInvalidClientID, ""},
		{404, "invalid_request", "something else", "", ""},
		{400, "404 Not Found", "invalid_request", "", ""},
		{400, "invalid_request", "404 Not Found", "", ""},
		{400, "invalid_request", "", "", ""},
		{400, "invalid_request", "invalid_request", "", ""},
		// What nobody documented survives.
		{400, "slow_down", "Slow down.", "", ""},
		{400, "invalid_grant", "", "", ""},
	} {
		t.Run(fmt.Sprintf("%d %s %s", test.status, test.code, test.description), func(t *testing.T) {
			body, err := json.Marshal(map[string]string{"error": test.code, "error_description": test.description})
			require.NoError(t, err)
			e := applebusiness.ParseTokenError(test.status, nil, body)
			assert.Equal(t, &applebusiness.Error{
				Endpoint: applebusiness.TokenEndpoint, StatusCode: test.status, Code: applebusiness.Code(test.code), Description: test.description,
				Reason: test.want, Parameter: test.parameter,
			}, e)
			assertMeansOnly(t, e, test.want, applebusiness.Code(strings.Replace(test.code, "slow_down", "", 1)))
		})
	}
	assert.ErrorIs(t, applebusiness.ParseTokenError(400, nil, []byte(`{"error":"slow_down"}`)), applebusiness.Code("slow_down"))
}

// No documented text is recognised with other words around it.
func TestTextAroundADocumentedOne(t *testing.T) {
	for _, row := range oracle(t) {
		for _, text := range []string{"Note: " + row.description, row.description + " (see the docs)", "x" + row.description, row.description + "x y!"} {
			body, err := json.Marshal(map[string]string{"error": string(row.code), "error_description": text})
			require.NoError(t, err)
			assert.Empty(t, applebusiness.ParseTokenError(400, nil, body).Reason, text)
		}
	}
}

func TestNestedMembersNamesAndLists(t *testing.T) {
	// Another member that happens to have a code is no error's.
	e := applebusiness.ParseTokenError(400, nil, []byte(`{"meta":{"code":"E9","message":"not this"},"error":"invalid_grant"`))
	assert.Equal(t, applebusiness.CodeInvalidGrant, e.Code)
	assert.Empty(t, e.Description)
	// A name has the characters of RFC 6749 appendix A, to the first and the last of each range.
	for _, name := range []string{"azAZ09-._", "a", "z", "A", "Z", "0", "9"} {
		e := applebusiness.ParseTokenError(400, nil, []byte(`{"error_description":"OAuth 2.0 Parameter: `+name+` missing"}`))
		assert.Equal(t, name, e.Parameter)
		assert.Equal(t, applebusiness.ErrMissingParameter, e.Reason)
	}
	for _, name := range []string{"`", "{", "@", "[", "/", ":", "a b", "é"} {
		assert.Empty(t, applebusiness.ParseTokenError(400, nil, []byte(`{"error_description":"OAuth 2.0 Parameter: `+name+` missing"}`)).Parameter, name)
	}
	// A list that Apple has emptied is a list.
	for text, want := range map[string]applebusiness.Reason{
		"grant_type is invalid. Accepted values:": applebusiness.ErrInvalidGrantType,
		"scope is invalid. Accepted values:":      applebusiness.ErrScopeNotAccepted,
		"grant_type is invalid. Accepted values":  applebusiness.ErrMalformedResponse, // a text that nobody knows, and no error member
		"OAuth 2.0 Parameter:  missing":           applebusiness.ErrMalformedResponse,
	} {
		assert.Equal(t, want, applebusiness.ParseTokenError(400, nil, fmt.Appendf(nil, `{"error_description":%q}`, text)).Reason, text)
	}
}
