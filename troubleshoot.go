package applebusiness

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/seed-a5f25c57/applebusiness/internal/neterr"
)

// Action says what the caller should do about an error. On a code exchange a customer waits on a page while an engineer looks.
type Action string

const (
	// ActionUnknown is for an error that neither Apple's tables nor this package know: read its text, and write nothing on it.
	ActionUnknown Action = ""
	// ActionRetry means that Apple, or the way to it, fails at the moment: try again later. Whether the very same request may
	// be sent again is what [Retryable] says. Write nothing on it but when to try again.
	ActionRetry Action = "retry"
	// ActionStartOver means that this attempt to connect failed, by its state, a denial, a code that is spent or expired, or
	// an outage on the way: let the user start again with a new authorization request. A caller may forget the state and the
	// verifier of this attempt, and may not touch a stored grant, which may be alive.
	ActionStartOver Action = "start_over"
	// ActionReauthorize means that the stored grant is dead, and that the customer has to go through Apple's consent page
	// again. On no other Action may a caller write that the customer is disconnected, and on it only if the refresh token
	// that was sent is still the stored one. No redirect, no code exchange and no 5xx gives it.
	ActionReauthorize Action = "reauthorize"
	// ActionFixRequest means that the code that builds the request, or its configuration, is wrong. An engineer should look.
	ActionFixRequest Action = "fix_request"
	// ActionFixRegistration means that the request does not fit what is registered at Apple: client_id, client secret or
	// redirect URI. An engineer should look.
	ActionFixRegistration Action = "fix_registration"
	// ActionCheckNetwork means that something other than Apple's OAuth endpoint sent the response, or that there is no way
	// to the endpoint: an engineer should look. It is not final, so try again at the next schedule.
	ActionCheckNetwork Action = "check_network"
)

// Impact says who is affected by the cause of an error.
type Impact string

const (
	// ImpactUnknown is for an error that does not tell whom it affects.
	ImpactUnknown Impact = ""
	// ImpactCustomer means this customer, and no other one.
	ImpactCustomer Impact = "customer"
	// ImpactApp means the partner's app, and so all customers.
	ImpactApp Impact = "app"
	// ImpactService means Apple or the way to it, and so everybody for a while.
	ImpactService Impact = "service"
)

// Cause is a likely reason for an error, as a stable label.
type Cause string

// Apple's troubleshooting table names these two.
const (
	// CauseAccessRevoked means that the customer revoked the partner's access to their Apple Business account.
	CauseAccessRevoked Cause = "access_revoked"
	// CauseAuthorizationCodeExpired means that an authorization code was sent more than 5 minutes after it was issued.
	CauseAuthorizationCodeExpired Cause = "authorization_code_expired"
)

// These are inferred from how OAuth 2.0 and Apple's endpoints behave; Apple does not list them.
const (
	// CauseAuthorizationCodeUsed means that an authorization code was sent a second time.
	CauseAuthorizationCodeUsed Cause = "authorization_code_used"
	// CauseRefreshTokenReplaced means that another process of the partner refreshed first and holds the newer token.
	CauseRefreshTokenReplaced Cause = "refresh_token_replaced"
	// CauseClientSecretReplaced means that a new client secret was made at Apple, which ends the old one at once.
	CauseClientSecretReplaced Cause = "client_secret_replaced"
	// CauseAppRemoved means that the partner's app was deleted at Apple, which ends all grants for good.
	CauseAppRemoved Cause = "app_removed"
	// CauseResponseLost means that the response to an earlier request was lost, with the refresh token that it brought.
	CauseResponseLost Cause = "response_lost"
	// CauseVerifierMismatch means that the code_verifier does not belong to the code_challenge of the authorization request.
	CauseVerifierMismatch Cause = "verifier_mismatch"
	// CauseUserDenied means that the user declined on Apple's consent page.
	CauseUserDenied Cause = "user_denied"
)

// Description returns a sentence for c, and "" for a Cause that this package does not know.
func (c Cause) Description() string { return causeSentences[c] }

