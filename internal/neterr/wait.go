package neterr

import (
	"cmp"
	"math"
	"strconv"
	"strings"
	"time"
)

// RetryAfter returns the wait that a Retry-After header asks for (RFC 9110 section 10.2.3), never negative, at most an
// hour, and 0 if it cannot be read. An instant is compared with date, the response's Date header: clocks differ.
func RetryAfter(value, date string) time.Duration {
	first, _, _ := strings.Cut(value, ",")
	first = strings.TrimSpace(first)
	seconds, _ := strconv.ParseFloat(first, 64) // infinite if no float64 holds it
	if strings.Trim(first, "0123456789.") != "" {
		seconds = 0
	}
	instant := parseDate(value)
	switch { // so large a number is an instant, too, in seconds or milliseconds
	case seconds >= 1e8 && seconds < 1e11:
		instant = time.UnixMilli(int64(seconds * 1000))
	case seconds >= 1e11 && seconds < 1e14:
		instant = time.UnixMilli(int64(seconds))
	}
	wait := time.Duration(math.Ceil(min(seconds, time.Hour.Seconds()))) * time.Second
	if !instant.IsZero() {
		wait = instant.Sub(cmp.Or(parseDate(date), time.Now()))
	}
	return min(max(wait, 0), time.Hour)
}

// parseDate reads a date in HTTP's forms (RFC 9110 section 5.6.7), also with a numeric zone, and RFC 3339's; else it is zero.
func parseDate(text string) time.Time {
	text = strings.NewReplacer(" GMT", " +0000", " UTC", " +0000").Replace(strings.TrimSpace(text))
	for _, layout := range [...]string{
		"Mon, 2 Jan 2006 15:04:05 -0700", "Monday, 2-Jan-06 15:04:05 -0700", time.ANSIC, "Mon, 2 Jan 2006 15:04:05 -07:00", time.RFC3339,
	} {
		if date, err := time.Parse(layout, text); err == nil {
			return date
		}
	}
	return time.Time{}
}
