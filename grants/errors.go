package grants

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/internal/redact"
)

const prefix = "applebusiness/grants: "

// What an error's text shows at most of a text from outside, in bytes, and of the grants' names.
const (
	maxErrorText  = 512
	maxErrorGrant = 128
	maxErrorNames = 20
)

// StoreError is a failure of a Store, or of [Options.Limit], with the grant that it kept from its token. It is never
// about the customer or about Apple, whatever it wraps: nobody has to reconnect because of it.
type StoreError struct {
	Grant string // "" where the failure was about no grant in particular
	Err   error  // as the Store returned it; its text may hold what Error leaves out

	text string // Err's, without the tokens that it quotes
}

// newStoreError returns a StoreError whose text shows none of the tokens.
func newStoreError(grant string, err error, tokens ...*oauth2.Token) *StoreError {
	return &StoreError{Grant: grant, Err: err, text: shown(textOf(err), tokens...)}
}

// Error returns one line: the grant, and the text of Err, quoted and cut, with *** in the place of the grant's tokens.
func (e *StoreError) Error() string {
	if e == nil {
		return prefix + "<nil>"
	}
	text := e.text
	if text == "" {
		text = shown(textOf(e.Err))
	}
	what := "the Store failed"
	if _, ok := e.Err.(*limitError); ok {
		what = "Options.Limit failed"
	} else if e.Err == errForever {
		what = "no lease was to be had"
	}
	if e.Grant != "" {
		what += " for grant " + strconv.Quote(redact.Cut(e.Grant, maxErrorGrant))
	}
	return prefix + what + ": " + strconv.Quote(text)
}

// Unwrap returns Err.
func (e *StoreError) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.Err
}

// Format writes what [StoreError.Error] returns whatever the verb, since Err may show more. It implements [fmt.Formatter].
func (e StoreError) Format(state fmt.State, verb rune) {
	fmt.Fprintf(state, fmt.FormatString(state, verb), e.Error())
}

// LogValue returns what [StoreError.Error] returns. It implements [slog.LogValuer].
func (e *StoreError) LogValue() slog.Value { return slog.StringValue(e.Error()) }

// MarshalText returns what [StoreError.Error] returns, which makes it the JSON of e too. It implements
// [encoding.TextMarshaler].
func (e StoreError) MarshalText() ([]byte, error) { return []byte(e.Error()), nil }

// Foreign marks e as none of Apple's errors: package applebusiness looks for no advice beyond it.
func (e *StoreError) Foreign() {}

// The ways in which a Store breaks its contract, and why a token is not stored.
var (
	errNoToken   = errors.New("the Store returned neither a token nor an error")
	errUnsettled = errors.New("the Store does not keep what it is given, or changes all the time")
	errForever   = errors.New("others have had the grant's lease for long, and none has brought a token")
	errGivenUp   = errors.New("Close gave up while its token was on its way")
	errNoName    = errors.New(prefix + "a grant needs a name")
	errNotToken  = errors.New(prefix + "the refresh token holds characters that no token has")
	errReplaced  = errors.New(prefix + "the token was replaced by a newer one, and its refresh token is spent")
)

// shown returns what of a text from outside may be seen: what package redact recognises, without the tokens.
func shown(text string, tokens ...*oauth2.Token) string {
	var secrets []string
	for _, token := range tokens {
		if token != nil {
			secrets = append(secrets, token.AccessToken, token.RefreshToken)
		}
	}
	return redact.Show(redact.Values(strings.TrimPrefix(text, prefix), secrets...), maxErrorText)
}

func (m *Manager) storeError(grant string, err error, secrets ...*oauth2.Token) *StoreError {
	if found, ok := m.entries.Load(grant); ok {
		secrets = append(secrets, m.secrets(found.(*entry))...)
	}
	return newStoreError(grant, err, secrets...)
}

// limitError is a failure of Options.Limit.
type limitError struct{ error }

func (e *limitError) Unwrap() error { return e.error }

// opaqueError has a text of ours, which quotes nothing of its cause, and is foreign like a StoreError.
type opaqueError struct {
	text  string
	cause *error // by a pointer, which no verb of fmt follows
}

func (e *opaqueError) Error() string { return e.text }
func (e *opaqueError) Unwrap() error { return *e.cause }
func (e *opaqueError) Foreign()      {}

func noRefreshToken() *applebusiness.Error { return waitError(applebusiness.ErrNoRefreshToken, 0) }

// waitError returns the error of a refresh that has not come to a response, or may not be sent before wait is over.
func waitError(reason applebusiness.Reason, wait time.Duration) *applebusiness.Error {
	return &applebusiness.Error{
		Endpoint: applebusiness.TokenEndpoint, Reason: reason, GrantType: applebusiness.GrantTypeRefreshToken, RetryAfter: wait,
	}
}

// withWait returns a failed token request's error with another RetryAfter.
func withWait(failure error, wait time.Duration) error {
	switch e := failure.(type) {
	case *applebusiness.Error:
		copied := *e
		copied.RetryAfter = wait
		return &copied
	case interface{ Unwrap() []error }: // tokenFailure's: the *Error, and a panic
		return fmt.Errorf("%w: %w", withWait(e.Unwrap()[0], wait), e.Unwrap()[1])
	}
	return failure
}

// closeError is what Close returns if tokens could not be stored. It names the grants, and wraps a *StoreError for each.
type closeError struct {
	text string
	errs []error
}

func (e *closeError) Error() string   { return e.text }
func (e *closeError) Unwrap() []error { return e.errs }

func newCloseError(all map[string]left) error {
	var errs []error
	var names []string
	for _, grant := range slices.Sorted(maps.Keys(all)) {
		errs = append(errs, newStoreError(grant, all[grant].err, all[grant].token))
		if grant == "" {
			names = append(names, "a customer who was connecting") // Apple has not said yet as whom
		} else {
			names = append(names, strconv.Quote(redact.Cut(grant, maxErrorGrant)))
		}
	}
	more := ""
	if len(names) > maxErrorNames {
		names, more = names[:maxErrorNames], fmt.Sprintf(" and %d more", len(names)-maxErrorNames)
	}
	text := prefix + "closed before the newest token was stored of " + strings.Join(names, ", ") + more + ": "
	return &closeError{text + strconv.Quote(errs[0].(*StoreError).text), errs}
}
