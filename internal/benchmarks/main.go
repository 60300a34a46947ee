// Command benchmarks compares this library with golang.org/x/oauth2, zitadel/oidc, ory/fosite, encoding/json, jq and grep: the
// time to decode and classify an error of Apple's, to get a token and to read a log, the requests that are sent, also by a
// fleet at Apple's limit, and the memory that a huge response costs.
//
//	go run .                          prints everything
//	go run . -picture requests.svg    draws the requests of a fleet over time, as README shows them
//
// It takes three minutes, and its last table needs Linux. Times differ from machine to machine and from minute to minute:
// only the ratios say anything. Each is the median of the ratios within a round, see measure.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"text/tabwriter"
)

func main() {
	read := flag.String("read", "", "for the processes that this program starts: measure the reader of this name")
	from := flag.String("from", "", "the token URL for -read")
	wave := flag.String("wave", "", "likewise: run the wave of this way")
	n := flag.Int("grants", 0, "for -wave")
	picture := flag.String("picture", "", "draw the requests of a fleet over time into this SVG `file`")
	testing.Init()
	flag.Parse()
	_ = flag.Set("test.benchtime", benchtime)

	var err error
	switch {
	case *read != "":
		err = printCost(*read, *from)
	case *wave != "":
		printWave(*wave, *n)
	case *picture != "":
		err = drawWaves(*picture, 500)
	default:
		err = printAll()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

func printAll() error {
	apple, err := readResponse(disconnected)
	if err != nil {
		return err
	}
	printDecoding(apple)
	printTokenRequests(apple)
	printMatching(apple)
	printTokens()
	printParallel(apple)
	for _, print := range []func() error{printLines, printWire, printWaves, printMemory} {
		if err := print(); err != nil {
			return err
		}
	}
	return nil
}

func printDecoding(apple response) {
	fmt.Printf("Decode and classify an error body, medians of %d runs of %s each\n\n", rounds, benchtime)
	timings := measure(decoders(apple))
	peer := fastest(timings[firstPeer:])
	table := newTable("", "ns/op", "B/op", "allocs/op", "to encoding/json", "to the fastest peer")
	for _, t := range timings {
		table.row(t.name, t.cells(), times(t.ns, timings[0].ns), times(t.ns, peer.ns))
	}
	table.print()
}

func printTokenRequests(apple response) {
	fmt.Printf("The same out of a token request by x/oauth2, with a response in memory, medians of %d runs\n\n", rounds)
	printAgainstFirst(measure(tokenRequests(apple)))
}

func printMatching(apple response) {
	fmt.Printf("errors.Is, medians of %d runs\n\n", rounds)
	printAgainstFirst(measure(matchers(apple)))
}

func printTokens() {
	fmt.Printf("A token that is valid, medians of %d runs\n\n", rounds)
	printAgainstFirst(measure(validTokens()))
}

func printAgainstFirst(timings []timing) {
	table := newTable("", "ns/op", "B/op", "allocs/op", "to the first")
	for _, t := range timings {
		table.row(t.name, t.cells(), times(t.ns, timings[0].ns))
	}
	table.print()
}

func printParallel(apple response) {
	cores := runtime.GOMAXPROCS(0)
	fmt.Printf("Decode on one core and on all %d, medians of %d runs\n\n", cores, rounds)
	table := newTable("", "ns/op on 1", fmt.Sprintf("ns/op on %d", cores), "times as fast")
	for _, t := range measureParallel(append([]contender{arithmetic}, decoders(apple)[:firstPeer]...)) {
		table.row(t.name, whole(t.ns), whole(t.nsAllCores), times(t.ns, t.nsAllCores))
	}
	table.print()
}

func printLines() error {
	readers, speeds, err := measureLines()
	if err != nil {
		return err
	}
	fmt.Printf("The errors of a log of %d lines of slog's JSON, one in %d an error, on one core, medians of %d runs\n\n", logLines, linesPerError, lineRounds)
	table := newTable("", "MB/s", "times as fast as explain")
	for i, r := range readers {
		if speeds[i] == nil {
			table.row(r.name, "not installed")
			continue
		}
		table.row(r.name, whole(speeds[i]), times(speeds[i], speeds[0]))
	}
	table.print()
	return nil
}

func printWire() error {
	fmt.Print("Requests at a server on loopback. For the exchange it takes JSON only, as Apple's does; for the rest forms too, since\n")
	fmt.Print("x/oauth2 alone would hear nothing about the grant. AuthStyleAutoDetect is x/oauth2's default.\n\n")
	heads := []string{""}
	exchange := []string{"an exchange of a wrong code"}
	reasons := []string{"  its Reason in the end"}
	revoked := []string{"1,000 calls of Token on a revoked grant"}
	fleetRequests := []string{"six processes whose shared token expires"}
	fleetTokens := []string{"  of them with a token"}
	fleetRevoked := []string{`  of them told "revoked", which is false`}
	for _, c := range clients {
		heads = append(heads, c.name)
		requests, reason := failingExchange(c)
		exchange = append(exchange, fmt.Sprint(requests))
		reasons = append(reasons, string(reason))
		requests, err := revokedGrant(c)
		if err != nil {
			return err
		}
		revoked = append(revoked, fmt.Sprint(requests))
		count, err := fleet(c)
		if err != nil {
			return err
		}
		fleetRequests = append(fleetRequests, fmt.Sprint(count.requests))
		fleetTokens = append(fleetTokens, fmt.Sprint(count.tokens))
		fleetRevoked = append(fleetRevoked, fmt.Sprint(count.revoked))
	}
	table := newTable(heads...)
	for _, row := range [][]string{exchange, reasons, revoked, fleetRequests, fleetTokens, fleetRevoked} {
		table.row(row...)
	}
	table.print()
	return nil
}

func printWaves() error {
	fmt.Printf("The access tokens of all grants expire. %d processes want each of them twice, with %d connections to the database each;\n", waveProcesses, connections)
	fmt.Printf("Apple takes %s, and allows %d requests a second. Virtual time.\n\n", latency, perSecond)
	table := newTable("grants", "", "requests", "of them with 429", "customers told to reconnect", "seconds")
	for _, n := range []int{500, 5000} {
		table.row(fmt.Sprint(n), "ideal", fmt.Sprint(n), "0", "0", fmt.Sprintf("%.1f", idealTime(n).Seconds()))
		for _, w := range ways {
			result, err := runWave(w, n)
			if err != nil {
				return err
			}
			table.row("", w.name, fmt.Sprint(result.Requests), fmt.Sprint(result.TooMany), fmt.Sprint(result.ToldRevoked), fmt.Sprintf("%.1f", result.Took.Seconds()))
		}
	}
	table.print()
	return nil
}

func printMemory() error {
	const large, smaller = 1 << 30, 64 << 20
	fmt.Printf("Memory for a response of 1 GiB (%s: of 64 MiB), the most of %d processes\n\n", naive, processes)
	table := newTable("", "status", "peak KiB", "allocated KiB", "error found")
	for _, r := range readers {
		size := large
		if r.name == naive {
			size = smaller
		}
		server := newHugeServer(size)
		defer server.Close()
		for _, status := range []string{"200", "400"} {
			worst, err := worstCost(r.name, server.URL+"?status="+status)
			if err != nil {
				return err
			}
			table.row(r.name, status, fmt.Sprint(worst.Peak>>10), fmt.Sprint(worst.Allocated>>10), fmt.Sprint(worst.Found))
		}
	}
	table.print()
	return nil
}

type table struct{ *tabwriter.Writer }

func newTable(heads ...string) table {
	t := table{tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)}
	t.row(heads...)
	return t
}

func (t table) row(cells ...string) { fmt.Fprintln(t, strings.Join(cells, "\t")) }

func (t table) print() { t.Flush(); fmt.Println() }

func (t timing) cells() string {
	return fmt.Sprintf("%s\t%s\t%s", whole(t.ns), whole(t.bytes), whole(t.allocs))
}

func whole(values []float64) string { return fmt.Sprintf("%.0f", median(values)) }

func times(a, b []float64) string { return fmt.Sprintf("%.2f", ratio(a, b)) }
