// Drift compares the catalog with Apple's error page, as saved from a browser (HTML) or as copied text:
//
//	go run . page.html
//	go run . < copied.txt
//
// It prints one line for each difference. The exit status is 0 if there is none, 1 if there is drift, and 2 if the
// input cannot be used.
//
// Page: https://business.apple.com/docs/api/v1/oauth_apps/errors
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/seed-a5f25c57/applebusiness"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var page []byte
	var err error
	switch len(args) {
	case 0:
		page, err = io.ReadAll(stdin)
	case 1:
		page, err = os.ReadFile(args[0])
	default:
		err = errors.New("usage: drift [page]")
	}
	var rows, catalog []applebusiness.Entry
	if err == nil {
		rows, err = readPage(page)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	for entry := range applebusiness.Catalog() {
		entry.Reason = ""
		catalog = append(catalog, entry)
	}
	findings := compare(catalog, rows)
	for _, finding := range findings {
		fmt.Fprintln(stdout, finding)
	}
	if len(findings) > 0 {
		return 1
	}
	fmt.Fprintf(stdout, "no drift: the page has the catalog's %d rows\n", len(rows))
	return 0
}

// readPage returns the rows of both error tables.
func readPage(page []byte) ([]applebusiness.Entry, error) {
	page = bytes.TrimSpace(bytes.TrimPrefix(page, []byte("\ufeff")))
	lines := strings.Split(string(page), "\n")
	if bytes.HasPrefix(page, []byte("<")) {
		var err error
		if lines, err = htmlLines(page); err != nil {
			return nil, err
		}
	}
	rows := readLines(lines)
	for _, endpoint := range []applebusiness.Endpoint{applebusiness.TokenEndpoint, applebusiness.AuthorizationEndpoint} {
		if !slices.ContainsFunc(rows, func(row applebusiness.Entry) bool { return row.Endpoint == endpoint }) {
			return nil, fmt.Errorf("no error table of the %s endpoint: is this Apple's whole error page?", endpoint)
		}
	}
	return rows, nil
}
