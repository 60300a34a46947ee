package main

import (
	"fmt"
	"maps"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
)

// These are the facts that do not depend on the machine's speed; the command measures the rest.

func readTestResponse(t *testing.T, name string) response {
	t.Helper()
	apple, err := readResponse(name)
	if err != nil {
		t.Fatal(err)
	}
	return apple
}

func TestEveryContenderRecognisesTheError(t *testing.T) {
	apple := readTestResponse(t, disconnected)
	for _, group := range [][]contender{decoders(apple), tokenRequests(apple), matchers(apple)} {
		for _, c := range group {
			if !c.run() {
				t.Errorf("%s does not recognise the error", c.name)
			}
		}
	}
}

// A wrong grant_type is no customer who disconnected.
func TestOnlyTheDescriptionTells(t *testing.T) {
	want := map[string]bool{ // whether it is taken for one
		"encoding/json, two fields, ==":              false,
		"applebusiness.ParseTokenError":              true, // decodes only
		"applebusiness.ParseTokenError, errors.Is":   false,
		"zitadel oidc.Error, errors.Is":              true,
		"ory fosite.RFC6749Error, errors.Is":         true,
		"x/oauth2, errors.As, ErrorCode":             true,
		"x/oauth2 with Wrap, errors.Is":              false,
		"x/oauth2 with WithJSON and Wrap, errors.Is": false,
	}
	apple := readTestResponse(t, wrongGrantType)
	got := make(map[string]bool)
	for _, c := range append(decoders(apple), tokenRequests(apple)...) {
		got[c.name] = c.run()
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRequestsOnTheWire(t *testing.T) {
	tests := []struct {
		exchange int
		reason   applebusiness.Reason
		revoked  int
		fleet    fleetCount
	}{
		{2, applebusiness.ErrUnsupportedMediaType, 2000, fleetCount{requests: 12, tokens: 1, revoked: 5}},
		{1, applebusiness.ErrUnsupportedMediaType, 1000, fleetCount{requests: 6, tokens: 1, revoked: 5}},
		{1, applebusiness.ErrInvalidRefreshToken, 1, fleetCount{requests: 1, tokens: 6, revoked: 0}},
	}
	for i, want := range tests {
		t.Run(clients[i].name, func(t *testing.T) {
			if got, reason := failingExchange(clients[i]); got != want.exchange || reason != want.reason {
				t.Errorf("an exchange of a wrong code: got %d, %q, want %d, %q", got, reason, want.exchange, want.reason)
			}
			if got, err := revokedGrant(clients[i]); err != nil || got != want.revoked {
				t.Errorf("a revoked grant: got %d, %v, want %d", got, err, want.revoked)
			}
			if got, err := fleet(clients[i]); err != nil || got != want.fleet {
				t.Errorf("a fleet: got %+v, %v, want %+v", got, err, want.fleet)
			}
		})
	}
}

// What a reading allocates bounds what the heap grows by, however the garbage collector runs. The server's part is in it. Of a
// success 1 MiB is read, as x/oauth2 does, and of an error 64 KiB.
func TestMemoryOfAHugeResponse(t *testing.T) {
	server := newHugeServer(1 << 30)
	defer server.Close()
	bounded := map[string]bool{"applebusiness.ParseTokenResponse": true, "x/oauth2 with WithJSON and Wrap": true}
	for _, r := range readers {
		if r.name == naive { // it would need gigabytes
			continue
		}
		for _, status := range []int{http.StatusOK, http.StatusBadRequest} {
			tokenURL := fmt.Sprintf("%s/?status=%d", server.URL, status)
			_ = r.read(tokenURL + "&small=1")
			allocated, found := readOnce(r, tokenURL)
			limit := 1 << 20
			if status == http.StatusOK {
				limit = 8 << 20
			}
			if bounded[r.name] && allocated >= limit {
				t.Errorf("%s at status %d: allocated %d bytes", r.name, status, allocated)
			}
			if status == http.StatusBadRequest && found != bounded[r.name] { // the others look at the whole or not at all
				t.Errorf("%s at status %d: found the error: %t", r.name, status, found)
			}
		}
	}
}

// The Manager sends a request for each grant, never more than are allowed, and is done when it can be. The ways before it are
// what README says of them.
func TestWave(t *testing.T) {
	const n = 200
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			var got wave
			synctest.Test(t, func(*testing.T) { got = waveInBubble(w, n) })
			isManager := w.name == "grants.Manager"
			if isManager != (got.Requests == n && got.TooMany == 0) {
				t.Errorf("%d requests, of them %d too many", got.Requests, got.TooMany)
			}
			if isRotationUnknown := w.name == "x/oauth2 alone"; isRotationUnknown != (got.ToldRevoked > 0) {
				t.Errorf("%d customers were told to reconnect", got.ToldRevoked)
			}
			if isManager && got.Took > idealTime(n)+time.Second {
				t.Errorf("it took %s, where %s are ideal", got.Took, idealTime(n))
			}
		})
	}
}
