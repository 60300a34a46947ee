package grants_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
)

// The code is spent when /me is asked: what passes is asked again, for as long as a token request may take.
func TestMe(t *testing.T) {
	const failed = "applebusiness/grants: the code was redeemed, but the API does not say which organisation it is of: "
	named := func(id string) answer {
		return status(200, `{"orgDetails":{"orgId":`+id+`,"legalName":"Example Company 1"}}`)
	}
	reset := errors.New("read tcp 127.0.0.1:1->127.0.0.1:2: read: connection reset by peer")
	for name, test := range map[string]struct {
		answers  []answer
		requests int // 0: any number
		takes    time.Duration
		text     string // "": it is connected, as
		grant    string
	}{
		"503, then":                {answers: []answer{status(503, ""), status(502, "<html>"), theFakes}, requests: 3, grant: "org-1"},
		"503 with Retry-After":     {answers: []answer{status(503, "", "Retry-After", "7"), theFakes}, requests: 2, takes: 7 * time.Second, grant: "org-1"},
		"429, then":                {answers: []answer{status(429, "", "Retry-After", "1"), theFakes}, requests: 2, takes: time.Second, grant: "org-1"},
		"hangs once":               {answers: []answer{hang, theFakes}, requests: 2, takes: 10 * time.Second, grant: "org-1"},
		"breaks once":              {answers: []answer{broken(reset), theFakes}, requests: 2, grant: "org-1"},
		"panics once":              {answers: []answer{func(r *http.Request) (*http.Response, error) { panic(r.Header) }, theFakes}, requests: 2, grant: "org-1"},
		"Apple's edge":             {answers: []answer{status(204, ""), theFakes}, requests: 2, grant: "org-1"},
		"no name":                  {answers: []answer{status(200, `{"orgDetails":{"orgId":"org 7"}}`)}, requests: 1, grant: "org 7"},
		"a name of another type":   {answers: []answer{status(200, `{"user":[],"orgDetails":{"legalName":7,"orgId":"é"}}`)}, requests: 1, grant: "é"},
		"byte order mark":          {answers: []answer{status(200, "\ufeff"+`{"orgDetails":{"orgId":"org 7"}}`)}, requests: 1, grant: "org 7"},
		"text after it":            {answers: []answer{status(200, `{"orgDetails":{"orgId":"org 7"}}`+"\n<!-- proxy -->")}, requests: 1, grant: "org 7"},
		"503 for ever":             {answers: []answer{status(503, "")}, takes: 30 * time.Second, text: "status 503"},
		"429 for ever":             {answers: []answer{status(429, "")}, takes: 30 * time.Second, text: "status 429"},
		"503 for longer than that": {answers: []answer{status(503, "", "Retry-After", "60")}, requests: 1, text: "status 503"},
		"503 for just as long":     {answers: []answer{status(503, "", "Retry-After", "30")}, requests: 1, text: "status 503"},
		"hangs for ever":           {answers: []answer{hang}, requests: 3, takes: 30 * time.Second, text: "there is no response"},
		"breaks for ever":          {answers: []answer{broken(reset)}, takes: 30 * time.Second, text: "there is no response"},
		"401": {
			answers:  []answer{status(401, `[{"code":"Unauthorized","message":"Expired Token","details":{"header":"Authorization"}}]`)},
			requests: 1, text: "status 401",
		},
		"403":                  {answers: []answer{status(403, `{"error":"access_denied"}`)}, requests: 1, text: "status 403"},
		"404":                  {answers: []answer{status(404, "")}, requests: 1, text: "status 404"},
		"501":                  {answers: []answer{status(501, "")}, requests: 1, text: "status 501"},
		"a redirect":           {answers: []answer{status(302, "", "Location", "https://portal.example/login")}, requests: 1, text: "status 302"},
		"an organisation: 201": {answers: []answer{status(201, `{"orgDetails":{"orgId":"org-1"}}`)}, requests: 1, text: "status 201"},
		"HTML":                 {answers: []answer{status(200, "<html>")}, requests: 1, text: "the response is not the documented JSON"},
		"no organisation":      {answers: []answer{status(200, `{}`)}, requests: 1, text: "the response is not the documented JSON"},
		"a list":               {answers: []answer{status(200, `[]`)}, requests: 1, text: "the response is not the documented JSON"},
		"half of it":           {answers: []answer{status(200, `{"orgDetails":{"orgId":"org-1"`)}, requests: 1, text: "the response is not the documented JSON"},
		"a number":             {answers: []answer{named(`7`)}, requests: 1, text: "the response is not the documented JSON"},
		"an empty name":        {answers: []answer{named(`""`)}, requests: 1, text: "the response is not the documented JSON"},
		"a blank name":         {answers: []answer{named(`" "`)}, requests: 1, text: "the response is not the documented JSON"},
		"the longest name":     {answers: []answer{named(`"` + strings.Repeat("o", 256) + `"`)}, requests: 1, grant: strings.Repeat("o", 256)},
		"a long name":          {answers: []answer{named(`"` + strings.Repeat("o", 257) + `"`)}, requests: 1, text: "the response is not the documented JSON"},
		"NUL":                  {answers: []answer{named(`"org\u0000"`)}, requests: 1, text: "the response is not the documented JSON"},
		"not UTF-8":            {answers: []answer{named("\"org\xff\"")}, requests: 1, text: "the response is not the documented JSON"},
		"a token": {
			answers: []answer{func(r *http.Request) (*http.Response, error) {
				return named(`"` + r.Header.Get("Authorization")[len("Bearer "):] + `"`)(r)
			}},
			requests: 1, text: "the response is not the documented JSON",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *consent) {
				back, m := c.arrive(), c.manager()
				c.on(mePath, test.answers...)
				start := time.Now()
				connection, err := back.connect(m)
				took := time.Since(start)
				if test.text == "" {
					require.NoError(t, err)
					assert.Equal(t, test.grant, connection.Grant)
					_, err = m.Token(t.Context(), test.grant)
					assert.NoError(t, err)
				} else {
					c.failed(t, connection, err, false)
					assert.EqualError(t, err, failed+test.text+": applebusiness: unavailable")
					assert.Equal(t, applebusiness.ActionStartOver, applebusiness.Troubleshoot(err).Action)
					assert.Zero(t, c.store.total())
					_, again := back.connect(m)
					assert.Equal(t, err, again)
				}
				assert.InDelta(t, test.takes, took, float64(5*time.Second))
				if test.requests > 0 {
					assert.Equal(t, test.requests, c.requests(mePath))
				}
				assert.LessOrEqual(t, c.requests(mePath), 20, "with a backoff")
				assert.Equal(t, 1, c.exchanges())
				for _, r := range c.arrived {
					assert.Equal(t, "apple.example", r.URL.Host)
					assert.True(t, r.Close, "a connection of its own")
				}
			})
		})
	}
}
