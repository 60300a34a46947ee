package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/internal/neterr"
)

const (
	maxLine      = 1 << 20 // what is looked at of one line
	maxLines     = 64      // of a record
	maxCustomers = 1 << 16 // that are told apart, for each kind of failure
)

// log is what -lines found so far: a record that may go on, and a count for each kind of failure, which are bounded in number.
type log struct {
	out    *bufio.Writer
	asJSON bool
	record []byte // lines that may go on
	lines  int    // how many these are
	told   bool   // one of them holds a hint
	next   string // what may follow
	line   int    // the number of the one before
	others int    // lines that tell of no failure
	code   int
	counts map[string]*count
}

// count is what the summary says of one kind of failure.
type count struct {
	Count     int                  `json:"count"`
	Reason    string               `json:"reason"`
	Action    applebusiness.Action `json:"action"`
	First     string               `json:"first,omitempty"`
	Last      string               `json:"last,omitempty"`
	Customers int                  `json:"customers"`
	Line      int                  `json:"line"` // of the first one
	customers map[string]bool
}

// explainLines explains the lines of a log and sums up. An interrupt ends the log.
func explainLines(input io.Reader, asJSON bool, stdout io.Writer) (int, error) {
	reader, writer := io.Pipe()
	defer reader.Close()
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	context.AfterFunc(interrupted, func() { _ = writer.Close() })
	go func() {
		_, err := io.Copy(writer, input)
		_ = writer.CloseWithError(err)
	}()
	r := &log{out: bufio.NewWriter(stdout), asJSON: asJSON, counts: make(map[string]*count)}
	err := cmp.Or(r.read(reader), r.sumUp())
	return r.code, err
}

// read explains each line of a log, of a long one the beginning.
func (r *log) read(input io.Reader) error {
	for lines, isRest := bufio.NewReaderSize(input, maxLine), false; ; {
		line, isPrefix, err := lines.ReadLine()
		if err != nil {
			r.flush()
			return map[bool]error{false: errRead}[err == io.EOF]
		}
		if !isRest {
			r.add(line)
		}
		if isRest = isPrefix; lines.Buffered() == 0 {
			if err := r.out.Flush(); err != nil {
				return err
			}
		}
	}
}

// add puts a line to the record that it belongs to, or begins one.
func (r *log) add(line []byte) {
	isHinted, next, more := mayTell(line), "", []int(nil)
	isOpen := len(line) > 0 && bytes.ContainsAny(line[len(line)-1:], "{(:")
	if isHinted || isOpen || len(line) < 80 {
		next = cmp.Or(meaning("begin", string(line)), map[bool]string{true: "after open"}[isOpen && matches("open", string(line))])
	}
	isFull := len(r.record)+len(line) >= maxLine || r.lines >= maxLines
	if r.next != "" && !isFull && !matches("other line", string(line)) {
		more = patterns[r.next][0].FindSubmatchIndex(line)
	}
	if more == nil {
		r.flush()
	}
	r.record, r.lines, r.told = append(append(r.record, line...), '\n'), r.lines+1, r.told || isHinted
	switch {
	case more == nil, next != "" && next != "after error":
		r.next = next
	case more[2] >= 0:
		r.next = "" // the group ends it
	}
	if r.next == "" {
		r.flush()
	}
}

// flush explains the record: of an error's text that nothing ended the lines, each for itself.
func (r *log) flush() {
	if r.next == "after error" {
		for line := range bytes.Lines(r.record) {
			r.explain(line, 1, mayTell(line))
		}
	} else if r.lines > 0 {
		r.explain(r.record, r.lines, r.told)
	}
	r.record, r.lines, r.told, r.next = r.record[:0], 0, false, ""
}

// explain explains one record.
func (r *log) explain(record []byte, lines int, told bool) {
	line, isOther := r.line+1, true
	if r.line += lines; told {
		f := collect(string(record), false)
		for _, x := range f.failures() {
			if x.Provider != "" || x.Name == "network" && matches("elsewhere", f.lower) && !matches("apples", f.lower) {
				continue
			}
			isOther, r.code = false, max(r.code, exitCodes[x.Documented])
			r.count(x, f, line)
			if x.Line = line; r.asJSON {
				_ = writeJSON(r.out, x, "")
			} else {
				_ = report.ExecuteTemplate(r.out, "line", x)
			}
		}
	}
	if isOther {
		r.others += lines
	}
}

func (r *log) count(x *failure, f *facts, line int) {
	c := r.counts[x.Name+string(x.Action)]
	if c == nil {
		c = &count{Reason: x.Name, Action: x.Action, Line: line, customers: make(map[string]bool)}
		r.counts[x.Name+string(x.Action)] = c
	}
	c.Count++
	at := strings.NewReplacer("/", "-", " ", "T").Replace(patterns["clock"][0].FindString(f.text[:min(len(f.text), 400)]))
	if access, err := time.Parse("02-Jan-2006:15:04:05", at); err == nil {
		at = access.Format("2006-01-02T15:04:05")
	}
	if at != "" {
		c.First, c.Last = min(cmp.Or(c.First, at), at), max(c.Last, at)
	}
	if customer := f.said["customer"]; customer != "" && len(c.customers) < maxCustomers {
		c.customers[strings.Clone(customer[:min(len(customer), 64)])] = true
	}
	c.Customers = len(c.customers)
}

// sumUp prints how many failures of each kind there were.
func (r *log) sumUp() error {
	if len(r.counts) == 0 {
		return cmp.Or(r.out.Flush(), errors.New("no line holds an OAuth error"))
	}
	counts := slices.SortedFunc(maps.Values(r.counts), func(a, b *count) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Action, b.Action))
	})
	summary := map[string]any{"summary": counts, "others": r.others}
	if r.asJSON {
		return cmp.Or(writeJSON(r.out, summary, ""), r.out.Flush())
	}
	table := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	return cmp.Or(report.ExecuteTemplate(table, "summary", summary), table.Flush(), r.out.Flush())
}

// hints are what a record holds at least one of if it tells of a failure, in lower case, by a hash of their first four bytes.
var hints = func() (hints [1 << 12][]string) {
	texts := slices.Concat(slices.Collect(maps.Keys(words)), neterr.Needles(), strings.Split(patterns["hints"][0].String(), "|"))
	for _, text := range texts {
		if !matches("ordinary", text) { // which any line may hold
			four := uint32(text[0])<<24 | uint32(text[1])<<16 | uint32(text[2])<<8 | uint32(text[3]) | 0x20202020
			hints[hash(four)] = append(hints[hash(four)], text)
		}
	}
	return hints
}()

func hash(four uint32) uint32 { return four * 0x9e3779b1 >> 20 }

// mayTell is the cheap test before everything else: it is false only if text certainly tells of no failure.
func mayTell(text []byte) bool {
	var four uint32
	for i, c := range text {
		four = four<<8 | uint32(c|' ')
		for _, hint := range hints[hash(four)] {
			if rest := text[max(0, i-3):]; len(rest) >= len(hint) && strings.EqualFold(string(rest[:len(hint)]), hint) {
				return true
			}
		}
	}
	return false
}
