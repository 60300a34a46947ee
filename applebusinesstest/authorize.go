package applebusinesstest

import (
	"cmp"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
)

// scopes are the ones that Apple grants.
var scopes = regexp.MustCompile(`^(OAUTH_(BRAND|LOCATION|MEDIA|SHOWCASE)_(READ|WRITE)( |$))+$`)

var unsafeInState = regexp.MustCompile(`[^A-Za-z0-9._~-]`)

// redirect is what the authorization endpoint has to tell the partner.
type redirect struct {
	redirectURI string
	registered  bool // for the app that asks: only then may a browser be sent there
	params      url.Values
}

// url is where a browser is sent, or "" if there is no redirect URI.
func (r redirect) url() string {
	target, err := url.Parse(r.redirectURI)
	if err != nil || !absolute(target) {
		return ""
	}
	target.Fragment, target.RawFragment = "", ""
	target.RawQuery = strings.TrimPrefix(target.RawQuery+"&"+r.params.Encode(), "&")
	return target.String()
}

// response returns the status of the response to a browser, and where it is sent.
func (r redirect) response(deliver Delivery) (status int, target string) {
	target = r.url()
	switch {
	case r.params == nil: // the consent page
		return http.StatusOK, ""
	case target == "" || !r.registered:
		return http.StatusBadRequest, ""
	case deliver == DeliverPost:
		return http.StatusOK, target
	}
	return http.StatusFound, target
}

// Authorize returns the URL that the user's browser would bring back to the partner from authURL, by Options.Consent; ConsentAsk counts
// as ConsentAllow. With [DeliverPost] the browser would send a POST to it. An error of the request is in that URL, also where a browser
// would see it on a page; its base is then the redirect_uri that was asked for if it is absolute, and else the first one that is
// registered for the app, or for the Server's App. Authorize itself fails only if authURL is not this server's authorization URL, or if
// there is no redirect URI at all.
func (s *Server) Authorize(authURL string) (redirectURL string, err error) {
	asked, err := url.Parse(authURL)
	if base, _, _ := strings.Cut(authURL, "?"); err != nil || base != s.Endpoint().AuthURL { // err quotes it
		return "", errors.New("applebusinesstest: the authorization URL is not this server's, or cannot be parsed")
	}
	sent := s.authorize(asked.RawQuery, ConsentAllow, Request{RequestID: rand.Text()})
	s.mu.Lock()
	fallbacks := s.App.RedirectURIs
	if registered, ok := s.clients[asked.Query().Get("client_id")]; ok {
		fallbacks = registered.RedirectURIs
	}
	s.mu.Unlock()
	if sent.url() == "" && len(fallbacks) > 0 {
		sent.redirectURI = fallbacks[0]
	}
	if sent.url() == "" {
		return "", errors.New("applebusinesstest: there is no redirect URI")
	}
	return sent.url(), nil
}

// authorize judges a new request, with asked in the place of ConsentAsk.
func (s *Server) authorize(rawQuery string, asked Consent, request Request) redirect {
	query, _ := url.ParseQuery(rawQuery)
	now := s.now()
	request.Endpoint, request.Time, request.Params = applebusiness.AuthorizationEndpoint, now, query
	s.mu.Lock()
	defer s.mu.Unlock()
	arrived := s.record(request)
	failure, fails := s.next(Failure{Endpoint: applebusiness.AuthorizationEndpoint, ClientID: query.Get("client_id")})
	params := errorParams(failure.Entry)
	if !fails {
		params = s.judge(rawQuery, cmp.Or(s.consent, asked), now)
	}
	sent := s.redirect(query, params)
	arrived.StatusCode, _ = sent.response(s.options.Deliver)
	return sent
}

