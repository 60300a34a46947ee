package grants_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/seed-a5f25c57/applebusiness"
	"github.com/seed-a5f25c57/applebusiness/grants"
)

// chaos is a fleet to which anything happens: failing and hanging statements, responses that are late, wrong or lost,
// processes that are killed and replaced, customers who revoke and connect again. Its ledger knows what that may cost.
type chaos struct {
	*world
	names []string
	end   time.Time // of the trouble

	mu          sync.Mutex
	fleet       []*mortal
	lost        map[string]bool // whose response was lost after it took effect, or whose token died with a process
	revoked     map[string]bool
	told        map[string]*applebusiness.Error // to reconnect
	reconnected map[string]time.Time
	reconnects  int
}

// mortal is a process. Once it is killed, nothing comes of what it does.
type mortal struct {
	*grants.Manager
	c *chaos

	mu     sync.Mutex
	killed bool
}

var errKilled = errors.New("the process was killed")

func (p *mortal) isKilled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.killed
}

func (c *chaos) isCalm() bool { return time.Now().After(c.end) }

func (c *chaos) note(names map[string]bool, grant string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	names[grant] = true
}

func (c *chaos) pick() *mortal {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fleet[rand.N(len(c.fleet))]
}

// start starts a process, whose way to the Store and to Apple is as troubled as any.
func (c *chaos) start() *mortal {
	p := &mortal{c: c}
	store := &faultyStore{Store: c.store.Store}
	store.set(func(ctx context.Context, _, _ string) error {
		switch {
		case p.isKilled():
			return errKilled
		case c.isCalm():
			return nil
		}
		time.Sleep(rand.N(20 * time.Millisecond))
		switch chance := rand.N(400); {
		case p.isKilled():
			return errKilled
		case chance < 20:
			return errDatabase
		case chance < 22:
			return hangStore(ctx, "", "")
		}
		return nil
	}, func(string, string) error {
		if !c.isCalm() && rand.N(20) == 0 {
			return errDatabase
		}
		return nil
	})
	p.Manager = grants.New(testConfig, store, &grants.Options{HTTPClient: &http.Client{Transport: p, Timeout: 30 * time.Second}, Limit: limit(nil), Logger: slog.New(slog.NewTextHandler(c, nil))})
	return p
}

func (p *mortal) RoundTrip(r *http.Request) (*http.Response, error) {
	c := p.c
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	_, rest, _ := strings.Cut(string(body), `"refresh-`)
	grant, _, _ := strings.Cut(rest, "-")
	time.Sleep(rand.N(500 * time.Millisecond))
	chance := rand.N(500)
	switch {
	case p.isKilled():
		return nil, errKilled
	case c.isCalm():
		chance = 500
	case chance < 10:
		return response(503, ""), nil
	case chance < 20:
		return response(520, `{"error":"invalid_grant","error_description":"Invalid refresh_token"}`), nil
	case chance < 30:
		return response(429, "", "Retry-After", fmt.Sprint(rand.N(5))), nil
	case chance < 40:
		return response(403, "<html>proxy</html>"), nil
	case chance < 50:
		return response(401, `{"error":"invalid_client","error_description":"Invalid client_id or client_secret"}`), nil
	case chance < 60:
		return nil, io.ErrUnexpectedEOF
	case chance < 70:
		return hang(r)
	}
	result, err := c.apple.RoundTrip(r)
	time.Sleep(rand.N(500 * time.Millisecond))
	if isKilled := p.isKilled(); isKilled || chance < 74 {
		if err == nil && result.StatusCode == http.StatusOK {
			c.note(c.lost, grant)
		}
		switch {
		case isKilled:
			return nil, errKilled
		case chance < 72:
			return response(502, "<html>"), nil
		}
		return nil, io.ErrUnexpectedEOF
	}
	return result, err
}

// call is a caller's, who has five seconds.
func (c *chaos) call() {
	name, p := c.names[rand.N(len(c.names))], c.pick()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	start := time.Now()
	token, err := p.Token(ctx, name)
	assert.LessOrEqual(c.t, time.Since(start), 5*time.Second)
	if err == nil && rand.N(200) == 0 {
		p.Invalidate(name, token)
	}
	if !told(err) || p.isKilled() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.reconnected[name]) > time.Second { // which a failure may be remembered for
		c.told[name], _ = errors.AsType[*applebusiness.Error](err)
		assert.True(c.t, c.revoked[name] || c.lost[name] && c.told[name].ResponseLost, "%s was told to reconnect: %+v", name, c.told[name])
	}
}

