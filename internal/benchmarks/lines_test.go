package benchmarks

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
)

// The log of a day: of its lines 5 % hold an error.
const (
	logLines      = 400_000
	linesPerError = 20
)

// The errors of a log, found on one core. What is not installed is left out.
func BenchmarkLines(b *testing.B) {
	folder := b.TempDir()
	path, explain := filepath.Join(folder, "app.log"), filepath.Join(folder, "explain")
	size, err := writeLog(path)
	if err != nil {
		b.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", explain, "./examples/explain")
	build.Dir = "../.."
	if output, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%s", output)
	}
	for _, reader := range [][]string{{explain, "-lines"}, {"jq", "-c", "select(.error)"}, {"grep", `"error":`}} {
		if _, err := exec.LookPath(reader[0]); err != nil {
			continue
		}
		b.Run(filepath.Base(reader[0]), func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				command := exec.Command(reader[0], append(reader[1:], path)...)
				command.Env = append(os.Environ(), "GOMAXPROCS=1")
				output, _ := command.Output() // the status of explain is 1 if it does not know an error
				if found := bytes.Count(output, []byte("\n")); found < logLines/linesPerError {
					b.Fatalf("%d lines for %d errors", found, logLines/linesPerError)
				}
			}
		})
	}
}

// writeLog writes a log in slog's JSON, and returns its length.
func writeLog(path string) (int64, error) {
	file, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	out := bufio.NewWriter(file)
	log := slog.New(slog.NewJSONHandler(out, nil))
	header := http.Header{"Apple-Request-Id": {"5f0c7a"}, "Retry-After": {"30"}}
	errors := []*applebusiness.Error{
		applebusiness.ParseTokenError(http.StatusUnauthorized, header, []byte(`{"error":"invalid_grant","error_description":"Invalid refresh_token"}`)),
		applebusiness.ParseTokenError(http.StatusServiceUnavailable, header, nil),
		applebusiness.ParseTokenError(http.StatusUnauthorized, header, []byte(`{"error":"invalid_client","error_description":"Invalid client_id or client_secret"}`)),
	}
	for i := range logLines {
		n := i / linesPerError
		switch {
		case i%linesPerError == 0 && n%2 == 0:
			log.Error("refresh failed", "customer", i, "error", errors[n%3])
		case i%linesPerError == 0:
			log.Error("refresh failed", "customer", i, "error", fmt.Errorf("customer %d: %w", i, errors[n%3]).Error())
		case i%3 == 0:
			log.Info("token refreshed", "customer", i, "endpoint", "token", "duration", 230*time.Millisecond, "grant_type", "refresh_token")
		default:
			log.Info("request", "method", "GET", "path", fmt.Sprintf("/v1/places/%d/hours", i), "status", 200, "bytes", 5120+i%700,
				"duration", 12*time.Millisecond, "user_agent", "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101", "trace_id", fmt.Sprintf("%032x", i))
		}
	}
	if err := out.Flush(); err != nil {
		return 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