var causeSentences = map[Cause]string{
	CauseAccessRevoked:            "The customer revoked the partner's access to their Apple Business account.",
	CauseAuthorizationCodeExpired: "The authorization code was older than 5 minutes.",
	CauseAuthorizationCodeUsed:    "The authorization code had been used before.",
	CauseRefreshTokenReplaced:     "Another process refreshed this grant first, and its refresh token is the valid one.",
	CauseClientSecretReplaced:     "The client secret was replaced at Apple, which ends the old one at once.",
	CauseAppRemoved:               "The app was deleted at Apple, which ends all its grants.",
	CauseResponseLost:             "The response to an earlier request was lost, and with it the new refresh token.",
	CauseVerifierMismatch:         "The code_verifier does not belong to the code_challenge of the authorization request.",
	CauseUserDenied:               "The user declined on Apple's consent page.",
}

// Advice is what to do about an error. The zero Advice means that nothing is known, or that there is no error.
type Advice struct {
	Action Action
	Impact Impact
	Causes []Cause // likeliest first; the caller's own slice
	Remedy string  // sentences for engineers, whose wording may change; what a customer reads is yours to write, by Action
}

// Troubleshoot returns what to do about the first *Error in err's tree, or else about the first bare [Reason] or [Code], or
// else about the failure of a context or of the network. For nil, context.Canceled and unknown errors it is the zero Advice.
//
// A transient status (408, 425, 429, and 5xx except 501, 505 and 511) beats the code, so that during an outage nobody is
// asked to reconnect: errors.Is(err, ErrInvalidRefreshToken) can be true at a 503, and only the Action says that a grant is
// dead. What "Invalid refresh_token" means depends on the GrantType. A failure that is not known to come from an HTTP
// client, such as a database's, is never described as Apple's.
//
// This is the advice for a refresh; "Retryable" is what [Retryable] says:
//
//	Reason                     Action            Impact    Retryable
//	ErrInvalidGrantType        fix_request       app       no
//	ErrInvalidRefreshToken     reauthorize       customer  no
//	ErrInvalidClientID         fix_registration  app       no
//	ErrMissingFields           fix_request       app       no
//	ErrMissingParameter        fix_request       app       no
//	ErrEmptyBody               fix_request       app       no
//	ErrUnsupportedMediaType    fix_request       app       no
//	ErrScopeNotAccepted        fix_request       app       no
//	ErrInvalidCredentials      fix_registration  app       no
//	ErrEndpointNotFound        fix_request       app       no
//	ErrUnknownServerError      retry             service   yes
//	ErrServer                  retry             service   yes
//	ErrInvalidResponseType     fix_request       app       no
//	ErrInvalidChallengeMethod  fix_request       app       no
//	ErrUnregisteredClientID    fix_registration  app       no
//	ErrBadRequest              fix_request       app       no
//	ErrEmptyRedirectURI        fix_request       app       no
//	ErrInvalidRedirectURI      fix_request       app       no
//	ErrLocalhostRedirectURI    fix_request       app       no
//	ErrUnregisteredRedirectURI fix_registration  app       no
//	ErrEmptyScope              fix_request       app       no
//	ErrInvalidScope            fix_request       app       no
//	ErrEmptyClientID           fix_request       app       no
//	ErrStateMismatch           start_over        customer  no
//	ErrMalformedRedirect       start_over        customer  no
//	ErrUserDenied              start_over        customer  no
//	ErrNoResponse              retry             service   yes
//	ErrRateLimited             retry             app       yes
//	ErrUnavailable             retry             service   yes
//	ErrMalformedResponse       check_network     service   no
//	ErrUnsafeTokenRequest      fix_request       app       no
//	ErrNoRefreshToken          fix_request       unknown   no
//	ErrUnsafeState             fix_request       app       no
//	ErrManyRefusals            fix_registration  app       no
//
// After an authorization_code request ErrInvalidRefreshToken, ErrNoResponse, ErrUnavailable, ErrServer and
// ErrUnknownServerError are ActionStartOver, except for an ErrNoResponse of which nothing was sent. ErrNoResponse is
// ActionCheckNetwork where waiting does not help (an unknown host, a certificate that is not trusted), and ActionFixRequest
// if the caller's context had ended before anything was sent. ErrMalformedResponse is ActionRetry where the response looks
// like those of Apple's edge: an empty 204, a 3xx without Location, or its own HTML at 403 or 404. ErrMissingParameter is
// ImpactUnknown for a code, code_verifier or refresh_token, which one session may have lost.
func Troubleshoot(err error) Advice {
	e := find(err)
	if e == nil {
		return networkAdvice(err)
	}
	advice := e.advice()
	if neterr.Is(err, context.Canceled) && advice.Action == ActionRetry && e.Reason == ErrNoResponse {
		return Advice{}
	}
	advice.Causes = slices.Clone(advice.Causes)
	return advice
}

