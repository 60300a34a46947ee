// Command explain says what an OAuth error of Apple Business means, who is affected, and what to do.
//
// It undoes what logs, shells and mails do to a text, looks in each record for a few facts, each for itself and wherever it
// stands (the code, Apple's text, the status, the grant_type, the wait, what the line itself says its action is), and asks
// package applebusiness what they mean together. It prints nothing but Apple's texts, this library's words and numbers: of
// anything else in the input nothing, and so nothing secret. Run it with -h for its use and its exit statuses.
package main

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

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
	asJSON, lines := flags.Bool("json", false, ""), flags.Bool("lines", false, "")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return exitUnusable
	}
	var err error
	switch {
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

var errRead = errors.New("the input cannot be read") // the text of a reader's error may hold anything

// explainOne explains input, or what the file of that name holds.
func explainOne(input string, asJSON bool, stdin io.Reader, stdout io.Writer) (int, error) {
	if file, err := openFile(input, stdin); err == nil {
		read, err := io.ReadAll(io.LimitReader(file, maxInput+1))
		if err != nil {
			return 0, errRead
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
	return show(stdout, found, asJSON)
}

// openFile returns what a file holds, whether it is compressed with gzip or not; "-" is standard input.
func openFile(name string, stdin io.Reader) (io.Reader, error) {
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		if info, err := file.Stat(); err != nil || info.IsDir() {
			return nil, errors.New("it is a directory")
		}
		stdin = file // closed when it is garbage
	}
	buffered := bufio.NewReader(stdin)
	if magic, _ := buffered.Peek(2); string(magic) == "\x1f\x8b" {
		return gzip.NewReader(buffered)
	}
	return buffered, nil
}

const prefix = "applebusiness: " // of every text that the package renders

// failure is what a record tells of: an OAuth error, a failure of the network, or something that is not Apple's.
type failure struct {
	*applebusiness.Error
	advice   applebusiness.Advice
	network  string // what failed in the network
	provider string // whose error it is, if not Apple's
	nearest  string // the row that somebody who typed a text nearly meant
}

// explanation is what the program says about one failure, as JSON and, where there is a format, as text. Nothing in it came from
// outside but what is Apple's or ours. The members of its JSON are stable; those that are unknown are left out, except that
// action, impact and remedy are "" then.
type explanation struct {
	File              string                 `json:"file,omitempty"` // with -lines, as the next
	Line              int                    `json:"line,omitempty"`
	Constant          string                 `json:"constant,omitempty"`
	Reason            applebusiness.Reason   `json:"reason,omitempty"`
	Endpoint          applebusiness.Endpoint `json:"endpoint,omitempty" text:"endpoint   %s"`
	Code              string                 `json:"code,omitempty" text:"code       %s"`
	Description       string                 `json:"description,omitempty" text:"text       %q"`
	Status            int                    `json:"status,omitempty" text:"status     HTTP %d"`
	Documented        bool                   `json:"documented"`
	Parameter         string                 `json:"parameter,omitempty" text:"parameter  %s"`
	GrantType         string                 `json:"grant_type,omitempty" text:"grant_type %s"`
	RetryAfterSeconds int                    `json:"retry_after_seconds,omitempty" text:"wait       %d seconds before the next request"`
	Affected          string                 `json:"-" text:"affected   %s"`
	Impact            applebusiness.Impact   `json:"impact"`
	Causes            []cause                `json:"causes"`
	CausesText        string                 `json:"-" text:"causes     %s"`
	ActionText        string                 `json:"-" text:"action     %s"`
	Action            applebusiness.Action   `json:"action"`
	Remedy            string                 `json:"remedy" text:"           %s"`
	Network           string                 `json:"network,omitempty"`
	Provider          string                 `json:"provider,omitempty"`
	Nearest           string                 `json:"nearest,omitempty"`
}

type cause struct {
	Cause       applebusiness.Cause `json:"cause"`
	Description string              `json:"description"`
}

func explain(f *failure) explanation {
	e, advice := f.Error, f.advice
	x := explanation{
		Reason: e.Reason, Endpoint: e.Endpoint, Code: string(codeWords[strings.ToLower(string(e.Code))]), Status: e.StatusCode, Documented: isDocumented(e.Reason), GrantType: e.GrantType,
		RetryAfterSeconds: int(math.Ceil(e.RetryAfter.Seconds())), Impact: advice.Impact, Affected: affected[advice.Impact], Action: advice.Action, ActionText: orUnknown(advice.Action),
		Causes: []cause{}, Remedy: advice.Remedy, Network: f.network, Provider: f.provider, Nearest: f.nearest,
	}
	if x.Documented && e.Description != "" {
		x.Description = e.Reason.Description()
	}
	if slices.Contains(strings.Fields("client_id client_secret code code_challenge code_challenge_method code_verifier grant_type redirect_uri refresh_token response_type scope state"), e.Parameter) {
		x.Parameter = e.Parameter
	}
	for _, c := range advice.Causes {
		x.Causes = append(x.Causes, cause{c, c.Description()})
		x.CausesText = strings.TrimPrefix(x.CausesText+"\n             "+c.Description(), "\n             ")
	}
	if e.Reason != "" {
		x.Constant = reasonName(e.Reason)
	} else if x.Code != "" {
		x.Constant = codeName(applebusiness.Code(x.Code))
	}
	return x
}

// show writes what was found, for a person or as JSON, and returns the exit status.
func show(w io.Writer, found []*failure, asJSON bool) (code int, err error) {
	for i, f := range found {
		x := explain(f)
		if code = max(code, x.exitCode()); asJSON {
			err = writeJSON(w, x, "  ")
		} else if len(found) > 1 {
			_, err = fmt.Fprintf(w, "%sError %d of %d different ones: %s", "\n"[:min(i, 1)], i+1, len(found), x.text())
		} else {
			_, err = io.WriteString(w, x.text())
		}
		if err != nil {
			return 0, err
		}
	}
	return code, nil
}

func writeJSON(w io.Writer, object any, indent string) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	return encoder.Encode(object)
}

func (x explanation) exitCode() int {
	if x.Documented {
		return exitDocumented
	}
	return exitUndocumented
}

// name is what a table calls f.
func (f *failure) name() string {
	if f.network != "" && f.Reason == "" {
		return "network"
	}
	return cmp.Or(f.provider, reasonName(f.Reason))
}

// line is one line about x.
func (x explanation) line() string {
	parts := []string{string(x.Reason), x.Code, "", x.Network}
	if x.Documented && (x.Code != "" || x.Description != "") {
		parts[0] = ""
	}
	if x.Description != "" {
		parts[2] = strconv.Quote(x.Description)
	}
	line := cmp.Or(strings.Join(slices.DeleteFunc(parts, func(part string) bool { return part == "" }), ": "), "an error that Apple does not document")
	if x.Status != 0 {
		line += fmt.Sprintf(" (HTTP %d)", x.Status)
	}
	return line
}

// text is the explanation for a person.
func (x explanation) text() string {
	head := "An error that Apple does not document"
	switch {
	case x.Nearest != "":
		head = "Apple documents no such text; the nearest row is " + x.Nearest
	case x.Provider != "":
		head = "An error of " + x.Provider + ", not of Apple Business"
	case x.Network != "" && x.Constant != "":
		head = x.Constant + ", a failure of the network: " + x.Network
	case x.Network != "":
		head = "A failure of the network: " + x.Network
	case x.Documented:
		head = x.Constant + ", documented by Apple"
	case x.Reason != "":
		head = x.Constant + ", found by package applebusiness, not documented by Apple"
	case x.Constant != "":
		head = x.Constant + ", in a form that Apple does not document"
	}
	for field, value := range reflect.ValueOf(x).Fields() {
		if format, isText := field.Tag.Lookup("text"); isText && !value.IsZero() {
			head += "\n  " + fmt.Sprintf(format, value.Interface())
		}
	}
	return head + "\n"
}

var affected = map[applebusiness.Impact]string{
	applebusiness.ImpactUnknown:  "unknown",
	applebusiness.ImpactCustomer: "customer: this grant, and no other customer's",
	applebusiness.ImpactApp:      "app: the partner's app, and so all customers",
	applebusiness.ImpactService:  "service: Apple or the way to it, and so everybody for a while",
}

func orUnknown(action applebusiness.Action) string { return cmp.Or(string(action), "unknown") }

func isDocumented(reason applebusiness.Reason) bool { return reason.Description() != "" }

// allReasons and allCodes are what package applebusiness has names for.
var allReasons, allCodes = func() ([]applebusiness.Reason, []applebusiness.Code) {
	reasons := []applebusiness.Reason{
		applebusiness.ErrStateMismatch, applebusiness.ErrMalformedRedirect, applebusiness.ErrUserDenied, applebusiness.ErrNoResponse, applebusiness.ErrRateLimited, applebusiness.ErrUnavailable,
		applebusiness.ErrMalformedResponse, applebusiness.ErrUnsafeTokenRequest, applebusiness.ErrNoRefreshToken, applebusiness.ErrUnsafeState, applebusiness.ErrManyRefusals,
	}
	codes := []applebusiness.Code{applebusiness.CodeAccessDenied, applebusiness.CodeUnauthorizedClient, applebusiness.CodeUnsupportedGrantType, applebusiness.CodeTemporarilyUnavailable}
	for entry := range applebusiness.Catalog() {
		reasons, codes = append(reasons, entry.Reason), append(codes, entry.Code)
	}
	return reasons, codes
}()

// reasonName returns the name of reason's constant, which its label is in snake case.
func reasonName(reason applebusiness.Reason) string {
	if reason == "" {
		return "undocumented"
	}
	return "Err" + camelCase(string(reason))
}

func codeName(code applebusiness.Code) string {
	if code == applebusiness.CodeNotFound {
		return "CodeNotFound"
	}
	return "Code" + camelCase(string(code))
}

func camelCase(label string) (name string) {
	for word := range strings.SplitSeq(label, "_") {
		if word == "id" || word == "uri" {
			word = strings.ToUpper(word)
		}
		name += strings.ToUpper(word[:1]) + word[1:]
	}
	return name
}
