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
	"math"
	"os"
	"reflect"
	"regexp"
	"strings"

	"github.com/seed-a5f25c57/applebusiness"
)

//go:embed usage.txt
var usage string

const (
	exitDocumented, exitUndocumented, exitUnusable = 0, 1, 2
	maxInput                                       = 1 << 20
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	flags := flag.NewFlagSet("explain", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	asJSON, lines := flags.Bool("json", false, ""), flags.Bool("lines", false, "")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return exitUnusable
	}
	input, err := append(flags.Args(), "-")[0], error(nil)
	if file, openErr := os.Open(input); openErr == nil {
		stdin = file
	} else if input != "-" {
		stdin = strings.NewReader(input)
		*lines, err = false, map[bool]error{true: errors.New("the argument is no file that can be read")}[*lines] // it may be a pasted line
	}
	switch {
	case flags.NArg() > 1:
		err = errors.New("give one INPUT, in quotes")
	case err != nil:
	case *lines:
		code, err = explainLines(stdin, *asJSON, stdout)
	default:
		code, err = explainOne(stdin, *asJSON, stdout)
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
		code = max(code, x.exitCode())
		if asJSON {
			err = writeJSON(stdout, x, "  ")
			continue
		}
		text := x.render("text")
		if len(found) > 1 {
			text = fmt.Sprintf("Error %d of %d different ones: %s", i+1, len(found), text)
		}
		_, err = io.WriteString(stdout, text)
	}
	return code, err
}

// failure is what a record tells of, as JSON and, where there is a format, as text and in one line. Nothing in it came from outside
// but what is Apple's or ours. The members of its JSON are stable; those that are unknown are left out, except that action, impact
// and remedy are "" then.
type failure struct {
	Line        int                    `json:"line,omitempty"` // with -lines
	Head        string                 `json:"-" text:"%s"`
	Name        string                 `json:"-"` // what a table calls it
	Constant    string                 `json:"constant,omitempty"`
	Reason      applebusiness.Reason   `json:"reason,omitempty"`
	Nearest     string                 `json:"nearest,omitempty" text:"\n  Apple documents no such text; the nearest row is %s"`
	Provider    string                 `json:"provider,omitempty" text:"\n  provider   %s, not Apple Business"`
	Endpoint    applebusiness.Endpoint `json:"endpoint,omitempty" text:"\n  endpoint   %s"`
	Code        string                 `json:"code,omitempty" text:"\n  code       %s" line:": %s"`
	Description string                 `json:"description,omitempty" text:"\n  text       %q" line:": %q"`
	Network     string                 `json:"network,omitempty" text:"\n  network    %s" line:": %s"`
	Status      int                    `json:"status,omitempty" text:"\n  status     HTTP %d" line:" (HTTP %d)"`
	Documented  bool                   `json:"documented"`
	Parameter   string                 `json:"parameter,omitempty" text:"\n  parameter  %s"`
	GrantType   string                 `json:"grant_type,omitempty" text:"\n  grant_type %s"`
	Wait        int                    `json:"retry_after_seconds,omitempty" text:"\n  wait       %d seconds before the next request"`
	Impact      applebusiness.Impact   `json:"impact" text:"\n  affected   %s"`
	Causes      []cause                `json:"causes"`
	CausesText  string                 `json:"-" text:"\n  causes     %s"`
	ActionText  string                 `json:"-" text:"\n  action     %s"`
	Action      applebusiness.Action   `json:"action"`
	Remedy      string                 `json:"remedy" text:"\n             %s"`
}

type cause struct {
	Cause       applebusiness.Cause `json:"cause"`
	Description string              `json:"description"`
}

// newFailure returns what is said about e, or about what failed in the network.
func newFailure(e *applebusiness.Error, network string, advice applebusiness.Advice) *failure {
	x := &failure{
		Name: "undocumented", Constant: constant(e.Reason), Reason: e.Reason, Endpoint: e.Endpoint, Code: string(codeWords[strings.ToLower(string(e.Code))]),
		Network: network, Status: e.StatusCode, Documented: e.Reason.Description() != "", GrantType: e.GrantType, Wait: int(math.Ceil(e.RetryAfter.Seconds())),
		Impact: advice.Impact, Causes: []cause{}, Action: advice.Action, ActionText: cmp.Or(string(advice.Action), "unknown"), Remedy: advice.Remedy,
	}
	if e.Reason != "" {
		x.Name = x.Constant
	} else if network != "" {
		x.Name = "network"
	}
	if x.Head = x.Name; x.Documented {
		x.Head += ", documented by Apple"
	}
	if e.Description != "" {
		x.Description = e.Reason.Description()
	}
	if parameters.MatchString(e.Parameter) {
		x.Parameter = e.Parameter
	}
	for _, c := range advice.Causes {
		x.Causes = append(x.Causes, cause{c, c.Description()})
		x.CausesText = strings.TrimPrefix(x.CausesText+"\n             "+c.Description(), "\n             ")
	}
	return x
}

var (
	parameters = regexp.MustCompile(`^(?:client_(?:id|secret)|code|code_challenge|code_challenge_method|code_verifier|grant_type|redirect_uri|refresh_token|response_type|scope|state)$`)
	initials   = regexp.MustCompile(`(?:^|_)(?:id$|uri$|\w)`)
)

// constant returns the name of reason's constant, which its label is in snake case.
func constant(reason applebusiness.Reason) string {
	if reason == "" {
		return ""
	}
	return "Err" + initials.ReplaceAllStringFunc(string(reason), func(text string) string { return strings.ToUpper(strings.TrimPrefix(text, "_")) })
}

// isSame reports whether x is of the same kind as other.
func (x *failure) isSame(other *failure) bool {
	return x.Name == other.Name && x.Action == other.Action && x.Code == other.Code && x.Provider == other.Provider
}

// render returns those of x's fields that have a format of this kind.
func (x *failure) render(kind string) (text string) {
	for field, value := range reflect.ValueOf(*x).Fields() {
		if format, ok := field.Tag.Lookup(kind); ok && !value.IsZero() {
			text += fmt.Sprintf(format, value.Interface())
		}
	}
	return text + "\n"
}

func (x *failure) exitCode() int {
	if x.Documented {
		return exitDocumented
	}
	return exitUndocumented
}

func writeJSON(w io.Writer, object any, indent string) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	return encoder.Encode(object)
}
