package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"io"
	"maps"
	"os"
	"os/signal"
	"regexp"
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
	record []byte         // lines that may go on
	lines  int            // how many these are
	next   *regexp.Regexp // what may follow
	line   int            // the number of the one before
	others int            // lines that tell of no failure
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
	customers map[uint64]bool
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
	err := r.read(reader)
	if err != nil && len(r.counts) == 0 {
		return 0, err
	}
	return r.code, cmp.Or(err, r.sumUp())
}

// read explains each line of a log, of a long one the beginning.
func (r *log) read(input io.Reader) error {
	for lines := bufio.NewReaderSize(input, maxLine); ; {
		if lines.Buffered() == 0 {
			if err := r.out.Flush(); err != nil {
				return err
			}
		}
		line, err := lines.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			line[len(line)-1] = '\n'
		}
		if len(line) > 0 {
			r.add(line)
		}
		for err == bufio.ErrBufferFull { // the rest of a long one
			_, err = lines.ReadSlice('\n')
		}
		if err != nil {
			r.flush()
			return map[bool]error{false: errRead}[err == io.EOF]
		}
	}
}

// A record of several lines goes on while the next one matches what may follow, and ends with what the group of that matches.
var (
	object      = `\{\s*(?:$|"(?:error": ?"[\w .-]*"|error_description"|error_uri"|access_token"))`
	header      = `^(?:[ \t]|[<>*] |[<>]?\s*$|[{}] \[|[\w-]+:\s|[0-9a-f]{1,4}\s*$|`
	afterOpen   = regexp.MustCompile(`^(?:[ \t"]|([})]))`)
	afterHead   = regexp.MustCompile(`^(?:\s|([})]|` + object + `|[^{]{0,80}(?:\{"log":")?Response: ))`)
	afterStatus = regexp.MustCompile(header + `(` + object + `))`)
	afterOther  = regexp.MustCompile(header + `HTTP/|\S*grant_type=|(` + object + `))`) // a request, or a response before the last one

	statusLine = regexp.MustCompile(`^(?:< )?(?:HTTP/[0-9.]+|(?i:(?:http )?status(?:[ _]?code)?[:=]?)) ?[45][0-9]{2}[\w' -]*\s*$`)
	earlyLine  = regexp.MustCompile(`^(?:[<>$+] )?(?:HTTP/[0-9.]+ [123]|curl .*\bgrant_type=|[\w=&%.:/+*-]*\bgrant_type=\S*\s*$)`)
	headLine   = regexp.MustCompile(`^\w*Error: `)
	// otherLine belongs to no line before it, whatever it looks like.
	otherLine = regexp.MustCompile(`^(?:(?:\w*[Ee]rror|[A-Z]{4,}|(?:[^\s{][^{]*)?(?:applebusiness|oauth2)): |\{"error.*` + logAt.String() + `)`)
)

// add puts a line to the record that it belongs to, or begins one.
func (r *log) add(line []byte) {
	isHinted, end := mayTell(line), bytes.TrimSpace(line)
	end = end[max(0, len(end)-1):]
	var next, more = (*regexp.Regexp)(nil), []int(nil)
	switch {
	case len(line) < 80 && statusLine.Match(line):
		next = afterStatus
	case isHinted && earlyLine.Match(line):
		next = afterOther
	case bytes.ContainsAny(end, "{(") && !afterOpen.Match(line):
		next = afterOpen
	case bytes.Contains(line, []byte("Response: ")):
	case string(end) == ":", isHinted && (headLine.Match(line) ||
		bytes.Contains(line, []byte("cannot fetch token: ")) || bytes.Contains(line, []byte("OAuth2::Error"))):
		next = afterHead
	}
	if r.lines > 0 && r.lines < maxLines && len(r.record)+len(line) <= maxLine && !otherLine.Match(line) {
		more = r.next.FindSubmatchIndex(line)
	}
	if more == nil {
		if r.flush(); next == nil {
			r.explain(line, 1, isHinted)
			return
		}
	}
	r.record, r.lines = append(r.record, line...), r.lines+1
	if more == nil || next != nil && next != afterHead {
		r.next = next
	} else if more[2] >= 0 {
		r.next = nil // it is whole
		r.flush()
	}
}

