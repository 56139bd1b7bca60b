package stampede_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"go.uber.org/goleak"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/proto/memcached"
	"github.com/ringside-cache/ringside/ring"
	"github.com/ringside-cache/ringside/stampede"
)

// These tests have real clients and servers under the Caches.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newClient(t *testing.T, servers ...string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{
		Servers: servers, Timeout: 300 * time.Millisecond,
		Health: ring.HealthConfig{RetryTimeout: 200 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func newMemnode(t *testing.T) *memnode.Node {
	t.Helper()
	n, err := memnode.Start(memnode.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// A world is an origin whose keys have versions, and what was promised of
// them.
type world struct {
	keys    []string
	version []atomic.Int64
	// acked is the version behind the last change that the key's owner has
	// acknowledged: nothing older may land after it.
	acked     []atomic.Int64
	refreshed []atomic.Int64                 // the same, behind a Refresh that returned nil
	delay     time.Duration                  // the longest load
	ttl       func(key string) time.Duration // nil: the Cache's

	loads, changes, checks, hits atomic.Int64
}

func newWorld(keys int, delay time.Duration) *world {
	w := &world{
		version: make([]atomic.Int64, keys), acked: make([]atomic.Int64, keys), refreshed: make([]atomic.Int64, keys),
		delay: delay,
	}
	for i := range keys {
		w.keys = append(w.keys, "world:"+strconv.Itoa(i))
	}
	return w
}

func (w *world) load(ctx context.Context, key string) ([]byte, error) {
	w.loads.Add(1)
	i, err := strconv.Atoi(strings.TrimPrefix(key, "world:"))
	if err != nil {
		return nil, err
	}
	if w.ttl != nil {
		stampede.SetTTL(ctx, key, w.ttl(key))
	}
	value := strconv.AppendInt(nil, w.version[i].Load(), 10)
	timer := time.NewTimer(rand.N(w.delay))
	defer timer.Stop()
	select {
	case <-timer.C:
		return value, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w *world) loadMany(ctx context.Context, keys []string) (map[string][]byte, error) {
	values := make(map[string][]byte)
	for _, key := range keys {
		b, err := w.load(ctx, key)
		if err != nil {
			return values, err
		}
		values[key] = b
	}
	return values, nil
}

// raise sets v to n if that is more.
func raise(v *atomic.Int64, n int64) {
	for old := v.Load(); old < n && !v.CompareAndSwap(old, n); old = v.Load() {
	}
}

// write changes a key at the origin and tells the cache.
func (w *world) write(ctx context.Context, c *stampede.Cache, i int) {
	v := w.version[i].Add(1)
	var err error
	switch rand.IntN(4) {
	case 0:
		err = c.Delete(ctx, w.keys[i])
	case 1, 2:
		if _, err = c.Refresh(ctx, w.keys[i], w.load); err == nil {
			raise(&w.refreshed[i], v)
		}
	default:
		err = c.Invalidate(ctx, w.keys[i])
	}
	if err == nil {
		raise(&w.acked[i], v)
		w.changes.Add(1)
	}
}

// read reads a key in some way. What began after a Refresh had returned must
// not be older than that, as long as the cache could be asked.
func (w *world) read(ctx context.Context, t *testing.T, c *stampede.Cache, i int, faults bool) {
	floor := w.refreshed[i].Load()
	var b []byte
	var err error
	switch rand.IntN(5) {
	case 0:
		var m map[string][]byte
		m, err = c.FetchMulti(ctx, []string{w.keys[i], w.keys[(i+1)%len(w.keys)]}, w.loadMany)
		b = m[w.keys[i]]
	case 1:
		b, err = c.Fetch(ctx, w.keys[i], w.load, stampede.Fresh())
	default:
		b, err = c.Fetch(ctx, w.keys[i], w.load)
	}
	if err != nil {
		return
	}
	v, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		t.Errorf("a value that was never loaded: %q", b)
		return
	}
	w.hits.Add(1)
	if v < floor && !faults {
		t.Errorf("version %d after a Refresh had brought %d", v, floor)
	}
}

// check looks at a key as it is on the server. A value that is not marked
// stale was loaded after the last acknowledged change.
func (w *world) check(ctx context.Context, t *testing.T, c *client.Client, i int) {
	floor := w.acked[i].Load()
	r := c.ReadLeased(ctx, []stampede.Read{{Key: w.keys[i]}})[0]
	if r.Won { // anybody is handed the lease of a stale value
		c.WriteLeased(ctx, []stampede.Write{{Kind: stampede.Reopen, Lease: r.Lease}})
	}
	if r.Err != nil || !r.Found || r.Stale || r.StandIn || len(r.Value) == 0 {
		return
	}
	v, err := strconv.ParseInt(string(r.Value), 10, 64)
	if err != nil {
		return // the text of a failed load
	}
	w.checks.Add(1)
	if v < floor {
		t.Errorf("version %d has landed after a change to %d was acknowledged", v, floor)
	}
}

// run drives many Caches over the servers for a while.
func (w *world) run(t *testing.T, d time.Duration, faults bool, cfg stampede.Config, servers ...string) {
	// On a starved machine for longer, until there is something to show.
	ctx, cancel := context.WithTimeout(t.Context(), 10*d)
	defer cancel()
	began := time.Now()
	enough := func() bool {
		return time.Since(began) > d && w.changes.Load() >= 20 && w.checks.Load() >= 100
	}
	var wg sync.WaitGroup
	for range 5 {
		c := newClient(t, servers...)
		cache := newCache(t, c, cfg)
		for range 6 {
			wg.Go(func() {
				for ctx.Err() == nil && !enough() {
					call, done := context.WithTimeout(ctx, time.Second)
					if rand.IntN(20) == 0 { // some leave early
						done()
						call, done = context.WithTimeout(ctx, rand.N(10*time.Millisecond))
					}
					switch i := rand.IntN(len(w.keys)); rand.IntN(8) {
					case 0:
						w.write(call, cache, i)
					case 1, 2:
						w.check(call, t, c, i)
					case 3:
						// One wins a lease and is never heard of again.
						if rand.IntN(20) == 0 {
							c.ReadLeased(call, []stampede.Read{{Key: w.keys[i], Lease: 5 * time.Second}})
						}
					default:
						w.read(call, t, cache, i, faults)
					}
					done()
				}
			})
		}
	}
	wg.Wait()
	t.Logf("%d loads, %d changes, %d values read, %d looked at on the server", w.loads.Load(), w.changes.Load(), w.hits.Load(), w.checks.Load())
	if !enough() {
		t.Error("that was not enough to show anything")
	}
}

// TestNothingOldLands is the promise: a load that began before an invalidation
// which was acknowledged never lands after it, and nobody who comes after a
// Refresh sees what was before.
func TestNothingOldLands(t *testing.T) {
	cfg := stampede.Config{TTL: 2 * time.Second, Grace: 3 * time.Second, Lease: 2 * time.Second, LoadTimeout: 500 * time.Millisecond}
	none := cfg
	none.Grace = stampede.None
	t.Run("memcached", func(t *testing.T) {
		t.Parallel()
		newWorld(8, 20*time.Millisecond).run(t, 4*time.Second, false, cfg, realserver.Memcached(t).Addr())
	})
	t.Run("memcached, no grace", func(t *testing.T) {
		t.Parallel()
		newWorld(8, 20*time.Millisecond).run(t, 4*time.Second, false, none, realserver.Memcached(t).Addr())
	})
	t.Run("one key", func(t *testing.T) {
		t.Parallel()
		newWorld(1, 5*time.Millisecond).run(t, 4*time.Second, false, cfg, realserver.Memcached(t).Addr())
	})
	t.Run("memcached that restarts", func(t *testing.T) {
		t.Parallel()
		server := realserver.Memcached(t)
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			tick := time.NewTicker(400 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					server.Kill()
					if err := server.Restart(); err != nil {
						t.Error(err)
					}
				}
			}
		})
		newWorld(8, 20*time.Millisecond).run(t, 4*time.Second, true, cfg, server.Addr())
		cancel()
		wg.Wait()
	})
	t.Run("faults", func(t *testing.T) {
		t.Parallel()
		n := newMemnode(t)
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			faults := []func() memnode.Fault{memnode.Reset, memnode.HangUp, memnode.Drop, memnode.Stall, func() memnode.Fault { return memnode.Half(memnode.Reset()) }}
			tick := time.NewTicker(30 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					in := n.Inject(faults[rand.IntN(len(faults))](), memnode.On(memcached.MetaGet, memcached.MetaSet, memcached.MetaDelete), memnode.Nth(1+rand.IntN(30)))
					defer in.Remove()
				}
			}
		})
		newWorld(8, 20*time.Millisecond).run(t, 4*time.Second, true, cfg, n.Addr())
		cancel()
		wg.Wait()
	})
}

