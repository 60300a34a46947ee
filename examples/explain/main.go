// Command explain says what an OAuth error of Apple Business means, who is affected, and what to do.
//
//	go run ./examples/explain INPUT
//
// INPUT is a JSON body, a whole HTTP response as curl -i prints it, a redirect URL or its query, or a line of a log;
// without INPUT it is read from standard input. Nothing secret of it is printed: no token, state, authorization code
// or URL. Run it with -h for the flags.
//
// The exit status is 0 if Apple documents the error, 1 if it is understood but not documented, and 2 if there is no
// error to explain.
package main

import (
	"bufio"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/seed-a5f25c57/applebusiness"
)

const (
	exitDocumented   = 0
	exitUndocumented = 1
	exitUnusable     = 2
)

const (
	maxInput = 1 << 20
	maxLine  = 64 << 10
)

const usage = `Usage: explain [-json] [INPUT]
       explain -lines
       explain -list

Explains an OAuth error of Apple Business. INPUT is a JSON body, a whole HTTP response, a redirect URL or its query,
or a line of a log; without INPUT it is read from standard input. Nothing secret of it is printed.

  explain '{"error":"invalid_grant","error_description":"Invalid refresh_token"}'
  explain 'https://partner.example/callback?error=server_error&error_description=server+error&state=xyz'
  explain 'oauth2: "invalid_grant" "Invalid refresh_token"'
  curl -i https://... | explain -json
  explain -lines < app.log

Exit status: 0 Apple documents the error, 1 it is understood but not documented, 2 there is no error to explain.
With -lines: 0 Apple documents all errors, 1 not all, 2 no line holds an error.

`

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("explain", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	asJSON := flags.Bool("json", false, "print one JSON object")
	lines := flags.Bool("lines", false, "explain each line of standard input on one line, then count them")
	list := flags.Bool("list", false, "print the errors that Apple documents")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return exitUnusable
	}
	var code int
	var err error
	switch {
	case flags.NFlag() > 1:
		code, err = exitUnusable, errors.New("use only one of -json, -lines and -list")
	case flags.NArg() > 1:
		code, err = exitUnusable, errors.New("give one INPUT, in quotes")
	case flags.NArg() > 0 && (*lines || *list):
		code, err = exitUnusable, errors.New("-lines and -list take no INPUT")
	case *list:
		err = printCatalog(stdout)
	case *lines:
		code, err = explainLines(stdin, stdout)
	default:
		code, err = explainOne(flags.Args(), *asJSON, stdin, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "explain:", err)
		return exitUnusable
	}
	return code
}

// explainOne explains the only argument, or what standard input holds.
func explainOne(args []string, asJSON bool, stdin io.Reader, stdout io.Writer) (int, error) {
	var input string
	if len(args) > 0 {
		input = args[0]
	} else {
		read, err := io.ReadAll(io.LimitReader(stdin, maxInput+1))
		if err != nil {
			return 0, errors.New("standard input cannot be read")
		}
		input = string(read)
	}
	if len(input) > maxInput {
		return 0, errors.New("the input is longer than 1 MiB")
	}
	e, err := understand(input)
	if err != nil {
		return 0, err
	}
	if asJSON {
		err = explain(e).writeJSON(stdout)
	} else {
		err = explain(e).writeText(stdout)
	}
	return exitCode(e), err
}

// explainLines explains each line of stdin, of a long one the beginning. It holds one line at a time, and a count for
// each Reason and Action, both of which are bounded in number.
func explainLines(stdin io.Reader, stdout io.Writer) (int, error) {
	type kind struct {
		reason applebusiness.Reason
		action applebusiness.Action
	}
	counts := make(map[kind]int)
	nothing := 0
	code := exitDocumented
	reader := bufio.NewReaderSize(stdin, maxLine)
	for number := 1; ; number++ {
		line, err := readLine(reader)
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, errors.New("standard input cannot be read")
		}
		e, err := understand(line)
		if err != nil {
			nothing++
			_, err = fmt.Fprintf(stdout, "%d: %v\n", number, err)
		} else {
			action := applebusiness.Troubleshoot(e).Action
			counts[kind{e.Reason, action}]++
			code = max(code, exitCode(e))
			_, err = fmt.Fprintf(stdout, "%d: %s: %s: %s\n",
				number, reasonName(e.Reason), orUnknown(action), strings.TrimPrefix(e.Error(), prefix))
		}
		if err != nil {
			return 0, err
		}
	}
	if len(counts) == 0 {
		return 0, errors.New("no line holds an OAuth error")
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "\nCOUNT\tREASON\tACTION\n")
	for _, kind := range slices.SortedFunc(maps.Keys(counts), func(a, b kind) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a.reason, b.reason), cmp.Compare(a.action, b.action))
	}) {
		fmt.Fprintf(table, "%d\t%s\t%s\n", counts[kind], reasonName(kind.reason), orUnknown(kind.action))
	}
	if nothing > 0 {
		fmt.Fprintf(table, "%d\tnothing to explain\n", nothing)
	}
	return code, table.Flush()
}

// readLine returns the next line, or its beginning if it does not fit into the reader's buffer, and skips the rest.
func readLine(reader *bufio.Reader) (string, error) {
	read, err := reader.ReadSlice('\n')
	line := string(read)
	for err == bufio.ErrBufferFull {
		_, err = reader.ReadSlice('\n')
	}
	if err == io.EOF && line != "" {
		err = nil
	}
	return line, err
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

func exitCode(e *applebusiness.Error) int {
	if isDocumented(e.Reason) {
		return exitDocumented
	}
	return exitUndocumented
}
