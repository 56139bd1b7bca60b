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

// A multiOrigin has every key but those that end in "none".
type multiOrigin struct {
	takes time.Duration
	mu    sync.Mutex
	calls [][]string
	err   error
}

func (o *multiOrigin) load(_ context.Context, keys []string) (map[string][]byte, error) {
	o.mu.Lock()
	o.calls = append(o.calls, slices.Clone(keys))
	o.mu.Unlock()
	time.Sleep(o.takes)
	values := make(map[string][]byte)
	for _, key := range keys {
		if !strings.HasSuffix(key, "none") {
			values[key] = []byte("v:" + key)
		}
	}
	if o.err != nil {
		return nil, o.err
	}
	return values, nil
}

// list gives the calls so far.
func (o *multiOrigin) list() [][]string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.calls)
}

func manyKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("key:%04d", i)
	}
	return keys
}

func TestFetchMulti(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &multiOrigin{takes: 100 * time.Millisecond}
		c := newCache(t, store, stampede.Config{TTL: 10 * time.Second})
		keys := append(manyKeys(1000), "key:0001", "one that is none")
		values, err := c.FetchMulti(t.Context(), keys, o.load)
		if err != nil || len(values) != 1000 || string(values["key:0007"]) != "v:key:0007" {
			t.Errorf("%d values, %v", len(values), err)
		}
		if len(o.list()) != 1 || len(o.list()[0]) != 1001 {
			t.Errorf("%d loads", len(o.list()))
		}
		if store.trips.Load() != 2 {
			t.Errorf("%d round trips, want a read and a fill", store.trips.Load())
		}
		values, err = c.FetchMulti(t.Context(), keys, o.load)
		if err != nil || len(values) != 1000 || len(o.list()) != 1 || store.trips.Load() != 3 {
			t.Errorf("again: %d values, %v, %d loads, %d trips", len(values), err, len(o.list()), store.trips.Load())
		}
		// Due: served at once, and refilled by one load in the background.
		time.Sleep(11 * time.Second)
		began := time.Now()
		values, err = c.FetchMulti(t.Context(), keys[:1000], o.load)
		if err != nil || len(values) != 1000 || time.Since(began) != 0 {
			t.Errorf("due: %d values, %v, after %v", len(values), err, time.Since(began))
		}
		time.Sleep(time.Second)
		if len(o.list()) != 2 || len(o.list()[1]) != 1000 {
			t.Errorf("%d loads", len(o.list()))
		}
		if s := c.Stats(); s.FreshHits != 1000 || s.StaleHits != 1000 || s.NotFoundHits != 1 || s.Loads != 2 {
			t.Errorf("stats %+v", s)
		}
	})
}

// Two that want the same keys load each of them once.
func TestFetchMultiTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &multiOrigin{takes: 100 * time.Millisecond}
		keys := manyKeys(100)
		var wg sync.WaitGroup
		for i := range 5 {
			c := newCache(t, store, stampede.Config{})
			wg.Go(func() {
				mine := append(slices.Clone(keys[i*10:]), keys[:i*10]...)
				if values, err := c.FetchMulti(t.Context(), mine[:60], o.load); err != nil || len(values) != 60 {
					t.Errorf("%d values, %v", len(values), err)
				}
			})
		}
		wg.Wait()
		loaded := make(map[string]int)
		for _, call := range o.list() {
			for _, key := range call {
				loaded[key]++
			}
		}
		for key, n := range loaded {
			if n != 1 {
				t.Errorf("%s was loaded %d times", key, n)
			}
		}
	})
}

func TestFetchMultiTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &multiOrigin{}
		c := newCache(t, store, stampede.Config{Lease: 2 * time.Second})
		single := &origin{}
		c.Fetch(t.Context(), "key:0001", single.load)
		c.Invalidate(t.Context(), "key:0001")
		for _, key := range []string{"key:0000", "key:0001"} { // won, and not heard of again
			store.ReadLeased(t.Context(), []stampede.Read{{Key: key, Lease: time.Minute}})
		}
		began := time.Now()
		values, err := c.FetchMulti(t.Context(), manyKeys(3), o.load)
		if took := time.Since(began); err != nil || len(values) != 3 || took < 2*time.Second || took > 2400*time.Millisecond {
			t.Errorf("%d values, %v, after %v", len(values), err, took)
		}
		for range 3 {
			c.FetchMulti(t.Context(), manyKeys(3), o.load)
			synctest.Wait()
		}
		values, _ = c.FetchMulti(t.Context(), manyKeys(3), o.load)
		if string(values["key:0001"]) != "v:key:0001" {
			t.Errorf("the stale value is still %q", values["key:0001"])
		}
	})
}

