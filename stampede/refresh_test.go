package stampede_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringside-cache/ringside/stampede"
)

func wantRefresh(t *testing.T, c *stampede.Cache, o *origin, want string) {
	t.Helper()
	if b, err := c.Refresh(t.Context(), "k", o.load); err != nil || string(b) != want {
		t.Errorf("Refresh gave %q, %v; want %q", b, err, want)
	}
}

func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{}
		a, b := newCache(t, store, stampede.Config{}), newCache(t, store, stampede.Config{})
		wantRefresh(t, a, o, "k/1") // nothing was there
		wantFetch(t, b, o, "k/1")
		wantRefresh(t, a, o, "k/2")
		wantFetch(t, b, o, "k/2")
		if n := o.calls.Load(); n != 2 {
			t.Errorf("%d loads", n)
		}
		// While it loads, readers are served the old value.
		o.takes = 200 * time.Millisecond
		done := make(chan struct{})
		go func() {
			defer close(done)
			wantRefresh(t, a, o, "k/3")
		}()
		time.Sleep(100 * time.Millisecond)
		wantFetch(t, b, o, "k/2")
		<-done
		wantFetch(t, b, o, "k/3")
	})
}

// A reader that missed before the write joins no longer, and its load does not
// land.
func TestRefreshDuringALoad(t *testing.T) {
	for _, grace := range []time.Duration{0, stampede.None} {
		synctest.Test(t, func(t *testing.T) {
			store, o := newFakeStore(), &origin{takes: 300 * time.Millisecond}
			cfg := stampede.Config{Grace: grace}
			a, b := newCache(t, store, cfg), newCache(t, store, cfg)
			var wg sync.WaitGroup
			wg.Go(func() { wantFetch(t, a, o, "k/1") })
			time.Sleep(100 * time.Millisecond)
			// In the same process and in another.
			wg.Go(func() { wantRefresh(t, a, o, "k/3") }) // its own was lost to the one that follows
			time.Sleep(100 * time.Millisecond)
			wg.Go(func() { wantRefresh(t, b, o, "k/3") })
			time.Sleep(time.Second)
			wantFetch(t, a, o, "k/3")
			wg.Wait()
		})
	}
}

// Of many that refresh at a time all end with a value that is not older than
// their own write.
func TestRefreshAgainstRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		var version, loads atomic.Int64
		load := func(ctx context.Context, _ string) ([]byte, error) {
			loads.Add(1)
			v := version.Load()
			time.Sleep(50 * time.Millisecond)
			return fmt.Appendf(nil, "%d", v), nil
		}
		var wg sync.WaitGroup
		for i := range 8 {
			c := newCache(t, store, stampede.Config{})
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 7 * time.Millisecond)
				mine := version.Add(1)
				b, err := c.Refresh(t.Context(), "k", load)
				var got int64
				fmt.Sscan(string(b), &got)
				if err != nil || got < mine {
					t.Errorf("version %d after writing %d, %v", got, mine, err)
				}
				r := store.ReadLeased(t.Context(), []stampede.Read{{Key: "k"}})[0]
				fmt.Sscan(string(r.Value), &got)
				if !r.Stale && r.Found && len(r.Value) > 0 && got < mine {
					t.Errorf("the cache has version %d after %d", got, mine)
				}
			})
		}
		wg.Wait()
		if n := loads.Load(); n > 24 {
			t.Errorf("%d loads for 8 refreshes", n)
		}
	})
}

func TestRefreshThatFails(t *testing.T) {
	broken := errors.New("broken")
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{}
		c := newCache(t, store, stampede.Config{MaxLoads: 1})
		wantFetch(t, c, o, "k/1")
		o.fails(broken)
		if _, err := c.Refresh(t.Context(), "k", o.load); !errors.Is(err, broken) {
			t.Error(err)
		}
		// The old value is stale at best, and whoever reads next refills.
		o.fails(nil)
		wantFetch(t, c, o, "k/1")
		synctest.Wait()
		wantFetch(t, c, o, "k/3")

		// Its context ends: the load goes on.
		o.takes = time.Second
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := c.Refresh(ctx, "k", o.load); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, err := c.Refresh(t.Context(), "k", o.load); !errors.Is(err, stampede.ErrOriginBusy) {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		o.takes = 0

		o.fails(stampede.ErrNotFound)
		if _, err := c.Refresh(t.Context(), "k", o.load); !errors.Is(err, stampede.ErrNotFound) {
			t.Error(err)
		}
		if _, err := c.Fetch(t.Context(), "k", o.load); !errors.Is(err, stampede.ErrNotFound) {
			t.Error(err)
		}
		o.fails(nil)
		store.err = errors.New("unreachable")
		if _, err := c.Refresh(t.Context(), "k", o.load); !errors.Is(err, store.err) {
			t.Error(err)
		}
	})
}

// A lease whose holder was not heard of since is taken at once.
func TestRefreshTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{}
		c := newCache(t, store, stampede.Config{})
		store.ReadLeased(t.Context(), []stampede.Read{{Key: "k", Lease: time.Minute}})
		began := time.Now()
		// Between the invalidation and the read another wins, and dies.
		wantRefresh(t, newCache(t, &intruder{moodyStore: store}, stampede.Config{}), o, "k/1")
		wantFetch(t, c, o, "k/1")
		if took := time.Since(began); took != 0 {
			t.Errorf("after %v", took)
		}
	})
}

// An intruder wins a lease right behind the first invalidation.
type intruder struct {
	*moodyStore
	once sync.Once
}

func (i *intruder) WriteLeased(ctx context.Context, writes []stampede.Write) []stampede.Result {
	r := i.moodyStore.WriteLeased(ctx, writes)
	i.once.Do(func() { i.moodyStore.ReadLeased(ctx, []stampede.Read{{Key: "k", Lease: time.Minute}}) })
	return r
}