// judge finds what is wrong with an authorization request, or does what the user wants: nil asks the user. s.mu is held.
func (s *Server) judge(rawQuery string, consent Consent, now time.Time) (params url.Values) {
	query, _ := url.ParseQuery(rawQuery) // the check says what does not decode
	fail := func(reason applebusiness.Reason) url.Values {
		return errorParams(findEntry(applebusiness.AuthorizationEndpoint, reason, 0))
	}
	err := applebusiness.CheckAuthorizationURL("https://apple.example" + authorizePath + "?" + rawQuery)
	if failed, ok := errors.AsType[*applebusiness.Error](err); ok {
		if failed.Code == "" {
			state := query.Get("state")
			if at := unsafeInState.FindStringIndex(state); at != nil { // which Apple calls no more than a bad request
				s.logf("the state of an authorization request holds %q at byte %d, which needs percent-encoding: "+
					"Apple does not promise to return it as it was; use letters, digits and -._~", []rune(state[at[0]:])[0], at[0])
			}
			return fail(applebusiness.ErrBadRequest) // the check is stricter than Apple's table
		}
		return errorParams(applebusiness.Entry{Code: failed.Code, Description: failed.Description})
	}
	clientID, redirectURI := query.Get("client_id"), query.Get("redirect_uri")
	registered, ok := s.clients[clientID]
	switch {
	case query.Has("scope") && !scopes.MatchString(query.Get("scope")):
		return fail(applebusiness.ErrInvalidScope)
	case !ok || registered.serviceAccount:
		return fail(applebusiness.ErrUnregisteredClientID)
	case !slices.Contains(registered.RedirectURIs, redirectURI):
		return fail(applebusiness.ErrUnregisteredRedirectURI)
	case consent == ConsentDeny:
		return errorParams(applebusiness.Entry{Code: applebusiness.CodeAccessDenied})
	case consent == ConsentAsk:
		return nil
	}
	code := rand.Text()
	s.codes[code] = &credential{
		grant: s.newGrant(clientID), expires: now.Add(5 * time.Minute), redirectURI: redirectURI, challenge: query.Get("code_challenge"),
	}
	return url.Values{"code": {code}}
}

// redirect addresses params to the partner, with the state that came; s.mu is held.
func (s *Server) redirect(query url.Values, params url.Values) redirect {
	redirectURI := query.Get("redirect_uri")
	if params != nil && query.Has("state") {
		params.Set("state", query.Get("state"))
	}
	registered := slices.Contains(s.clients[query.Get("client_id")].RedirectURIs, redirectURI)
	return redirect{redirectURI, registered, params}
}

// errorParams say an error to the partner.
func errorParams(entry applebusiness.Entry) url.Values {
	params := url.Values{"error": {string(entry.Code)}}
	if entry.Description != "" {
		params.Set("error_description", entry.Description)
	}
	return params
}

func (s *Server) serveAuthorize(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	var response redirect
	if r.Method == http.MethodPost {
		chosen := map[string]Consent{"allow": ConsentAllow, "deny": ConsentDeny}[r.PostFormValue("consent")] // anything else: asked again
		now := s.now()
		s.mu.Lock()
		response = s.redirect(r.URL.Query(), s.judge(r.URL.RawQuery, chosen, now))
		s.mu.Unlock()
	} else {
		response = s.authorize(r.URL.RawQuery, ConsentAsk, Request{ContentType: r.Header.Get("Content-Type"), RequestID: w.Header().Get(requestIDHeader)})
	}
	status, target := response.response(s.options.Deliver)
	if status == http.StatusFound {
		w.Header().Set("Location", target)
		w.WriteHeader(status)
		return
	}
	content := page{response.params.Get("error"), response.params.Get("error_description"), target, r.URL.Query().Get("client_id"), rand.Text()}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", fmt.Sprintf("default-src 'none'; style-src 'nonce-%[1]s'; script-src 'nonce-%[1]s'", content.Nonce))
	w.WriteHeader(status)
	_ = pages.Execute(w, content)
}

// page is the page that delivers if it has a Target, the error page if it has an Error, and else the consent page.
type page struct{ Error, Description, Target, ClientID, Nonce string }

//go:embed pages.html
var pagesHTML string

var pages = template.Must(template.New("").Parse(pagesHTML))