// A thousand keys, and some nodes are dead.
func TestFetchMultiWithDeadNodes(t *testing.T) {
	var servers []*realserver.Server
	var addrs []string
	for i := range 4 {
		servers = append(servers, realserver.Memcached(t))
		addrs = append(addrs, fmt.Sprintf("n%d@%s", i, servers[i].Addr()))
	}
	c := newCache(t, newClient(t, addrs...), stampede.Config{})
	keys := manyKeys(1000)
	o := &multiOrigin{}
	want := func(what string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		values, err := c.FetchMulti(ctx, keys, o.load)
		if err != nil || len(values) != len(keys) {
			t.Errorf("%s: %d values, %v", what, len(values), err)
		}
		for key, b := range values {
			if string(b) != "v:"+key {
				t.Errorf("%s: %s has %q", what, key, b)
			}
		}
		t.Logf("%s: %v", what, time.Since(began))
	}
	want("cold")
	want("warm")
	if n := len(o.list()); n != 1 {
		t.Errorf("%d loads", n)
	}
	servers[1].Kill()
	if err := servers[2].Stop(); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		want("one killed, one hung")
	}
	if n := len(o.list()[1]); n < 300 || n > 700 {
		t.Errorf("%d keys of two dead nodes of four were loaded again", n)
	}
}

