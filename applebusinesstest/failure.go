package applebusinesstest

import (
	"cmp"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
)

// MeEndpoint is the resource API's GET /api/v1/me, for the Endpoint of a [Failure].
const MeEndpoint applebusiness.Endpoint = "me"

// Failure is how requests fail, and which. It says one way to fail: a row of Apple's tables (Entry), any other response (StatusCode),
// none (Hang or Drop), or the right one, but late (TakesEffect with Delay).
type Failure struct {
	Entry applebusiness.Entry // a row, of either endpoint

	// These are for the token endpoint and for /api/v1/me.
	StatusCode  int           // a response of any other kind
	Header      http.Header   // of the response, an Entry's too
	Body        string        // of the response with StatusCode
	TakesEffect bool          // the request is treated as if it did not fail, and only its response is another one, late or lost
	Delay       time.Duration // before the response, or before the connection breaks
	Hang        bool          // there is no response until the client gives up, or the server is closed
	Drop        bool          // the connection breaks instead

	// These select the requests that fail; one that is empty lets any request fail. Each combination has a queue of its own. A
	// request fails with the first of the most specific queue that is about it and not empty: RefreshToken counts for more than
	// ClientID, and ClientID for more than GrantType.
	Endpoint     applebusiness.Endpoint // TokenEndpoint, AuthorizationEndpoint or MeEndpoint; "": the Entry's, or else TokenEndpoint
	GrantType    string                 // of a token request
	ClientID     string                 // a registered one; at /api/v1/me it is the one to which the access token was issued
	RefreshToken string                 // of a token request; one that this server has issued

	Times int // how many requests fail so: 0 means one, and a negative number all of them, until Heal
}

// Fail lets the next request to an endpoint fail with the row of Apple's tables that is about the reason; of two it is the first
// ("Invalid refresh_token" with status 400, the token endpoint's "server error"), and [Server.FailEntry] takes the other. It panics
// for a Reason in no row. Failures queue, for each endpoint by itself. A request that fails so has no effect: its code is not spent.
func (s *Server) Fail(reason applebusiness.Reason) {
	entry := findEntry("", reason, 0)
	panicIf("Fail", entry.Code == "", "no row of Apple's tables has the Reason %q; applebusiness.Catalog has them all", string(reason))
	s.FailEntry(entry)
}

// FailEntry is [Server.Fail] with a row of [applebusiness.Catalog], or one that Apple does not document; a template's parameter name is
// filled in. It panics for an Entry of neither endpoint, or of the token endpoint with a status that ends no request.
func (s *Server) FailEntry(entry applebusiness.Entry) { s.FailNext(Failure{Entry: entry}) }

// FailWith lets the next token request have any response, in one queue with [Server.Fail]: status 429 with a Retry-After, or the HTML
// of a proxy. It panics for a status that ends no request, below 200 or above 999.
func (s *Server) FailWith(status int, header http.Header, body string) {
	s.FailNext(Failure{StatusCode: status, Header: header, Body: body})
}

// LoseResponse lets the response to the next token request be lost: the request takes effect, a refresh token is replaced, and
// then the connection breaks. With Failure{StatusCode: 504, TakesEffect: true} a gateway loses it.
func (s *Server) LoseResponse() { s.FailNext(Failure{TakesEffect: true, Drop: true}) }

// FailNext lets the next requests that the Failure selects fail, in one queue with [Server.Fail] and [Server.FailWith] if it selects by
// the endpoint alone. It panics for a Failure that says no way to fail or more than one, or that can select no request.
func (s *Server) FailNext(failure Failure) {
	header := make(http.Header)
	for name, values := range failure.Header {
		refuse(!headerName.MatchString(name), "a header has a name that is none")
		name = http.CanonicalHeaderKey(name)
		header[name] = append(header[name], values...)
	}
	failure.Header = header
	failure.Endpoint = cmp.Or(failure.Endpoint, failure.Entry.Endpoint, applebusiness.TokenEndpoint)
	failure.checkWay()
	failure.checkSelector()
	if failure.Entry != (applebusiness.Entry{}) {
		failure.fillIn()
	}
	failure.Times = cmp.Or(failure.Times, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if failure.ClientID != "" {
		s.client("FailNext", failure.ClientID)
	}
	if failure.RefreshToken != "" {
		s.refreshToken("FailNext", failure.RefreshToken)
	}
	s.failures = append(s.failures, failure)
}

var headerName = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]+$")

func refuse(when bool, format string, args ...any) { panicIf("FailNext", when, format, args...) }

