package applebusiness_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/seed-a5f25c57/applebusiness"
)

// What a person reads is fixed to the letter.
func TestErrorText(t *testing.T) {
	for want, e := range map[string]*applebusiness.Error{
		`applebusiness: <nil>`:                                  nil,
		`applebusiness: no OAuth error was received`:            {},
		`applebusiness: no OAuth error was received (HTTP 502)`: {StatusCode: 502},
		`applebusiness: invalid_grant: "Invalid refresh_token" (HTTP 401)`: {
			StatusCode: 401, Code: applebusiness.CodeInvalidGrant, Description: "Invalid refresh_token", Reason: applebusiness.ErrInvalidRefreshToken,
		},
		`applebusiness: 404 Not Found: "invalid_request" (HTTP 404)`: {
			StatusCode: 404, Code: applebusiness.CodeNotFound, Description: "invalid_request", Reason: applebusiness.ErrEndpointNotFound,
		},
		`applebusiness: access_denied`: {Code: applebusiness.CodeAccessDenied},
		`applebusiness: "slow_down": "two\nlines \"quoted\" \u202e" (HTTP 400)`: {
			StatusCode: 400, Code: "slow_down", Description: "two\nlines \"quoted\" \u202e",
		},
		`applebusiness: "only a text" (HTTP 400)`: {StatusCode: 400, Description: "only a text"},
		`applebusiness: invalid_refresh_token`:    {Reason: applebusiness.ErrInvalidRefreshToken},
		`applebusiness: state_mismatch`:           {Reason: applebusiness.ErrStateMismatch},
	} {
		assert.Equal(t, want, e.Error())
		if e != nil {
			assert.Equal(t, want, fmt.Sprintf("%v", *e))
			assert.Equal(t, want, fmt.Sprintf("%+v", e))
		}
	}
}