// On keys that classic clients read too they see no stub, no marker and
// nothing that was invalidated.
func TestShared(t *testing.T) {
	addr := realserver.Memcached(t).Addr()
	classic := memcache.New(addr)
	defer classic.Close()
	w := newWorld(4, 10*time.Millisecond)
	w.ttl = func(key string) time.Duration {
		if strings.HasSuffix(key, "0") {
			return 2 * time.Second // some expire and are refreshed early, some would stay
		}
		return time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var caches []*stampede.Cache
	for range 4 {
		caches = append(caches, newCache(t, newClient(t, addr), stampede.Config{Shared: true, TTL: time.Minute, EarlyRefresh: 3, Lease: 2 * time.Second}))
	}
	for _, c := range caches {
		for range 3 {
			wg.Go(func() {
				for ctx.Err() == nil {
					i := rand.IntN(len(w.keys))
					if rand.IntN(10) > 0 {
						w.read(ctx, t, c, i, true)
						continue
					}
					v := w.version[i].Add(1)
					if err := c.Invalidate(ctx, w.keys[i]); err == nil {
						raise(&w.acked[i], v)
						w.changes.Add(1)
					}
				}
			})
		}
	}
	var seen, old int64
	for ctx.Err() == nil {
		i := rand.IntN(len(w.keys))
		floor := w.acked[i].Load()
		item, err := classic.Get(w.keys[i])
		if err != nil {
			continue
		}
		v, err := strconv.ParseInt(string(item.Value), 10, 64)
		if err != nil || item.Flags != 0 {
			t.Errorf("a classic client reads %q, flags %d", item.Value, item.Flags)
		}
		if seen++; v < floor {
			old++ // for a moment, until the filler has looked at its lease
		}
	}
	wg.Wait()
	t.Logf("%d values read by a classic client, %d older than an acknowledged change; %d loads, %d changes", seen, old, w.loads.Load(), w.changes.Load())
	if seen < 50 || w.changes.Load() < 5 || old > seen/5 {
		t.Error("too many are old, or too few were read")
	}
	// Nothing old stays. Loads still run, and what one adds stands until its
	// filler has looked, or for three seconds where that never happens.
	for i, key := range w.keys {
		eventually(t, 5*time.Second, "nothing old left on "+key, func() bool {
			item, err := classic.Get(key)
			if err != nil {
				return errors.Is(err, memcache.ErrCacheMiss)
			}
			v, _ := strconv.ParseInt(string(item.Value), 10, 64)
			return v >= w.acked[i].Load()
		})
	}
	// One load for all of them.
	var calls atomic.Int64
	for _, c := range caches {
		for range 5 {
			wg.Go(func() {
				b, err := c.Fetch(t.Context(), "shared", func(context.Context, string) ([]byte, error) {
					calls.Add(1)
					timer := time.NewTimer(100 * time.Millisecond)
					<-timer.C
					return []byte("v"), nil
				})
				if err != nil || string(b) != "v" {
					t.Errorf("%q, %v", b, err)
				}
			})
		}
	}
	wg.Wait()
	if n := calls.Load(); n != 1 {
		t.Errorf("%d loads", n)
	}
	if _, err := caches[0].Fetch(t.Context(), "shared:none", func(context.Context, string) ([]byte, error) { return nil, stampede.ErrNotFound }); !errors.Is(err, stampede.ErrNotFound) {
		t.Error(err)
	}
	if item, err := classic.Get("shared:none"); !errors.Is(err, memcache.ErrCacheMiss) {
		t.Errorf("a classic client reads %v, %v", item, err)
	}
}

// Values that the node does not take reach their callers, and the next caller
// loads again instead of waiting for a lease.
func TestTooLargeAValue(t *testing.T) {
	c := newCache(t, newClient(t, realserver.Memcached(t).Addr()), stampede.Config{})
	calls := 0
	load := func(context.Context, string) ([]byte, error) { calls++; return make([]byte, 2<<20), nil }
	for range 3 {
		began := time.Now()
		if b, err := c.Fetch(t.Context(), "large", load); err != nil || len(b) != 2<<20 {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
	}
	if s := c.Stats(); calls != 3 || s.Refused[stampede.RefusedTooLarge] == 0 {
		t.Errorf("%d loads, stats %+v", calls, s)
	}
}

// The same as TestOneLoadInItsTime on a real server, whose clock ticks by
// itself.
func TestOneLoadInItsTimeOnMemcached(t *testing.T) {
	t.Parallel()
	addr := realserver.Memcached(t).Addr()
	tests := make(map[string]func(*testing.T))
	for name, tt := range map[string]struct {
		err     error
		options []stampede.Option
	}{
		"failed": {err: errors.New("broken")}, "not-found": {err: stampede.ErrNotFound},
		"value": {}, "fresh": {options: []stampede.Option{stampede.Fresh()}},
	} {
		tests[name] = func(t *testing.T) {
			o := &origin{takes: 20 * time.Millisecond}
			o.fails(tt.err)
			ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			for range 5 {
				c := newCache(t, newPatientClient(t, addr), stampede.Config{TTL: 2 * time.Second, Grace: time.Minute, ErrorTTL: 2 * time.Second})
				wg.Go(func() {
					tick := time.NewTicker(10 * time.Millisecond)
					defer tick.Stop()
					for ctx.Err() == nil {
						c.Fetch(ctx, name, o.load, tt.options...)
						<-tick.C
					}
				})
			}
			wg.Wait()
			// 2 s are 1 to 2 on a clock of whole seconds.
			if n := o.calls.Load(); n < 2 || n > 8 {
				t.Errorf("%d loads in 7s of times of 2s", n)
			}
		}
	}
	together(t, tests)
}