// replace ends a process by SIGKILL or by itself, and starts another.
func (c *chaos) replace() {
	i := rand.N(len(c.fleet))
	c.mu.Lock()
	old := c.fleet[i]
	c.fleet[i] = c.start()
	c.mu.Unlock()
	if rand.N(3) > 0 {
		require.NoError(c.t, old.Close(context.Background()))
		return
	}
	old.mu.Lock()
	old.killed = true
	old.mu.Unlock()
	for _, name := range c.names { // what is not stored may have been in its memory only
		if c.row(name).Token.RefreshToken != c.newest(name) {
			c.note(c.lost, name)
		}
	}
}

func (c *chaos) newest(name string) string {
	c.apple.mu.Lock()
	defer c.apple.mu.Unlock()
	return c.apple.refreshToken(name, c.apple.grants[name])
}

// reconnect lets a customer connect again who was told to.
func (c *chaos) reconnect() {
	name := c.names[rand.N(len(c.names))]
	if c.row(name).Dead == nil {
		return
	}
	c.apple.mu.Lock()
	c.apple.grants[name]++
	delete(c.apple.revoked, name)
	c.apple.mu.Unlock()
	token := &oauth2.Token{AccessToken: c.newest(name), RefreshToken: c.newest(name), Expiry: time.Now().Add(time.Minute)}
	put := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return c.pick().Put(ctx, name, token)
	}
	for put() != nil {
		time.Sleep(100 * time.Millisecond)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.lost, name)
	delete(c.told, name)
	c.apple.mu.Lock()
	defer c.apple.mu.Unlock()
	if !c.apple.revoked[name] { // who has not revoked again since
		delete(c.revoked, name)
	}
	c.reconnected[name] = time.Now()
	c.reconnects++
}

// Whatever happens, nobody is told to reconnect who has not revoked, but for a lost response, which the verdict then says;
// and no refresh token is lost that somebody has received.
func TestAnyTrouble(t *testing.T) {
	t.Parallel()
	for round := range 1 + 4/slower {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, w *world) {
				w.apple.life, w.apple.keep = 30+rand.N(60), rand.N(4) == 0
				c := &chaos{
					world: w, end: time.Now().Add(10 * time.Minute),
					lost: make(map[string]bool), revoked: make(map[string]bool),
					told: make(map[string]*applebusiness.Error), reconnected: make(map[string]time.Time),
				}
				for i := range 12 {
					c.names = append(c.names, fmt.Sprint("g", i))
					w.connect(c.names[i], -time.Minute)
				}
				for range 4 {
					c.fleet = append(c.fleet, c.start())
				}
				c.reign()
				time.Sleep(2 * time.Minute) // in which everything heals
				for _, p := range c.fleet {
					require.NoError(t, p.Close(t.Context()))
				}
				c.assertNothingLost()
				t.Logf("%d requests, %d refused, %d responses lost, %d connected again", w.apple.requests(), w.apple.refused, len(c.lost), c.reconnects)
			})
		})
	}
}

// reign lets callers, customers and troubles come at random times, until all is calm.
func (c *chaos) reign() {
	var tasks sync.WaitGroup
	every := func(atMost time.Duration, do func()) {
		tasks.Go(func() {
			for time.Sleep(rand.N(atMost)); !c.isCalm(); time.Sleep(rand.N(atMost)) {
				do()
			}
		})
	}
	for range 30 {
		every(2*time.Second, c.call)
	}
	every(30*time.Second, c.replace)
	every(20*time.Second, c.reconnect)
	every(20*time.Second, func() {
		_ = c.pick().RefreshDue(context.Background(), rand.N(40*time.Second)-20*time.Second)
	})
	every(10*time.Minute, func() {
		name := c.names[rand.N(len(c.names))]
		c.mu.Lock()
		defer c.mu.Unlock()
		c.revoked[name] = true
		c.apple.revoke(name)
	})
	tasks.Wait()
}

// assertNothingLost finds the newest token of each grant in the Store, but of those that were revoked or whose response
// was lost.
func (c *chaos) assertNothingLost() {
	for _, name := range c.names {
		if c.revoked[name] || c.lost[name] {
			continue
		}
		assert.Nil(c.t, c.told[name], name)
		assert.Nil(c.t, c.row(name).Dead, name)
		assert.Equal(c.t, c.newest(name), c.row(name).Token.RefreshToken, "%s: its refresh token is lost", name)
	}
}
