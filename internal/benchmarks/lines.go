package main

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
)

// The log of a day: of its lines 5 % hold an error.
const (
	logLines      = 400_000
	linesPerError = 20
	lineRounds    = 11
)

// lineReader is a program that finds the errors of a log.
type lineReader struct {
	name string
	args []string
	want int // lines that it prints
}

// lineReaders also builds explain, in a folder.
func lineReaders(folder string) ([]lineReader, error) {
	explain := filepath.Join(folder, "explain")
	build := exec.Command("go", "build", "-o", explain, "./examples/explain")
	build.Dir = "../.."
	build.Stderr = os.Stderr
	found := logLines / linesPerError
	return []lineReader{
		{"explain -lines", []string{explain, "-lines"}, found + 6}, // the counts at the end
		{"jq -c 'select(.error)'", []string{"jq", "-c", "select(.error)"}, found},
		{"grep '\"error\":'", []string{"grep", `"error":`}, found},
	}, build.Run()
}

// measureLines returns the megabytes a second of each program on one processor, a value for each round. A program that is
// not installed has none.
func measureLines() ([]lineReader, [][]float64, error) {
	folder, err := os.MkdirTemp("", "benchmarks")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "app.log")
	size, err := writeLog(path)
	if err != nil {
		return nil, nil, err
	}
	readers, err := lineReaders(folder)
	if err != nil {
		return nil, nil, err
	}
	speeds := make([][]float64, len(readers))
	for range lineRounds {
		for _, i := range rand.Perm(len(readers)) {
			r := readers[i]
			if _, err := exec.LookPath(r.args[0]); err != nil {
				continue
			}
			start := time.Now()
			lines, err := r.run(path)
			took := time.Since(start)
			if err != nil {
				return nil, nil, err
			}
			if lines != r.want {
				return nil, nil, fmt.Errorf("%s prints %d lines, not %d", r.name, lines, r.want)
			}
			speeds[i] = append(speeds[i], float64(size)/1e6/took.Seconds())
		}
	}
	return readers, speeds, nil
}

// run returns how many lines the program prints about the log.
func (r lineReader) run(path string) (int, error) {
	var stdout, stderr bytes.Buffer
	command := exec.Command(r.args[0], append(r.args[1:], path)...)
	command.Env = append(os.Environ(), "GOMAXPROCS=1")
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); stderr.Len() > 0 {
		return 0, fmt.Errorf("%s: %w: %s", r.name, err, stderr.Bytes())
	}
	return bytes.Count(stdout.Bytes(), []byte("\n")), nil // explain's status is 1 if it does not know an error
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
