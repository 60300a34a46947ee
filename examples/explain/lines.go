package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
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

// report is what -lines found so far: a record that may go on, and a count for each kind of failure, which are bounded in number.
type report struct {
	sync.Mutex // not held while a line is waited for, so that an interrupt finds the report whole
	out        *bufio.Writer
	asJSON     bool
	file       string
	line       int      // of the file
	pending    [][]byte // lines of a record
	others     int      // lines that tell of no failure
	code       int
	counts     map[string]*count
}

// count is what the summary says of one kind of failure.
type count struct {
	Count     int                  `json:"count"`
	Reason    string               `json:"reason"`
	Action    applebusiness.Action `json:"action"`
	First     string               `json:"first,omitempty"`
	Last      string               `json:"last,omitempty"`
	Customers int                  `json:"customers"`
	Line      string               `json:"line"` // of the first one
	customers map[uint64]bool
}

// explainLines explains the lines of the files, or of stdin if there are none. A file that cannot be read does not keep the
// others from it, and an interrupt ends it with the summary of what was read.
func explainLines(files []string, asJSON bool, stdin io.Reader, stdout io.Writer) (int, error) {
	r := &report{out: bufio.NewWriter(stdout), asJSON: asJSON, counts: make(map[string]*count)}
	r.Lock()
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt)
	defer signal.Stop(interrupt)
	go func() {
		<-interrupt
		r.Lock() // for good
		code, err := r.finish()
		if err != nil {
			fmt.Fprintln(os.Stderr, "explain:", err)
			code = exitUnusable
		}
		os.Exit(code)
	}()
	if len(files) == 0 {
		files = []string{"-"}
	}
	var failures []error
	for i, name := range files {
		log, err := openFile(name, stdin)
		if err != nil {
			failures = append(failures, fmt.Errorf("argument %d is no file that can be read", i+1)) // it may be a pasted line
			continue
		}
		if r.file, r.line = "", 0; len(files) > 1 {
			r.file = strings.Trim(strconv.QuoteToGraphic(name), `"`) + ":"
		}
		failures = append(failures, r.read(log))
	}
	if err := errors.Join(failures...); err != nil && len(r.counts) == 0 {
		return 0, err
	}
	code, err := r.finish()
	return code, errors.Join(append(failures, err)...)
}

// read explains each line of a log, of a long one the beginning. It lets an interrupt in while it waits for the next one.
func (r *report) read(log io.Reader) error {
	for lines := bufio.NewReaderSize(log, maxLine); ; {
		if lines.Buffered() == 0 {
			if err := r.out.Flush(); err != nil {
				return err
			}
		}
		r.Unlock()
		line, err := lines.ReadSlice('\n')
		r.Lock()
		if len(line) > 0 {
			r.add(line)
		}
		for err == bufio.ErrBufferFull {
			_, err = lines.ReadSlice('\n')
		}
		if err == nil {
			continue
		}
		if r.flush(); err == io.EOF {
			return nil
		}
		return errRead
	}
}

// add puts a line to the record that it belongs to, or begins one.
func (r *report) add(line []byte) {
	if len(r.pending) > 0 {
		more, last := belongs(r.pending, line)
		if more || last {
			r.pending = append(r.pending, bytes.Clone(line))
		}
		if last {
			record := bytes.Join(r.pending, nil)
			r.explain(record, len(r.pending), mayTell(record))
			r.pending = nil
		} else if len(r.pending) == maxLines || !more {
			r.flush()
		}
		if more || last {
			return
		}
	}
	trimmed, isHinted := bytes.TrimRight(line, " \t\r\n"), mayTell(line)
	if bytes.HasSuffix(trimmed, []byte("{")) || bytes.HasSuffix(trimmed, []byte("(")) || isHinted && isHead(trimmed) {
		r.pending = [][]byte{bytes.Clone(line)}
		return
	}
	r.explain(line, 1, isHinted)
}

