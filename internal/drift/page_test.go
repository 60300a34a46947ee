package drift

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"github.com/seed-a5f25c57/applebusiness"
)

// readPage returns the rows of both error tables.
func readPage(page []byte) ([]entry, error) {
	page = bytes.TrimSpace(bytes.TrimPrefix(page, []byte("\ufeff")))
	lines := strings.Split(string(page), "\n")
	if bytes.HasPrefix(page, []byte("<")) {
		lines = htmlLines(page)
	}
	rows := readLines(lines)
	for _, endpoint := range []applebusiness.Endpoint{applebusiness.TokenEndpoint, applebusiness.AuthorizationEndpoint} {
		if !slices.ContainsFunc(rows, func(e entry) bool { return e.Endpoint == endpoint }) {
			return nil, fmt.Errorf("no error table of the %s endpoint: is this Apple's whole error page?", endpoint)
		}
	}
	return rows, nil
}

// htmlLines reduces a page to its headings and table rows, as copied text shows them, but with a tab after each cell.
func htmlLines(page []byte) (lines []string) {
	lines = []string{""}                         // for a cell without a row
	root, _ := html.Parse(bytes.NewReader(page)) // fails only where reading does
	for node := range root.Descendants() {
		switch node.DataAtom {
		case atom.H1, atom.H2, atom.H3, atom.H4, atom.H5, atom.H6:
			lines = append(lines, firstLine(node))
		case atom.Tr:
			lines = append(lines, "")
		case atom.Td, atom.Th:
			lines[len(lines)-1] += firstLine(node) + "\t"
		}
	}
	return lines
}

// firstLine returns node's text up to a line break: what follows in a cell is a note.
func firstLine(node *html.Node) (text string) {
	for child := range node.Descendants() {
		switch {
		case child.Type == html.TextNode:
			text += strings.ReplaceAll(child.Data, "\n", " ")
		case child.DataAtom == atom.Br || child.DataAtom == atom.P || child.DataAtom == atom.Div:
			text += "\n"
		}
	}
	text, _, _ = strings.Cut(strings.TrimSpace(text), "\n")
	return text
}

var (
	notLetters = regexp.MustCompile(`[^a-z]`)
	// A table's header, in letters only.
	headerLine      = regexp.MustCompile(`^(?:status|code|error|description|parameter|name|meaning|cause|remedy|note)+$`)
	errorHeaderLine = regexp.MustCompile(`^(?:status(?:code)?)?error(?:code)?errordescription$`)
	// A row that begins with its status, and a heading, if what follows the status is its own text.
	statusLine = regexp.MustCompile(`^(?:HTTP )?([1-5]\d\d)[\s|]*(.*)$`)
	// A code that nobody knows: with nothing between it and its description it ends at the first capital letter or space.
	unknownCode = regexp.MustCompile(`^[a-z]+(?:_[a-z]+)+`)
)

// readLines returns the rows of the error tables in lines. Between code and description there may be a tab, a "|", a
// space or nothing. Whatever else is on the page is passed over; other tables are known by their headers.
func readLines(lines []string) (rows []entry) {
	var endpoint applebusiness.Endpoint
	status, wanted := 0, false // status is also that of the rows below, where one cell spans them
	for _, line := range lines {
		line = strings.ReplaceAll(line, "\u200b", "") // as anchors have it
		line = strings.Trim(strings.Join(strings.Fields(line), " "), "#| ")
		lower := strings.ToLower(line)
		letters := notLetters.ReplaceAllString(lower, "")
		code, description := splitCode(line)
		own, text := status, ""
		if match := statusLine.FindStringSubmatch(line); match != nil && (code == "" || description == "") {
			own, _ = strconv.Atoi(match[1])
			text = match[2]
			code, description = splitCode(text)
		}
		isHeading := strings.Contains(lower, "error") && len(strings.Fields(line)) <= 6 // such as "Token endpoint errors"
		switch {
		case headerLine.MatchString(letters):
			wanted = errorHeaderLine.MatchString(letters)
		case wanted && endpoint != "" && code != "" && description != "":
			status = own
			rows = append(rows, entry{Endpoint: endpoint, StatusCode: own, Code: applebusiness.Code(code), Description: description})
		case own != status && (text == "" || strings.EqualFold(text, http.StatusText(own))):
			status = own
		case isHeading && strings.Contains(lower, "token"):
			endpoint, status, wanted = applebusiness.TokenEndpoint, 0, false
		case isHeading && strings.Contains(lower, "authorization"):
			endpoint, status, wanted = applebusiness.AuthorizationEndpoint, 0, false
		}
	}
	return rows
}

// splitCode returns the code with which line begins, or "", and the description after it.
func splitCode(line string) (code, description string) {
	known := []applebusiness.Code{ // of RFC 6749
		applebusiness.CodeAccessDenied, applebusiness.CodeUnauthorizedClient,
		applebusiness.CodeUnsupportedGrantType, applebusiness.CodeTemporarilyUnavailable,
	}
	for e := range applebusiness.Catalog() {
		known = append(known, e.Code)
	}
	for _, c := range known {
		if rest, ok := strings.CutPrefix(line, string(c)); ok && !strings.HasPrefix(rest, "_") && len(c) > len(code) {
			code = string(c)
		}
	}
	if code == "" {
		code = unknownCode.FindString(line)
	}
	// A note that one row carries; copied text may have it on the same line.
	description = strings.TrimSuffix(line[len(code):], "Service Account, only")
	return code, strings.Trim(description, " |")
}
