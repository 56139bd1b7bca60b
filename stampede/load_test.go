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

// What loaders do, and what becomes of it. In bubbles of synctest, as in fetch_test.go.

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
