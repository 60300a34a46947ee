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
func readLines(lines []string) (rows []applebusiness.Entry) {
	var endpoint applebusiness.Endpoint
	status, wanted := 0, false // status is also that of the rows below, where one cell spans them
	for _, line := range lines {
		line = cleanLine(line)
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
			rows = append(rows, applebusiness.Entry{
				Endpoint: endpoint, StatusCode: status, Code: applebusiness.Code(code), Description: description,
			})
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

// cleanLine returns line without runs of space, the anchors' zero-width space, and Markdown's marks at either end.
func cleanLine(line string) string {
	cells := strings.Split(strings.ReplaceAll(line, "\u200b", ""), "\t")
	for i, cell := range cells {
		cells[i] = strings.Join(strings.Fields(cell), " ")
	}
	return strings.Trim(strings.Join(cells, "\t"), "#| \t")
}

// splitCode returns the code with which line begins, or "", and the description after it.
func splitCode(line string) (code, description string) {
	code = unknownCode.FindString(line)
	for _, known := range knownCodes() {
		if rest, ok := strings.CutPrefix(line, known); ok && !strings.HasPrefix(rest, "_") {
			code = known
			break
		}
	}
	// A note that one row carries; copied text may have it on the same line.
	description = strings.TrimSuffix(line[len(code):], "Service Account, only")
	return code, strings.Trim(description, " \t|")
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
