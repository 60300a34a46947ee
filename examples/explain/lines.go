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

	"github.com/seed-a5f25c57/applebusiness"
)

const (
	maxLine      = 1 << 20 // what is looked at of one line
	maxLines     = 64      // of a record
	maxCustomers = 1 << 16 // that are told apart, for each kind of failure
)

// report is what -lines found so far. It holds a record and a count for each kind of failure, which are bounded in number.
type report struct {
	mutex   sync.Mutex // held while a line is explained, so that an interrupt finds a whole report
	out     *bufio.Writer
	asJSON  bool
	file    string
	line    int // of the file
	others  int // lines that hold no failure
	code    int
	counts  map[kind]*count
	pending [][]byte // lines of a record that may go on
}

type kind struct {
	Reason string               `json:"reason"`
	Action applebusiness.Action `json:"action"`
}

// count is what the summary says of one kind of failure.
type count struct {
	kind
	Count     int    `json:"count"`
	First     string `json:"first,omitempty"`
	Last      string `json:"last,omitempty"`
	Customers int    `json:"customers"`
	Line      string `json:"line"` // of the first one
	customers map[uint64]bool
}

// explainLines explains the lines of the files, or of stdin if there are none. A file that cannot be read does not keep
// the others from it. An interrupt ends it with the summary of what was read.
func explainLines(files []string, asJSON bool, stdin io.Reader, stdout io.Writer) (int, error) {
	r := &report{out: bufio.NewWriterSize(stdout, 64<<10), asJSON: asJSON, counts: make(map[kind]*count)}
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt)
	defer signal.Stop(interrupt)
	go func() {
		<-interrupt
		r.mutex.Lock() // for good
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
		file, err := openFile(name, stdin)
		if err != nil {
			failures = append(failures, fmt.Errorf("argument %d is no file that can be read", i+1)) // it may be a pasted line
			continue
		}
		if r.file, r.line = "", 0; len(files) > 1 {
			r.file = strings.Trim(strconv.QuoteToGraphic(name), `"`)
		}
		if err = r.read(file); err == errRead {
			err = fmt.Errorf("%s cannot be read", file.name)
		}
		failures = append(failures, err, file.Close())
	}
	r.mutex.Lock()
	if err := errors.Join(failures...); err != nil && len(r.counts) == 0 {
		return 0, err
	}
	code, err := r.finish()
	return code, errors.Join(append(failures, err)...)
}

var errRead = errors.New("cannot be read") // the text of a reader's error may hold anything

// read explains each line of a log, of a long one the beginning.
func (r *report) read(log io.Reader) error {
	lines := bufio.NewReaderSize(log, maxLine)
	for {
		if lines.Buffered() == 0 && r.out.Buffered() > 0 { // reading may have to wait
			if err := r.out.Flush(); err != nil {
				return err
			}
		}
		line, err := lines.ReadSlice('\n')
		r.mutex.Lock()
		if len(line) > 0 {
			r.add(line)
		}
		for err == bufio.ErrBufferFull {
			_, err = lines.ReadSlice('\n')
		}
		if err != nil {
			r.flush()
		}
		r.mutex.Unlock()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return errRead
		}
	}
}

// add puts a line to the record that it belongs to, and explains the records that are whole.
func (r *report) add(line []byte) {
	if len(r.pending) > 0 {
		more, last := belongs(r.pending, line)
		if more || last {
			r.pending = append(r.pending, bytes.Clone(line))
		}
		if last {
			record := bytes.Join(r.pending, nil)
			r.record(record, len(r.pending), mayTell(record))
			r.pending = nil
		}
		if last || more && len(r.pending) < maxLines {
			return
		}
		r.flush()
		if more {
			return
		}
	}
	if hinted := mayTell(line); opens(line, hinted) {
		r.pending = [][]byte{bytes.Clone(line)}
	} else {
		r.record(line, 1, hinted)
	}
}

// flush explains the lines of a record that did not become whole, each for itself.
func (r *report) flush() {
	for _, line := range r.pending {
		r.record(line, 1, mayTell(line))
	}
	r.pending = nil
}

