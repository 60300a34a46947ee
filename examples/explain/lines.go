package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/seed-a5f25c57/applebusiness"
)

const (
	maxLine  = 1 << 20   // what is looked at of one line
	maxRead  = 256 << 10 // small enough to be in the processor's cache when it is searched
	maxLines = 64        // of a record
)

// logExplainer explains the lines of logs. It holds one block of lines at a time, and a count for each kind of failure,
// which are bounded in number.
type logExplainer struct {
	out     *bufio.Writer
	asJSON  bool
	name    string // of the log, "" if there is one only
	counts  map[kind]int
	others  int // lines that hold no failure
	code    int
	buffer  []byte
	lines   int // of this log, before the one at hand
	counter *progress
}

type kind struct {
	reason string
	action applebusiness.Action
}

func newLogExplainer(stdout io.Writer, asJSON bool, counter *progress) *logExplainer {
	return &logExplainer{
		out: bufio.NewWriterSize(output{stdout, counter}, 64<<10), asJSON: asJSON, counts: make(map[kind]int),
		buffer: make([]byte, 0, maxLine+maxRead), counter: counter,
	}
}

// errRead is what a log's reader returned; the text of such an error may hold anything.
var errRead = errors.New("cannot be read")

// explain explains each line of log, of a long one the beginning.
func (x *logExplainer) explain(log io.Reader, name string) error {
	x.name, x.lines = name, 0
	buffer := x.buffer[:0]
	isCut := false // the end of a line that was too long comes first
	for isEnd := false; !isEnd; {
		if x.out.Buffered() > 0 { // reading may have to wait
			if err := x.out.Flush(); err != nil {
				return err
			}
		}
		n, err := log.Read(buffer[len(buffer) : len(buffer)+maxRead])
		buffer = buffer[:len(buffer)+n]
		x.counter.bytes.Add(int64(n))
		if isEnd = err == io.EOF; err != nil && !isEnd {
			return errRead
		}
		rest := buffer
		if isCut {
			end := bytes.IndexByte(rest, '\n')
			if end < 0 {
				buffer = buffer[:0]
				continue
			}
			isCut, rest = false, rest[end+1:]
		}
		for len(rest) > 0 {
			record := nextRecord(rest, isEnd || len(rest) >= maxLine)
			if record.lines == 0 {
				break
			}
			isCut = !isEnd && record.text[len(record.text)-1] != '\n'
			if err := x.record(record); err != nil {
				return err
			}
			rest = rest[len(record.text):]
		}
		buffer = buffer[:copy(buffer[:cap(buffer)], rest)]
	}
	return nil
}

// record is what a log writes at once: a line, or a few.
type record struct {
	text         []byte
	lines        int
	mayHoldError bool
}

// nextRecord returns the record at the beginning of text, which is not empty. It has no lines if more has to be read
// first; isEnd says that there is no more.
func nextRecord(text []byte, isEnd bool) record {
	end := bytes.IndexByte(text, '\n') + 1
	if end == 0 {
		if !isEnd {
			return record{}
		}
		end = len(text)
	}
	line := text[:end]
	single := record{line, 1, mayHoldError(line) || isName(line)}
	belongs := continuation(line, single.mayHoldError)
	if belongs == nil {
		return single
	}
	for length, lines := end, 1; lines < maxLines; lines++ {
		if length == len(text) && !isEnd {
			return record{}
		}
		end := bytes.IndexByte(text[length:], '\n') + 1
		if end == 0 {
			if !isEnd {
				return record{}
			}
			end = len(text) - length
		}
		more, isLast := belongs(text[length : length+end])
		if !more {
			break
		}
		length += end
		if isLast {
			return record{text[:length], lines + 1, single.mayHoldError || mayHoldError(text[:length])}
		}
	}
	return single
}

