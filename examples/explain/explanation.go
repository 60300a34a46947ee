package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/seed-a5f25c57/applebusiness"
)

const prefix = "applebusiness: " // of every text that the package renders

// explanation is what the program says about one error. The members of its JSON are stable; those that are unknown
// are left out, except that action, impact and remedy are "" then.
type explanation struct {
	Constant           string                 `json:"constant,omitempty"`
	Reason             applebusiness.Reason   `json:"reason,omitempty"`
	Endpoint           applebusiness.Endpoint `json:"endpoint,omitempty"`
	Code               applebusiness.Code     `json:"code,omitempty"`
	Status             int                    `json:"status,omitempty"`
	Description        string                 `json:"description,omitempty"`
	Documented         bool                   `json:"documented"`
	DocumentedStatuses []int                  `json:"documented_statuses,omitempty"`
	Parameter          string                 `json:"parameter,omitempty"`
	GrantType          string                 `json:"grant_type,omitempty"`
	RequestID          string                 `json:"request_id,omitempty"`
	RetryAfterSeconds  int                    `json:"retry_after_seconds,omitempty"`
	Action             applebusiness.Action   `json:"action"`
	Impact             applebusiness.Impact   `json:"impact"`
	Causes             []cause                `json:"causes"`
	Remedy             string                 `json:"remedy"`
	Network            string                 `json:"network,omitempty"`
	ErrorsIs           string                 `json:"errors_is,omitempty"`
}

type cause struct {
	Cause       applebusiness.Cause `json:"cause"`
	Description string              `json:"description"`
}

func explain(f *finding) explanation {
	e, advice := f.Error, f.advice()
	x := explanation{
		Network:           f.network,
		Reason:            e.Reason,
		Endpoint:          e.Endpoint,
		Code:              e.Code,
		Status:            e.StatusCode,
		Description:       e.Description,
		Documented:        isDocumented(e.Reason),
		Parameter:         e.Parameter,
		GrantType:         e.GrantType,
		RequestID:         e.RequestID,
		RetryAfterSeconds: int(math.Ceil(e.RetryAfter.Seconds())),
		Action:            advice.Action,
		Impact:            advice.Impact,
		Causes:            []cause{},
		Remedy:            advice.Remedy,
	}
	if e.Reason == applebusiness.ErrNoResponse {
		x.Network = "a token request got no whole response"
		if _, words, found := strings.Cut(e.Error(), string(e.Reason)+": "); found {
			x.Network = words
		}
	}
	for _, c := range advice.Causes {
		x.Causes = append(x.Causes, cause{c, c.Description()})
	}
	for entry := range applebusiness.Catalog() {
		if x.Documented && entry.Reason == e.Reason && entry.StatusCode != 0 && !slices.Contains(x.DocumentedStatuses, entry.StatusCode) {
			x.DocumentedStatuses = append(x.DocumentedStatuses, entry.StatusCode)
		}
	}
	switch {
	case isReason(e.Reason):
		x.Constant = reasonName(e.Reason)
	case isConstant(e.Code):
		x.Constant = codeName(e.Code)
	case e.Code != "":
		x.ErrorsIs = "errors.Is(err, applebusiness.Code(" + strconv.Quote(string(e.Code)) + "))"
	}
	if x.Constant != "" {
		x.ErrorsIs = "errors.Is(err, applebusiness." + x.Constant + ")"
	}
	return x
}

// advice is Troubleshoot's, or else what the line of a log says that knew more.
func (f *finding) advice() applebusiness.Advice {
	if f.network != "" {
		return networkAdvice(f.err)
	}
	advice := applebusiness.Troubleshoot(f.err)
	if f.isSaid && f.action != advice.Action {
		advice = applebusiness.Advice{Action: f.action, Impact: f.impact, Remedy: "So says the line itself: the program that logged it knew the cause, which the line does not show."}
	}
	return advice
}

func (x explanation) writeJSON(w io.Writer) error { return writeJSON(w, x, "  ") }

// writeJSON writes one object, in which every character that cannot be printed is escaped.
func writeJSON(w io.Writer, object any, indent string) error {
	var plain bytes.Buffer
	encoder := json.NewEncoder(&plain)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	if err := encoder.Encode(object); err != nil {
		return err
	}
	var escaped strings.Builder
	for _, r := range plain.String() {
		if unicode.IsPrint(r) || r == '\n' {
			escaped.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&escaped, `\u%04x`, unit)
		}
	}
	_, err := io.WriteString(w, escaped.String())
	return err
}

// explanationOfLine is the explanation of a line of a log.
type explanationOfLine struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line"`
	explanation
}

func (x explanationOfLine) writeJSON(w io.Writer) error { return writeJSON(w, x, "") }

// name is what a table calls f.
func (f *finding) name() string {
	if f.network != "" {
		return "network"
	}
	return reasonName(f.Reason)
}

// text is one line about f.
func (f *finding) text() string {
	if f.network != "" {
		return f.network
	}
	return strings.TrimPrefix(f.Error.Error(), prefix)
}

func (f *finding) exitCode() int {
	if isDocumented(f.Reason) {
		return exitDocumented
	}
	return exitUndocumented
}

