package neterr

import (
	"math"
	"strconv"
	"strings"
	"time"
)

const longestWait = time.Hour

// RetryAfter returns the wait that a Retry-After header asks for (RFC 9110 section 10.2.3), never negative, at most an
// hour, and 0 if it cannot be read. An instant in it is compared with date, the Date header of the same response, since the
// clock here may be another one.
func RetryAfter(value, date string) time.Duration {
	first, _, _ := strings.Cut(value, ",")
	seconds := parseSeconds(first)
	instant, isInstant := parseDate(value)
	switch { // so large a number is an instant, too, in seconds or milliseconds
	case seconds >= 1e8 && seconds < 1e11:
		instant, isInstant = time.UnixMilli(int64(seconds*1000)), true
	case seconds >= 1e11 && seconds < 1e14:
		instant, isInstant = time.UnixMilli(int64(seconds)), true
	}
	wait := time.Duration(math.Ceil(min(seconds, longestWait.Seconds()))) * time.Second
	if sent, ok := parseDate(date); isInstant && ok {
		wait = instant.Sub(sent)
	} else if isInstant {
		wait = time.Until(instant)
	}
	return min(max(wait, 0), longestWait)
}

// parseSeconds reads a number without a sign, also one with a fraction or one that no float64 holds, and returns 0 for
// anything else.
func parseSeconds(text string) float64 {
	text = strings.TrimSpace(text)
	if strings.Trim(text, "0123456789.") != "" {
		return 0
	}
	seconds, _ := strconv.ParseFloat(text, 64)
	return seconds
}

// parseDate reads a date in HTTP's forms (RFC 9110 section 5.6.7), also with a numeric zone, and that of RFC 3339.
func parseDate(text string) (time.Time, bool) {
	text = strings.TrimSpace(text)
	for _, zone := range [...]string{" GMT", " UTC"} {
		if before, ok := strings.CutSuffix(text, zone); ok {
			text = before + " +0000"
		}
	}
	for _, layout := range [...]string{
		"Mon, 2 Jan 2006 15:04:05 -0700", "Monday, 2-Jan-06 15:04:05 -0700", time.ANSIC, "Mon, 2 Jan 2006 15:04:05 -07:00", time.RFC3339,
	} {
		if date, err := time.Parse(layout, text); err == nil {
			return date, true
		}
	}
	return time.Time{}, false
}