// continuation returns what tells whether the next line belongs to the one at hand, and whether it is the last one that
// does; nil if none can. An object that a program prints over several lines goes on until its indentation ends, and
// golang.org/x/oauth2 and Ruby's OAuth2::Error put the body on a line of its own.
func continuation(line []byte, mayHoldError bool) func(next []byte) (more, isLast bool) {
	line = bytes.TrimRight(line, " \t\r\n")
	switch {
	case bytes.HasSuffix(line, []byte("{")), bytes.HasSuffix(line, []byte("(")):
		indentation := indentationOf(line)
		return func(next []byte) (more, isLast bool) {
			trimmed := bytes.TrimLeft(next, " \t")
			isLast = indentationOf(next) == indentation && len(trimmed) > 0 && (trimmed[0] == '}' || trimmed[0] == ')')
			return isLast || indentationOf(next) > indentation, isLast
		}
	case mayHoldError && bytes.Contains(line, []byte("oauth2: cannot fetch token: ")) && !bytes.Contains(line, []byte("Response: ")):
		return func(next []byte) (more, isLast bool) {
			belongs := bytes.Contains(next[:min(len(next), 256)], []byte("Response: "))
			return belongs, belongs
		}
	case mayHoldError && bytes.Contains(line, []byte("OAuth2::Error")):
		return func(next []byte) (more, isLast bool) {
			belongs := bytes.HasPrefix(next, []byte("{"))
			return belongs, belongs
		}
	case mayHoldError && stackHead.Match(line):
		inObject := false // the members of a JavaScript error, after its stack
		return func(next []byte) (more, isLast bool) {
			trimmed := bytes.TrimSpace(next)
			if inObject {
				return true, indentationOf(next) == 0 && bytes.HasPrefix(trimmed, []byte("}"))
			}
			inObject = bytes.HasSuffix(trimmed, []byte("{"))
			return bytes.HasPrefix(trimmed, []byte("at ")), false
		}
	}
	return nil
}

// stackHead is how JavaScript prints an error whose stack follows. No other line waits for the next one.
var stackHead = regexp.MustCompile(`^\w*Error: `)

func indentationOf(line []byte) int { return len(line) - len(bytes.TrimLeft(line, " \t")) }

// record explains one record.
func (x *logExplainer) record(r record) error {
	number := x.lines + 1
	x.lines += r.lines
	x.counter.lines.Add(int64(r.lines))
	x.others += r.lines
	if !r.mayHoldError {
		return nil
	}
	f, err := understand(string(r.text))
	if err != nil {
		return nil
	}
	x.others -= r.lines
	x.counter.failures.Add(1)
	name, action := f.name(), f.advice().Action
	x.counts[kind{name, action}]++
	x.code = max(x.code, f.exitCode())
	if x.asJSON {
		return explanationOfLine{x.name, number, explain(f)}.writeJSON(x.out)
	}
	if x.name != "" {
		fmt.Fprintf(x.out, "%s:", x.name)
	}
	_, err = fmt.Fprintf(x.out, "%d: %s: %s: %s\n", number, name, orUnknown(action), f.text())
	return err
}

// finish prints how many failures of each kind there were.
func (x *logExplainer) finish() (int, error) {
	if len(x.counts) == 0 {
		return 0, cmp.Or(x.out.Flush(), errors.New("no line holds an OAuth error"))
	}
	if x.asJSON {
		return x.code, x.out.Flush()
	}
	table := tabwriter.NewWriter(x.out, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "\nCOUNT\tREASON\tACTION\n")
	for _, kind := range slices.SortedFunc(maps.Keys(x.counts), func(a, b kind) int {
		return cmp.Or(cmp.Compare(x.counts[b], x.counts[a]), cmp.Compare(a.reason, b.reason), cmp.Compare(a.action, b.action))
	}) {
		fmt.Fprintf(table, "%d\t%s\t%s\n", x.counts[kind], kind.reason, orUnknown(kind.action))
	}
	if x.others > 0 {
		fmt.Fprintf(table, "%d\tnothing to explain\n", x.others)
	}
	if err := table.Flush(); err != nil {
		return 0, err
	}
	return x.code, x.out.Flush()
}

// progress counts what was done, and shows it on a terminal.
type progress struct {
	bytes, lines, failures atomic.Int64

	mutex    sync.Mutex
	terminal io.Writer
	isShown  bool
}

const clearLine = "\r\x1b[K"

// show writes a line to the terminal every interval, over the one before, until the function that it returns is called.
func (p *progress) show(interval time.Duration) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				p.mutex.Lock()
				fmt.Fprintf(p.terminal, "%sexplain: %d MB, %d lines, %d errors", clearLine, p.bytes.Load()/1e6, p.lines.Load(), p.failures.Load())
				p.isShown = true
				p.mutex.Unlock()
			case <-done:
				p.clear()
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

// clear takes the line away, so that something else can be written there.
func (p *progress) clear() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.isShown {
		fmt.Fprint(p.terminal, clearLine)
		p.isShown = false
	}
}

// output is what the explanations are written to, which may be the same terminal.
type output struct {
	io.Writer
	counter *progress
}

func (o output) Write(p []byte) (int, error) {
	o.counter.clear()
	return o.Writer.Write(p)
}
