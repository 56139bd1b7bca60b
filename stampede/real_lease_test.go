package stampede_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/stampede"
)

// These tests are of what becomes of leases on a real memcached. They sleep
// most of the time, so they run at the same time however few cores there are.

// together runs tests at the same time, also more than -parallel says.
func together(t *testing.T, tests map[string]func(*testing.T)) {
	t.Helper()
	var wg sync.WaitGroup
	for name, test := range tests {
		wg.Go(func() { t.Run(name, test) })
	}
	wg.Wait()
}

// newPatientClient makes a client for tests that count loads: on a starved
// machine a timeout would be a load without a lease.
func newPatientClient(t *testing.T, servers ...string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Servers: servers, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func eventually(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	for !ok() {
		if !pass(ctx, 5*time.Millisecond) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}

// pass lets time pass. It gives false if the context ends in it.
func pass(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// read reads a key in a store, which has to answer.
func read(t *testing.T, s stampede.Store, r stampede.Read) stampede.Reply {
	t.Helper()
	reply := s.ReadLeased(t.Context(), []stampede.Read{r})[0]
	if reply.Err != nil {
		t.Fatal(reply.Err)
	}
	return reply
}

// win wins the lease of a key as a holder does that is never heard of again.
func win(t *testing.T, s stampede.Store, key string) stampede.Lease {
	t.Helper()
	r := read(t, s, stampede.Read{Key: key, Lease: time.Minute, Grace: time.Hour})
	if !r.Won {
		t.Fatalf("no lease of %s is to be had: %+v", key, r)
	}
	return r.Lease
}

// wantRefused has a fill refused for the reason want, and not found on the key.
func wantRefused(t *testing.T, s stampede.Store, l stampede.Lease, want error) {
	t.Helper()
	w := stampede.Write{Lease: l, Value: []byte("late"), Flags: 0x52534401, TTL: time.Minute, Grace: time.Hour}
	if r := s.WriteLeased(t.Context(), []stampede.Write{w})[0]; !errors.Is(r.Err, want) {
		t.Errorf("a late fill: %v, want %v", r.Err, want)
	}
	if r := read(t, s, stampede.Read{Key: l.Key}); string(r.Value) == "late" {
		t.Error("a late fill has landed")
	}
}

// A store in front of a client that lets tests in between.
type between struct {
	stampede.Store
	read  func(reads []stampede.Read, replies []stampede.Reply)
	write func(writes []stampede.Write, results []stampede.Result)
}

func (b *between) ReadLeased(ctx context.Context, reads []stampede.Read) []stampede.Reply {
	replies := b.Store.ReadLeased(ctx, reads)
	if b.read != nil {
		b.read(reads, replies)
	}
	return replies
}

func (b *between) WriteLeased(ctx context.Context, writes []stampede.Write) []stampede.Result {
	results := b.Store.WriteLeased(ctx, writes)
	if b.write != nil {
		b.write(writes, results)
	}
	return results
}

func TestLeasesOnMemcached(t *testing.T) {
	t.Parallel()
	together(t, map[string]func(*testing.T){
		"takeover on a stub":                   func(t *testing.T) { takeover(t, "stub") },
		"takeover on an invalidated value":     func(t *testing.T) { takeover(t, "invalidated") },
		"takeover on a due value":              func(t *testing.T) { takeover(t, "due") },
		"Refresh takes over at once":           refreshTakesOver,
		"Refresh against readers":              refreshAgainstReaders,
		"Close gives leases up":                closeGivesUp,
		"a caller that left":                   callerThatLeft,
		"a caller that left during its load":   callerThatLeftItsLoad,
		"one early refresh over many Caches":   oneEarlyRefresh,
		"the connection of a lease is lost":    reconnected,
		"no memory for a stub":                 noMemory,
		"times as the server has them":         timesOnTheServer,
		"MaxLoads":                             maxLoads,
		"a batch does not sit on its leases":   batchWithoutASlot,
		"loaders that fail, hang and so on":    loaders,
		"values that are not kept as they are": keptOtherwise,
	})
}

// A client wins and never comes back. Of many Caches one takes over, after
// Lease, and one load is all.
func takeover(t *testing.T, what string) {
	addr := realserver.Memcached(t).Addr()
	const lease = 2 * time.Second
	var caches []*stampede.Cache
	for range 5 {
		caches = append(caches, newCache(t, newPatientClient(t, addr), stampede.Config{Lease: lease, TTL: time.Second, Grace: time.Hour}))
	}
	holder, o, old := newPatientClient(t, addr), &origin{takes: 10 * time.Millisecond}, ""
	if what != "stub" {
		old = "k/1"
		wantFetch(t, caches[0], o, old)
	}
	switch what {
	case "invalidated":
		if err := caches[0].Invalidate(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
	case "due":
		eventually(t, 20*time.Second, "the value is due", func() bool {
			return read(t, holder, stampede.Read{Key: "k"}).Left < time.Hour
		})
	}
	dead := win(t, holder, "k")
	began, before := time.Now(), o.calls.Load()
	var wg sync.WaitGroup
	var served atomic.Int64
	for _, c := range caches {
		wg.Go(func() {
			for t.Context().Err() == nil {
				b, err := c.Fetch(t.Context(), "k", func(ctx context.Context, key string) ([]byte, error) {
					b, err := o.load(ctx, key)
					return append(b, " new"...), err
				}, stampede.TTL(time.Minute))
				if err != nil {
					t.Error(err)
					return
				}
				if string(b) != old {
					return
				}
				served.Add(1)
				pass(t.Context(), 10*time.Millisecond)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	var takeovers, waits uint64
	for _, c := range caches {
		takeovers, waits = takeovers+c.Stats().Takeovers, waits+c.Stats().Waits
	}
	if n := o.calls.Load() - before; n != 1 || takeovers != 1 || took < lease {
		t.Errorf("%d loads, %d takeovers after %v; want one after %v", n, takeovers, took, lease)
	}
	if old != "" && (served.Load() == 0 || waits != 0) {
		t.Errorf("the old value was served %d times meanwhile, %d readers waited", served.Load(), waits)
	}
	t.Logf("taken over after %v", took)
	wantRefused(t, holder, dead, stampede.ErrChanged)
}

// Between the invalidation and the read of a Refresh another wins, and dies. It
// is not waited for.
func refreshTakesOver(t *testing.T) {
	addr := realserver.Memcached(t).Addr()
	holder, o := newPatientClient(t, addr), &origin{}
	for _, key := range []string{"missing", "there"} {
		var dead stampede.Lease
		store := &between{Store: newPatientClient(t, addr), write: func(writes []stampede.Write, _ []stampede.Result) {
			if writes[0].Kind == stampede.Invalidate && dead.CAS == 0 {
				dead = win(t, holder, key)
			}
		}}
		c := newCache(t, store, stampede.Config{Lease: time.Minute})
		if key == "there" {
			if _, err := c.Fetch(t.Context(), key, o.load); err != nil {
				t.Fatal(err)
			}
		}
		want := fmt.Sprintf("%s/%d", key, o.calls.Load()+1)
		began := time.Now()
		if b, err := c.Refresh(t.Context(), key, o.load); err != nil || string(b) != want || time.Since(began) > 30*time.Second {
			t.Errorf("%s: %q, %v after %v", key, b, err, time.Since(began))
		}
		if b, err := c.Fetch(t.Context(), key, o.load); err != nil || string(b) != want {
			t.Errorf("%s: then %q, %v", key, b, err)
		}
		if n := c.Stats().Takeovers; n != 1 {
			t.Errorf("%s: %d takeovers", key, n)
		}
		wantRefused(t, holder, dead, stampede.ErrChanged)
	}
}

// Loads that began before a Refresh are under way in every process, and readers
// come all the time: none who begins after it returned sees what was before.
func refreshAgainstReaders(t *testing.T) {
	addr := realserver.Memcached(t).Addr()
	var version, refreshed atomic.Int64
	var rounds, reads atomic.Int64
	load := func(ctx context.Context, _ string) ([]byte, error) {
		b := strconv.AppendInt(nil, version.Load(), 10)
		pass(ctx, rand.N(20*time.Millisecond))
		return b, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	began := time.Now()
	for i := range 4 {
		c := newCache(t, newPatientClient(t, addr), stampede.Config{Lease: 2 * time.Second})
		wg.Go(func() {
			for ctx.Err() == nil {
				v := version.Add(1)
				if i == 0 && v%8 == 0 { // a load has to begin before it
					c.Delete(ctx, "k")
					pass(ctx, 2*time.Millisecond)
				}
				b, err := c.Refresh(ctx, "k", load)
				if ctx.Err() != nil {
					return
				}
				if got, _ := strconv.ParseInt(string(b), 10, 64); err != nil && !errors.Is(err, stampede.ErrStillStale) || err == nil && got < v {
					t.Errorf("Refresh gave %q, %v after version %d", b, err, v)
				}
				if err == nil {
					raise(&refreshed, v)
				}
				if rounds.Add(1) >= 100 && time.Since(began) > 2*time.Second {
					cancel()
				}
				pass(ctx, rand.N(20*time.Millisecond))
			}
		})
		for range 3 {
			wg.Go(func() {
				for ctx.Err() == nil {
					floor := refreshed.Load()
					b, err := c.Fetch(ctx, "k", load)
					if err != nil {
						continue
					}
					reads.Add(1)
					if got, _ := strconv.ParseInt(string(b), 10, 64); got < floor {
						t.Errorf("version %s after a Refresh had brought %d", b, floor)
					}
					pass(ctx, rand.N(3*time.Millisecond))
				}
			})
		}
	}
	wg.Wait()
	if rounds.Load() < 100 {
		t.Errorf("%d rounds and %d reads show too little", rounds.Load(), reads.Load())
	}
}

// Close ends a load that others wait for and a refill in the background. Who
// reads next, in another process, wins at once.
func closeGivesUp(t *testing.T) {
	addr := realserver.Memcached(t).Addr()
	cfg := stampede.Config{Lease: time.Minute}
	a, b := newCache(t, newPatientClient(t, addr), cfg), newCache(t, newPatientClient(t, addr), cfg)
	quick, slow := &origin{}, &origin{takes: time.Hour}
	for _, key := range []string{"invalidated", "k"} {
		if key == "invalidated" {
			a.Fetch(t.Context(), key, quick.load)
			a.Invalidate(t.Context(), key)
		}
		go a.Fetch(t.Context(), key, slow.load)
	}
	eventually(t, 20*time.Second, "both load", func() bool { return a.Stats().Loading == 2 })
	began := time.Now()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if s := a.Stats(); s.Loading != 0 {
		t.Errorf("%d loads after Close", s.Loading)
	}
	wantFetch(t, b, quick, "k/2")
	if v, err := b.Fetch(t.Context(), "invalidated", quick.load); string(v) != "invalidated/1" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if v, err := b.Fetch(t.Context(), "invalidated", quick.load, stampede.Fresh()); string(v) != "invalidated/3" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if s := b.Stats(); s.Wins != 2 || s.Takeovers != 0 {
		t.Errorf("stats %+v", s)
	}
}

// A caller leaves while the reply is on the way that gives it the lease.
func callerThatLeft(t *testing.T) {
	server := realserver.Memcached(t)
	p := newProxy(t, server)
	far := newPatientClient(t, p.addr())
	read(t, far, stampede.Read{Key: "other"}) // connects
	near := newPatientClient(t, server.Addr())
	a, b := newCache(t, far, stampede.Config{Lease: time.Minute}), newCache(t, near, stampede.Config{Lease: time.Minute})
	o := &origin{}
	for _, key := range []string{"missing", "there"} {
		if key == "there" {
			b.Fetch(t.Context(), key, o.load)
			b.Invalidate(t.Context(), key)
		}
		before := o.calls.Load()
		p.gate.Lock()
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error)
		go func() {
			_, err := a.Fetch(ctx, key, o.load)
			left <- err
		}()
		eventually(t, 20*time.Second, "it has been answered", func() bool { return p.held.Load() == 1 })
		if r := read(t, near, stampede.Read{Key: key}); !r.Taken {
			t.Errorf("%s: it has not won: %+v", key, r)
		}
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: who left got %v", key, err)
		}
		p.gate.Unlock()
		// A poll sees that the lease is given up.
		began := time.Now()
		v, err := b.Fetch(t.Context(), key, o.load, stampede.Fresh())
		if want := fmt.Sprintf("%s/%d", key, before+1); err != nil || string(v) != want || time.Since(began) > 30*time.Second {
			t.Errorf("%s: %q, %v after %v", key, v, err, time.Since(began))
		}
		if n := b.Stats().Takeovers; n != 0 {
			t.Errorf("%s: %d takeovers", key, n)
		}
	}
}

// The caller that began a load leaves, and one that waits with it. The load goes
// on, and the others of both processes have its value.
func callerThatLeftItsLoad(t *testing.T) {
	addr := realserver.Memcached(t).Addr()
	a, b := newCache(t, newPatientClient(t, addr), stampede.Config{}), newCache(t, newPatientClient(t, addr), stampede.Config{})
	release := make(chan struct{})
	var calls atomic.Int64
	load := func(context.Context, string) ([]byte, error) {
		calls.Add(1)
		<-release
		return []byte("v"), nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	var leave, stay sync.WaitGroup
	leaves := func() {
		if _, err := a.Fetch(ctx, "k", load); !errors.Is(err, context.Canceled) {
			t.Errorf("who left got %v", err)
		}
	}
	leave.Go(leaves)
	eventually(t, 20*time.Second, "it loads", func() bool { return calls.Load() == 1 })
	leave.Go(leaves)
	for _, c := range []*stampede.Cache{a, a, b, b} {
		stay.Go(func() {
			if v, err := c.Fetch(t.Context(), "k", load); string(v) != "v" || err != nil {
				t.Errorf("who stayed got %q, %v", v, err)
			}
		})
	}
	pass(t.Context(), 50*time.Millisecond)
	cancel()
	leave.Wait()
	close(release)
	stay.Wait()
	if n := calls.Load(); n != 1 {
		t.Errorf("%d loads", n)
	}
}

// Before a value is due one of many processes refreshes it, once.
func oneEarlyRefresh(t *testing.T) {
	addr := realserver.Memcached(t).Addr()
	o := &origin{takes: 20 * time.Millisecond}
	var caches []*stampede.Cache
	for i := range 5 {
		// With this factor a refresh is due as early as may be: 2 s.
		c := newCache(t, newPatientClient(t, addr), stampede.Config{TTL: 8 * time.Second, EarlyRefresh: 1000})
		caches = append(caches, c)
		if _, err := c.Fetch(t.Context(), fmt.Sprint("cost:", i), (&origin{takes: 20 * time.Millisecond}).load); err != nil {
			t.Fatal(err)
		}
	}
	wantFetch(t, caches[0], o, "k/1")
	filled := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 7500*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for _, c := range caches {
		for range 3 {
			wg.Go(func() {
				for o.calls.Load() == 1 && ctx.Err() == nil {
					c.Fetch(ctx, "k", o.load)
					pass(ctx, 10*time.Millisecond)
				}
				for range 10 { // while and after it loads
					c.Fetch(t.Context(), "k", o.load)
					pass(t.Context(), 10*time.Millisecond)
				}
			})
		}
	}
	wg.Wait()
	var early, stale, won uint64
	for _, c := range caches {
		s := c.Stats()
		early, stale, won = early+s.EarlyRefreshes, stale+s.StaleHits, won+s.Wins
	}
	if n := o.calls.Load(); n != 2 || early != 1 || stale != 0 || won != 7 {
		t.Errorf("%d loads, %d early, %d wins, %d stale hits, %v after it was filled", n, early, won, stale, time.Since(filled))
	}
}

// The connection is lost while the server stays up. The lease is void, as the
// server might have been restarted; it is taken over in the end.
func reconnected(t *testing.T) {
	server := realserver.Memcached(t)
	p := newProxy(t, server)
	far, near := newPatientClient(t, p.addr()), newPatientClient(t, server.Addr())
	a := newCache(t, far, stampede.Config{Lease: 2 * time.Second})
	b := newCache(t, near, stampede.Config{Lease: 2 * time.Second})
	loading, release := make(chan struct{}), make(chan struct{})
	o := &origin{}
	done := make(chan string)
	go func() {
		v, err := a.Fetch(t.Context(), "k", func(ctx context.Context, key string) ([]byte, error) {
			close(loading)
			<-release
			return o.load(ctx, key)
		})
		done <- fmt.Sprint(string(v), err)
	}()
	<-loading
	before := read(t, near, stampede.Read{Key: "k"}).Lease
	p.drop()
	var now stampede.Reply
	eventually(t, 20*time.Second, "the client has connected again", func() bool {
		now = far.ReadLeased(t.Context(), []stampede.Read{{Key: "k"}})[0]
		return now.Err == nil
	})
	close(release)
	if got := <-done; got != "k/1<nil>" {
		t.Errorf("its caller got %s", got)
	}
	if now.Lease.CAS != before.CAS {
		t.Fatal("the item has changed, so that this shows nothing")
	}
	if s := a.Stats(); s.Refused[stampede.RefusedUnbound] != 1 || s.Fills != 0 {
		t.Errorf("stats %+v", s)
	}
	if r := read(t, near, stampede.Read{Key: "k"}); len(r.Value) != 0 || !r.Taken {
		t.Errorf("the stub is %+v", r)
	}
	wantFetch(t, b, o, "k/2")
	if n := b.Stats().Takeovers; n != 1 {
		t.Errorf("%d takeovers", n)
	}
}
