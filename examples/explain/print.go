package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

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
	RetryAfterSeconds  int                    `json:"retry_after_seconds,omitempty"`
	Action             applebusiness.Action   `json:"action"`
	Impact             applebusiness.Impact   `json:"impact"`
	Causes             []cause                `json:"causes"`
	Remedy             string                 `json:"remedy"`
	Network            string                 `json:"network,omitempty"`
	Provider           string                 `json:"provider,omitempty"`
	Nearest            string                 `json:"nearest,omitempty"`
	ErrorsIs           string                 `json:"errors_is,omitempty"`
}

type cause struct {
	Cause       applebusiness.Cause `json:"cause"`
	Description string              `json:"description"`
}

func explain(f *failure) explanation {
	e := f.Error
	x := explanation{
		Reason: e.Reason, Endpoint: e.Endpoint, Code: e.Code, Status: e.StatusCode, Description: e.Description,
		Documented: isDocumented(e.Reason), Parameter: e.Parameter, GrantType: e.GrantType, RetryAfterSeconds: int(math.Ceil(e.RetryAfter.Seconds())),
		Action: f.advice.Action, Impact: f.advice.Impact, Causes: []cause{}, Remedy: f.advice.Remedy,
		Network: f.network, Provider: f.provider, Nearest: f.nearest,
	}
	for _, c := range f.advice.Causes {
		x.Causes = append(x.Causes, cause{c, c.Description()})
	}
	for entry := range applebusiness.Catalog() {
		if x.Documented && entry.Reason == e.Reason && entry.StatusCode != 0 && !slices.Contains(x.DocumentedStatuses, entry.StatusCode) {
			x.DocumentedStatuses = append(x.DocumentedStatuses, entry.StatusCode)
		}
	}
	switch {
	case e.Reason != "":
		x.Constant = reasonName(e.Reason)
	case e.Code != "":
		x.Constant = codeName(e.Code)
	}
	if x.Constant != "" {
		x.ErrorsIs = "errors.Is(err, applebusiness." + x.Constant + ")"
	}
	return x
}

func writeJSON(w io.Writer, object any, indent string) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	return encoder.Encode(object)
}

// print writes what was found, for a person or as JSON.
func print(w io.Writer, found []*failure, asJSON bool) (code int, err error) {
	if len(found) > 1 && !asJSON {
		fmt.Fprintf(w, "%d different errors:\n\n", len(found))
	}
	for i, f := range found {
		code = max(code, f.exitCode())
		switch {
		case asJSON:
			err = writeJSON(w, explain(f), "  ")
		case i > 0:
			_, err = fmt.Fprintln(w)
			fallthrough
		default:
			_, err = io.WriteString(w, explain(f).text())
		}
		if err != nil {
			return 0, err
		}
	}
	return code, nil
}

// name is what a table calls f.
func (f *failure) name() string {
	switch {
	case f.network != "" && f.Reason == "":
		return "network"
	case f.provider != "":
		return f.provider
	}
	return reasonName(f.Reason)
}

// line is one line about f.
func (f *failure) line() string {
	switch {
	case f.network != "" && f.Reason != "":
		return string(f.Reason) + ": " + f.network
	case f.network != "":
		return f.network
	case f.Reason == "" && f.Code == "":
		return strings.Replace(strings.TrimPrefix(f.Error.Error(), prefix), "no OAuth error was received", "an error that Apple does not document", 1)
	}
	return strings.TrimPrefix(f.Error.Error(), prefix)
}

func (f *failure) exitCode() int {
	if isDocumented(f.Reason) {
		return exitDocumented
	}
	return exitUndocumented
}

// text returns the explanation for a person.
func (x explanation) text() string {
	var text strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&text, "  %-10s %s\n", name, value)
		}
	}
	switch {
	case x.Nearest != "":
		fmt.Fprintf(&text, "Apple documents no such text; the nearest row is %s\n", x.Nearest)
	case x.Provider != "":
		fmt.Fprintf(&text, "An error of %s, not of Apple Business\n", x.Provider)
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
	default:
		fmt.Fprintln(&text, "An error that Apple does not document")
	}
	line("endpoint", string(x.Endpoint))
	line("code", string(x.Code))
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
	line("status", strings.Join(status, "; "))
	line("parameter", x.Parameter)
	line("grant_type", x.GrantType)
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
	line("", x.Remedy)
	line("in Go", x.ErrorsIs)
	return text.String()
}

func affected(impact applebusiness.Impact) string {
	switch impact {
	case applebusiness.ImpactCustomer:
		return "customer: this grant, and no other customer's"
	case applebusiness.ImpactApp:
		return "app: the partner's app, and so all customers"
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

// What package applebusiness has names for.
var (
	allReasons = func() []applebusiness.Reason {
		reasons := []applebusiness.Reason{
			applebusiness.ErrStateMismatch, applebusiness.ErrMalformedRedirect, applebusiness.ErrUserDenied,
			applebusiness.ErrNoResponse, applebusiness.ErrRateLimited, applebusiness.ErrUnavailable, applebusiness.ErrMalformedResponse,
			applebusiness.ErrUnsafeTokenRequest, applebusiness.ErrNoRefreshToken, applebusiness.ErrUnsafeState, applebusiness.ErrManyRefusals,
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
	actions = []applebusiness.Action{
		applebusiness.ActionRetry, applebusiness.ActionStartOver, applebusiness.ActionReauthorize, applebusiness.ActionFixRequest,
		applebusiness.ActionFixRegistration, applebusiness.ActionCheckNetwork,
	}
)

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
