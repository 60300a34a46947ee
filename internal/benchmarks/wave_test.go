package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// The Manager sends a request for each grant, never more than are allowed, and is done when it can be. The
// other ways send more than that, and x/oauth2 alone tells customers to reconnect who have revoked nothing.
func TestWave(t *testing.T) {
	const n = 200
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			var got wave
			synctest.Test(t, func(*testing.T) { got = runWave(w, n) })
			manager := w.name == "grants.Manager"
			if manager != (got.requests() == n && got.tooMany == 0) {
				t.Errorf("%d requests, of them %d too many", got.requests(), got.tooMany)
			}
			if alone := w.name == "x/oauth2 alone"; alone != (got.toldRevoked > 0) {
				t.Errorf("%d customers were told to reconnect", got.toldRevoked)
			}
			if manager && got.took > idealTime(n)+time.Second {
				t.Errorf("it took %s, where %s are ideal", got.took, idealTime(n))
			}
		})
	}
}

// The picture that pgxstore's README shows is the one that is drawn, which is the same each time.
func TestPicture(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drawn.svg")
	err := drawWaves(path, func(w way, n int) (result wave) {
		synctest.Test(t, func(*testing.T) { result = runWave(w, n) })
		return result
	})
	if err != nil {
		t.Fatal(err)
	}
	drawn, _ := os.ReadFile(path)
	shown, err := os.ReadFile("requests.svg")
	if err != nil || !bytes.Equal(drawn, shown) {
		t.Errorf("it differs: go run . -picture requests.svg (%v)", err)
	}
}