// Retryable reports whether the very same request may be sent again, after [Error.RetryAfter] and with a backoff.
//
// It is true where [Troubleshoot] says [ActionRetry], except for an error of the authorization endpoint, since sending the
// browser back at once makes a redirect loop, and once a context was canceled. An authorization_code request may be sent
// again only after a 429 that asks for less than a minute, or if nothing was sent, which [Transport] knows. Without
// Transport a failure of the network does not tell the grant_type: let the user start over rather than send a code again.
// It is false, too, where http.Client's Timeout has replaced Transport's error, as after a time in which the process stood still.
func Retryable(err error) bool {
	if Troubleshoot(err).Action != ActionRetry || neterr.Is(err, context.Canceled) {
		return false
	}
	if e := find(err); e != nil {
		return e.Endpoint != AuthorizationEndpoint
	}
	_, lost, _ := strings.Cut(neterr.Text(err), ErrNoResponse.Error()) // of Transport's, by http.Client: see Transport
	return lost == "" || strings.Contains(lost, nothingSent)
}

// advice is Troubleshoot for one Error, with shared Causes. It makes a new start of what would be a retry, where a customer
// waits on a page and the code may be spent.
func (e *Error) advice() Advice {
	advice := e.adviceOfRow()
	isLost := advice.Action == ActionReauthorize || e.Reason == ErrInvalidRefreshToken && advice.Action == ActionStartOver
	isOnPage := e.GrantType == GrantTypeAuthorizationCode || e.Endpoint == AuthorizationEndpoint
	switch {
	case e.ResponseLost && isLost:
		advice.Causes = append([]Cause{CauseResponseLost}, advice.Causes...)
	case advice.Action != ActionRetry || !isOnPage:
	case e.isRateLimited():
		if e.RetryAfter >= time.Minute { // nobody waits that long on a page
			advice.Action = ActionStartOver
		}
	case !e.Unsent():
		advice.Action, advice.Remedy = ActionStartOver, remedyStartOver
	}
	return advice
}

// adviceOfRow looks at the status first, then at the Reason, then at the Code.
func (e *Error) adviceOfRow() Advice {
	byReason, hasReason := adviceByReason[e.Reason]
	byCode, hasCode := adviceByCode[e.Code]
	switch {
	case e.isRateLimited():
		return adviceByReason[ErrRateLimited]
	case neterr.StatusPasses(e.StatusCode):
		return adviceTransient
	case e.StatusCode >= 500:
		return adviceByReason[ErrMalformedResponse]
	case e.isDeadGrant():
		return e.deadGrantAdvice()
	case e.Reason == ErrNoResponse:
		return e.noResponseAdvice()
	case e.edge:
		return adviceEdge
	case slices.Contains([]string{"code", "code_verifier", "refresh_token"}, strings.ToLower(e.Parameter)): // which one session may lack
		return adviceMissingOfOneSession
	case hasReason:
		return byReason
	case hasCode:
		return byCode
	case e.Endpoint == AuthorizationEndpoint && isDenial(e.Code):
		return adviceByReason[ErrUserDenied]
	case e.Code != "":
		return adviceUndocumented
	case e.StatusCode >= 300:
		return adviceByReason[ErrMalformedResponse]
	}
	return Advice{}
}

// isDeadGrant reports whether the refresh token or the code that was sent may be dead.
func (e *Error) isDeadGrant() bool {
	return e.Reason == ErrInvalidRefreshToken || e.Reason == "" && e.Code == CodeInvalidGrant
}

