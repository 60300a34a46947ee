// Command benchmarks compares this library with golang.org/x/oauth2, zitadel/oidc, ory/fosite and encoding/json: the time
// to decode and classify an error of Apple's, the requests that are sent, and the memory that a hostile answer costs.
//
//	go run .
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
	apple, err := readAnswer()
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err, "(run it in its own folder)")
		os.Exit(1)
	}
	testing.Init()
	_ = flag.Set("test.benchtime", "50ms")

	decode := measure(decoders(apple))
	peers := decode[3:]
	fast := fastest(peers)
	fmt.Printf("Decode and classify %s\n\n", apple.body)
	table := newTable("", "ns/op", "B/op", "allocs/op", "to encoding/json", "to "+fast.name)
	for _, t := range decode {
		table.row(t.name, t.cells(), times(ratio(t.ns, decode[0].ns)), times(ratio(t.ns, fast.ns)))
	}
	table.print()
	_ = runtime.NumCPU
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
	return fmt.Sprintf("%.0f\t%.0f\t%.0f", median(t.ns), median(t.bytes), median(t.allocs))
}

func times(ratio float64) string { return fmt.Sprintf("%.2f", ratio) }
