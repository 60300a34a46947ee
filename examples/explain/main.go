// Command explain says what an OAuth error of Apple Business means, who is affected, and what to do.
//
//	go run ./examples/explain INPUT
//
// INPUT is whatever shows an error: a JSON body, a whole HTTP response, a redirect URL, a line of a log, or the name of a
// file with one of them; without INPUT it is read from standard input. With -lines it explains whole logs.
//
// It undoes what logs and shells do to a text, looks in each record for a few facts (the code, Apple's text, the status, the
// grant_type, how long to wait, and what the line itself says its action is), each for itself, and asks package applebusiness
// what they mean together. It prints nothing but Apple's texts, this library's words and numbers: no text of the input that
// Apple does not document, and so nothing secret.
//
// The exit status is 0 if Apple documents the error, 1 if it is understood but not documented, and 2 if there is no
// error to explain.
package main

import (
	"bufio"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/seed-a5f25c57/applebusiness"
)

const (
	exitDocumented   = 0
	exitUndocumented = 1
	exitUnusable     = 2
)

const maxInput = 1 << 20

const usage = `Usage: explain [-json] [INPUT]
       explain -lines [-json] [FILE...]
       explain -list

Explains an OAuth error of Apple Business, or a failure of the network on the way there. INPUT is text or the name of a
file; without it, or with -, standard input is read. Files may be compressed with gzip. Nothing secret is printed.

  explain '{"error":"invalid_grant","error_description":"Invalid refresh_token"}'
  explain 'https://partner.example/callback?error=server_error&error_description=server+error&state=xyz'
  explain 'oauth2: "invalid_grant" "Invalid refresh_token"'
  curl -i https://... | explain -json
  explain -lines app.log app.log.1.gz

  -json   print a JSON object for each error, with -lines one a line, and at the end one with the summary
  -lines  explain each line that holds an error on one line, then count them
  -list   print the errors that Apple documents

Exit status: 0 Apple documents the error, 1 it is understood but not documented, 2 there is no error to explain.
With -lines: 0 Apple documents all errors, 1 not all, 2 no line holds an error, or a file cannot be read.
Of a line over 1 MiB the beginning is explained; any other input may be 1 MiB long.
`

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("explain", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	asJSON := flags.Bool("json", false, "")
	lines := flags.Bool("lines", false, "")
	list := flags.Bool("list", false, "")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return exitUnusable
	}
	var code int
	var err error
	switch {
	case *list && (*asJSON || *lines):
		err = errors.New("use -list alone")
	case *list && flags.NArg() > 0:
		err = errors.New("-list takes no INPUT")
	case *lines:
		code, err = explainLines(flags.Args(), *asJSON, stdin, stdout)
	case flags.NArg() > 1:
		err = errors.New("give one INPUT, in quotes")
	case *list:
		err = printCatalog(stdout)
	default:
		code, err = explainOne(flags.Args(), *asJSON, stdin, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "explain:", err)
		return exitUnusable
	}
	return code
}

// explainOne explains what the only argument holds or names, or what standard input holds.
func explainOne(args []string, asJSON bool, stdin io.Reader, stdout io.Writer) (int, error) {
	input := append(args, "-")[0]
	if file, err := openFile(input, stdin); err == nil {
		defer file.Close()
		read, err := io.ReadAll(io.LimitReader(file, maxInput+1))
		if err != nil {
			return 0, fmt.Errorf("%s cannot be read", file.name)
		}
		input = string(read)
	}
	if len(input) > maxInput {
		return 0, errors.New("the input is longer than 1 MiB")
	}
	found, err := understand(input)
	if err != nil {
		return 0, err
	}
	return print(stdout, found, asJSON)
}

// source is a file, or standard input.
type source struct {
	io.Reader
	io.Closer
	name string
}

// openFile opens a file, whether it is compressed or not; "-" is standard input.
func openFile(name string, stdin io.Reader) (*source, error) {
	file := &source{Reader: stdin, Closer: io.NopCloser(nil), name: "standard input"}
	if name != "-" {
		opened, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		info, err := opened.Stat()
		if err != nil || info.IsDir() {
			_ = opened.Close()
			return nil, errors.New("it is a directory")
		}
		file = &source{Reader: opened, Closer: opened, name: "the file"}
	}
	file.Reader = &inflater{source: file.Reader}
	return file, nil
}

// inflater reads what is compressed with gzip, and anything else as it is. It looks at the first bytes when it is read,
// so that to open standard input waits for nothing.
type inflater struct {
	source io.Reader
	plain  io.Reader
}

func (r *inflater) Read(p []byte) (int, error) {
	if r.plain == nil {
		buffered := bufio.NewReaderSize(r.source, 64<<10)
		r.plain = buffered
		if magic, _ := buffered.Peek(2); string(magic) == "\x1f\x8b" {
			inflated, err := gzip.NewReader(buffered)
			if err != nil {
				return 0, err
			}
			r.plain = inflated
		}
	}
	return r.plain.Read(p)
}

func printCatalog(stdout io.Writer) error {
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CONSTANT\tENDPOINT\tSTATUS\tCODE\tTEXT")
	for entry := range applebusiness.Catalog() {
		status := "-"
		if entry.StatusCode != 0 {
			status = fmt.Sprint(entry.StatusCode)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n",
			reasonName(entry.Reason), entry.Endpoint, status, string(entry.Code), entry.Description)
	}
	return table.Flush()
}
