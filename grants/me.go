package grants

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/internal/redact"
)

const (
	tokenPath = "/oauth2/token" // what follows the base URL of the API in TokenURL
	mePath    = "/me"
	meTries   = 3 // that fit into the time for /me if none is answered
	maxMe     = 64 << 10
	maxOrgID  = 256
)

// whose asks Apple which organisation a token belongs to, for as long as a token request may take. Its error has words of our
// own for what came, and quotes nothing of it. Whatever it was, the code is spent.
func (m *Manager) whose(ctx context.Context, token *oauth2.Token) (Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	failed, ok := new(applebusiness.Error), false
	for tries := 0; ; tries++ {
		found, err := m.askMe(ctx, token)
		if err == nil {
			return found, nil
		}
		if failed, ok = err.(*applebusiness.Error); !ok {
			failed = &applebusiness.Error{Reason: applebusiness.ErrNoResponse}
		}
		wait := max(failed.RetryAfter, saveBackoff(tries))
		if !applebusiness.Retryable(failed) || time.Until(deadline) <= wait || sleep(ctx, wait) != nil {
			break
		}
	}
	why := "status " + strconv.Itoa(failed.StatusCode)
	switch failed.StatusCode {
	case 0:
		why = "there is no response"
	case http.StatusOK:
		why = "the response is not the documented JSON"
	}
	return Connection{}, fmt.Errorf(prefix+"the code was redeemed, but the API does not say which organisation it is of: %s: %w",
		why, &applebusiness.Error{Reason: applebusiness.ErrUnavailable, GrantType: applebusiness.GrantTypeAuthorizationCode})
}

// askMe asks once, and follows no redirect: the token goes nowhere else. If the response does not say it, the error is an
// *applebusiness.Error, which is for Retryable alone.
func (m *Manager) askMe(ctx context.Context, token *oauth2.Token) (Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout/meTries)
	defer cancel()
	return enter(ctx, m, "the HTTP client", func(ctx context.Context) (Connection, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(m.config.Endpoint.TokenURL, tokenPath)+mePath, nil)
		if err != nil {
			return Connection{}, err
		}
		token.SetAuthHeader(request)
		request.Close = true // as for a token request: a kept connection can be dead without a word
		response, err := m.roundTrip(request)
		if err != nil {
			return Connection{}, err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(io.LimitReader(response.Body, maxMe))
		if err != nil {
			return Connection{}, err
		}
		if found := parseMe(body, token); response.StatusCode == http.StatusOK && found.Grant != "" {
			return found, nil
		}
		return Connection{}, applebusiness.ParseTokenError(response.StatusCode, response.Header, body)
	})
}

// parseMe returns the organisation that a response of /me names, if that can be the name of a grant and echoes no token.
func parseMe(body []byte, token *oauth2.Token) Connection {
	var me struct {
		Organisation struct {
			ID   string `json:"orgId"`
			Name string `json:"legalName"`
		} `json:"orgDetails"`
	}
	decoder := json.NewDecoder(bytes.NewReader(bytes.TrimLeft(body, "\ufeff \t\r\n")))
	_ = decoder.Decode(&me) // a member of another type stays empty, and what follows does no harm
	id, shown := me.Organisation.ID, me.Organisation.ID+" "+me.Organisation.Name
	isOdd := func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
	if strings.TrimSpace(id) == "" || len(id) > maxOrgID || strings.ContainsFunc(id, isOdd) ||
		redact.Values(shown, token.AccessToken, token.RefreshToken) != shown {
		return Connection{}
	}
	return Connection{id, me.Organisation.Name}
}