// flush explains the record: of a head that nothing ended the lines, each for itself.
func (r *log) flush() {
	if r.lines > 0 && r.next != afterHead {
		r.explain(r.record, r.lines, mayTell(r.record))
		r.record = r.record[:0]
	}
	for line := range bytes.Lines(r.record) {
		r.explain(line, 1, mayTell(line))
	}
	r.record, r.lines = r.record[:0], 0
}

// explain explains one record.
func (r *log) explain(record []byte, lines int, isHinted bool) {
	line := r.line + 1
	r.line += lines
	if !isHinted {
		r.others += lines
		return
	}
	f := collect(string(record))
	found := slices.DeleteFunc(f.failures(), func(x *failure) bool {
		isElsewhere := containsAny(f.lower, "://", "lookup ") && !containsAny(f.lower, "apple", "oauth", "token")
		return x.Provider != "" || x.Name == "network" && isElsewhere
	})
	if len(found) == 0 {
		r.others += lines
	}
	for _, x := range found {
		r.code = max(r.code, exitCodes[x.Documented])
		r.count(x, f, line)
		if x.Line = line; r.asJSON {
			_ = writeJSON(r.out, x, "")
		} else {
			_ = report.ExecuteTemplate(r.out, "line", x)
		}
	}
}

var (
	clock = regexp.MustCompile(`\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d|\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d`)
	seed  = maphash.MakeSeed()
)

func (r *log) count(x *failure, f *facts, line int) {
	c := r.counts[x.Name+string(x.Action)]
	if c == nil {
		c = &count{Reason: x.Name, Action: x.Action, Line: line, customers: make(map[uint64]bool)}
		r.counts[x.Name+string(x.Action)] = c
	}
	c.Count++
	at := strings.NewReplacer("/", "-", " ", "T").Replace(clock.FindString(f.text[:min(len(f.text), 400)]))
	if access, err := time.Parse("02-Jan-2006:15:04:05", at); err == nil {
		at = access.Format("2006-01-02T15:04:05")
	}
	if at != "" {
		c.First, c.Last = min(cmp.Or(c.First, at), at), max(c.Last, at)
	}
	if customer := f.said["customer"]; customer != "" && len(c.customers) < maxCustomers {
		c.customers[maphash.String(seed, customer)] = true
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

// hints are what a record holds at least one of if it tells of a failure, in lower case, by their first four bytes; isHint has the
// hashes of those.
var hints, isHint = func() (map[uint32][]string, *[1 << 15]bool) {
	texts := []string{
		"error", "applebusiness", "oauth2: ", "reason", "retry-after", "code=", `n","code"`, `n\",\"code`, "action=", `action":"`, `action\":\"`,
		": eof", `response":{`, `response\":{`, `response\\\":{`, "http/1.0 ", "http/1.1 ", "http/2 ", "http/3 ",
		"oauth 2.0 parameter: ", "missing fields in post body", " is invalid. accepted values:", "authorization_code",
	}
	texts = slices.Concat(texts, names, neterr.Needles())
	hints, isHint := make(map[uint32][]string), new([1 << 15]bool)
	for _, text := range texts {
		if text != "server" && text != "unavailable" { // which any line may hold
			four := uint32(text[0])<<24 | uint32(text[1])<<16 | uint32(text[2])<<8 | uint32(text[3]) | 0x20202020
			hints[four], isHint[hash(four)] = append(hints[four], text), true
		}
	}
	return hints, isHint
}()

func hash(four uint32) uint32 { return four * 0x9e3779b1 >> 17 }

// mayTell is the cheap test before everything else: it is false only if text certainly tells of no failure.
func mayTell(text []byte) bool {
	var four uint32
	for i, c := range text {
		if four = four<<8 | uint32(c|' '); !isHint[hash(four)] {
			continue
		}
		for _, hint := range hints[four] {
			if rest := text[max(0, i-3):]; len(rest) >= len(hint) && strings.EqualFold(string(rest[:len(hint)]), hint) {
				return true
			}
		}
	}
	return false
}
