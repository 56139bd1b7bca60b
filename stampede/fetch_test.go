package stampede_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

func TestLoaderErrors(t *testing.T) {
	broken := errors.New("the database is on fire")
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{takes: 100 * time.Millisecond}
		a, b := newCache(t, store, stampede.Config{TTL: time.Minute}), newCache(t, store, stampede.Config{TTL: time.Minute})
		// Missing: everybody gets the error, and none loads one after the other.
		o.fails(broken)
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if _, err := a.Fetch(t.Context(), "k", o.load); !errors.Is(err, broken) {
					t.Errorf("the same process: %v", err)
				}
			})
		}
		synctest.Wait()
		if _, err := b.Fetch(t.Context(), "k", o.load); !errors.Is(err, stampede.ErrLoadFailed) || !strings.Contains(err.Error(), "on fire") {
			t.Errorf("another process: %v", err)
		}
		wg.Wait()
		if n := o.calls.Load(); n != 1 {
			t.Errorf("%d loads", n)
		}
		time.Sleep(1100 * time.Millisecond)
		o.fails(nil)
		wantFetch(t, b, o, "k/2")

		// A stale value goes on being served, and the next try waits.
		a.Invalidate(t.Context(), "k")
		o.fails(broken)
		for range 90 {
			wantFetch(t, b, o, "k/2")
			time.Sleep(100 * time.Millisecond)
		}
		if n := o.calls.Load(); n != 3 {
			t.Errorf("%d loads within Lease of the failed one, want 3", n)
		}
		o.fails(nil)
		for range 40 {
			b.Fetch(t.Context(), "k", o.load)
			time.Sleep(100 * time.Millisecond)
		}
		wantFetch(t, a, o, "k/4")
		if s := b.Stats(); s.StaleOnError != 1 || s.LoadErrors != 1 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestNotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{}
		c := newCache(t, store, stampede.Config{NotFoundTTL: 30 * time.Second})
		o.fails(fmt.Errorf("users: %w", stampede.ErrNotFound))
		for range 5 {
			if _, err := c.Fetch(t.Context(), "k", o.load); !errors.Is(err, stampede.ErrNotFound) {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := o.calls.Load(); n != 1 {
			t.Errorf("%d loads", n)
		}
		// Now it is there: an invalidation does not serve "not found" on.
		o.fails(nil)
		c.Invalidate(t.Context(), "k")
		wantFetch(t, c, o, "k/2")
		// It goes again while there is a value: that is no failure to hide.
		o.fails(stampede.ErrNotFound)
		c.Invalidate(t.Context(), "k")
		wantFetch(t, c, o, "k/2")
		synctest.Wait()
		if _, err := c.Fetch(t.Context(), "k", o.load); !errors.Is(err, stampede.ErrNotFound) {
			t.Error(err)
		}
	})
}

// What markers answer is told to a hook.
func TestMarkerHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{}
		var told []string
		c := newCache(t, store, stampede.Config{Hooks: stampede.Hooks{Marker: func(key string, err error) {
			told = append(told, fmt.Sprintf("%s %v %v", key, errors.Is(err, stampede.ErrNotFound), errors.Is(err, stampede.ErrLoadFailed)))
		}}})
		for key, err := range map[string]error{"none": stampede.ErrNotFound, "broken": errors.New("broken")} {
			o.fails(err)
			c.Fetch(t.Context(), key, o.load)
		}
		c.Fetch(t.Context(), "none", o.load)
		c.Fetch(t.Context(), "broken", o.load)
		c.FetchMulti(t.Context(), []string{"none", "broken"}, nil)
		want := []string{"none true false", "broken false true", "broken false true", "none true false"}
		if s := c.Stats(); !slices.Equal(told, want) || s.NotFoundHits != 2 || s.FailedHits != 2 {
			t.Errorf("%q, stats %+v", told, s)
		}
	})
}

func TestLoaderThatMisbehaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c := newCache(t, store, stampede.Config{Lease: 2 * time.Second, MaxLoads: 1, ErrorTTL: stampede.None})
		ctx := t.Context()
		if _, err := c.Fetch(ctx, "panics", func(context.Context, string) ([]byte, error) { panic("boom") }); !errors.Is(err, stampede.ErrLoadPanicked) || !strings.Contains(err.Error(), "boom") {
			t.Errorf("a panic: %v", err)
		}
		if b, err := c.Fetch(ctx, "nil", func(context.Context, string) ([]byte, error) { return nil, nil }); b == nil || len(b) != 0 || err != nil {
			t.Errorf("nil: %v, %v", b, err)
		}
		if b, err := c.Fetch(ctx, "nil", func(context.Context, string) ([]byte, error) { return []byte("again"), nil }); b == nil || len(b) != 0 || err != nil {
			t.Errorf("an empty value from the cache: %q, %v", b, err)
		}
		hang := make(chan struct{})
		began := time.Now()
		_, err := c.Fetch(ctx, "hangs", func(context.Context, string) ([]byte, error) { <-hang; return nil, nil })
		if !errors.Is(err, stampede.ErrLoadTimeout) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		// It hangs on, and the origin with it: its slot is not free.
		if _, err := c.Fetch(ctx, "busy", func(context.Context, string) ([]byte, error) { return nil, nil }); !errors.Is(err, stampede.ErrOriginBusy) {
			t.Errorf("while the slot is taken: %v", err)
		}
		close(hang)
		synctest.Wait()
		if _, err := c.Fetch(ctx, "busy", func(context.Context, string) ([]byte, error) { return nil, nil }); err != nil {
			t.Errorf("the lease of a shed load: %v", err)
		}
	})
}

func TestCancelledWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{takes: 500 * time.Millisecond}
		c := newCache(t, store, stampede.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := c.Fetch(ctx, "k", o.load); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		// The load goes on without its caller.
		wantFetch(t, c, o, "k/1")
		if n := o.calls.Load(); n != 1 {
			t.Errorf("%d loads", n)
		}
	})
}

func TestMaxLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c := newCache(t, store, stampede.Config{MaxLoads: 3})
		var running, most atomic.Int64
		load := func(context.Context, string) ([]byte, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(time.Second)
			return []byte("v"), nil
		}
		var wg sync.WaitGroup
		var busy atomic.Int64
		for i := range 20 {
			wg.Go(func() {
				if _, err := c.Fetch(t.Context(), fmt.Sprint(i), load); errors.Is(err, stampede.ErrOriginBusy) {
					busy.Add(1)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if most.Load() != 3 || busy.Load() != 17 || c.Stats().Shed != 17 {
			t.Errorf("%d at a time, %d shed, stats %+v", most.Load(), busy.Load(), c.Stats())
		}
		for key := range store.items {
			if item := store.items[key]; item.token && len(item.value) == 0 {
				t.Errorf("the lease of %s is held by nobody", key)
			}
		}
	})
}

func TestCloseGivesLeasesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{takes: 5 * time.Second}
		a, b := newCache(t, store, stampede.Config{}), newCache(t, store, stampede.Config{})
		quick := &origin{}
		if _, err := a.Fetch(t.Context(), "stale", quick.load); err != nil {
			t.Fatal(err)
		}
		a.Invalidate(t.Context(), "stale")
		a.Fetch(t.Context(), "stale", o.load) // refills in the background
		errs := make(chan error, 1)
		go func() {
			_, err := a.Fetch(t.Context(), "k", o.load)
			errs <- err
		}()
		synctest.Wait()
		a.Close()
		if err := <-errs; !errors.Is(err, stampede.ErrClosed) {
			t.Errorf("a caller that waited: %v", err)
		}
		began := time.Now()
		o.takes = 0
		wantFetch(t, b, o, "k/3")
		b.Fetch(t.Context(), "stale", quick.load)
		synctest.Wait()
		if v, err := b.Fetch(t.Context(), "stale", quick.load); string(v) != "stale/2" || err != nil || time.Since(began) != 0 {
			t.Errorf("%q, %v after %v", v, err, time.Since(began))
		}
		for _, err := range []error{
			func() error { _, err := a.Fetch(t.Context(), "new", o.load); return err }(),
			func() error { _, err := a.Refresh(t.Context(), "k", o.load); return err }(),
			a.Invalidate(t.Context(), "k"),
		} {
			if !errors.Is(err, stampede.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		}
	})
}

func TestStoreErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{takes: 100 * time.Millisecond}
		c := newCache(t, store, stampede.Config{})
		store.err = errors.New("unreachable")
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { wantFetch(t, c, o, "k/1") })
		}
		wg.Wait()
		store.err = nil
		if len(store.items) != 0 {
			t.Error("it was filled without a lease")
		}
		store.err = stampede.ErrBadKey
		if _, err := c.Fetch(t.Context(), "k", o.load); !errors.Is(err, stampede.ErrBadKey) || o.calls.Load() != 1 {
			t.Errorf("a bad key: %v, %d loads", err, o.calls.Load())
		}
	})
}

func TestOwnTTLAndNoStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c := newCache(t, store, stampede.Config{TTL: time.Minute, Grace: time.Hour})
		calls := 0
		load := func(ctx context.Context, key string) ([]byte, error) {
			calls++
			if key == "never" {
				stampede.NoStore(ctx, key)
			} else {
				stampede.SetTTL(ctx, key, 5*time.Second)
			}
			return []byte("v"), nil
		}
		c.Fetch(t.Context(), "short", load)
		if left := time.Until(store.items["short"].expires); left != time.Hour+5*time.Second {
			t.Errorf("kept for %v", left)
		}
		for range 3 {
			if b, err := c.Fetch(t.Context(), "never", load); string(b) != "v" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
		}
		if calls != 4 {
			t.Errorf("%d loads, want 1 and 3", calls)
		}
		c.Fetch(t.Context(), "option", func(context.Context, string) ([]byte, error) { return nil, nil }, stampede.TTL(7*time.Second))
		if left := time.Until(store.items["option"].expires); left != time.Hour+7*time.Second {
			t.Errorf("kept for %v", left)
		}
		if stampede.SetTTL(t.Context(), "k", time.Second) || stampede.NoStore(t.Context(), "k") {
			t.Error("set outside a loader")
		}
	})
}

func TestEarlyRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{takes: 2 * time.Second}
		c := newCache(t, store, stampede.Config{TTL: 100 * time.Second, Grace: time.Hour, EarlyRefresh: 1})
		wantFetch(t, c, o, "k/1")
		var at time.Duration
		for filled := time.Now(); o.calls.Load() == 1; time.Sleep(100 * time.Millisecond) {
			wantFetch(t, c, o, "k/1")
			at = time.Since(filled)
		}
		if at < 74*time.Second || at >= 100*time.Second {
			t.Errorf("refreshed %v after it was filled", at)
		}
		if s := c.Stats(); s.EarlyRefreshes != 1 || s.StaleHits != 0 {
			t.Errorf("stats %+v", s)
		}
		time.Sleep(3 * time.Second)
		wantFetch(t, c, o, "k/2")
	})
}

func TestStandIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{}
		store.standIn = true
		c := newCache(t, store, stampede.Config{TTL: time.Minute, Grace: time.Hour})
		for range 10 { // what a stand-in keeps is not due at birth
			wantFetch(t, c, o, "k/1")
			time.Sleep(time.Second)
		}
		if err := c.Invalidate(t.Context(), "k"); !errors.Is(err, stampede.ErrOwnerDown) {
			t.Error(err)
		}
		if b, err := c.Refresh(t.Context(), "k", o.load); string(b) == "k/1" || !errors.Is(err, stampede.ErrOwnerDown) {
			t.Errorf("%q, %v", b, err)
		}
	})
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]stampede.Config{
		"TTL":         {TTL: time.Millisecond},
		"Grace":       {Grace: 31 * 24 * time.Hour},
		"Lease":       {Lease: time.Second},
		"LoadTimeout": {Lease: 5 * time.Second, LoadTimeout: 4500 * time.Millisecond},
		"MaxLoads":    {MaxLoads: -1},
		"Jitter":      {Jitter: 0.6},
		"ErrorTTL":    {ErrorTTL: time.Hour},
		"NotFoundTTL": {NotFoundTTL: time.Hour},
		"Shared":      {Shared: true, Grace: time.Hour},
	} {
		if _, err := stampede.New(newFakeStore(), cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := stampede.New(nil, stampede.Config{}); err == nil {
		t.Error("no store")
	}
	err := stampede.Config{TTL: 1, Lease: 1, MaxLoads: -1}.Validate()
	for _, field := range []string{"TTL", "Lease", "MaxLoads"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("all at once: %v lacks %s", err, field)
		}
	}
}

// Whatever is in the cache, a key costs one load in its time, also in the
// second in which that is over: times are whole seconds there.
func TestOneLoadInItsTime(t *testing.T) {
	for name, tt := range map[string]struct {
		err     error
		options []stampede.Option
	}{
		"failed":    {err: errors.New("broken")},
		"not found": {err: stampede.ErrNotFound},
		"value":     {},
		"fresh":     {options: []stampede.Option{stampede.Fresh()}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, o := newFakeStore(), &origin{takes: 20 * time.Millisecond}
				o.fails(tt.err)
				var wg sync.WaitGroup
				for range 20 {
					c := newCache(t, store, stampede.Config{TTL: 2 * time.Second, Grace: time.Minute, ErrorTTL: 2 * time.Second})
					wg.Go(func() {
						for began := time.Now(); time.Since(began) < 8*time.Second; time.Sleep(10 * time.Millisecond) {
							c.Fetch(t.Context(), "k", o.load, tt.options...)
						}
					})
				}
				wg.Wait()
				if n := o.calls.Load(); n < 3 || n > 5 {
					t.Errorf("%d loads in four times 2s", n)
				}
			})
		})
	}
}

// Early refresh does not have a failed load tried again before its time.
func TestFailureIsNotRefreshedEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{takes: 3 * time.Second}
		c := newCache(t, store, stampede.Config{TTL: time.Minute, Grace: time.Minute, ErrorTTL: 5 * time.Second, EarlyRefresh: 5})
		wantFetch(t, c, o, "k/1") // which tells what a load costs
		c.Delete(t.Context(), "k")
		o.fails(errors.New("broken"))
		for began := time.Now(); time.Since(began) < 7*time.Second; time.Sleep(10 * time.Millisecond) {
			if _, err := c.Fetch(t.Context(), "k", o.load); err == nil {
				t.Fatal("a value")
			}
		}
		if n := o.calls.Load(); n != 2 {
			t.Errorf("%d loads, want 2", n)
		}
	})
}