// opens reports whether a line may go on in the next one: an object that a program prints over several lines, and an error
// whose body or stack stands on lines of its own.
func opens(line []byte, hinted bool) bool {
	line = bytes.TrimRight(line, " \t\r\n")
	isFetch := bytes.Contains(line, []byte("cannot fetch token: ")) && !bytes.Contains(line, []byte("Response: "))
	return bytes.HasSuffix(line, []byte("{")) || bytes.HasSuffix(line, []byte("(")) ||
		hinted && (isFetch || bytes.HasSuffix(line, []byte(":")) || bytes.Contains(line, []byte("OAuth2::Error")) || stack.Match(line))
}

var stack = regexp.MustCompile(`^\w*Error: `)

// belongs reports whether line is one of the record's, and whether it is its last.
func belongs(record [][]byte, line []byte) (more, last bool) {
	head, trimmed := bytes.TrimRight(record[0], " \t\r\n"), bytes.TrimSpace(line)
	indentation := func(line []byte) int { return len(line) - len(bytes.TrimLeft(line, " \t")) }
	deeper := indentation(line) - indentation(head)
	closes := deeper == 0 && (bytes.HasPrefix(trimmed, []byte("}")) || bytes.HasPrefix(trimmed, []byte(")")))
	switch inner := bytes.TrimSpace(record[len(record)-1]); {
	case bytes.HasSuffix(head, []byte("{")) || bytes.HasSuffix(head, []byte("(")):
		return deeper > 0, closes
	case len(record) == 1 && bodies.Match(line) && !bytes.HasPrefix(head, []byte("{")):
		return true, true
	case len(record) == 1 && responses.Match(line):
		return true, true
	case bytes.HasPrefix(trimmed, []byte("at ")), bytes.HasSuffix(inner, []byte("{")), len(record) > 1 && deeper > 0:
		return true, false
	default:
		return false, closes && len(record) > 1
	}
}

var (
	bodies    = regexp.MustCompile(`^\{"error(?:_description|_uri)?":"[^{}]*\}\)?:?\s*$`)
	responses = regexp.MustCompile(`^[^{]{0,80}(?:\{"log":")?Response: `)
)

// record explains one record.
func (r *report) record(record []byte, lines int, hinted bool) {
	number := r.line + 1
	r.line += lines
	if !hinted {
		r.others += lines
		return
	}
	f := collect(string(record))
	found, _ := f.failures()
	found = slices.DeleteFunc(found, func(failure *failure) bool { return failure.provider != "" })
	if len(found) == 0 {
		r.others += lines
	}
	for _, failure := range found {
		place := strconv.Itoa(number)
		if r.file != "" {
			place = r.file + ":" + place
		}
		r.code = max(r.code, failure.exitCode())
		r.count(failure, f, place)
		if r.asJSON {
			_ = writeJSON(r.out, struct {
				File string `json:"file,omitempty"`
				Line int    `json:"line"`
				explanation
			}{r.file, number, explain(failure)}, "")
		} else {
			fmt.Fprintf(r.out, "%s: %s: %s: %s\n", place, failure.name(), orUnknown(failure.advice.Action), failure.line())
		}
	}
}

func (r *report) count(failure *failure, f *facts, place string) {
	k := kind{failure.name(), failure.advice.Action}
	c := r.counts[k]
	if c == nil {
		c = &count{kind: k, Line: place, customers: make(map[uint64]bool)}
		r.counts[k] = c
	}
	c.Count++
	if f.at != "" {
		c.First, c.Last = min(cmp.Or(c.First, f.at), f.at), max(c.Last, f.at)
	}
	if f.customer != "" && len(c.customers) < maxCustomers {
		c.customers[maphash.String(seed, f.customer)] = true
	}
}

var seed = maphash.MakeSeed()

// finish prints how many failures of each kind there were.
func (r *report) finish() (int, error) {
	r.flush()
	if len(r.counts) == 0 {
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
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%d\t%s\n", c.Count, c.Reason, orUnknown(c.Action), cmp.Or(c.First, "-"), cmp.Or(c.Last, "-"), c.Customers, c.Line)
	}
	if r.others > 0 {
		fmt.Fprintf(table, "%d\tnothing to explain\n", r.others)
	}
	return r.code, cmp.Or(table.Flush(), r.out.Flush())
}
