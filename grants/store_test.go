package grants_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// A Record shows what is known of a grant, and no token.
func TestRecordText(t *testing.T) {
	record := grants.Record{Version: 7, Token: &oauth2.Token{AccessToken: "access", RefreshToken: "refresh"}}
	assert.Equal(t, "grants.Record{Token: ***, Version: 7}", fmt.Sprint(record))
	record.Mark = grants.Mark{
		Dead: &applebusiness.Error{Reason: applebusiness.ErrInvalidRefreshToken}, RetryAt: time.Unix(0, 0).UTC(), Unfinished: true,
	}
	text := "grants.Record{Token: ***, Version: 7, Dead: applebusiness: invalid_refresh_token, RetryAt: 1970-01-01T00:00:00Z, Unfinished}"
	assert.Equal(t, text, fmt.Sprint(record))
	assert.Equal(t, text, record.LogValue().String())
}
