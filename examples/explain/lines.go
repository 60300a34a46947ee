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
	line       int
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
	Line      int                  `json:"line"` // of the first one
	customers map[uint64]bool
}

// explainLines explains the lines of a log and sums up, also after an interrupt.
func explainLines(log io.Reader, asJSON bool, stdout io.Writer) (int, error) {
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
			code = exitUnusable
		}
		os.Exit(code)
	}()
	err := r.read(log)
	if err != nil && len(r.counts) == 0 {
		return 0, err
	}
	code, failed := r.finish()
	return code, cmp.Or(err, failed)
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
		if err != nil {
			r.flush()
			return map[bool]error{false: errRead}[err == io.EOF]
		}
	}
}

var (
	openLine = regexp.MustCompile(`^(?:\S.*)?[{(]\s*$`)
	headLine = regexp.MustCompile(`^\w*Error: `)
	moreLine = regexp.MustCompile(`^(?:[ \t]|[})])`)
	bodyLine = regexp.MustCompile(`^\{"error(?:_description|_uri)?": ?"[^{}]*\}\)?:?\s*$|^[^{]{0,80}(?:\{"log":")?Response: `)
)

// add puts a line to the record that it belongs to: what is indented or a body after a line that may have more. Or it begins one.
func (r *report) add(line []byte) {
	isBody := len(r.pending) == 1 && bodyLine.Match(line) && !openLine.Match(r.pending[0])
	if len(r.pending) > 0 && (isBody || moreLine.Match(line)) {
		r.pending = append(r.pending, bytes.Clone(line))
		if isBody || line[0] == '}' || line[0] == ')' {
			record := bytes.Join(r.pending, nil)
			r.explain(record, len(r.pending), mayTell(record))
			r.pending = nil
		} else if len(r.pending) == maxLines {
			r.flush()
		}
		return
	}
	r.flush()
	end, isHinted := string(bytes.TrimSpace(line[max(0, len(line)-8):])), mayTell(line)
	isHead := strings.HasSuffix(end, ":") || bytes.Contains(line, []byte("cannot fetch token: ")) || bytes.Contains(line, []byte("OAuth2::Error")) || headLine.Match(line)
	if strings.ContainsAny(end, "{(") && openLine.Match(line) || isHinted && isHead && !bytes.Contains(line, []byte("Response: ")) {
		r.pending = [][]byte{bytes.Clone(line)}
	} else {
		r.explain(line, 1, isHinted)
	}
}

// flush explains the lines of a record that did not become whole, each for itself.
func (r *report) flush() {
	for _, line := range r.pending {
		r.explain(line, 1, mayTell(line))
	}
	r.pending = nil
}

// explain explains one record.
func (r *report) explain(record []byte, lines int, isHinted bool) {
	line := r.line + 1
	r.line += lines
	if !isHinted {
		r.others += lines
		return
	}
	f := collect(string(record))
	found := slices.DeleteFunc(f.failures(), func(x *failure) bool {
		return x.Provider != "" || x.Name == "network" && containsAny(f.lower, "://", "lookup ") && !containsAny(f.lower, "apple", "oauth", "token")
	})
	if len(found) == 0 {
		r.others += lines
	}
	for _, x := range found {
		r.code = max(r.code, x.exitCode())
		r.count(x, f, line)
		if r.asJSON {
			x.Line = line
			_ = writeJSON(r.out, x, "")
		} else {
			fmt.Fprintf(r.out, "%d: %s: %s%s", line, x.Name, x.ActionText, x.render("line"))
		}
	}
}

var (
	clock = regexp.MustCompile(`\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d|\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d`)
	seed  = maphash.MakeSeed()
)

func (r *report) count(x *failure, f *facts, line int) {
	c := r.counts[x.Name+x.ActionText]
	if c == nil {
		c = &count{Reason: x.Name, Action: x.Action, Line: line, customers: make(map[uint64]bool)}
		r.counts[x.Name+x.ActionText] = c
	}
	c.Count++
	at := strings.NewReplacer("/", "-", " ", "T").Replace(clock.FindString(f.text[:min(len(f.text), 400)]))
	if access, err := time.Parse("02-Jan-2006:15:04:05", at); err == nil {
		at = access.Format("2006-01-02T15:04:05")
	}
	if at != "" {
		c.First, c.Last = min(cmp.Or(c.First, at), at), max(c.Last, at)
	}
	customer := cmp.Or(f.said["customer"], f.said["grant"], f.said["tenant"], f.said["account"], f.said["merchant"], f.said["org"])
	if customer != "" && len(c.customers) < maxCustomers {
		c.customers[maphash.String(seed, customer)] = true
	}
	c.Customers = len(c.customers)
}

// finish prints how many failures of each kind there were.
func (r *report) finish() (int, error) {
	if r.flush(); len(r.counts) == 0 {
		return 0, cmp.Or(r.out.Flush(), errors.New("no line holds an OAuth error"))
	}
	counts := slices.SortedFunc(maps.Values(r.counts), func(a, b *count) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Action, b.Action))
	})
	if r.asJSON {
		return r.code, cmp.Or(writeJSON(r.out, map[string]any{"summary": counts, "others": r.others}, ""), r.out.Flush())
	}
	table := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "\nCOUNT\tREASON\tACTION\tFIRST\tLAST\tCUSTOMERS\tLINE\n")
	for _, c := range counts {
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%d\t%d\n", c.Count, c.Reason, cmp.Or(string(c.Action), "unknown"), cmp.Or(c.First, "-"), cmp.Or(c.Last, "-"), c.Customers, c.Line)
	}
	if r.others > 0 {
		fmt.Fprintf(table, "%d\tnothing to explain\n", r.others)
	}
	return r.code, cmp.Or(table.Flush(), r.out.Flush())
}

// hints are what a record holds at least one of if it tells of a failure, in lower case and by the hash of their first four bytes.
var hints = func() *[1 << 16][]string {
	texts := []string{"error", "endpoint", "applebusiness", "oauth2: ", "reason", "retry-after", `response":{`, `response\":{`, `response\\\":{`, ": eof", "http/1.0 ", "http/1.1 ", "http/2 ", "http/3 ", "oauth 2.0 parameter: ", "missing fields in post body", " is invalid. accepted values:"}
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
	hints := new([1 << 16][]string)
	for _, text := range slices.AppendSeq(texts, neterr.Needles()) {
		var four uint32
		for i := range 4 {
			four = four<<8 | uint32(text[i]|' ')
		}
		hints[hash(four)] = append(hints[hash(four)], text)
	}
	return hints
}()

func hash(four uint32) uint16 { return uint16(four * 0x9e3779b1 >> 16) }

// mayTell is the cheap test before everything else: it is false only if text certainly tells of no failure.
func mayTell(text []byte) bool {
	var four uint32
	for i, c := range text {
		four = four<<8 | uint32(c|' ')
		for _, hint := range hints[hash(four)] {
			rest := text[max(0, i-3):]
			if len(rest) < len(hint) || !strings.EqualFold(string(rest[:len(hint)]), hint) {
				continue
			}
			group := rest[:min(len(rest), 96)]
			if hint != "endpoint" || bytes.Contains(group, []byte("code")) || bytes.Contains(group, []byte("action")) {
				return true
			}
		}
	}
	return false
}
