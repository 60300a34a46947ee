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

// redirectTo is where a browser brings params and the state that came, or "" if it cannot be sent to the base.
func redirectTo(base string, query, params url.Values) string {
	target, err := url.Parse(base)
	if err != nil || !absolute(target) {
		return ""
	}
	if query.Has("state") {
		params.Set("state", query.Get("state"))
	}
	target.Fragment, target.RawFragment = "", ""
	target.RawQuery = strings.TrimPrefix(target.RawQuery+"&"+params.Encode(), "&")
	return target.String()
}

// response returns the status of the response to a browser, and where it is sent; nil params ask the user. s.mu is held.
func (s *Server) response(query, params url.Values) (status int, target string) {
	redirectURI := query.Get("redirect_uri")
	registered := slices.Contains(s.clients[query.Get("client_id")].RedirectURIs, redirectURI)
	switch {
	case params == nil:
		return http.StatusOK, ""
	case !registered:
		return http.StatusBadRequest, ""
	case s.options.Deliver == DeliverPost:
		return http.StatusOK, redirectTo(redirectURI, query, params)
	}
	return http.StatusFound, redirectTo(redirectURI, query, params)
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
	query := asked.Query()
	params, _, _ := s.authorize(asked.RawQuery, ConsentAllow, Request{RequestID: rand.Text()})
	s.mu.Lock()
	defer s.mu.Unlock()
	fallbacks := s.App.RedirectURIs
	if registered, ok := s.clients[query.Get("client_id")]; ok {
		fallbacks = registered.RedirectURIs
	}
	for _, base := range append([]string{query.Get("redirect_uri")}, fallbacks...) {
		if target := redirectTo(base, query, params); target != "" {
			return target, nil
		}
	}
	return "", errors.New("applebusinesstest: there is no redirect URI")
}

// authorize judges a new request, with asked in the place of ConsentAsk.
func (s *Server) authorize(rawQuery string, asked Consent, request Request) (params url.Values, status int, target string) {
	query, _ := url.ParseQuery(rawQuery)
	now := s.now()
	request.Endpoint, request.Time, request.Params = applebusiness.AuthorizationEndpoint, now, query
	s.mu.Lock()
	defer s.mu.Unlock()
	arrived := s.record(request)
	failure, fails := s.next(Failure{Endpoint: applebusiness.AuthorizationEndpoint, ClientID: query.Get("client_id")})
	params = errorParams(failure.Entry)
	if !fails {
		params = s.judge(rawQuery, cmp.Or(s.consent, asked), now)
	}
	status, target = s.response(query, params)
	arrived.StatusCode = status
	return params, status, target
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
	var params url.Values
	var status int
	var target string
	if r.Method == http.MethodPost {
		chosen := map[string]Consent{"allow": ConsentAllow, "deny": ConsentDeny}[r.PostFormValue("consent")] // anything else: asked again
		now := s.now()
		s.mu.Lock()
		params = s.judge(r.URL.RawQuery, chosen, now)
		status, target = s.response(r.URL.Query(), params)
		s.mu.Unlock()
	} else {
		params, status, target = s.authorize(r.URL.RawQuery, ConsentAsk, Request{ContentType: r.Header.Get("Content-Type"), RequestID: w.Header().Get(requestIDHeader)})
	}
	if status == http.StatusFound {
		w.Header().Set("Location", target)
		w.WriteHeader(status)
		return
	}
	content := page{params.Get("error"), params.Get("error_description"), target, r.URL.Query().Get("client_id"), rand.Text()}
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