// flush explains the lines of a record that did not become whole, each for itself.
func (r *report) flush() {
	for _, line := range r.pending {
		r.explain(line, 1, mayTell(line))
	}
	r.pending = nil
}

// isHead reports whether a line may have a stack or a body on lines of their own.
func isHead(line []byte) bool {
	isFetch := bytes.Contains(line, []byte("cannot fetch token: ")) && !bytes.Contains(line, []byte("Response: "))
	return isFetch || bytes.HasSuffix(line, []byte(":")) || bytes.Contains(line, []byte("OAuth2::Error")) || stack.Match(line)
}

var (
	stack    = regexp.MustCompile(`^\w*Error: `)
	bodyLine = regexp.MustCompile(`^\{"error(?:_description|_uri)?": ?"[^{}]*\}\)?:?\s*$|^[^{]{0,80}(?:\{"log":")?Response: `)
)

// belongs reports whether line is one of the record's, and whether it is its last.
func belongs(record [][]byte, line []byte) (more, last bool) {
	first, before, trimmed := bytes.TrimRight(record[0], " \t\r\n"), bytes.TrimSpace(record[len(record)-1]), bytes.TrimSpace(line)
	indentation := func(line []byte) int { return len(line) - len(bytes.TrimLeft(line, " \t")) }
	deeper := indentation(line) - indentation(first)
	isEnd := deeper == 0 && (bytes.HasPrefix(trimmed, []byte("}")) || bytes.HasPrefix(trimmed, []byte(")")))
	switch {
	case bytes.HasSuffix(first, []byte("{")) || bytes.HasSuffix(first, []byte("(")):
		return deeper > 0, isEnd
	case len(record) == 1 && bodyLine.Match(line):
		return true, true
	}
	return bytes.HasPrefix(trimmed, []byte("at ")) || bytes.HasSuffix(before, []byte("{")) || len(record) > 1 && deeper > 0, len(record) > 1 && isEnd
}

// explain explains one record.
func (r *report) explain(record []byte, lines int, isHinted bool) {
	place := r.file + strconv.Itoa(r.line+1)
	r.line += lines
	var found []*failure
	f := new(facts)
	if isHinted {
		f = collect(string(record))
		found, _ = f.failures()
		isElsewhere := elsewhere.MatchString(f.lower) && !applesWay.MatchString(f.lower)
		found = slices.DeleteFunc(found, func(failed *failure) bool { return failed.Provider != "" || isElsewhere && failed.Name == "network" })
	}
	if len(found) == 0 {
		r.others += lines
	}
	for _, x := range found {
		r.code = max(r.code, x.exitCode())
		r.count(x, f, place)
		if r.asJSON {
			x.File, x.Line = strings.TrimSuffix(r.file, ":"), r.line-lines+1
			_ = writeJSON(r.out, x, "")
		} else {
			fmt.Fprintf(r.out, "%s: %s", place, x.render("line"))
		}
	}
}

var elsewhere, applesWay = regexp.MustCompile(`://|lookup `), regexp.MustCompile("apple|oauth|token")

func (r *report) count(failed *failure, f *facts, place string) {
	key := failed.Name + string(failed.Action)
	c := r.counts[key]
	if c == nil {
		c = &count{Reason: failed.Name, Action: failed.Action, Line: place, customers: make(map[uint64]bool)}
		r.counts[key] = c
	}
	c.Count++
	at := strings.NewReplacer("/", "-", " ", "T").Replace(clock.FindString(f.text[:min(len(f.text), 400)]))
	if access, err := time.Parse("02-Jan-2006:15:04:05", at); err == nil {
		at = access.Format("2006-01-02T15:04:05")
	}
	if at != "" {
		c.First, c.Last = min(cmp.Or(c.First, at), at), max(c.Last, at)
	}
	if f.customer != "" && len(c.customers) < maxCustomers {
		c.customers[maphash.String(seed, f.customer)] = true
	}
}

var (
	seed  = maphash.MakeSeed()
	clock = regexp.MustCompile(`\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d|\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d`)
)

