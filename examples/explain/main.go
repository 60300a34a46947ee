// Command explain says what an OAuth error of Apple Business means, who is affected, and what to do.
//
// It undoes what logs, shells and mails do to a text, looks in each record for a few facts, each for itself and wherever it
// stands (the code, Apple's text, the status, the grant_type, the wait, what the line itself says its action is), and asks
// package applebusiness what they mean together. It prints nothing but Apple's texts, this library's words and numbers: of
// anything else in the input nothing, and so nothing secret. Run it with -h for its use and its exit statuses.
package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/template"
)

// usage is what -h prints, and report how failures are shown to people.
var (
	//go:embed usage.txt
	usage string
	//go:embed report.tmpl
	layout string
	report = template.Must(template.New("").Parse(layout))
)

const (
	exitDocumented, exitUndocumented, exitUnusable = 0, 1, 2
	maxInput                                       = 1 << 20
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	flags := flag.NewFlagSet("explain", flag.ExitOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	asJSON, lines := flags.Bool("json", false, ""), flags.Bool("lines", false, "")
	_ = flags.Parse(args) // which exits itself
	var err error
	explain := map[bool]func(io.Reader, bool, io.Writer) (int, error){false: explainOne, true: explainLines}[*lines]
	input := append(flags.Args(), "-")[0]
	switch file, openErr := os.Open(input); {
	case flags.NArg() > 1:
		err = errors.New("give one INPUT, in quotes")
	case openErr == nil:
		code, err = explain(file, *asJSON, stdout)
	case input == "-":
		code, err = explain(stdin, *asJSON, stdout)
	case *lines:
		err = errors.New("the argument is no file that can be read") // it may be a pasted line
	default:
		code, err = explain(strings.NewReader(input), *asJSON, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "explain:", err)
		return exitUnusable
	}
	return code
}

var errRead = errors.New("the input cannot be read") // the text of a reader's error may hold anything

// explainOne explains a text, and returns the exit status.
func explainOne(input io.Reader, asJSON bool, stdout io.Writer) (code int, err error) {
	text, err := io.ReadAll(io.LimitReader(input, maxInput+1))
	if err != nil {
		return 0, errRead
	} else if len(text) > maxInput {
		return 0, errors.New("the input is longer than 1 MiB")
	}
	found, err := understand(string(text))
	for i, x := range found {
		code = max(code, exitCodes[x.Documented])
		if asJSON {
			err = writeJSON(stdout, x, "  ")
			continue
		}
		if len(found) > 1 {
			fmt.Fprintf(stdout, "Error %d of %d different ones: ", i+1, len(found))
		}
		err = report.ExecuteTemplate(stdout, "text", x)
	}
	return code, err
}

// exitCodes are by whether Apple documents what was found.
var exitCodes = map[bool]int{true: exitDocumented, false: exitUndocumented}

func writeJSON(w io.Writer, object any, indent string) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	return encoder.Encode(object)
}