// writeText writes the explanation for a person. What comes from the input is quoted.
func (x explanation) writeText(w io.Writer) error {
	var text strings.Builder
	line := func(name, value string) { fmt.Fprintf(&text, "  %-10s %s\n", name, value) }

	switch {
	case x.Network != "" && x.Constant != "":
		fmt.Fprintf(&text, "%s, a failure of the network: %s\n", x.Constant, x.Network)
	case x.Network != "":
		fmt.Fprintf(&text, "A failure of the network: %s\n", x.Network)
	case x.Documented:
		fmt.Fprintf(&text, "%s, documented by Apple\n", x.Constant)
	case x.Reason != "":
		fmt.Fprintf(&text, "%s, found by package applebusiness, not documented by Apple\n", x.Constant)
	case x.Constant != "":
		fmt.Fprintf(&text, "%s, in a form that Apple does not document\n", x.Constant)
	case x.Code != "" || x.Description != "":
		fmt.Fprintln(&text, "An error that Apple does not document")
	default:
		fmt.Fprintln(&text, "No OAuth error, but a failed response")
	}
	if x.Endpoint != "" {
		line("endpoint", string(x.Endpoint))
	}
	if x.Code != "" {
		line("code", strings.TrimPrefix(x.Code.Error(), prefix))
	}
	if x.Description != "" {
		line("text", strconv.Quote(x.Description))
	}
	var status []string
	if x.Status != 0 {
		status = append(status, "HTTP "+strconv.Itoa(x.Status))
	}
	if len(x.DocumentedStatuses) > 0 {
		statuses := strings.Trim(fmt.Sprint(x.DocumentedStatuses), "[]")
		status = append(status, "Apple documents: HTTP "+strings.ReplaceAll(statuses, " ", ", "))
	}
	if len(status) > 0 {
		line("status", strings.Join(status, "; "))
	}
	if x.Parameter != "" {
		line("parameter", strconv.Quote(x.Parameter))
	}
	if x.GrantType != "" {
		line("grant_type", strconv.Quote(x.GrantType))
	}
	if x.RequestID != "" {
		line("request id", strconv.Quote(x.RequestID)+", to quote to Apple's support")
	}
	if x.RetryAfterSeconds > 0 {
		line("wait", strconv.Itoa(x.RetryAfterSeconds)+" seconds before the next request")
	}
	line("affected", affected(x.Impact))
	name := "causes"
	for _, cause := range x.Causes {
		line(name, cause.Description)
		name = ""
	}
	line("action", orUnknown(x.Action))
	if x.Remedy != "" {
		line("", x.Remedy)
	}
	if x.ErrorsIs != "" {
		line("in Go", x.ErrorsIs)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func affected(impact applebusiness.Impact) string {
	switch impact {
	case applebusiness.ImpactCustomer:
		return "customer: this grant, and no other customer's"
	case applebusiness.ImpactApp:
		return "partner: the partner's app, and so all customers"
	case applebusiness.ImpactService:
		return "service: Apple or the way to it, and so everybody for a while"
	}
	return "unknown"
}

func orUnknown(action applebusiness.Action) string {
	if action == applebusiness.ActionUnknown {
		return "unknown"
	}
	return string(action)
}

func isDocumented(reason applebusiness.Reason) bool { return reason.Description() != "" }

// allReasons and allCodes are the package's constants.
var (
	allReasons = func() []applebusiness.Reason {
		reasons := []applebusiness.Reason{
			applebusiness.ErrStateMismatch, applebusiness.ErrMalformedRedirect, applebusiness.ErrUserDenied,
			applebusiness.ErrNoResponse, applebusiness.ErrRateLimited, applebusiness.ErrUnavailable, applebusiness.ErrMalformedResponse,
			applebusiness.ErrUnsafeTokenRequest, applebusiness.ErrNoRefreshToken, applebusiness.ErrUnsafeState,
		}
		for entry := range applebusiness.Catalog() {
			if !slices.Contains(reasons, entry.Reason) {
				reasons = append(reasons, entry.Reason)
			}
		}
		return reasons
	}()
	allCodes = []applebusiness.Code{
		applebusiness.CodeInvalidRequest, applebusiness.CodeInvalidClient, applebusiness.CodeInvalidGrant, applebusiness.CodeInvalidScope,
		applebusiness.CodeUnsupportedResponseType, applebusiness.CodeServerError, applebusiness.CodeInternalServerError, applebusiness.CodeNotFound,
		applebusiness.CodeAccessDenied, applebusiness.CodeUnauthorizedClient, applebusiness.CodeUnsupportedGrantType, applebusiness.CodeTemporarilyUnavailable,
	}
)

// isReason reports whether reason is one of the package's constants.
func isReason(reason applebusiness.Reason) bool { return slices.Contains(allReasons, reason) }

// isConstant reports whether code is one of the package's constants: those alone are rendered without quotes.
func isConstant(code applebusiness.Code) bool {
	return code != "" && code.Error() == prefix+string(code)
}

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

func camelCase(label string) string {
	var name strings.Builder
	for word := range strings.SplitSeq(label, "_") {
		if word == "id" || word == "uri" {
			word = strings.ToUpper(word)
		}
		name.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return name.String()
}
