package drift

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
)

var saved = flag.String("page", "", "`file` with Apple's error page; \"\" means the copies in testdata")

func TestPage(t *testing.T) {
	files := []string{"testdata/page.html", "testdata/page.txt"}
	if *saved != "" {
		files = []string{*saved}
	}
	for _, file := range files {
		page, err := os.ReadFile(file)
		require.NoError(t, err)
		rows, err := readPage(page)
		require.NoError(t, err, file)
		for _, finding := range compare(rows) {
			t.Errorf("%s: %s", file, finding)
		}
	}
}

// Each change of Apple's page is told in one line, from either form of the page.
func TestDrift(t *testing.T) {
	for name, test := range map[string]struct {
		html, text []string // pairs of old and new, as strings.NewReplacer takes them
		want       string
	}{
		"added row": {
			[]string{"<tr><td>401</td><td><code>invalid_client</code>", "<tr><td>400</td><td>slow_down</td><td>Too many &lt;requests&gt;</td></tr>\n<tr><td>401</td><td><code>invalid_client</code>"},
			[]string{"\n401 Unauthorized", "slow_downToo many <requests>\n\n401 Unauthorized"},
			`the catalog lacks: token 400 "slow_down" "Too many <requests>"`,
		},
		"added row of another status": {
			[]string{"<tr><td>500</td><td><code>internal_server_error</code></td><td>server error", "<tr><td>429</td><td>invalid_request</td><td>rate limited</td></tr>\n<tr><td>500</td><td><code>internal_server_error</code></td><td>server error"},
			[]string{"\n500 Internal Server Error", "429 Too Many Requests\n\nErrorError Description\ninvalid_requestrate limited\n\n500 Internal Server Error"},
			`the catalog lacks: token 429 "invalid_request" "rate limited"`,
		},
		"removed row": {
			[]string{"<tr><td><code>invalid_request</code></td><td>bad request</td></tr>", ""},
			[]string{"invalid_requestbad request\n", ""},
			`no longer on the page: authorization "invalid_request" "bad request"`,
		},
		"reworded row": {
			[]string{"POST body is empty.", "The POST body must not be empty."},
			[]string{"POST body is empty.", "The POST body must not be empty."},
			`worded differently, the catalog says "POST body is empty.": token 400 "invalid_request" "The POST body must not be empty."`,
		},
		"row with another letter case": {
			[]string{"scope is not valid", "Scope is not valid"},
			[]string{"scope is not valid", "Scope is not valid"},
			`worded differently, the catalog says "scope is not valid": authorization "invalid_scope" "Scope is not valid"`,
		},
		"replaced row": {
			[]string{"scope is not valid", "not for partners"},
			[]string{"scope is not valid", "not for partners"},
			"the catalog lacks: authorization \"invalid_scope\" \"not for partners\"\n" +
				`no longer on the page: authorization "invalid_scope" "scope is not valid"`,
		},
		"moved status": {
			[]string{"<td>401</td><td><code>invalid_client", "<td>403</td><td><code>invalid_client"},
			[]string{"invalid_clientInvalid client_id or client_secret", "", "\n404 Not Found\n", "\n403 Forbidden\n\nErrorError Description\ninvalid_clientInvalid client_id or client_secret\n\n404 Not Found\n"},
			`status moved from 401 to 403: token 403 "invalid_client" "Invalid client_id or client_secret"`,
		},
		"changed code": {
			[]string{"<code>server_error", "<code>temporarily_unavailable"},
			[]string{"\nserver_errorserver error", "\ntemporarily_unavailableserver error"},
			`code changed from "server_error": authorization "temporarily_unavailable" "server error"`,
		},
		"columns in their right order at last": {
			[]string{"<td><code>404 Not Found</code></td><td>invalid_request</td>", "<td><code>invalid_request</code></td><td>404 Not Found</td>"},
			[]string{"404 Not Foundinvalid_request", "invalid_request404 Not Found"},
			"the catalog lacks: token 404 \"invalid_request\" \"404 Not Found\"\n" +
				`no longer on the page: token 404 "404 Not Found" "invalid_request"`,
		},
		"control characters": {
			[]string{"bad request", "bad \x1b[31mrequest"},
			[]string{"bad request", "bad \x1b[31mrequest"},
			`worded differently, the catalog says "bad request": authorization "invalid_request" "bad \x1b[31mrequest"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			for file, pairs := range map[string][]string{"testdata/page.html": test.html, "testdata/page.txt": test.text} {
				page, err := os.ReadFile(file)
				require.NoError(t, err)
				changed := strings.NewReplacer(pairs...).Replace(string(page))
				require.NotEqual(t, string(page), changed, file)
				rows, err := readPage([]byte(changed))
				require.NoError(t, err, file)
				assert.Equal(t, test.want, strings.Join(compare(rows), "\n"), file)
			}
		})
	}
}

// Browsers and readers differ in what they put between the cells, and pages in where the status stands.
func TestForms(t *testing.T) {
	for _, separator := range []string{"", " ", "\t", " | "} {
		for _, statusInRow := range []bool{false, true} {
			rows, err := readPage([]byte(pageWith(separator, statusInRow)))
			require.NoError(t, err, "separator %q, status in row %v", separator, statusInRow)
			i := 0
			for entry := range applebusiness.Catalog() {
				require.Less(t, i, len(rows))
				entry.Reason = ""
				assert.Equal(t, entry, rows[i], "separator %q, status in row %v: %s", separator, statusInRow, row(rows[i]))
				i++
			}
			assert.Len(t, rows, i)
		}
	}
}

// pageWith returns the catalog as a page shows it.
func pageWith(separator string, statusInRow bool) string {
	var page strings.Builder
	page.WriteString("\ufeff# Access Token Error Codes\r\n")
	if statusInRow {
		page.WriteString("Status" + separator + "error" + separator + "error_description\r\n")
	}
	endpoint, status := applebusiness.TokenEndpoint, 0
	for entry := range applebusiness.Catalog() {
		if entry.Endpoint != endpoint {
			endpoint, status = entry.Endpoint, 0
			page.WriteString("## Authorization Code Error Codes\r\n| Error | Error Description |\r\n|---|---|\r\n")
		}
		if entry.StatusCode != status && !statusInRow {
			status = entry.StatusCode
			fmt.Fprintf(&page, "%d %s\r\nError%sError Description\r\n", status, http.StatusText(status), separator)
		}
		if statusInRow && entry.StatusCode != 0 {
			fmt.Fprintf(&page, "%d%s", entry.StatusCode, separator)
		}
		fmt.Fprintf(&page, "%s%s%s\r\n", string(entry.Code), separator, entry.Description)
	}
	return page.String()
}

func TestUnusableInput(t *testing.T) {
	page, err := os.ReadFile("testdata/page.txt")
	require.NoError(t, err)
	half, _, _ := strings.Cut(string(page), "Authorization code errors")
	for name, page := range map[string]string{
		"empty":        "",
		"another page": "<!DOCTYPE html><title>Not found</title><h1>Not found</h1>",
		"binary":       "\x00\xff\xfe",
		"half a page":  half,
	} {
		_, err := readPage([]byte(page))
		assert.ErrorContains(t, err, "is this Apple's whole error page?", name)
	}
}
