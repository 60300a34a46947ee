// Command benchmarks shows what a fleet sends to Apple when the access tokens of all its grants expire at once: with x/oauth2
// alone, with a locked row for each grant, and with grants.Manager. Time is virtual: the table and the picture are the same
// each time.
//
//	go run .                          prints a table, in about a minute
//	go run . -picture requests.svg    draws the requests over time, as pgxstore's README shows them, in a second
//
// What depends on the machine is in this package's benchmarks, which take about a minute. They compare decoding and matching an
// error with zitadel/oidc, ory/fosite and encoding/json, a token request and the memory for a huge response with x/oauth2, a valid
// token with a mutex and a map, and explain with jq and grep:
//
//	go test -run '^$' -bench .
package main

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"text/tabwriter"
)

func main() {
	path := flag.String("picture", "", "draw the requests of a fleet over time into this SVG `file`")
	testing.Init()
	flag.Parse()
	show := printWaves
	if *path != "" {
		show = func(run func(way, int) wave) error { return drawWaves(*path, run) }
	}
	// Only a test has virtual time, so the program is one: minutes of waiting take moments.
	all := func(string, string) (bool, error) { return true, nil }
	testing.Main(all, []testing.InternalTest{{Name: "waves", F: func(t *testing.T) {
		run := func(w way, grants int) (result wave) {
			synctest.Test(t, func(*testing.T) { result = runWave(w, grants) })
			return result
		}
		if err := show(run); err != nil {
			t.Fatal(err)
		}
	}}}, nil, nil)
}

func printWaves(run func(way, int) wave) error {
	fmt.Printf("The access tokens of all grants expire. %d processes want each of them twice, with %d connections to the database each;\n", waveProcesses, connections)
	fmt.Printf("Apple takes %s, and allows %d requests a second. Virtual time.\n\n", latency, perSecond)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "grants\t\trequests\tof them with 429\tcustomers told to reconnect\tseconds")
	for _, n := range []int{500, 5000} {
		fmt.Fprintf(table, "%d\tideal\t%d\t0\t0\t%.1f\n", n, n, idealTime(n).Seconds())
		for _, w := range ways {
			result := run(w, n)
			fmt.Fprintf(table, "\t%s\t%d\t%d\t%d\t%.1f\n", w.name, result.requests(), result.tooMany, result.toldRevoked, result.took.Seconds())
		}
	}
	return table.Flush()
}
