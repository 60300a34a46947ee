package benchmarks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"testing"

	httphelper "github.com/zitadel/oidc/v3/pkg/http"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
)

// newHugeServer responds with size bytes of valid JSON: Apple's error, and spaces up to its end. The query says which
// status it has, and whether the body is small after all.
func newHugeServer(size int) *httptest.Server {
	const start, end = `{"error":"invalid_grant","error_description":"Invalid refresh_token"`, `}`
	spaces := bytes.Repeat([]byte(" "), 32<<10)
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		status, _ := strconv.Atoi(r.FormValue("status"))
		padding := size - len(start) - len(end)
		if r.FormValue("small") != "" {
			padding = 0
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, err := io.WriteString(w, start)
		for ; err == nil && padding > 0; padding -= len(spaces) {
			_, err = w.Write(spaces[:min(padding, len(spaces))])
		}
		_, _ = io.WriteString(w, end)
	}))
}

// reader is a way to read the response of a token endpoint. It returns what it makes of it.
type reader struct {
	name string
	read func(tokenURL string) error
}

var readers = []reader{
	{"applebusiness.ParseTokenResponse", func(tokenURL string) error {
		response, err := http.PostForm(tokenURL, nil)
		if err != nil {
			return err
		}
		_, err = applebusiness.ParseTokenResponse(response)
		return err
	}},
	{"x/oauth2 with WithJSON and Wrap", func(tokenURL string) error {
		config := &oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: tokenURL, AuthStyle: oauth2.AuthStyleInParams}}
		ctx := applebusiness.WithJSON(context.Background(), config.Endpoint.TokenURL)
		_, err := config.TokenSource(ctx, expired("r0")).Token()
		return applebusiness.Wrap(err)
	}},
	{"x/oauth2", func(tokenURL string) error {
		config := &oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: tokenURL, AuthStyle: oauth2.AuthStyleInParams}}
		_, err := config.TokenSource(context.Background(), expired("r0")).Token()
		return err
	}},
	{"zitadel httphelper.HttpRequest", func(tokenURL string) error {
		request, err := http.NewRequest(http.MethodPost, tokenURL, nil)
		if err != nil {
			return err
		}
		return httphelper.HttpRequest(http.DefaultClient, request, new(oauth2.Token))
	}},
	{naive, func(tokenURL string) error {
		response, err := http.PostForm(tokenURL, nil)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		var failed struct {
			Error applebusiness.Code `json:"error"`
		}
		if err := json.Unmarshal(body, &failed); err != nil {
			return err
		}
		return failed.Error
	}},
}

const naive = "io.ReadAll and encoding/json"

// readOnce returns the bytes that one reading allocates, an upper bound of what the heap can grow by, and whether the
// reader found the error.
func readOnce(r reader, tokenURL string) (allocated int, found bool) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := r.read(tokenURL)
	runtime.ReadMemStats(&after)
	failed, _ := errors.AsType[*oauth2.RetrieveError](err)
	found = applebusiness.CodeOf(err) == applebusiness.CodeInvalidGrant || failed != nil && failed.ErrorCode == "invalid_grant"
	return int(after.TotalAlloc - before.TotalAlloc), found
}

// B/op is what one reading of 64 MiB allocates.
func BenchmarkHugeResponse(b *testing.B) {
	server := newHugeServer(64 << 20)
	defer server.Close()
	for _, r := range readers {
		b.Run(r.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = r.read(server.URL + "?status=400")
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
