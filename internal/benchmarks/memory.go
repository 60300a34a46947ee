package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

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

// cost is what it took to read one response.
type cost struct {
	Peak      int  // by how many bytes the memory of the process grew at its highest (VmHWM)
	Allocated int  // bytes on the heap, those included that were freed meanwhile
	Found     bool // the error at the beginning
}

const processes = 3 // for each reader and status

// worstCost is the highest of several processes' costs. The error is found if all of them find it.
func worstCost(name, tokenURL string) (cost, error) {
	worst := cost{Found: true}
	for range processes {
		measured, err := measureInChild(name, tokenURL)
		if err != nil {
			return cost{}, err
		}
		worst.Peak = max(worst.Peak, measured.Peak)
		worst.Allocated = max(worst.Allocated, measured.Allocated)
		worst.Found = worst.Found && measured.Found
	}
	return worst, nil
}

// measureInChild measures in a process of its own, where nobody else has used any memory before.
func measureInChild(name, tokenURL string) (cost, error) {
	program, err := os.Executable()
	if err != nil {
		return cost{}, err
	}
	child := exec.Command(program, "-read", name, "-from", tokenURL)
	child.Stderr = os.Stderr
	output, err := child.Output()
	if err != nil {
		return cost{}, err
	}
	var measured cost
	return measured, json.Unmarshal(output, &measured)
}

// printCost is what the child does.
func printCost(name, tokenURL string) error {
	for _, r := range readers {
		if r.name == name {
			measured, err := measureCost(r, tokenURL)
			if err != nil {
				return err
			}
			return json.NewEncoder(os.Stdout).Encode(measured)
		}
	}
	return fmt.Errorf("no reader is called %q", name)
}

func measureCost(r reader, tokenURL string) (cost, error) {
	_ = r.read(tokenURL + "&small=1") // what a first request costs does not count
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // VmHWM starts anew
		return cost{}, err
	}
	before, err := peakMemory()
	if err != nil {
		return cost{}, err
	}
	allocated, found := readOnce(r, tokenURL)
	after, err := peakMemory()
	return cost{after - before, allocated, found}, err
}

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

// peakMemory returns the highest resident memory of this process since clear_refs, in bytes. Only Linux tells it.
func peakMemory() (int, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kilobytes, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.Atoi(kilobytes)
	return n << 10, err
}
