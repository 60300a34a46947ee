package main

import (
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
)

//go:embed pages.html style.css
var files embed.FS

var pages = template.Must(template.ParseFS(files, "pages.html"))

// listPage is the main page.
type listPage struct {
	Connections []card
	Fake        bool
}

// card is what the main page shows of a connection.
type card struct {
	ID           string
	Organisation organisation
	Before       string
	Since        time.Time
	Refreshed    time.Time
	Expires      string
	State        string
	Class        string // of the state, for the style sheet
	Reconnect    bool
	RetryIn      string
	Problem      *problem
}

// message is a page that only says something.
type message struct {
	Title   string
	Text    string
	Connect bool // whether it offers to start over
	Problem *problem
}

// problem says why something failed, who is affected, and what to do.
type problem struct {
	Error    string
	Causes   []string
	Affected string
	Remedy   string
}

func newProblem(err error) *problem {
	advice := applebusiness.Troubleshoot(err)
	p := &problem{Error: "Apple could not be reached.", Remedy: advice.Remedy}
	if failed, ok := errors.AsType[*applebusiness.Error](err); ok {
		p.Error = strings.TrimPrefix(failed.Error(), "applebusiness: ") // printable and short, whatever came
	}
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

// card returns what the main page shows of c.
func (c *connection) card(now time.Time) card {
	c.mu.Lock()
	defer c.mu.Unlock()
	shown := card{
		ID:           c.id,
		Organisation: c.organisation,
		Before:       c.before,
		Since:        c.since.UTC(),
		Refreshed:    c.refreshed.UTC(),
		Expires:      expires(c.token.Expiry.Sub(now)),
		State:        "Connected",
		Class:        "good",
	}
	if c.failure == nil {
		return shown
	}
	shown.Problem = newProblem(c.failure)
	switch applebusiness.Troubleshoot(c.failure).Action {
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
		return "has expired: refresh it"
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

// writeProblem shows why a connection was not made.
func writeProblem(w http.ResponseWriter, err error) {
	status, content := http.StatusBadGateway, message{Title: "The connection was not made", Connect: true}
	switch {
	case errors.Is(err, applebusiness.ErrStateMismatch):
		status = http.StatusBadRequest
		content.Text = "This answer does not belong to a connection that was started in this browser in the last 15 minutes. Nothing was changed."
	case errors.Is(err, applebusiness.ErrMalformedRedirect):
		status = http.StatusBadRequest
		content.Text = "This is not an answer that Apple sends. Nothing was changed."
	case errors.Is(err, applebusiness.CodeAccessDenied):
		status = http.StatusOK
		content.Text = "Access was not allowed at Apple Business. Nothing is broken, and you can start over at any time."
	default:
		content.Problem = newProblem(err)
		if applebusiness.Troubleshoot(err).Action == applebusiness.ActionRetry {
			status, content.Title = http.StatusServiceUnavailable, "Try again later"
		}
	}
	writeMessage(w, status, content)
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
