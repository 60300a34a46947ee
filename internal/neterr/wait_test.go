package neterr

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestRetryAfter(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "30": 30 * time.Second, " 30 ": 30 * time.Second, "\t30": 30 * time.Second, "30, 60": 30 * time.Second, "30 , x": 30 * time.Second, "030": 30 * time.Second,
		"1.5": 2 * time.Second, "1.0": time.Second, "0.001": time.Second, "3600": time.Hour, "3601": time.Hour, "86400": time.Hour,
		"99999999": time.Hour, "100000000": 0, "100000000000": 0, "99999999999999": time.Hour, "100000000000000": time.Hour, "99999999999999999999999": time.Hour,
		"-30": 0, "-9223372037": 0, "+30": 0, "1e3": 0, "0x10": 0, "1.2.3": 0, ".": 0, "inf": 0, "NaN": 0, "soon": 0, "30s": 0, ", 30": 0,
	} {
		assert.Equal(t, want, RetryAfter(value, ""), "%q", value)
	}
}

// An instant is the server's: it is compared with the server's clock where the response shows it.
func TestRetryAfterAnInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the clock stands still
		now := time.Now()
		for _, clock := range []time.Duration{0, -2 * time.Hour, 2 * time.Hour, -20 * time.Second} {
			server := now.Add(clock).UTC()
			date := server.Format(http.TimeFormat)
			for wait, want := range map[time.Duration]time.Duration{7 * time.Second: 7 * time.Second, -time.Minute: 0, 48 * time.Hour: time.Hour} {
				then := server.Add(wait)
				zone := then.In(time.FixedZone("", -7*3600))
				for _, value := range []string{
					then.Format(http.TimeFormat), " " + then.Format(http.TimeFormat) + " ", then.Format("Monday, 02-Jan-06 15:04:05 GMT"), then.Format(time.ANSIC), then.Format(time.RFC1123Z),
					zone.Format(time.RFC1123Z), zone.Format("Mon, 2 Jan 2006 15:04:05 -07:00"), zone.Format(time.RFC3339), then.Format(time.RFC3339),
					then.Format("Mon, 02 Jan 2006 15:04:05") + " UTC", then.Format("Mon, 2 Jan 2006 15:04:05") + " GMT",
					fmt.Sprint(then.Unix()), fmt.Sprint(then.UnixMilli()), fmt.Sprintf("%d.0", then.Unix()),
				} {
					assert.Equal(t, want, RetryAfter(value, date), "%s at %s", value, date)
					if clock == 0 {
						assert.Equal(t, want, RetryAfter(value, ""), value)
						assert.Equal(t, want, RetryAfter(value, "yesterday"), value)
					}
				}
			}
			assert.Equal(t, 30*time.Second, RetryAfter("30", date), "seconds need no clock")
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{"30", "1.5", "30, 60", "1764091200000", "Fri, 27 Nov 2026 20:15:37 GMT", "Fri, 27 Nov 2026 21:15:37 +0100", "-9223372037"} {
		f.Add(value, "Fri, 27 Nov 2026 20:15:30 GMT")
	}
	f.Fuzz(func(t *testing.T, value, date string) {
		wait := RetryAfter(value, date)
		assert.True(t, wait >= 0 && wait <= time.Hour, wait)
	})
}
