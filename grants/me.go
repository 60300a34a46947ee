package grants

import (
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
)

const (
	tokenPath = "/oauth2/token" // what follows the base URL of the API in TokenURL
	mePath    = "/me"
	meTries   = 3 // that fit into the time for /me if none is answered
	maxMe     = 64 << 10
	maxOrgID  = 256
)

// whose asks Apple which company a token belongs to, for as long as a token request may take.
func (m *Manager) whose(ctx context.Context, token *oauth2.Token) (Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	for tries := 0; ; tries++ {
		found, failed := m.askMe(ctx, token)
		if failed == nil {
			return found, nil
		}
		wait := max(failed.RetryAfter, saveBackoff(tries))
		if !applebusiness.Retryable(failed) || time.Until(deadline) <= wait || sleep(ctx, wait) != nil {
			why := "status " + strconv.Itoa(failed.StatusCode)
			switch failed.StatusCode {
			case 0:
				why = "there is no response"
			case http.StatusOK:
				why = "the response is not the documented JSON"
			}
			return Connection{}, fmt.Errorf(prefix+"the code was redeemed, but "+mePath+" does not say which company it is of: %s: %w",
				why, &applebusiness.Error{Reason: applebusiness.ErrUnavailable, GrantType: applebusiness.GrantTypeAuthorizationCode})
		}
	}
}

// askMe asks once. Its error is for Retryable, and not to be shown.
func (m *Manager) askMe(ctx context.Context, token *oauth2.Token) (found Connection, failed *applebusiness.Error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout/meTries)
	defer cancel()
	failed = &applebusiness.Error{Reason: applebusiness.ErrNoResponse}
	_ = safely(func() error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(m.config.Endpoint.TokenURL, tokenPath)+mePath, nil)
		if err != nil {
			return err
		}
		token.SetAuthHeader(request)
		request.Close = true // as for a token request: a kept connection can be dead without a word
		client := http.Client{
			Transport:     m.client.Transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token goes nowhere else
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(io.LimitReader(response.Body, maxMe))
		if err != nil {
			return err
		}
		if found = parseMe(body, token); response.StatusCode == http.StatusOK && found.Grant != "" {
			failed = nil
		} else {
			failed = applebusiness.ParseTokenError(response.StatusCode, response.Header, body)
		}
		return nil
	})
	return found, failed
}

// parseMe returns the company that a response of /me names, if that can be the name of a grant and echoes no token.
func parseMe(body []byte, token *oauth2.Token) Connection {
	var me struct {
		Company struct {
			ID   string `json:"orgId"`
			Name string `json:"legalName"`
		} `json:"orgDetails"`
	}
	_ = json.Unmarshal(body, &me) // a member of another type stays empty
	id, shown := me.Company.ID, me.Company.ID+" "+me.Company.Name
	isOdd := func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
	if strings.TrimSpace(id) == "" || len(id) > maxOrgID || strings.ContainsFunc(id, isOdd) || mask(shown, []*oauth2.Token{token}) != shown {
		return Connection{}
	}
	return Connection{id, me.Company.Name}
}
