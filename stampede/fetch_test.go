package stampede_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringside-cache/ringside/stampede"
)

// These tests run in a bubble of synctest: time passes only while everybody
// waits, so what they say about times is exact.

// A moodyStore fails, stands in for another, and counts its round trips.
type moodyStore struct {
	*fakeStore
	err     error // of everything
	standIn bool
	trips   atomic.Int64
}

func newFakeStore() *moodyStore {
	return &moodyStore{fakeStore: &fakeStore{items: make(map[string]*fakeItem)}}
}

func (m *moodyStore) ReadLeased(ctx context.Context, reads []stampede.Read) []stampede.Reply {
	m.trips.Add(1)
	err := m.err
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		replies := make([]stampede.Reply, len(reads))
		for i := range replies {
			replies[i].Err = err
		}
		return replies
	}
	if m.standIn {
		reads = slices.Clone(reads)
		for i := range reads {
			reads[i].Grace, reads[i].Early = 0, 0
		}
	}
	replies := m.fakeStore.ReadLeased(ctx, reads)
	for i := range replies {
		replies[i].StandIn = m.standIn
	}
	return replies
}

func (m *moodyStore) WriteLeased(ctx context.Context, writes []stampede.Write) []stampede.Result {
	m.trips.Add(1)
	if m.err != nil {
		results := make([]stampede.Result, len(writes))
		for i := range results {
			results[i].Err = m.err
		}
		return results
	}
	results := m.fakeStore.WriteLeased(ctx, writes)
	for i, w := range writes {
		if m.standIn && (w.Kind == stampede.Invalidate || w.Kind == stampede.Delete) {
			results[i].Err = stampede.ErrOwnerDown
		}
	}
	return results
}

// An unleased load that began before an invalidation is not joined after it.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{takes: 300 * time.Millisecond}
		c := newCache(t, store, stampede.Config{})
		down := errors.New("unreachable")
		store.err = down
		go c.Fetch(t.Context(), "k", o.load)
		synctest.Wait()
		store.err = nil
		if err := c.Invalidate(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		store.err = down
		wantFetch(t, c, o, "k/2")
	})
}

func newCache(t *testing.T, store stampede.Store, cfg stampede.Config) *stampede.Cache {
	t.Helper()
	if cfg.Jitter == 0 {
		cfg.Jitter = -1
	}
	if cfg.EarlyRefresh == 0 {
		cfg.EarlyRefresh = -1
	}
	c, err := stampede.New(store, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// An origin counts its calls and answers with their number.
type origin struct {
	calls atomic.Int64
	takes time.Duration
	err   atomic.Pointer[error]
}

func (o *origin) load(ctx context.Context, key string) ([]byte, error) {
	n := o.calls.Add(1)
	if o.takes > 0 {
		timer := time.NewTimer(o.takes)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := o.err.Load(); err != nil {
		return nil, *err
	}
	return fmt.Appendf(nil, "%s/%d", key, n), nil
}

func (o *origin) fails(err error) {
	if err == nil {
		o.err.Store(nil)
		return
	}
	o.err.Store(&err)
}

func wantFetch(t *testing.T, c *stampede.Cache, o *origin, want string, options ...stampede.Option) {
	t.Helper()
	b, err := c.Fetch(t.Context(), "k", o.load, options...)
	if err != nil || string(b) != want {
		t.Helper()
		t.Errorf("Fetch gave %q, %v; want %q", b, err, want)
	}
}

func TestOneLoadForManyCaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{takes: 200 * time.Millisecond}
		began := time.Now()
		var wg sync.WaitGroup
		var caches []*stampede.Cache
		for range 20 { // processes
			c := newCache(t, store, stampede.Config{})
			caches = append(caches, c)
			for range 10 {
				wg.Go(func() { wantFetch(t, c, o, "k/1") })
			}
		}
		wg.Wait()
		if n, took := o.calls.Load(), time.Since(began); n != 1 || took > 250*time.Millisecond {
			t.Errorf("%d loads in %v, want 1, and the others within 50ms of it", n, took)
		}
		var wins, waits uint64
		for _, c := range caches {
			wins, waits = wins+c.Stats().Wins, waits+c.Stats().Waits
		}
		if wins != 1 || waits != 199 {
			t.Errorf("%d wins, %d waits", wins, waits)
		}
	})
}

func TestDueValueIsServedAndRefilledByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{takes: 200 * time.Millisecond}
		a := newCache(t, store, stampede.Config{TTL: 10 * time.Second, Grace: time.Minute})
		b := newCache(t, store, stampede.Config{TTL: 10 * time.Second, Grace: time.Minute})
		wantFetch(t, a, o, "k/1")
		time.Sleep(10*time.Second + time.Millisecond)
		began := time.Now()
		for range 5 {
			wantFetch(t, a, o, "k/1")
			wantFetch(t, b, o, "k/1")
		}
		if time.Since(began) != 0 {
			t.Error("a reader of a due value waited")
		}
		time.Sleep(time.Second)
		wantFetch(t, b, o, "k/2")
		if n := o.calls.Load(); n != 2 {
			t.Errorf("%d loads, want 2", n)
		}
		if s := a.Stats(); s.StaleHits != 5 || s.Wins != 2 || s.Fills != 2 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestFreshWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{takes: 200 * time.Millisecond}
		a, b := newCache(t, store, stampede.Config{}), newCache(t, store, stampede.Config{})
		wantFetch(t, a, o, "k/1")
		if err := a.Invalidate(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { wantFetch(t, a, o, "k/2", stampede.Fresh()) })
		synctest.Wait()
		wantFetch(t, b, o, "k/1")
		wantFetch(t, b, o, "k/2", stampede.Fresh())
		wg.Wait()
	})
}

// A load that began before an invalidation does not land after it.
func TestInvalidateDuringLoad(t *testing.T) {
	for name, change := range map[string]func(*stampede.Cache, context.Context, string) error{
		"invalidate": (*stampede.Cache).Invalidate, "delete": (*stampede.Cache).Delete,
	} {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/first=%v", name, first), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					store, o := newFakeStore(), &origin{takes: 200 * time.Millisecond}
					a, b := newCache(t, store, stampede.Config{}), newCache(t, store, stampede.Config{})
					want := int64(1)
					if !first {
						want = 2
						wantFetch(t, a, o, "k/1")
						a.Invalidate(t.Context(), "k")
					}
					done := make(chan struct{})
					go func() {
						defer close(done)
						a.Fetch(t.Context(), "k", o.load, stampede.Fresh())
					}()
					time.Sleep(100 * time.Millisecond)
					if o.calls.Load() != want {
						t.Fatalf("%d loads", o.calls.Load())
					}
					if err := change(b, t.Context(), "k"); err != nil {
						t.Fatal(err)
					}
					// A caller of the same process that comes now does not join.
					wantFetch(t, a, o, fmt.Sprintf("k/%d", want+1), stampede.Fresh())
					<-done
					time.Sleep(time.Second)
					wantFetch(t, b, o, fmt.Sprintf("k/%d", want+1))
					if s := a.Stats(); s.Refused[stampede.RefusedChanged]+s.Refused[stampede.RefusedGone] != 1 {
						t.Errorf("the old load was not refused: %+v", s)
					}
				})
			})
		}
	}
}

// The holder of a lease dies: on a missing key somebody else loads after
// Lease, on a stale value too, and readers of that never wait.
func TestTakeover(t *testing.T) {
	for _, stale := range []bool{false, true} {
		t.Run(fmt.Sprintf("stale=%v", stale), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, o := newFakeStore(), &origin{}
				cfg := stampede.Config{Lease: 3 * time.Second, TTL: 10 * time.Second}
				var caches []*stampede.Cache
				for range 5 {
					caches = append(caches, newCache(t, store, cfg))
				}
				old := ""
				if stale {
					old = "k/1"
					wantFetch(t, caches[0], o, old)
					caches[0].Invalidate(t.Context(), "k")
				}
				before := o.calls.Load()
				// One wins and is never heard of again.
				if r := store.ReadLeased(t.Context(), []stampede.Read{{Key: "k", Lease: 5 * time.Second}}); !r[0].Won {
					t.Fatal("no lease")
				}
				began := time.Now()
				var wg sync.WaitGroup
				for _, c := range caches {
					wg.Go(func() {
						for {
							b, err := c.Fetch(t.Context(), "k", o.load)
							if err != nil {
								t.Error(err)
								return
							}
							if string(b) != old {
								return
							}
							time.Sleep(10 * time.Millisecond)
						}
					})
				}
				wg.Wait()
				took := time.Since(began)
				if took < 3*time.Second || took > 3600*time.Millisecond {
					t.Errorf("replaced after %v, want Lease to Lease + 20%%", took)
				}
				if n := o.calls.Load() - before; n != 1 {
					t.Errorf("%d loads", n)
				}
				var takeovers uint64
				for _, c := range caches {
					takeovers += c.Stats().Takeovers
				}
				if takeovers != 1 {
					t.Errorf("%d takeovers", takeovers)
				}
			})
		})
	}
}
