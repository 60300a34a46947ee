package main

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed-a5f25c57/applebusiness"
)

// BenchmarkLines reads the log of a day, of whose lines 5 % hold an error, with one processor, and lets jq pick the same
// lines:
//
//	go test -run '^$' -bench Lines ./examples/explain
func BenchmarkLines(b *testing.B) {
	const lines, size = 400_000, 20
	path := filepath.Join(b.TempDir(), "app.log")
	bytes := writeLog(b, path, lines, size)
	explain, err := build()
	require.NoError(b, err)
	b.Run("explain", func(b *testing.B) {
		b.SetBytes(bytes)
		for b.Loop() {
			found := runOnOne(b, explain, "-lines", path)
			require.Equal(b, lines/size, strings.Count(found[:strings.Index(found, "\n\n")+1], "\n"))
		}
	})
	b.Run("jq", func(b *testing.B) {
		jq, err := exec.LookPath("jq")
		if err != nil {
			b.Skip("jq is not installed")
		}
		b.SetBytes(bytes)
		for b.Loop() {
			require.Equal(b, lines/size, strings.Count(runOnOne(b, jq, "-c", "select(.error)", path), "\n"))
		}
	})
}

// runOnOne runs a program that may use one processor at a time.
func runOnOne(b *testing.B, path string, args ...string) string {
	b.Helper()
	var stdout bytes.Buffer
	command := exec.Command(path, args...)
	command.Env = append(os.Environ(), "GOMAXPROCS=1")
	command.Stdout, command.Stderr = &stdout, os.Stderr
	_ = command.Run() // explain's status is 1 if an error is not documented
	return stdout.String()
}

// writeLog writes a log in slog's JSON of which every n-th line holds an error, and returns its length.
func writeLog(b *testing.B, path string, lines, n int) int64 {
	b.Helper()
	file, err := os.Create(path)
	require.NoError(b, err)
	defer file.Close()
	out := bufio.NewWriter(file)
	log := slog.New(slog.NewJSONHandler(out, nil))
	header := http.Header{"Apple-Request-Id": {"5f0c7a"}, "Retry-After": {"30"}}
	errors := []*applebusiness.Error{
		applebusiness.ParseTokenError(http.StatusUnauthorized, header, []byte(body)),
		applebusiness.ParseTokenError(http.StatusServiceUnavailable, header, nil),
		applebusiness.ParseTokenError(http.StatusUnauthorized, header, []byte(`{"error":"invalid_client","error_description":"Invalid client_id or client_secret"}`)),
	}
	for i := range lines {
		switch {
		case i%n == 0 && i/n%2 == 0:
			log.Error("refresh failed", "customer", i, applebusiness.LogAttr(errors[i/n%3]).Key, errors[i/n%3])
		case i%n == 0:
			log.Error("refresh failed", "customer", i, "error", fmt.Errorf("customer %d: %w", i, errors[i/n%3]).Error())
		case i%3 == 0:
			log.Info("token refreshed", "customer", i, "endpoint", "token", "duration", 230*time.Millisecond, "grant_type", "refresh_token")
		default:
			log.Info("request", "method", "GET", "path", fmt.Sprintf("/v1/places/%d/hours", i), "status", 200, "bytes", 5120+i%700,
				"duration", 12*time.Millisecond, "user_agent", "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101", "trace_id", fmt.Sprintf("%032x", i))
		}
	}
	require.NoError(b, out.Flush())
	info, err := file.Stat()
	require.NoError(b, err)
	return info.Size()
}
