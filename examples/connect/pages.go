package main

import (
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

//go:embed pages.html style.css
var files embed.FS

var pages = template.Must(template.ParseFS(files, "pages.html"))

// customerTexts are all that a customer reads about an error: one for each action, and that of fix_request for what is not
// known. They are the partner's to write, in the partner's languages.
var customerTexts = map[applebusiness.Action]string{
	applebusiness.ActionRetry:           "Apple Business is not available at the moment. This usually passes within minutes, and nothing that you have set up is lost.",
	applebusiness.ActionStartOver:       "The connection was not made, and nothing was changed. You can start again at any time.",
	applebusiness.ActionReauthorize:     "The connection to Apple Business has ended. Please connect again.",
	applebusiness.ActionFixRequest:      "Something went wrong on our side. We are looking into it, and you need not do anything.",
	applebusiness.ActionFixRegistration: "We have to renew our own access to Apple Business. We are on it, and you need not do anything.",
	applebusiness.ActionCheckNetwork:    "We cannot reach Apple Business. We are looking into it, and you need not do anything.",
}

func customerText(action applebusiness.Action) string {
	if text, ok := customerTexts[action]; ok {
		return text
	}
	return customerTexts[applebusiness.ActionFixRequest]
}

// listPage is the operator's page: all connections, and the last attempt that failed.
type listPage struct {
	Connections []card
	Attempt     *problem
	When        time.Time
	Fake, File  bool
}

// card is what the page shows of a connection.
type card struct {
	ID, Name  string
	Path      string // of its forms
	Since     time.Time
	Refreshed time.Time
	Expires   string
	State     string
	Class     string // of the state, for the style sheet
	Customer  string // what this customer is told
	Reconnect bool
	RetryIn   string
	Problem   *problem
}

// message is a page that only says something.
type message struct {
	Title   string
	Text    string
	Connect bool // whether it offers to start over
}

// problem is for the operator: why something failed, who is affected, and what to do.
type problem struct {
	Error    string
	Causes   []string
	Affected string
	Remedy   string
}

func newProblem(err error) *problem {
	advice := applebusiness.Troubleshoot(err)
	p := &problem{Error: strings.TrimPrefix(err.Error(), "applebusiness: "), Remedy: advice.Remedy} // one line without secrets: the Manager's
	for _, cause := range advice.Causes {
		p.Causes = append(p.Causes, cause.Description())
	}
	switch advice.Impact {
	case applebusiness.ImpactCustomer:
		p.Affected = "This customer only."
	case applebusiness.ImpactApp:
		p.Affected = "All customers of this app."
	case applebusiness.ImpactService:
		p.Affected = "Everybody, for a while."
	}
	return p
}

// newCard returns what the page shows of a connection whose grant is record.
func newCard(c connection, record grants.Record, now time.Time) card {
	shown := card{
		ID:        c.ID,
		Name:      c.Name,
		Path:      "/connections/" + url.PathEscape(c.ID),
		Since:     c.Since.UTC(),
		Refreshed: c.refreshed.UTC(),
		Expires:   expires(record.Token.Expiry.Sub(now)),
		State:     "Connected",
		Class:     "good",
	}
	err := c.err
	if record.Dead != nil {
		err = record.Dead
	}
	if err == nil {
		return shown
	}
	action := applebusiness.Troubleshoot(err).Action
	shown.Problem, shown.Customer = newProblem(err), customerText(action)
	switch action {
	case applebusiness.ActionReauthorize:
		shown.State, shown.Class, shown.Reconnect = "Needs reconnecting", "bad", true
	case applebusiness.ActionRetry:
		shown.State, shown.Class = "Try again later", "wait"
		if wait := c.retryAt.Sub(now); wait > 0 {
			shown.RetryIn = about(wait)
		}
	default:
		shown.State, shown.Class = "Fails", "bad"
	}
	return shown
}

// expires says when an access token expires.
func expires(left time.Duration) string {
	if left <= 0 {
		return "has expired: it is refreshed at its next use"
	}
	return "in " + about(left)
}

// about returns a duration in words, rounded up.
func about(d time.Duration) string {
	amount, unit := (d+time.Second-1)/time.Second, "second"
	if d > time.Minute {
		amount, unit = (d+time.Minute-1)/time.Minute, "minute"
	}
	if amount != 1 {
		unit += "s"
	}
	return fmt.Sprintf("%d %s", amount, unit)
}

// notConnected tells a customer that no connection was made. What an engineer needs to know is elsewhere. It is no success,
// or a browser could show what it has fetched ahead.
func notConnected(w http.ResponseWriter, r *http.Request) {
	content := message{Title: "The connection was not made", Text: customerText(applebusiness.Action(r.FormValue("action"))), Connect: true}
	if r.FormValue("action") == "" {
		content.Title = "The connection is not made yet" // the database, or this program that stops
	}
	writeMessage(w, http.StatusBadRequest, content)
}

func writeMessage(w http.ResponseWriter, status int, content message) {
	write(w, status, "message", content)
}

func write(w http.ResponseWriter, status int, page string, content any) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_ = pages.ExecuteTemplate(w, page, content) // fails only if the browser is gone
}

func serveStyle(w http.ResponseWriter, r *http.Request) {
	http.ServeFileFS(w, r, files, "style.css")
}

func setHeaders(header http.Header) {
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	// Other sites see no URL of this one; with no-referrer the forms here would lack the Origin that protects them.
	header.Set("Referrer-Policy", "same-origin")
	header.Set("X-Content-Type-Options", "nosniff")
}
