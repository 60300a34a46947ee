//go:build unix

package grants_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness/grants"
)

// How long the process below waits for a response. It is stopped for longer.
const patience = 4 * time.Second

// A process is stopped while its request is under way, as by SIGSTOP, or with its machine, until the request's time is over
// by the clock. It reads the response all the same: the refresh token in it is the only one that works.
func TestStoppedProcess(t *testing.T) {
	t.Parallel()
	sent, resumed := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"new",`)
		w.(http.Flusher).Flush()
		close(sent)
		<-resumed
		fmt.Fprint(w, `"refresh_token":"next","token_type":"Bearer","expires_in":3600}`)
	}))
	defer server.Close()

	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestStoppedProcessChild$")
	command.Env = append(os.Environ(), "TOKEN_URL="+server.URL, "GORACE=atexit_sleep_ms=0")
	var output strings.Builder
	command.Stdout, command.Stderr = &output, os.Stderr
	require.NoError(t, command.Start())
	<-sent
	require.NoError(t, command.Process.Signal(syscall.SIGSTOP))
	time.Sleep(patience + time.Second)
	require.NoError(t, command.Process.Signal(syscall.SIGCONT))
	time.AfterFunc(patience/10, func() { close(resumed) }) // by then a timeout of the clock would have ended the request
	require.NoError(t, command.Wait(), output.String())
	assert.Contains(t, output.String(), "new <nil>, next is stored <nil>\n")
}

// TestStoppedProcessChild is the process.
func TestStoppedProcessChild(t *testing.T) {
	tokenURL := os.Getenv("TOKEN_URL")
	if tokenURL == "" {
		t.Skip("is run by TestStoppedProcess")
	}
	store := grants.NewMemoryStore()
	require.NoError(t, store.Put(t.Context(), "a", &oauth2.Token{RefreshToken: "first"}))
	config := *testConfig
	config.Endpoint.TokenURL = tokenURL
	m := grants.New(&config, store, &grants.Options{HTTPClient: &http.Client{Timeout: patience}})
	token, err := m.Token(t.Context(), "a")
	if err != nil {
		token = new(oauth2.Token)
	}
	_ = m.Close(t.Context())
	record, loadErr := store.Load(t.Context(), "a")
	require.NoError(t, loadErr)
	fmt.Printf("%s %v, %s is stored %v\n", token.AccessToken, err, record.Token.RefreshToken, record.Dead)
}
