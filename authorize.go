package applebusiness

import (
	"crypto/subtle"
	"net/http"
)

// Redirect is what Apple's authorization endpoint sends to the redirect URI on success (RFC 6749 section 4.1.2). Both
// fields are as received; Code is a credential, keep it out of logs.
type Redirect struct {
	Code  string // lives 5 minutes, may be used once
	State string
}

// VerifyCallback returns the code of the redirect that r is, if its state is the expected one. Like [ParseRedirect] it
// reads the URL's query whatever the method: Apple documents a POST with the parameters in the query.
//
// State comes first. A query that cannot be decoded or repeats state is [ErrMalformedCallback]; a state other than the
// expected one, compared in constant time, is [ErrStateMismatch], as any state is if the expected one is empty. Only
// then is the rest looked at: the error is the one that Apple sent, also where a code stands beside it, or
// ErrMalformedCallback if an OAuth parameter is repeated or neither code nor error is there.
//
// The expected state must come from the browser that started the flow, and be forgotten after its first use.
func VerifyCallback(r *http.Request, state string) (code string, err error) {
	if r == nil || r.URL == nil {
		return "", malformedCallback("there is no request URL")
	}
	values, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return "", err
	}
	if state == "" || subtle.ConstantTimeCompare([]byte(values.Get("state")), []byte(state)) != 1 {
		return "", &Error{
			Endpoint: AuthorizationEndpoint, Reason: ErrStateMismatch,
			detail: "the callback's state is not the expected one",
		}
	}
	return parseCallback(values)
}