// finish prints how many failures of each kind there were.
func (r *report) finish() (int, error) {
	if r.flush(); len(r.counts) == 0 {
		return 0, cmp.Or(r.out.Flush(), errors.New("no line holds an OAuth error"))
	}
	counts := slices.SortedFunc(maps.Values(r.counts), func(a, b *count) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Action, b.Action))
	})
	for _, c := range counts {
		c.Customers = len(c.customers)
	}
	if r.asJSON {
		return r.code, cmp.Or(writeJSON(r.out, map[string]any{"summary": counts, "others": r.others}, ""), r.out.Flush())
	}
	table := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "\nCOUNT\tREASON\tACTION\tFIRST\tLAST\tCUSTOMERS\tLINE\n")
	for _, c := range counts {
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%d\t%s\n", c.Count, c.Reason, cmp.Or(string(c.Action), "unknown"), cmp.Or(c.First, "-"), cmp.Or(c.Last, "-"), c.Customers, c.Line)
	}
	if r.others > 0 {
		fmt.Fprintf(table, "%d\tnothing to explain\n", r.others)
	}
	return r.code, cmp.Or(table.Flush(), r.out.Flush())
}

// hints are what a record holds at least one of if it tells of a failure, in lower case by their first four bytes, so chosen
// that few others hold one. begins tells the same of four bytes for sure if they begin none.
var hints, begins = func() (map[uint32][]string, *[1 << 16]bool) {
	texts := []string{"error", "endpoint", "applebusiness", "oauth2: ", "reason", "retry-after", `"message":[`, `response":{`, `response\":{`, `response\\\":{`, ": eof",
		"oauth 2.0 parameter: ", "missing fields in post body", " is invalid. accepted values:"}
	for _, version := range []string{"1.0", "1.1", "2", "3"} {
		texts = append(texts, "http/"+version+" 3", "http/"+version+" 4", "http/"+version+" 5")
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(codeWords)), slices.Collect(maps.Keys(labelWords))) {
		if strings.Contains(name, "_") || strings.HasPrefix(name, "err") || strings.HasPrefix(name, "code") {
			texts = append(texts, name)
		}
	}
	for _, entry := range documented {
		if !isCommon(entry.Reason) {
			texts = append(texts, entry.Description)
		}
	}
	heads, begins := make(map[uint32][]string), new([1 << 16]bool)
	for _, text := range slices.AppendSeq(texts, neterr.Needles()) {
		var four uint32
		for i := range 4 {
			four = four<<8 | uint32(text[i]|' ')
		}
		heads[four] = append(heads[four], text)
		begins[hash(four)] = true
	}
	return heads, begins
}()

func hash(four uint32) uint16 { return uint16(four * 0x9e3779b1 >> 16) }

// valued is what follows the name of an error that has a value, unlike level=ERROR and "error":null.
var valued = regexp.MustCompile(`^[\w.-]*(?:[\\"'\]> ]|&\w+;)*[:=](?:[\\"'>\[ ]|&\w+;)*(?:[^\s\\"'0nf,}]|n[^u]|nu[^l]|f[^a]|0\w)`)

// mayTell is the cheap test before everything else: it is false only if text certainly tells of no failure.
func mayTell(text []byte) bool {
	var four uint32
	for i, c := range text {
		if four = four<<8 | uint32(c|' '); !begins[hash(four)] {
			continue
		}
		for _, hint := range hints[four] {
			rest := text[max(0, i-3):]
			if len(rest) < len(hint) || !strings.EqualFold(string(rest[:len(hint)]), hint) {
				continue
			}
			rest = rest[len(hint):min(len(rest), len(hint)+96)]
			isGroup := bytes.Contains(rest, []byte("code")) || bytes.Contains(rest, []byte("reason")) || bytes.Contains(rest, []byte("action"))
			if hint == "error" && valued.Match(rest) || hint == "endpoint" && isGroup || hint != "error" && hint != "endpoint" {
				return true
			}
		}
	}
	return false
}