// A takeover that does not come about, as all slots are in use by then, is none:
// not when the key is invalidated, and so won, right then.
func TestFetchMultiThatCanNotTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hookStore{moodyStore: newFakeStore()}
		c := newCache(t, store, stampede.Config{Lease: 2 * time.Second, MaxLoads: 1})
		o, slow := &multiOrigin{}, &origin{takes: 500 * time.Millisecond}
		store.ReadLeased(t.Context(), []stampede.Read{{Key: "k", Lease: time.Minute}}) // won, and not heard of again
		began := time.Now()
		var once sync.Once
		store.read = func(reads []stampede.Read, _ []stampede.Reply) {
			if reads[0].Key == "k" && time.Since(began) >= 2*time.Second {
				once.Do(func() { // the lease is seen to be overdue, and taken with the next read
					go func() {
						time.Sleep(time.Millisecond)
						go c.Fetch(t.Context(), "slow", slow.load)
						c.Invalidate(t.Context(), "k")
					}()
				})
			}
		}
		if _, err := c.FetchMulti(t.Context(), []string{"k"}, o.load); !errors.Is(err, stampede.ErrOriginBusy) {
			t.Error(err)
		}
		if s := c.Stats(); slow.calls.Load() != 1 || s.Takeovers != 0 {
			t.Errorf("%d slots in use, stats %+v", slow.calls.Load(), s)
		}
	})
}

func TestFetchMultiFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &multiOrigin{err: errors.New("broken")}
		c := newCache(t, store, stampede.Config{MaxLoads: 1})
		values, err := c.FetchMulti(t.Context(), manyKeys(3), o.load)
		var multi *stampede.MultiError
		if len(values) != 0 || !errors.As(err, &multi) || len(multi.Errors) != 3 || !errors.Is(err, o.err) {
			t.Errorf("%v, %v", values, err)
		}
		// A single slot, and it is in use: nothing is won and kept.
		time.Sleep(5 * time.Second)
		o.err, o.takes = nil, time.Second
		go c.Fetch(t.Context(), "slow", (&origin{takes: time.Second}).load)
		synctest.Wait()
		if _, err := c.FetchMulti(t.Context(), manyKeys(3), o.load); !errors.Is(err, stampede.ErrOriginBusy) {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := c.FetchMulti(ctx, manyKeys(3), o.load); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		time.Sleep(2 * time.Second) // the load went on
		calls := len(o.list())
		if values, err := c.FetchMulti(t.Context(), manyKeys(3), o.load); err != nil || len(values) != 3 || len(o.list()) != calls {
			t.Errorf("%d values, %v, %d loads", len(values), err, len(o.list())-calls)
		}
		store.err = errors.New("unreachable")
		if values, err := c.FetchMulti(t.Context(), manyKeys(3), o.load); err != nil || len(values) != 3 {
			t.Errorf("%v, %v", values, err)
		}
		store.err = nil
		c.Close()
		if _, err := c.FetchMulti(t.Context(), manyKeys(4), o.load); !errors.Is(err, stampede.ErrClosed) {
			t.Error(err)
		}
	})
}

type user struct {
	Name string
	Age  int
}

func TestTyped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c := newCache(t, store, stampede.Config{})
		users := stampede.Typed[user](c, stampede.JSON)
		ctx := t.Context()
		var loads atomic.Int64
		load := func(_ context.Context, key string) (user, error) {
			return user{key, int(loads.Add(1))}, nil
		}
		for range 2 {
			if u, err := users.Fetch(ctx, "ann", load); err != nil || u != (user{"ann", 1}) {
				t.Errorf("%+v, %v", u, err)
			}
		}
		if u, err := users.Refresh(ctx, "ann", load); err != nil || u != (user{"ann", 2}) {
			t.Errorf("%+v, %v", u, err)
		}
		all, err := users.FetchMulti(ctx, []string{"ann", "bob", "nobody"}, func(_ context.Context, keys []string) (map[string]user, error) {
			return map[string]user{"bob": {"bob", 7}}, nil
		})
		if err != nil || len(all) != 2 || all["bob"].Age != 7 || all["ann"].Age != 2 {
			t.Errorf("%+v, %v", all, err)
		}
		c.Fetch(ctx, "text", (&origin{}).load)
		if _, err := users.Fetch(ctx, "text", load); !errors.Is(err, stampede.ErrDecode) {
			t.Error(err)
		}
		all, err = users.FetchMulti(ctx, []string{"ann", "text", "text", "ann"}, nil)
		var multi *stampede.MultiError
		if !errors.Is(err, stampede.ErrDecode) || len(all) != 1 || !errors.As(err, &multi) || multi.Total != 2 || len(multi.Errors) != 1 {
			t.Errorf("%+v, %v", all, err)
		}
		if _, err := users.Fetch(ctx, "x", func(context.Context, string) (user, error) { return user{}, stampede.ErrNotFound }); !errors.Is(err, stampede.ErrNotFound) {
			t.Error(err)
		}
		if _, err := stampede.Typed[chan int](c, stampede.JSON).Fetch(ctx, "c", func(context.Context, string) (chan int, error) { return nil, nil }); err == nil || !strings.Contains(err.Error(), "encode") {
			t.Errorf("a channel: %v", err)
		}
	})
}
