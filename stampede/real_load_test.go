package stampede_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/stampede"
)

// These tests are of loads over a real memcached: how many, how they end, and
// what is left on the server; see TestLeasesOnMemcached.

// Of many keys at once no more than MaxLoads are loaded at a time, and those
// that are shed leave no lease behind: another process wins them at once.
func maxLoads(t *testing.T) {
	addr := realserver.Memcached(t).Addr()
	a := newCache(t, newPatientClient(t, addr), stampede.Config{MaxLoads: 5, Lease: time.Minute})
	b := newCache(t, newPatientClient(t, addr), stampede.Config{Lease: time.Minute})
	keys := manyKeys(200)
	var running, most, busy atomic.Int64
	load := func(context.Context, string) ([]byte, error) {
		n := running.Add(1)
		defer running.Add(-1)
		raise(&most, n)
		pass(context.Background(), 50*time.Millisecond)
		return []byte("a"), nil
	}
	var wg sync.WaitGroup
	for _, key := range keys {
		wg.Go(func() {
			if _, err := a.Fetch(t.Context(), key, load); errors.Is(err, stampede.ErrOriginBusy) {
				busy.Add(1)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s := a.Stats(); most.Load() > 5 || busy.Load() == 0 || s.Shed < uint64(busy.Load()) || s.Loads+uint64(busy.Load()) != 200 {
		t.Errorf("%d loads at a time, %d callers were told that the origin is busy, stats %+v", most.Load(), busy.Load(), s)
	}
	// They were given up before their callers heard of it.
	began := time.Now()
	values, err := b.FetchMulti(t.Context(), keys, (&multiOrigin{}).load)
	if s := b.Stats(); err != nil || len(values) != 200 || s.Waits != 0 || s.Wins != uint64(busy.Load()) {
		t.Errorf("%d values, %v after %v, stats %+v", len(values), err, time.Since(began), s)
	}
}

// A thousand keys and no slot: whether that is known before the read or only
// after it, the leases are another's at once.
func batchWithoutASlot(t *testing.T) {
	addr := realserver.Memcached(t).Addr()
	for _, name := range []string{"before", "after"} {
		var a *stampede.Cache
		slow := &origin{takes: time.Hour}
		fill := func() {
			go a.Fetch(t.Context(), "slow:"+name, slow.load)
			eventually(t, 20*time.Second, "the slot is in use", func() bool { return a.Stats().Loading == 1 })
		}
		var once sync.Once
		store := &between{Store: newPatientClient(t, addr), read: func(reads []stampede.Read, replies []stampede.Reply) {
			if len(reads) == 1000 && name == "after" {
				if !replies[0].Won || !replies[999].Won {
					t.Error("nothing was won")
				}
				once.Do(fill)
			}
		}}
		a = newCache(t, store, stampede.Config{MaxLoads: 1, Lease: time.Minute})
		if name == "before" {
			fill()
		}
		keys := make([]string, 1000)
		for i := range keys {
			keys[i] = fmt.Sprintf("%s:%d", name, i)
		}
		o := &multiOrigin{}
		values, err := a.FetchMulti(t.Context(), keys, o.load)
		var multi *stampede.MultiError
		if len(values) != 0 || !errors.As(err, &multi) || len(multi.Errors) != 1000 || !errors.Is(err, stampede.ErrOriginBusy) || len(o.list()) != 0 {
			t.Errorf("%s: %d values, %v, %d loads", name, len(values), err, len(o.list()))
		}
		b := newCache(t, newPatientClient(t, addr), stampede.Config{Lease: time.Minute})
		values, err = b.FetchMulti(t.Context(), keys, o.load)
		if s := b.Stats(); err != nil || len(values) != 1000 || s.Wins != 1000 || s.Waits != 0 || len(o.list()) != 1 {
			t.Errorf("%s: then %d values, %v, %d loads, stats %+v", name, len(values), err, len(o.list()), s)
		}
	}
}

// What a load that fails leaves behind for the other process.
func loaders(t *testing.T) {
	addr := realserver.Memcached(t).Addr()
	cfg := stampede.Config{Lease: 3 * time.Second, LoadTimeout: 500 * time.Millisecond, ErrorTTL: 30 * time.Second, NotFoundTTL: 30 * time.Second, TTL: time.Minute}
	a, b := newCache(t, newPatientClient(t, addr), cfg), newCache(t, newPatientClient(t, addr), cfg)
	hang := make(chan struct{})
	broken := errors.New("the database is on fire")
	never := func(context.Context, string) ([]byte, error) {
		t.Error("it was loaded again")
		return nil, nil
	}
	for _, tt := range []struct {
		key        string
		load       stampede.Loader
		here, text error
		there      string
	}{
		{"panics", func(context.Context, string) ([]byte, error) { panic("boom") }, stampede.ErrLoadPanicked, stampede.ErrLoadFailed, "boom"},
		{"ends-its-goroutine", func(context.Context, string) ([]byte, error) { panic(broken) }, broken, stampede.ErrLoadFailed, "on fire"},
		{"fails", func(context.Context, string) ([]byte, error) { return nil, broken }, broken, stampede.ErrLoadFailed, "on fire"},
		{"hangs", func(context.Context, string) ([]byte, error) { <-hang; return nil, nil }, stampede.ErrLoadTimeout, stampede.ErrLoadFailed, "LoadTimeout"},
		{"minds-its-context", func(ctx context.Context, _ string) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }, stampede.ErrLoadTimeout, stampede.ErrLoadFailed, "LoadTimeout"},
		{"not-found", func(context.Context, string) ([]byte, error) { return nil, fmt.Errorf("row: %w", stampede.ErrNotFound) }, stampede.ErrNotFound, stampede.ErrNotFound, ""},
	} {
		if _, err := a.Fetch(t.Context(), tt.key, tt.load); !errors.Is(err, tt.here) {
			t.Errorf("%s: %v", tt.key, err)
		}
		if _, err := b.Fetch(t.Context(), tt.key, never); !errors.Is(err, tt.text) || !strings.Contains(err.Error(), tt.there) {
			t.Errorf("%s, in another process: %v", tt.key, err)
		}
		if _, err := b.FetchMulti(t.Context(), []string{tt.key}, nil); tt.there == "" && err != nil || tt.there != "" && !errors.Is(err, tt.text) {
			t.Errorf("%s, of many: %v", tt.key, err)
		}
	}
	close(hang)
	if v, err := a.Fetch(t.Context(), "nil", func(context.Context, string) ([]byte, error) { return nil, nil }); v == nil || len(v) != 0 || err != nil {
		t.Errorf("nil: %v, %v", v, err)
	}
	if v, err := b.Fetch(t.Context(), "nil", never); v == nil || len(v) != 0 || err != nil {
		t.Errorf("nil, in another process: %v, %v", v, err)
	}
}

// Values with times of their own, that are not kept, that do not fit, and that
// have gone from the origin.
func keptOtherwise(t *testing.T) {
	addr := realserver.Memcached(t).Addr()
	cfg := stampede.Config{TTL: time.Minute, Grace: time.Hour, ErrorTTL: 30 * time.Second, NotFoundTTL: 30 * time.Second}
	a, b := newCache(t, newPatientClient(t, addr), cfg), newCache(t, newPatientClient(t, addr), cfg)
	look := newPatientClient(t, addr)
	a.Fetch(t.Context(), "short", func(ctx context.Context, key string) ([]byte, error) {
		if !stampede.SetTTL(ctx, key, 20*time.Second) || !stampede.SetTTL(ctx, "another", time.Second) {
			t.Error("not a loader's context")
		}
		return []byte("v"), nil
	})
	if left := read(t, look, stampede.Read{Key: "short"}).Left - time.Hour; left > 20*time.Second || left < 5*time.Second {
		t.Errorf("its own TTL: %v left", left)
	}
	// In place of nothing, and of a value.
	large := make([]byte, 2<<20)
	for _, key := range []string{"new", "there"} {
		for name, load := range map[string]stampede.Loader{
			"kept-out": func(ctx context.Context, key string) ([]byte, error) {
				stampede.NoStore(ctx, key)
				return large, nil
			},
			"too-large": func(context.Context, string) ([]byte, error) { return large, nil },
		} {
			key := key + ":" + name
			if strings.HasPrefix(key, "there") {
				a.Fetch(t.Context(), key, (&origin{}).load)
				a.Invalidate(t.Context(), key)
			}
			for i, c := range []*stampede.Cache{a, b, b} {
				if v, err := c.Fetch(t.Context(), key, load, stampede.Fresh()); len(v) != len(large) || err != nil {
					t.Errorf("%s, %d: %d bytes, %v", key, i, len(v), err)
				}
				if r := read(t, look, stampede.Read{Key: key}); r.Found && !stampede.IsMarker(r.Flags) {
					t.Errorf("%s: the server has %d bytes, flags %x", key, len(r.Value), r.Flags)
				}
			}
		}
	}
	// A value that has gone from the origin is not served on.
	a.Fetch(t.Context(), "gone", (&origin{}).load)
	a.Invalidate(t.Context(), "gone")
	none := func(context.Context, string) ([]byte, error) { return nil, stampede.ErrNotFound }
	for _, c := range []*stampede.Cache{a, b} {
		if v, err := c.Fetch(t.Context(), "gone", none, stampede.Fresh()); !errors.Is(err, stampede.ErrNotFound) {
			t.Errorf("gone: %q, %v", v, err)
		}
	}
	if s := a.Stats(); s.Refused[stampede.RefusedTooLarge] != 2 {
		t.Errorf("stats %+v", s)
	}
}

// A memcached that has no memory even for a stub answers EN in spite of N: no
// lease is to be had. It is loaded within MaxLoads, and nothing is stored.
func noMemory(t *testing.T) {
	server := realserver.Memcached(t, "-m", "1", "-I", "512k", "-M")
	c := newPatientClient(t, server.Addr())
	for i := 0; ; i++ {
		// As large as a stub, so that there is none of that size to be had.
		if err := c.Set(t.Context(), &client.Item{Key: fmt.Sprintf("fill:%06d", i)}); err != nil {
			t.Logf("full with %d items: %v", i, err)
			break
		}
		if i == 1_000_000 {
			t.Fatal("it does not fill up")
		}
	}
	if r := read(t, c, stampede.Read{Key: "stub:000000", Lease: time.Minute}); r.Found || r.Won {
		t.Fatalf("a lease is to be had: %+v", r)
	}
	cache, o := newCache(t, c, stampede.Config{MaxLoads: 3}), &origin{takes: 20 * time.Millisecond}
	for i := range 3 {
		v, err := cache.Fetch(t.Context(), "stub:000000", o.load)
		if want := fmt.Sprint("stub:000000/", i+1); string(v) != want || err != nil {
			t.Errorf("%q, %v; want %q", v, err, want)
		}
	}
	values, err := cache.FetchMulti(t.Context(), manyKeys(100), (&multiOrigin{}).load)
	if len(values) != 100 || err != nil {
		t.Errorf("%d values, %v", len(values), err)
	}
	var wg sync.WaitGroup
	var busy atomic.Int64
	for i := range 20 {
		wg.Go(func() {
			if _, err := cache.Fetch(t.Context(), fmt.Sprintf("stub:%06d", i), o.load); errors.Is(err, stampede.ErrOriginBusy) {
				busy.Add(1)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := cache.Stats()
	if s.Fills != 0 || s.Wins != 0 || s.Refused != [len(s.Refused)]uint64{} || s.Shed != uint64(busy.Load()) || s.LoadErrors != 0 {
		t.Errorf("stats %+v, %d told that the origin is busy", s, busy.Load())
	}
	if r := read(t, c, stampede.Read{Key: "stub:000000"}); r.Found {
		t.Errorf("it was stored: %+v", r)
	}
}

// left asks the server by hand for how long an item lives.
func left(t *testing.T, addr, key string) int64 {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, "mg "+key+" t\r\n"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(line, "EN") {
		return 0 // it is over already
	}
	for _, field := range strings.Fields(line) {
		if rest, ok := strings.CutPrefix(field, "t"); ok {
			n, err := strconv.ParseInt(rest, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s has no time: %q", key, line)
	return 0
}

// Times as the server understands them: -1 would be for ever. A time of so many
// seconds has been going on for a few of them on a starved machine.
func timesOnTheServer(t *testing.T) {
	addr := realserver.Memcached(t).Addr()
	c, other := newPatientClient(t, addr), newPatientClient(t, addr)
	const day, slack = 24 * time.Hour, 20
	lives := func(key string, d time.Duration) {
		t.Helper()
		want := int64(d / time.Second)
		// The server's clock, by which a Unix time is taken, is late by up to 1 s.
		if got := left(t, addr, key); got > want+1 || got < max(0, want-slack) {
			t.Errorf("%s lives for %d s, want %d", key, got, want)
		}
	}
	add := func(key string, ttl, grace time.Duration) {
		t.Helper()
		w := stampede.Write{Kind: stampede.Add, Key: key, Value: []byte("v"), Flags: 0x52534401, TTL: ttl, Grace: grace}
		if r := c.WriteLeased(t.Context(), []stampede.Write{w})[0]; r.Err != nil {
			t.Errorf("%s: %v", key, r.Err)
		}
	}
	// Stubs.
	for key, d := range map[string]time.Duration{"stub:1ns": 1, "stub:1.5s": 1500 * time.Millisecond, "stub:60d": 60 * day} {
		if r := read(t, c, stampede.Read{Key: key, Lease: d}); !r.Won {
			t.Errorf("%s: %+v", key, r)
		}
	}
	lives("stub:1ns", time.Second)
	lives("stub:1.5s", 2*time.Second)
	lives("stub:60d", 30*day)
	if r := read(t, other, stampede.Read{Key: "stub:60d", Lease: 60 * day}); r.Won || !r.Taken {
		t.Errorf("with a lease of 60 days a second reader wins: %+v", r)
	}
	// Values.
	add("add:0", 0, 0)
	lives("add:0", time.Second)
	add("add:1ms", time.Millisecond, 0)
	lives("add:1ms", time.Second)
	add("add:1.2s", 1200*time.Millisecond, 100*time.Second)
	lives("add:1.2s", 102*time.Second)
	add("add:30d", 30*day, 0)
	lives("add:30d", 30*day)
	add("add:31d", 30*day, day)
	lives("add:31d", 31*day)
	// Invalidated.
	for key, d := range map[string]time.Duration{"inv:0": 0, "inv:1ms": time.Millisecond, "inv:31d": 31 * day} {
		add(key, time.Hour, 0)
		if r := c.WriteLeased(t.Context(), []stampede.Write{{Kind: stampede.Invalidate, Key: key, TTL: d}})[0]; r.Err != nil {
			t.Error(r.Err)
		}
		lives(key, max(d, time.Second))
	}
	// Due: an R above 30 days would never be.
	add("due", 10*day, 0)
	if r := read(t, c, stampede.Read{Key: "due", Grace: 60 * day}); !r.Won || r.Stale {
		t.Errorf("10 days of 60: %+v", r)
	}
	// By a Cache: the longest times that it takes, and what stands for ever.
	cache, o := newCache(t, c, stampede.Config{TTL: 29 * day, Grace: day}), &origin{}
	wantFetch(t, cache, o, "k/1")
	lives("k", 30*day)
	wantFetch(t, cache, o, "k/1")
	if _, err := cache.Fetch(t.Context(), "set", func(ctx context.Context, key string) ([]byte, error) {
		stampede.SetTTL(ctx, key, 365*day)
		return []byte("v"), nil
	}); err != nil {
		t.Error(err)
	}
	lives("set", 30*day)
	if err := c.Set(t.Context(), &client.Item{Key: "ever", Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	if v, err := cache.Fetch(t.Context(), "ever", o.load); string(v) != "v" || err != nil || left(t, addr, "ever") != -1 {
		t.Errorf("%q, %v, lives for %d", v, err, left(t, addr, "ever"))
	}
	if n := cache.Stats().Loads; n != 2 {
		t.Errorf("%d loads", n)
	}
	// A key that is not there stays so: an invalidation is no value.
	if err := cache.Invalidate(t.Context(), "none"); err != nil || left(t, addr, "none") != 0 {
		t.Errorf("%v, lives for %d", err, left(t, addr, "none"))
	}
}
