package main

import (
	"bytes"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"github.com/seed-a5f25c57/applebusiness"
)

// htmlLines reduces a page to its headings and table rows, as copied text shows them, but with a tab between cells.
func htmlLines(page []byte) ([]string, error) {
	root, err := html.Parse(bytes.NewReader(page))
	if err != nil {
		return nil, err
	}
	var lines []string
	for node := range root.Descendants() {
		switch node.DataAtom {
		case atom.H1, atom.H2, atom.H3, atom.H4, atom.H5, atom.H6:
			lines = append(lines, firstLine(node))
		case atom.Tr:
			var cells []string
			for cell := range node.ChildNodes() {
				if cell.DataAtom == atom.Td || cell.DataAtom == atom.Th {
					cells = append(cells, firstLine(cell))
				}
			}
			lines = append(lines, strings.Join(cells, "\t"))
		}
	}
	return lines, nil
}

// firstLine returns node's text up to a line break: what follows in a cell is a note.
func firstLine(node *html.Node) string {
	var text strings.Builder
	for child := range node.Descendants() {
		switch {
		case child.Type == html.TextNode:
			text.WriteString(strings.ReplaceAll(child.Data, "\n", " "))
		case child.DataAtom == atom.Br || child.DataAtom == atom.P || child.DataAtom == atom.Div:
			text.WriteString("\n")
		}
	}
	line, _, _ := strings.Cut(strings.TrimSpace(text.String()), "\n")
	return cleanLine(line)
}

var (
	// A heading, if what follows the status is its own text.
	statusLine = regexp.MustCompile(`^(?:HTTP )?([1-5]\d\d)(?: (.+))?$`)
	// A table's header, in letters only.
	headerLine      = regexp.MustCompile(`^(?:status|code|error|description|parameter|name|meaning|cause|remedy|note)+$`)
	errorHeaderLine = regexp.MustCompile(`^(?:status(?:code)?)?error(?:code)?errordescription$`)
	// A code that nobody knows yet.
	unknownCode = regexp.MustCompile(`^[a-z]+(?:_[a-z]+)+`)
	// A row that begins with its status.
	statusCell = regexp.MustCompile(`^([1-5]\d\d)[\s|]*(.+)$`)
)

// readLines returns the rows of the error tables in lines. Between code and description there may be a tab, a "|", a
// space or nothing. Whatever else is on the page is passed over; other tables are known by their headers.
func readLines(lines []string) []applebusiness.Entry {
	var rows []applebusiness.Entry
	var endpoint applebusiness.Endpoint
	status, wanted := 0, false
	for _, line := range lines {
		line = cleanLine(line)
		if letters := strings.ToLower(notLetters.ReplaceAllString(line, "")); headerLine.MatchString(letters) {
			wanted = errorHeaderLine.MatchString(letters)
			continue
		}
		if row, ok := readRow(line, status); ok && wanted && endpoint != "" {
			row.Endpoint = endpoint
			status = row.StatusCode // also for the rows below, where one cell spans them
			rows = append(rows, row)
			continue
		}
		if number, ok := readStatus(line); ok {
			status = number
		} else if section := readSection(line); section != "" {
			endpoint, status, wanted = section, 0, false
		}
	}
	return rows
}

var notLetters = regexp.MustCompile(`[^A-Za-z]`)

// cleanLine returns line without runs of space, the anchors' zero-width space, and Markdown's marks at either end.
func cleanLine(line string) string {
	cells := strings.Split(strings.ReplaceAll(line, "\u200b", ""), "\t")
	for i, cell := range cells {
		cells[i] = strings.Join(strings.Fields(cell), " ")
	}
	return strings.Trim(strings.Join(cells, "\t"), "#| \t")
}

func readStatus(line string) (int, bool) {
	match := statusLine.FindStringSubmatch(line)
	if match == nil {
		return 0, false
	}
	status, _ := strconv.Atoi(match[1])
	return status, match[2] == "" || strings.EqualFold(match[2], http.StatusText(status))
}

// readSection returns the endpoint whose tables stand under a heading such as "Token endpoint errors".
func readSection(line string) applebusiness.Endpoint {
	line = strings.ToLower(line)
	if !strings.Contains(line, "error") || len(strings.Fields(line)) > 6 {
		return ""
	}
	switch {
	case strings.Contains(line, "token"):
		return applebusiness.TokenEndpoint
	case strings.Contains(line, "authorization"):
		return applebusiness.AuthorizationEndpoint
	}
	return ""
}

// readRow splits a line into the status, which is the one above if it has none of its own, the code and the description.
func readRow(line string, status int) (applebusiness.Entry, bool) {
	code, description := splitCode(line)
	if match := statusCell.FindStringSubmatch(line); code == "" && match != nil {
		status, _ = strconv.Atoi(match[1])
		code, description = splitCode(match[2])
	}
	// A note that one row carries; copied text may have it on the same line.
	description = strings.TrimSuffix(description, "Service Account, only")
	description = strings.Trim(description, " \t|")
	return applebusiness.Entry{StatusCode: status, Code: applebusiness.Code(code), Description: description}, code != "" && description != ""
}

// splitCode cuts line after its code. A code that nobody knows, with nothing between it and its description, is cut
// at the first capital letter or space.
func splitCode(line string) (code, rest string) {
	for _, known := range knownCodes() {
		if rest, ok := strings.CutPrefix(line, known); ok && !strings.HasPrefix(rest, "_") {
			return known, rest
		}
	}
	if code = unknownCode.FindString(line); code != "" {
		return code, line[len(code):]
	}
	return "", ""
}

// knownCodes returns the codes of the catalog and of RFC 6749, longer ones first.
func knownCodes() []string {
	codes := []string{
		string(applebusiness.CodeAccessDenied), string(applebusiness.CodeUnauthorizedClient),
		string(applebusiness.CodeUnsupportedGrantType), string(applebusiness.CodeTemporarilyUnavailable),
	}
	for entry := range applebusiness.Catalog() {
		codes = append(codes, string(entry.Code))
	}
	slices.SortFunc(codes, func(a, b string) int { return len(b) - len(a) })
	return slices.Compact(codes)
}
