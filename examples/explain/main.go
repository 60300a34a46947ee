// Command explain says what an OAuth error of Apple Business means, who is affected, and what to do.
//
// It undoes what logs, shells and mails do to a text, looks in each record for a few facts, each for itself and wherever it
// stands (the code, Apple's text, the status, the grant_type, the wait, what the line itself says its action is), and asks
// package applebusiness what they mean together. It prints nothing but Apple's texts, this library's words and numbers: of
// anything else in the input nothing, and so nothing secret. Run it with -h for its use and its exit statuses.
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
	exitDocumented = iota
	exitUndocumented
	exitUnusable

	maxInput = 1 << 20
)

const usage = `Usage: explain [-json] [INPUT]
       explain -lines [-json] [FILE...]
       explain -list

Explains an OAuth error of Apple Business, or a failure of the network on the
way there. INPUT is text or the name of a file: a JSON body, an HTTP response,
a redirect URL, a line of a log, a label. Without it, or with -, standard input
is read. Files may be compressed with gzip. Nothing secret is printed.

  explain 'oauth2: "invalid_grant" "Invalid refresh_token"'
  explain 'https://partner.example/callback?error=access_denied&state=xyz'
  curl -i https://... | explain -json
  explain -lines app.log app.log.1.gz

  -json   print JSON, with -lines an object a line and the summary in the last
  -lines  explain each line that tells of an error on one line, then sum up
  -list   print the errors that Apple documents

Exit status: 0 Apple documents the error, 1 it is understood but not documented,
2 there is no error to explain. With -lines: 0 Apple documents all, 1 not all,
2 no line tells of one, or a file cannot be read. INPUT may be 1 MiB long; of a
longer line the beginning is explained.
`

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	flags := flag.NewFlagSet("explain", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	asJSON, lines, list := flags.Bool("json", false, ""), flags.Bool("lines", false, ""), flags.Bool("list", false, "")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return exitUnusable
	}
	var err error
	switch {
	case *list && (*asJSON || *lines):
		err = errors.New("use -list alone")
	case *list && flags.NArg() > 0:
		err = errors.New("-list takes no INPUT")
	case *list:
		err = printCatalog(stdout)
	case *lines:
		code, err = explainLines(flags.Args(), *asJSON, stdin, stdout)
	case flags.NArg() > 1:
		err = errors.New("give one INPUT, in quotes")
	default:
		code, err = explainOne(append(flags.Args(), "-")[0], *asJSON, stdin, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "explain:", err)
		return exitUnusable
	}
	return code
}

// explainOne explains input, or what the file of that name holds.
func explainOne(input string, asJSON bool, stdin io.Reader, stdout io.Writer) (int, error) {
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

// source is a file, or standard input, and what it is called. It inflates what is compressed with gzip.
type source struct {
	io.ReadCloser
	plain io.Reader
	name  string
}

func openFile(name string, stdin io.Reader) (*source, error) {
	if name == "-" {
		return &source{io.NopCloser(stdin), nil, "standard input"}, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || info.IsDir() {
		return nil, errors.Join(file.Close(), errors.New("it is a directory"))
	}
	return &source{file, nil, "the file"}, nil
}

func (s *source) Read(p []byte) (_ int, err error) {
	if s.plain == nil {
		buffered := bufio.NewReader(s.ReadCloser)
		s.plain = buffered
		if magic, _ := buffered.Peek(2); string(magic) == "\x1f\x8b" {
			if s.plain, err = gzip.NewReader(buffered); err != nil {
				s.plain = s.ReadCloser
				return 0, err
			}
		}
	}
	return s.plain.Read(p)
}

func printCatalog(stdout io.Writer) error {
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CONSTANT\tENDPOINT\tSTATUS\tCODE\tTEXT")
	for entry := range applebusiness.Catalog() {
		status := any(entry.StatusCode)
		if status == 0 {
			status = "-"
		}
		fmt.Fprintf(table, "%s\t%s\t%v\t%s\t%s\n", reasonName(entry.Reason), entry.Endpoint, status, string(entry.Code), entry.Description)
	}
	return table.Flush()
}