func (e *Error) isRateLimited() bool {
	return e.StatusCode == http.StatusTooManyRequests || e.Reason == ErrRateLimited
}

// noResponseAdvice is about ErrNoResponse. A failure that Transport does not know is treated as one that passes.
func (e *Error) noResponseAdvice() Advice {
	failed := neterr.Of(e.err)
	switch {
	case e.ended:
		return adviceContextEnded
	case neterr.Is(e.err, errNoResult):
		return adviceNoResult
	case failed.Own:
		return adviceOwnLimit
	case !failed.Passes && !neterr.Is(e.err, context.Canceled):
		return adviceUnreachable
	}
	return adviceByReason[ErrNoResponse]
}

// deadGrantAdvice is about "Invalid refresh_token", and about an invalid_grant whose text is not known. A refresh sends a
// valid grant_type, so invalid_grant then means a dead grant, unless the text names another error: a row's, a
// transient status, or one about grant_type.
func (e *Error) deadGrantAdvice() Advice {
	meaning, _ := matchDescription(e.Description)
	isOther := meaning != "" || strings.HasPrefix(foldText(e.Description), "grant_type") || neterr.StatusPasses(neterr.StatusOf(spaceText(e.Description)))
	switch {
	case e.GrantType == GrantTypeAuthorizationCode || e.Endpoint == AuthorizationEndpoint:
		return adviceDeadCode
	case e.GrantType == GrantTypeRefreshToken && e.Reason == "" && isOther:
		return adviceUndocumented
	case e.GrantType == GrantTypeRefreshToken:
		return adviceDeadGrant
	case e.Reason == "":
		return adviceByCode[CodeInvalidGrant]
	case e.GrantType == "":
		return adviceByReason[ErrInvalidRefreshToken]
	}
	return adviceGrantOfAnotherKind
}

// networkAdvice is about an error without an *Error: only what an HTTP client returned may be Apple's.
func networkAdvice(err error) Advice {
	failed := neterr.Of(err)
	var isRequest, isConnection bool
	for _, node := range neterr.Tree(err) {
		switch node := node.(type) {
		case *url.Error:
			isRequest = node.Op != "parse"
		case interface{ Timeout() bool }: // as each net.Error has
			isConnection = true
		}
	}
	switch {
	case !failed.Known || neterr.Is(err, context.Canceled):
		return Advice{}
	case isRequest || failed.Own:
		return (&Error{err: err}).noResponseAdvice()
	case failed.Passes && isConnection:
		return adviceSomeConnection
	}
	return Advice{}
}

func advise(action Action, impact Impact, remedy string, causes ...Cause) Advice {
	return Advice{Action: action, Impact: impact, Causes: causes, Remedy: remedy}
}

func fixRequest(remedy string) Advice { return advise(ActionFixRequest, ImpactApp, remedy) }

func fixRegistration(remedy string) Advice { return advise(ActionFixRegistration, ImpactApp, remedy) }

