package main

import (
	"errors"
	"regexp"
	"strings"

	"github.com/seed-a5f25c57/applebusiness"
)

// A reader understands one kind of input.
type reader struct {
	kind    string
	example string
	read    func(piece) (*finding, error)
}

// readers are all kinds of input, the ones that tell most first: where an input holds several, the first one counts. A
// reader returns nil if the piece is of another kind, and an error if it is of this kind and holds no failure.
var readers = [...]reader{
	{
		"an entry of a HAR file, or a whole one",
		`{"request":{"url":"https://apple.example/token"},"response":{"status":503,"headers":[{"name":"retry-after","value":"30"}]}}`,
		readHAR,
	},
	{
		"an HTTP response: curl -i, curl -v, HTTPie with its request",
		"< HTTP/2 503\n< retry-after: 30\n<\n<html>",
		readResponse,
	},
	{
		"attributes that this package logged",
		`level=ERROR msg=refresh error.endpoint=token error.status=503 error.action=retry`,
		readAttributes,
	},
	{
		"a text of this package",
		`applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 401)`,
		readOwnText,
	},
	{
		"a text of golang.org/x/oauth2, also one of two lines",
		`oauth2: "invalid_grant" "Invalid refresh_token"`,
		readOAuth2Text,
	},
	{
		"a JSON body, alone or in a log",
		`{"error":"invalid_grant","error_description":"Invalid refresh_token"}`,
		readBody,
	},
	{
		"a redirect, in a log, a request or a response",
		`POST /callback?error=server_error&error_description=server+error&state=xyz HTTP/1.1`,
		readRedirect,
	},
	{
		"a form, of the token endpoint",
		`error=invalid_grant&error_description=Invalid+refresh_token`,
		readForm,
	},
	{
		"how Python, Ruby, Go, JavaScript and others print an object",
		`{'error': 'invalid_grant', 'error_description': 'Invalid refresh_token'}`,
		readRendering,
	},
	{
		"a text of Apple's, a code, a label or a constant, alone or in a sentence",
		`InvalidGrantError: (invalid_grant) Invalid refresh_token`,
		readSentence,
	},
	{
		"a failure of the network",
		`Post "https://apple.example/token": dial tcp: lookup apple.example: no such host`,
		readNetwork,
	},
}

// finding is the failure that an input holds: an OAuth error, or one of the network.
type finding struct {
	*applebusiness.Error // empty for a failure of the network

	network string // what failed in the network, in this program's words
	err     error  // what Troubleshoot is asked about

	// What a line of a log says about a failure whose cause it does not show.
	isSaid bool
	action applebusiness.Action
	impact applebusiness.Impact
}

func found(e *applebusiness.Error) *finding { return &finding{Error: e, err: e} }

// The inputs that hold no failure. None of these texts quotes the input.
var (
	errEmpty   = errors.New("the input is empty")
	errNothing = errors.New("no OAuth error was found: give a JSON body, an HTTP response, a redirect URL or a line of a log")
	errHeaders = errors.New("the headers of the response cannot be read")
	errStatus  = errors.New("this says nothing but a status: what it means is said in the body of the response")
	errToken   = errors.New("this is a success, an access token: there is nothing to explain")
	errCode    = errors.New("this is a success, an authorization code: there is nothing to explain")
)

// understand returns the failure that input holds, without anything secret of it.
func understand(input string) (*finding, error) {
	input = strings.TrimSpace(strings.TrimPrefix(input, "\ufeff"))
	if input == "" {
		return nil, errEmpty
	}
	input = plain(joinResponse(input))
	pieces := unwrap(input)
	nothing := errNothing
	for _, reader := range readers {
		for _, piece := range pieces {
			f, err := reader.read(piece)
			if f != nil {
				f.complete(input)
				return f, nil
			}
			if err != nil && nothing == errNothing {
				nothing = err
			}
		}
	}
	return nil, nothing
}

var (
	grantTypeOf = regexp.MustCompile(`(?i)grant_?type\\*["']?\]?\s*(?:=>|[:=])\s*[\\:]*["']?(authorization_code|refresh_token|client_credentials)\b`)
	grantParam  = regexp.MustCompile(`"name"\s*:\s*"grant_type"\s*,\s*"value"\s*:\s*"(authorization_code|refresh_token|client_credentials)"`)
)

// complete takes the grant_type from what stands around a failure, such as the request, since a spent code and a dead
// grant are told apart by it; then it takes away what may be secret.
func (f *finding) complete(input string) {
	if f.Endpoint == applebusiness.TokenEndpoint && f.GrantType == "" && (strings.Contains(input, "rant_type") || strings.Contains(input, "rantType")) {
		f.GrantType = theOnly(append(grantTypeOf.FindAllStringSubmatch(input, -1), grantParam.FindAllStringSubmatch(input, -1)...))
	}
	f.redact(input)
}

// theOnly returns what the matches' first groups are if they are the same, else "".
func theOnly(matches [][]string) string {
	only := ""
	for _, match := range matches {
		if only != "" && match[1] != only {
			return ""
		}
		only = match[1]
	}
	return only
}
