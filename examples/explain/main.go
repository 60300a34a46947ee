// Command explain says what an OAuth error of Apple Business means, who is affected, and what to do.
//
// It undoes what logs, shells and mails do to a text, looks in each record for a few facts, each for itself and wherever it
// stands (the code, Apple's text, the status, the grant_type, the wait, what the line itself says its action is), and asks
// package applebusiness what they mean together. It prints nothing but Apple's texts, this library's words and numbers: of
// anything else in the input nothing, and so nothing secret. Run it with -h for its use and its exit statuses.
package main

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/template"

	"github.com/seed-a5f25c57/applebusiness"
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

// failure is what a record tells of. Nothing in it came from outside but what is Apple's or ours. The members of its JSON are stable;
// those that are unknown are left out, except that action, impact and remedy are "" then.
type failure struct {
	Line        int                    `json:"line,omitempty"` // with -lines
	Name        string                 `json:"-"`              // what people read
	Constant    string                 `json:"constant,omitempty"`
	Reason      applebusiness.Reason   `json:"reason,omitempty"`
	Nearest     string                 `json:"nearest,omitempty"`
	Provider    string                 `json:"provider,omitempty"`
	Endpoint    applebusiness.Endpoint `json:"endpoint,omitempty"`
	Code        string                 `json:"code,omitempty"`
	Description string                 `json:"description,omitempty"`
	Network     string                 `json:"network,omitempty"`
	Status      int                    `json:"status,omitempty"`
	Documented  bool                   `json:"documented"`
	Parameter   string                 `json:"parameter,omitempty"`
	GrantType   string                 `json:"grant_type,omitempty"`
	Wait        int                    `json:"retry_after_seconds,omitempty"`
	Impact      applebusiness.Impact   `json:"impact"`
	Causes      []map[string]string    `json:"causes"`
	Action      applebusiness.Action   `json:"action"`
	Remedy      string                 `json:"remedy"`
}

const undocumented = "undocumented" // the name, and the code, of what nobody documented

// understand returns the different failures that a pasted text tells of. A record is a line that begins as those of a log do, with
// what follows it.
func understand(input string) (found []*failure, err error) {
	if input = strings.TrimSpace(input); input == "" {
		return nil, errors.New("the input is empty")
	}
	seen := make(map[string]bool)
	for _, record := range strings.Split(rewrite("record", rewrite("dialect", input)), "␞") {
		for _, x := range collect(record, len(input) < 300).failures() {
			if kind := x.Name + string(x.Action) + x.Code + x.Provider; !seen[kind] {
				seen[kind], found = true, append(found, x)
			}
		}
	}
	if len(found) == 0 && matches("typed", input) {
		found = nearest(strings.ToLower(input))
	}
	if len(found) == 0 {
		err = errors.New("no OAuth error was found: give a JSON body, an HTTP response, a redirect URL or a line of a log")
	}
	return found, err
}

// nearest returns the row or the code that somebody nearly means who types a short text; nil if there is none.
func nearest(input string) []*failure {
	best := slices.MaxFunc(slices.Sorted(maps.Keys(words)), func(a, b string) int {
		return cmp.Compare(similarity(input, a), similarity(input, b))
	})
	if similarity(input, best) <= 0.7 {
		return nil
	}
	const remedy = "If that is meant, give its name to have it explained. Ask nobody to reconnect because of a text that is not Apple's."
	return []*failure{{
		Name: undocumented, Nearest: cmp.Or(constant(words[best].Reason), string(words[best].Code)), Causes: []map[string]string{}, Remedy: remedy,
	}}
}

// similarity returns which part of the pairs of letters in two texts is the same.
func similarity(a, b string) float64 {
	same := 0.0
	for i := range max(len(a)-1, 0) {
		if strings.Contains(b, a[i:i+2]) {
			same += 2
		}
	}
	return same / float64(len(a)+len(b)-2)
}

// constant returns the name of reason's constant, which its label is in snake case.
func constant(reason applebusiness.Reason) string {
	snake := strings.TrimSuffix("err_"+string(reason), "err_") // which is all of it if there is no reason
	return patterns["initial"][0].ReplaceAllStringFunc(snake, func(initial string) string {
		return strings.ToUpper(strings.TrimPrefix(initial, "_"))
	})
}

// exitCodes are by whether Apple documents what was found.
var exitCodes = map[bool]int{true: exitDocumented, false: exitUndocumented}

func writeJSON(w io.Writer, object any, indent string) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	return encoder.Encode(object)
}