// The advice that several errors share.
var (
	adviceTransient           = advise(ActionRetry, ImpactService, "Apple's service fails or is overloaded. Try again later with a backoff; nobody has to reconnect.")
	adviceSomeConnection      = advise(ActionRetry, ImpactUnknown, "A connection failed or took too long, and the error does not say whose. Try again later with a backoff.")
	adviceOwnLimit            = advise(ActionRetry, ImpactApp, "This process has no file descriptor or port left for a connection. Close what is not used, or raise the limit.")
	adviceEdge                = advise(ActionRetry, ImpactService, "The response looks like one by which the edge in front of Apple's services drops a request. Try again in a few minutes; nobody has to reconnect.")
	adviceUnreachable         = advise(ActionCheckNetwork, ImpactService, "The endpoint cannot be reached. Check the host in the token URL, name resolution, the proxy and the trusted certificates. Try again at the next schedule; on a code exchange a customer waits on a page meanwhile.")
	adviceContextEnded        = advise(ActionFixRequest, ImpactUnknown, "Nothing was sent, because the context of the request had ended. x/oauth2 keeps the context that it is given: give it the process's, not that of a request, and leave a request enough of its time.")
	adviceNoResult            = fixRequest("Correct the Transport's Base: it returned neither a response nor an error.")
	adviceUndocumented        = advise(ActionUnknown, ImpactUnknown, "Apple does not document this error. Read its code and description, and ask nobody to reconnect because of it.")
	adviceClientID            = advise(ActionFixRegistration, ImpactApp, "Configure the client_id of the app as registered at Apple for this environment.", CauseAppRemoved)
	adviceMissingOfOneSession = advise(ActionFixRequest, ImpactUnknown, "Send the parameter that the description names. If it is missing for one customer only, their session or their stored token was lost; if for all, the code that builds the request is wrong.")
	adviceDeadCode            = advise(ActionStartOver, ImpactCustomer, "The authorization code is expired, was used, or does not belong to the code_verifier. Let the user start over with a new authorization request, and exchange its code once, within 5 minutes, with the verifier of the same attempt.", CauseAuthorizationCodeExpired, CauseAuthorizationCodeUsed, CauseVerifierMismatch)
	adviceDeadGrant           = advise(ActionReauthorize, ImpactCustomer, "Read the stored token again. If its refresh token is another one by now, another process has replaced it and the customer is still connected; if it is the same, ask this customer to reconnect.", CauseAccessRevoked, CauseRefreshTokenReplaced)
	adviceGrantOfAnotherKind  = fixRequest("Only a refresh or a code exchange can have a dead grant. Check the grant_type, client_id and client_secret of this request; a Service Account has no refresh token.")
)

const remedyStartOver = "Apple's service or the way to it failed while this customer connected. Let the user start over with a new authorization request, and do not send an authorization code again that may be spent."