// checkWay panics unless the Failure, whose Endpoint is set, says one way to fail.
func (f *Failure) checkWay() {
	var (
		entry       = f.Entry
		hasEntry    = entry != (applebusiness.Entry{})
		hasResponse = hasEntry || f.StatusCode != 0 || len(f.Header) > 0 || f.Body != ""
		hasNone     = f.Hang || f.Drop
		isLate      = !hasResponse && !hasNone && f.TakesEffect && f.Delay > 0 // and the right one
		saysNothing = !hasResponse && !hasNone && !isLate
		status      = max(f.StatusCode, entry.StatusCode)
		isRedirect  = f.Endpoint == applebusiness.AuthorizationEndpoint
	)
	refuse(hasEntry && entry.Endpoint != applebusiness.TokenEndpoint && entry.Endpoint != applebusiness.AuthorizationEndpoint, "the Entry is of neither endpoint but of %q", string(entry.Endpoint))
	refuse(hasEntry && entry.Endpoint != f.Endpoint, "the Entry is of the endpoint %q, and Endpoint is %q", string(entry.Endpoint), string(f.Endpoint))
	refuse(hasEntry && (f.StatusCode != 0 || f.Body != ""), "an Entry has a status and a body of its own; want no StatusCode and no Body beside it")
	refuse(isRedirect && (!hasEntry || entry.Code == "" || entry.StatusCode != 0), "the authorization endpoint fails by a redirect; want an Entry that has a Code and no StatusCode")
	refuse(isRedirect && (len(f.Header) > 0 || f.TakesEffect || f.Delay != 0 || hasNone), "a redirect is sent at once; want no Header, TakesEffect, Delay, Hang or Drop beside an Entry of the authorization endpoint")

	refuse(f.Delay < 0, "the Delay is negative")
	refuse(f.Hang && (f.Drop || f.Delay != 0), "a Hang does not end; want no Drop and no Delay beside it")
	refuse(hasNone && hasResponse, "with Hang or Drop there is no response; want no Entry, StatusCode, Header or Body beside it")
	refuse(f.Endpoint == MeEndpoint && f.TakesEffect && !isLate, "a request to me has no effect; want TakesEffect with nothing but a Delay")
	refuse(saysNothing && f.TakesEffect, "TakesEffect alone is a success; want a StatusCode, an Entry, Delay, Hang or Drop beside it")
	refuse(saysNothing && f.Delay > 0, "a Delay alone says no response; want TakesEffect beside it for the right one, late, or a StatusCode or an Entry")
	refuse(!isRedirect && !hasNone && !isLate && (status < 200 || status > 999), "the status %d ends no request; want one from 200 to 999", status)
	refuse((status == http.StatusNoContent || status == http.StatusNotModified) && (hasEntry || f.Body != ""), "a response with the status %d has no body", status)
}

// checkSelector panics if no request can be selected.
func (f *Failure) checkSelector() {
	isToken, isRefresh := f.Endpoint == applebusiness.TokenEndpoint, f.GrantType == applebusiness.GrantTypeRefreshToken
	_, isGrantType := requiredParams[f.GrantType] // "" too
	refuse(!isToken && f.Endpoint != applebusiness.AuthorizationEndpoint && f.Endpoint != MeEndpoint, "the Endpoint is %q; want token, authorization or me", string(f.Endpoint))
	refuse(!isToken && (f.GrantType != "" || f.RefreshToken != ""), "only a token request has a GrantType or a RefreshToken")
	refuse(!isGrantType, "the GrantType is %q; want authorization_code, refresh_token or client_credentials", f.GrantType)
	refuse(f.RefreshToken != "" && f.GrantType != "" && !isRefresh, "only a request with the GrantType refresh_token has a RefreshToken")
}

// fillIn makes a response of the Entry, with the Header that was asked for.
func (f *Failure) fillIn() {
	if f.Entry.Reason == applebusiness.ErrMissingParameter && f.Entry.Description == f.Entry.Reason.Description() {
		f.Entry.Description = missingParameter("grant_type")
	}
	row := errorResponse(f.Entry)
	maps.Copy(row.header, f.Header)
	f.StatusCode, f.Header, f.Body = row.status, row.header, row.body
}

// Heal forgets all failures that have not come to pass.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = nil
}

// next takes the failure of a request, given as what selects it alone, from the most specific queue, if there is one; s.mu is held.
func (s *Server) next(request Failure) (Failure, bool) {
	best, most := -1, -1
	for i := range s.failures {
		if rank := s.failures[i].rank(request); rank > most {
			best, most = i, rank
		}
	}
	if best < 0 {
		return Failure{}, false
	}
	failure := s.failures[best]
	switch {
	case failure.Times > 1:
		s.failures[best].Times--
	case failure.Times == 1:
		s.failures = slices.Delete(s.failures, best, best+1)
	default:
		s.failures[best].Times = 0 // all, and one of them has come to pass
	}
	return failure, true
}

// rank says how specific the selection of a request is, and is negative if the request is not selected.
func (f *Failure) rank(request Failure) (rank int) {
	for i, names := range [...][2]string{{f.GrantType, request.GrantType}, {f.ClientID, request.ClientID}, {f.RefreshToken, request.RefreshToken}} {
		if f.Endpoint != request.Endpoint || names[0] != "" && names[0] != names[1] {
			return -1
		}
		rank += min(len(names[0]), 1) << i // for each name that is given
	}
	return rank
}

// reportFailures logs the failures that have not come to pass, or not as often as they should, and forgets them.
func (s *Server) reportFailures() {
	s.mu.Lock()
	failures := s.failures
	s.failures = nil
	s.mu.Unlock()
	for _, left := range failures {
		if left.Times != 0 {
			s.logf("Close: a failure has not come to pass: reason %q, status %d, takes effect %t, delay %v, hang %t, drop %t, times %d; "+
				"for the endpoint %q, grant_type %q, client_id %q, a refresh_token %t", string(left.Entry.Reason), left.StatusCode, left.TakesEffect, left.Delay,
				left.Hang, left.Drop, left.Times, string(left.Endpoint), left.GrantType, left.ClientID, left.RefreshToken != "")
		}
	}
}
