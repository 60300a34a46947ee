package grants

import (
	"errors"
	"net/http"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// kind is what a failed token request says, as far as it matters to others than its caller.
type kind int

const (
	alone   kind = iota // nothing about other grants
	refused             // the refresh token is invalid: the customer has to reconnect, if that can be believed
	limited             // too many requests
	outage              // Apple is down, or the way to it: the fleet waits
	shared              // no single grant's trouble: a proxy, a wrong host, a response that nobody documents
	ours                // the app's: its credentials, or how it sends
)

// classify returns the kind of a failed refresh, and whether Apple may have replaced the refresh token in a response that
// did not arrive.
func classify(e *applebusiness.Error) (k kind, lost bool) {
	advice := applebusiness.Troubleshoot(e)
	lost = mayBeLost(e)
	switch {
	case e.StatusCode == http.StatusTooManyRequests || e.Reason == applebusiness.ErrRateLimited:
		return limited, lost
	case advice.Action == applebusiness.ActionReauthorize && refusal(e):
		return refused, lost
	case e.Reason == applebusiness.ErrUnsafeTokenRequest || e.StatusCode < 500 && ofTheApp(e):
		return ours, lost
	case advice.Action == applebusiness.ActionRetry && advice.Impact == applebusiness.ImpactService && e.Reason != applebusiness.ErrMalformedResponse:
		return outage, lost
	case advice.Action == applebusiness.ActionRetry || advice.Action == applebusiness.ActionCheckNetwork || undocumented(e):
		return shared, lost
	}
	return alone, lost
}

// refusal reports whether Apple has said that the refresh token is invalid: nothing else may end a grant.
func refusal(e *applebusiness.Error) bool {
	return e.StatusCode != 0 && e.StatusCode < 500 &&
		(e.Reason == applebusiness.ErrInvalidRefreshToken || e.Reason == "" && e.Code == applebusiness.CodeInvalidGrant)
}

// ofTheApp reports whether the failure would be the same for each grant.
func ofTheApp(e *applebusiness.Error) bool {
	switch e.Reason {
	case applebusiness.ErrInvalidCredentials, applebusiness.ErrInvalidClientID, applebusiness.ErrEndpointNotFound,
		applebusiness.ErrUnsupportedMediaType, applebusiness.ErrEmptyBody, applebusiness.ErrMissingFields, applebusiness.ErrInvalidGrantType:
		return true
	case "":
		return e.Code == applebusiness.CodeUnauthorizedClient || e.Code == applebusiness.CodeInvalidClient
	}
	return false
}

// undocumented reports whether e is a response, but none that can be one customer's.
func undocumented(e *applebusiness.Error) bool {
	return e.StatusCode >= 400 && e.StatusCode < 500 && e.Reason == "" && e.Code != applebusiness.CodeInvalidRequest
}

// mayBeLost reports whether Apple may have replaced the refresh token in a response that did not arrive.
func mayBeLost(e *applebusiness.Error) bool {
	switch {
	case e.Reason == applebusiness.ErrNoResponse:
		return !e.Unsent()
	case e.StatusCode >= 500:
		return e.StatusCode != http.StatusServiceUnavailable
	case e.Reason == applebusiness.ErrMalformedResponse:
		return e.StatusCode < 300 // 0 where x/oauth2 does not tell
	}
	return false
}

// tokenFailure returns the *Error of a failed request, and what callers get for it.
func tokenFailure(err error) (*applebusiness.Error, error) {
	if e, ok := errors.AsType[*applebusiness.Error](applebusiness.Wrap(err)); ok && e != nil {
		return e, e
	}
	e := waitError(applebusiness.ErrNoResponse, 0)
	if foreign, ok := errors.AsType[*panicError](err); ok {
		return e, &transportPanic{e, foreign}
	}
	return e, e
}

// outcome is what those who wait for an attempt get. Its fields do not change after done is closed.
type outcome struct {
	done  chan struct{} // when there is a token or an error
	token *oauth2.Token
	err   error
	held  bool // err is a pause's, or the held app's: RefreshDue waits for its end
}