// adviceByReason holds the advice for each Reason.
var adviceByReason = map[Reason]Advice{
	// Token endpoint
	ErrInvalidGrantType:     fixRequest("Send grant_type as authorization_code, refresh_token or client_credentials."),
	ErrInvalidRefreshToken:  advise(ActionReauthorize, ImpactCustomer, "Read the stored token again. If its refresh token is another one by now, the grant is alive; if it is the same, ask this customer to reconnect. If an authorization code was sent, let the user start over.", CauseAccessRevoked, CauseAuthorizationCodeExpired, CauseRefreshTokenReplaced),
	ErrInvalidClientID:      adviceClientID,
	ErrMissingFields:        fixRequest("Send client_id, client_secret, grant_type and scope in the body."),
	ErrMissingParameter:     fixRequest("Send the parameter that the description names."),
	ErrEmptyBody:            fixRequest("Send the parameters as a JSON object in the request body; a redirect or a proxy may have dropped it."),
	ErrUnsupportedMediaType: fixRequest("Send the request body as JSON with Content-Type: application/json; plain x/oauth2 sends a form."),
	ErrScopeNotAccepted:     fixRequest("Send the scope that the description lists; Apple's pages name business_connect and business."),
	ErrInvalidCredentials:   advise(ActionFixRegistration, ImpactApp, "Configure the current client_id and client secret in every process. All customers are affected, and none has to reconnect; on a code exchange a customer waits on a page meanwhile.", CauseClientSecretReplaced, CauseAppRemoved),
	ErrEndpointNotFound:     fixRequest("Correct the token URL: it is the URL that Apple mailed for this environment, followed by /api/v1/oauth2/token."),
	ErrUnknownServerError:   adviceTransient,
	ErrServer:               adviceTransient,

	// Authorization endpoint
	ErrInvalidResponseType:     fixRequest("Send response_type=code in the authorization URL."),
	ErrInvalidChallengeMethod:  fixRequest("Send code_challenge_method=S256 in the authorization URL, with the SHA-256 of the code verifier."),
	ErrUnregisteredClientID:    adviceClientID,
	ErrBadRequest:              fixRequest("Compare each parameter of the authorization URL with Apple's page; CheckAuthorizationURL finds the known mistakes."),
	ErrEmptyRedirectURI:        fixRequest("Send one of the app's registered redirect URIs as redirect_uri."),
	ErrInvalidRedirectURI:      fixRequest("Send redirect_uri as an absolute URI without a fragment."),
	ErrLocalhostRedirectURI:    fixRequest("Use 127.0.0.1 instead of localhost in redirect_uri, and register it so."),
	ErrUnregisteredRedirectURI: fixRegistration("Register the redirect URI with the app at Apple, letter for letter as it is sent."),
	ErrEmptyScope:              fixRequest("Leave scope out of the authorization URL."),
	ErrInvalidScope:            fixRequest("Leave scope out of the authorization URL: partners cannot choose it."),
	ErrEmptyClientID:           fixRequest("Send the app's client_id in the authorization URL; the configuration seems to lack it."),

	// Found by this package
	ErrStateMismatch:      advise(ActionStartOver, ImpactCustomer, "Refuse the redirect, change nothing that is stored, and let the user start over. If many users see this, their state gets lost: a redirect that arrives by POST brings no SameSite=Lax cookie."),
	ErrMalformedRedirect:  advise(ActionStartOver, ImpactCustomer, "Refuse the redirect, change nothing that is stored, and let the user start over."),
	ErrUserDenied:         advise(ActionStartOver, ImpactCustomer, "Nothing is broken. The user declined on Apple's consent page, or Apple denied the request because the user may not connect this organisation. Say that the connection was not made, and offer to start over.", CauseUserDenied),
	ErrNoResponse:         advise(ActionRetry, ImpactService, "The connection to the endpoint failed or took too long. Try again later with a backoff; nobody has to reconnect."),
	ErrRateLimited:        advise(ActionRetry, ImpactApp, "The app sends more requests than Apple allows. Wait as long as Retry-After says, and send fewer in all processes together; nobody has to reconnect."),
	ErrUnavailable:        adviceTransient,
	ErrMalformedResponse:  advise(ActionCheckNetwork, ImpactService, "The response does not come from Apple's OAuth endpoint. Check the token URL, and what proxy, firewall or gateway stands before it. Try again at the next schedule; on a code exchange a customer waits on a page meanwhile."),
	ErrUnsafeTokenRequest: fixRequest("Nothing was sent. Send the credentials in the body (oauth2.AuthStyleInParams), each field once, by https and to the token URL itself. On a code exchange a customer waits on a page meanwhile."),
	ErrNoRefreshToken:     advise(ActionFixRequest, ImpactUnknown, "Read the stored token again, with its refresh token, and store none without one. If there never was one, ask this customer to connect again; a Service Account asks for a new token with its client credentials instead."),
	ErrManyRefusals:       fixRegistration("Apple refuses the refresh tokens of many customers at once, which is nobody's revocation. Look for the token URL or the client_id of another environment, for a database that was restored from a backup, and whether Apple has a fault. Ask nobody to reconnect: nothing was written, and the grants work again once this is mended."),
	ErrUnsafeState:        fixRequest("Build state from letters, digits, '-', '.', '_' and '~', as oauth2.GenerateVerifier does."),
}

// adviceByCode is for a Code without a known text. CodeAccessDenied has none: at the token endpoint no user said so.
var adviceByCode = map[Code]Advice{
	CodeInvalidRequest:          fixRequest("Compare each parameter of the request with Apple's page; the description may name the wrong one."),
	CodeInvalidClient:           adviceByReason[ErrInvalidCredentials],
	CodeInvalidGrant:            advise(ActionFixRequest, ImpactUnknown, "Look at grant_type first: this code stands for a wrong grant_type and for a dead grant alike, so ask nobody to reconnect on it alone."),
	CodeInvalidScope:            fixRequest("Correct scope: a Service Account sends business_connect or business, an authorization URL sends none."),
	CodeUnsupportedResponseType: adviceByReason[ErrInvalidResponseType],
	CodeServerError:             adviceTransient,
	CodeInternalServerError:     adviceTransient,
	CodeNotFound:                adviceByReason[ErrEndpointNotFound],
	CodeUnauthorizedClient:      fixRegistration("Have the app enabled for this grant at Apple, and check that its client_id is the one for this environment."),
	CodeUnsupportedGrantType:    adviceByReason[ErrInvalidGrantType],
	CodeTemporarilyUnavailable:  adviceTransient,
}
