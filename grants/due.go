package grants

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dueConcurrency = 32
	dueLimit       = 1000
	dueFailures    = 3 // of the Store, for different grants and with no success between, end a RefreshDue
)

// RefreshDue refreshes the grants whose token expires within the given time, so that those that nobody uses stay alive
// too, and no caller has to wait. Call it now and then in each process: the Store sees to it that each grant is refreshed
// once. A negative within leaves to callers what has expired more recently than that.
//
// It returns when all have been tried: some at a time, in any order, behind the callers of Token, and after whatever
// Limit, a response with status 429 and a held app ask for. A grant that a sibling is refreshing is skipped; what becomes
// of any other is told to OnRefresh, and a failure of one does not stop the others. What this process has fetched within
// the last ten minutes is compared with the Store, and stored again where the database has lost it. A failure of the
// Store as a whole ends RefreshDue and is returned: of Due, of several grants in a row, or of each grant that was tried;
// so is the error of ctx. A request that was sent by then is finished all the same. If the process dies, what is left is
// found due by the next call.
//
// While the app is held, after a wrong client secret for example, RefreshDue does not return before that is mended: give
// ctx a deadline where nobody mends it, as in a test. OnRefresh and Logger are told of it at once.
func (m *Manager) RefreshDue(ctx context.Context, within time.Duration) error {
	if err := m.usable(); err != nil {
		return err
	}
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(m.queued, func() { cancel(ErrClosed) })()
	start := time.Now()
	tried, tally := make(map[string]bool), new(storeTally)
	all := m.recentlyFetched()
	for {
		within := within - time.Since(start) // what comes due meanwhile is the next call's
		due, err := ask(running, m, func(ctx context.Context) ([]string, error) {
			return m.store.Due(ctx, within, dueLimit+len(tried)) // what failed is due still
		})
		if err != nil {
			return cmp.Or(ctx.Err(), context.Cause(running), error(m.storeError("", err)))
		}
		all = slices.DeleteFunc(append(all, due...), func(grant string) bool {
			again := tried[grant]
			tried[grant] = true
			return again
		})
		if len(all) == 0 {
			return cmp.Or(ctx.Err(), context.Cause(running), tally.first)
		}
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		err = forEach(running, all, func(ctx context.Context, grant string) error {
			return m.refreshDue(ctx, grant, within, tally)
		})
		if err != nil {
			return cmp.Or(ctx.Err(), err)
		}
		all = nil
	}
}

// storeTally tells failures of the Store from those of single rows.
type storeTally struct {
	mu     sync.Mutex
	failed int   // in a row
	first  error // of those that failed, unless any has not
	worked bool
}

// note returns err when the Store has failed as a whole.
func (t *storeTally) note(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := err.(*StoreError); !ok {
		t.failed, t.worked, t.first = 0, true, nil
		return nil
	}
	if !t.worked {
		t.first = cmp.Or(t.first, err)
	}
	if t.failed++; t.failed < dueFailures {
		return nil
	}
	return err
}

// recentlyFetched returns the grants whose newest token this Manager has brought in the last ten minutes, and stored.
func (m *Manager) recentlyFetched() []string {
	var names []string
	m.entries.Range(func(grant, found any) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		if e := found.(*entry); e.line.fetched != 0 && m.now()-e.line.fetched < fetchedTime && e.unsaved == nil && e.attempt == nil {
			names = append(names, grant.(string))
		}
		return true
	})
	return names
}

// refreshDue refreshes one grant, and returns an error only where RefreshDue has to stop.
func (m *Manager) refreshDue(ctx context.Context, grant string, within time.Duration, tally *storeTally) error {
	for {
		a, err := m.join(grant, within)
		if a == nil {
			return err
		}
		select {
		case <-a.finished:
		case <-ctx.Done():
			m.abandon(a)
			return ctx.Err()
		}
		if err := tally.note(a.event.Err); err != nil || !a.held {
			return err
		}
		if err := sleep(ctx, cmp.Or(waitOf(a.event.Err), minProbe)); err != nil {
			return err
		}
	}
}

// join returns the grant's attempt, which RefreshDue waits for, or nil if it has failed just now.
func (m *Manager) join(grant string, within time.Duration) (*attempt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed() {
		return nil, ErrClosed
	}
	e := m.entry(grant)
	if e.attempt == nil {
		if e.row.sent && m.remembered(e) != nil {
			return nil, nil
		}
		m.begin(grant, e, want{due: true, within: within})
	}
	e.attempt.due++
	return e.attempt, nil
}

// abandon is called by a RefreshDue that waits no longer. An attempt that one began ends if nobody waits and it sent nothing.
func (m *Manager) abandon(a *attempt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a.due--
	if a.want.due && a.due == 0 && a.outcome.callers == 0 && !a.sent {
		a.detach()
		a.cancel()
	}
}

// forEach calls f for each item, some at a time, until one fails or ctx ends. The others' context says so; they are awaited.
func forEach[T any](ctx context.Context, items []T, f func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var taken atomic.Int64
	var workers sync.WaitGroup
	for range min(dueConcurrency, len(items)) {
		workers.Go(func() {
			for i := taken.Add(1) - 1; i < int64(len(items)) && ctx.Err() == nil; i = taken.Add(1) - 1 {
				if err := f(ctx, items[i]); err != nil {
					cancel(err)
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// sleep returns nil after d, or the error of ctx if that ends before.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
