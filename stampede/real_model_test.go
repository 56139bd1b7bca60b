package stampede_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/stampede"
)

// TestHistories drives Caches over a real memcached, records what happens, and
// holds it against the model in docs/stampede.md, "The model that the tests
// follow". The numbers in the checks are those of its rules.
func TestHistories(t *testing.T) {
	t.Parallel()
	together(t, map[string]func(*testing.T){
		"calm":   func(t *testing.T) { histories(t, false) },
		"faults": func(t *testing.T) { histories(t, true) },
	})
}

// A span is when something began and ended, since the history did.
type span struct{ begin, end time.Duration }

// A loadEvent is a load. Its number is the value that it brought.
type loadEvent struct {
	span
	key   string
	cache int
}

// A changeEvent is an Invalidate, Delete or Refresh that was acknowledged.
type changeEvent struct {
	span
	voids   bool   // Delete, Refresh: the old value is not even served stale
	brought string // by Refresh
}

// A seenEvent is a value that a read returned, or that a look at the server
// found.
type seenEvent struct {
	span
	cache  int
	value  string
	marked bool // of a look
}

// A keyHistory is what happened to one key.
type keyHistory struct {
	changes      []changeEvent
	reads, looks []seenEvent
	loads        int
	// wins are leases won, cacheWins those of Caches. opened is how often a
	// lease may have become free by what was sent.
	wins, cacheWins, opened int
}

type history struct {
	began    time.Time
	lastLoad atomic.Int64
	failures atomic.Int64 // of the store

	mu    sync.Mutex // guards what follows
	loads map[string]loadEvent
	keys  map[string]*keyHistory
}

func (h *history) now() time.Duration { return time.Since(h.began) }

// with lets f write into the history of a key.
func (h *history) with(key string, f func(k *keyHistory)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.keys[key]
	if k == nil {
		k = &keyHistory{}
		h.keys[key] = k
	}
	f(k)
}

// A recorder is a Store that counts the leases that pass.
type recorder struct {
	stampede.Store
	h     *history
	cache int // -1: none
}

func (r *recorder) ReadLeased(ctx context.Context, reads []stampede.Read) []stampede.Reply {
	replies := r.Store.ReadLeased(ctx, reads)
	for i := range replies {
		if replies[i].Err != nil && ctx.Err() == nil {
			r.h.failures.Add(1)
		}
		r.h.with(reads[i].Key, func(k *keyHistory) {
			if reads[i].Reopen.CAS != 0 {
				k.opened++
			}
			if replies[i].Won {
				k.wins++
				if r.cache >= 0 {
					k.cacheWins++
				}
			}
		})
	}
	return replies
}

func (r *recorder) WriteLeased(ctx context.Context, writes []stampede.Write) []stampede.Result {
	for _, w := range writes {
		// Of a marker, as its time is short.
		if w.Kind != stampede.Fill || stampede.IsMarker(w.Flags) {
			r.h.with(w.Key+w.Lease.Key, func(k *keyHistory) { k.opened++ })
		}
	}
	results := r.Store.WriteLeased(ctx, writes)
	for i := range results {
		if err := results[i].Err; err != nil && !errors.Is(err, stampede.ErrChanged) && !errors.Is(err, stampede.ErrGone) {
			r.h.failures.Add(1)
		}
	}
	return results
}

// loader loads for a Cache. One load in 50 fails.
func (h *history) loader(cache int) stampede.MultiLoader {
	return func(ctx context.Context, keys []string) (map[string][]byte, error) {
		values := make(map[string][]byte)
		begin := h.now()
		pass(ctx, rand.N(20*time.Millisecond))
		end := h.now()
		for _, key := range keys {
			n := strconv.FormatInt(h.lastLoad.Add(1), 10)
			h.with(key, func(k *keyHistory) {
				h.loads[n] = loadEvent{span{begin, end}, key, cache}
				k.loads++
			})
			values[key] = []byte(n)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if rand.IntN(50) == 0 {
			return nil, errors.New("broken")
		}
		return values, nil
	}
}

// A fleetMember is a process of the test.
type fleetMember struct {
	h     *history
	n     int
	cache *stampede.Cache
	load  stampede.MultiLoader
}

func (m *fleetMember) one(ctx context.Context, key string) ([]byte, error) {
	values, err := m.load(ctx, []string{key})
	return values[key], err
}

func (m *fleetMember) change(ctx context.Context, key string) {
	c := changeEvent{span: span{begin: m.h.now()}}
	var err error
	switch rand.IntN(4) {
	case 0:
		c.voids = true
		err = m.cache.Delete(ctx, key)
	case 1, 2:
		c.voids = true
		var b []byte
		b, err = m.cache.Refresh(ctx, key, m.one)
		c.brought = string(b)
	default:
		err = m.cache.Invalidate(ctx, key)
	}
	if c.end = m.h.now(); err == nil {
		m.h.with(key, func(k *keyHistory) { k.changes = append(k.changes, c) })
	}
}

func (m *fleetMember) read(ctx context.Context, keys []string) {
	s := seenEvent{span: span{begin: m.h.now()}, cache: m.n}
	values := make(map[string][]byte)
	switch rand.IntN(5) {
	case 0:
		values, _ = m.cache.FetchMulti(ctx, keys, m.load)
	case 1:
		values[keys[0]], _ = m.cache.Fetch(ctx, keys[0], m.one, stampede.Fresh())
	default:
		values[keys[0]], _ = m.cache.Fetch(ctx, keys[0], m.one)
	}
	s.end = m.h.now()
	for key, b := range values {
		if b == nil {
			continue
		}
		s.value = string(b)
		m.h.with(key, func(k *keyHistory) { k.reads = append(k.reads, s) })
	}
}

// look looks at the item on the server. Anybody is handed the lease of a marked
// value, so it is given back.
func (h *history) look(ctx context.Context, s stampede.Store, key string) {
	e := seenEvent{span: span{begin: h.now()}}
	r := s.ReadLeased(ctx, []stampede.Read{{Key: key}})[0]
	e.end = h.now()
	if r.Won {
		s.WriteLeased(context.WithoutCancel(ctx), []stampede.Write{{Kind: stampede.Reopen, Lease: r.Lease}})
	}
	if r.Err != nil || len(r.Value) == 0 || stampede.IsMarker(r.Flags) {
		return
	}
	e.value, e.marked = string(r.Value), r.Stale
	h.with(key, func(k *keyHistory) { k.looks = append(k.looks, e) })
}

func histories(t *testing.T, faults bool) {
	server := realserver.Memcached(t)
	h := &history{began: time.Now(), loads: make(map[string]loadEvent), keys: make(map[string]*keyHistory)}
	direct := &recorder{newPatientClient(t, server.Addr()), h, -1}
	keys := []string{"h:0", "h:1", "h:2", "h:3"}
	var members []*fleetMember
	var proxies []*proxy
	for n := range 4 {
		c := newPatientClient(t, server.Addr())
		if faults {
			p := newProxy(t, server)
			proxies = append(proxies, p)
			c = newClient(t, p.addr())
		}
		cache := newCache(t, &recorder{c, h, n}, stampede.Config{TTL: time.Minute, Grace: time.Minute, Lease: 2 * time.Second})
		members = append(members, &fleetMember{h, n, cache, h.loader(n)})
	}

	// It runs on on a starved machine until there is something to show.
	const least = 4 * time.Second
	var changes, looks atomic.Int64
	ctx, cancel := context.WithTimeout(t.Context(), 10*least)
	defer cancel()
	on := func() bool {
		return ctx.Err() == nil && (h.now() < least || changes.Load() < 200 || looks.Load() < 500)
	}
	var wg sync.WaitGroup
	for _, m := range members {
		for range 5 {
			wg.Go(func() {
				for on() {
					i := rand.IntN(len(keys))
					call, done := context.WithTimeout(ctx, 5*time.Second)
					switch n := rand.IntN(200); {
					case n < 8:
						m.change(call, keys[i])
						changes.Add(1)
					case n < 30:
						h.look(call, direct, keys[i])
						looks.Add(1)
					case n < 40: // one leaves early
						call, done := context.WithTimeout(call, rand.N(10*time.Millisecond))
						m.read(call, []string{keys[i], keys[(i+1)%len(keys)]})
						done()
					case n == 40 && rand.IntN(5) == 0: // one wins and is not heard of again
						direct.ReadLeased(call, []stampede.Read{{Key: keys[i], Lease: time.Minute, Grace: time.Minute}})
					default:
						m.read(call, []string{keys[i], keys[(i+1)%len(keys)]})
					}
					done()
					pass(ctx, rand.N(4*time.Millisecond))
				}
			})
		}
	}
	struck := 0
	for faults && on() {
		p := proxies[rand.IntN(len(proxies))]
		switch rand.IntN(3) {
		case 0:
			p.drop()
		case 1:
			p.cut.Store(true)
		default: // mostly for longer than the client waits
			p.gate.Lock()
			pass(ctx, rand.N(500*time.Millisecond))
			p.gate.Unlock()
		}
		struck++
		pass(ctx, rand.N(50*time.Millisecond))
	}
	wg.Wait()
	for _, p := range proxies {
		p.cut.Store(false)
	}
	h.settles(t, members, keys)
	h.check(t, faults)

	var sum stampede.Stats
	for _, m := range members {
		s := m.cache.Stats()
		sum.Wins, sum.Loads, sum.Takeovers, sum.Fills = sum.Wins+s.Wins, sum.Loads+s.Loads, sum.Takeovers+s.Takeovers, sum.Fills+s.Fills
		for i, n := range s.Refused {
			sum.Refused[i] += n
		}
	}
	t.Logf("%d faults, %d failures, %d wins, %d loads, %d fills, refused %v, %d takeovers",
		struck, h.failures.Load(), sum.Wins, sum.Loads, sum.Fills, sum.Refused, sum.Takeovers)
	if changes.Load() < 200 || looks.Load() < 500 || sum.Refused[stampede.RefusedChanged] == 0 || faults && (struck < 20 || h.failures.Load() < 20) {
		t.Errorf("%d changes, %d looks: not enough to show anything", changes.Load(), looks.Load())
	}
}

// settles is rule 7: when all is quiet a key has a value that was loaded after
// its last change, whatever became of the leases on it.
func (h *history) settles(t *testing.T, members []*fleetMember, keys []string) {
	for _, key := range keys {
		var last time.Duration
		eventually(t, 20*time.Second, key+" is invalidated", func() bool {
			last = h.now()
			return members[0].cache.Invalidate(t.Context(), key) == nil
		})
		for _, m := range members {
			eventually(t, 20*time.Second, key+" has a new value", func() bool {
				b, err := m.cache.Fetch(t.Context(), key, m.one)
				h.mu.Lock()
				defer h.mu.Unlock()
				return err == nil && h.loads[string(b)].begin >= last
			})
		}
	}
}

// check holds the history against the rules.
func (h *history) check(t *testing.T, faults bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, k := range h.keys {
		slices.SortFunc(k.changes, func(a, b changeEvent) int { return int(a.end - b.end) })
		for _, r := range k.reads {
			h.checkRead(t, key, k, r, faults)
		}
		for _, l := range k.looks {
			h.checkLook(t, key, k, l)
		}
		for _, c := range k.changes {
			if c.brought != "" && h.loads[c.brought].begin < c.begin {
				t.Errorf("rule 4: %s: a Refresh of %v brought load %s of %v", key, c.span, c.brought, h.loads[c.brought].span)
			}
		}
		h.checkForward(t, key, k.looks)
		// A stub that was lost with its connection may end by itself, and without
		// an answer a value is loaded without a lease.
		if calm := !faults && h.failures.Load() == 0; calm && (k.wins > 1+k.opened || k.loads > k.cacheWins) {
			t.Errorf("rule 6: %s: %d loads and %d wins of Caches, %d wins of a lease that was free %d times", key, k.loads, k.cacheWins, k.wins, 1+k.opened)
		}
		t.Logf("%s: %d reads, %d looks, %d acknowledged changes, %d loads, %d wins of a lease that was free %d times at most",
			key, len(k.reads), len(k.looks), len(k.changes), k.loads, k.wins, 1+k.opened)
	}
}

// lastChange is when the last change had begun that makes a load too old: one
// that had ended before the time at.
func (k *keyHistory) lastChange(at time.Duration, counts func(*changeEvent) bool) time.Duration {
	last := time.Duration(-1)
	for i := range k.changes {
		c := &k.changes[i]
		if c.end >= at {
			break
		}
		if counts(c) {
			last = max(last, c.begin)
		}
	}
	return last
}

func (h *history) checkRead(t *testing.T, key string, k *keyHistory, r seenEvent, faults bool) {
	l, ok := h.loads[r.value]
	if !ok || l.key != key || l.begin > r.end {
		t.Errorf("rule 1: a read of %s at %v brought %q, of %+v", key, r.span, r.value, l)
		return
	}
	if faults && l.cache == r.cache && l.end >= r.begin {
		return // it waited for that load, which may have had no lease
	}
	if last := k.lastChange(r.begin, func(c *changeEvent) bool { return c.voids }); l.begin < last {
		t.Errorf("rule 3: a read of %s at %v brought load %s of %v, from before a Delete or Refresh of %v", key, r.span, r.value, l.span, last)
	}
}

func (h *history) checkLook(t *testing.T, key string, k *keyHistory, s seenEvent) {
	l, ok := h.loads[s.value]
	if !ok || l.key != key || l.end > s.end {
		t.Errorf("rule 1: %s had %q at %v, of %+v", key, s.value, s.span, l)
		return
	}
	if last := k.lastChange(s.begin, func(c *changeEvent) bool { return c.voids || !s.marked }); l.begin < last {
		t.Errorf("rule 2: %s had load %s of %v at %v (marked: %v), from before a change of %v", key, s.value, l.span, s.span, s.marked, last)
	}
}

// checkForward is rule 5.
func (h *history) checkForward(t *testing.T, key string, looks []seenEvent) {
	for i := range looks {
		for j := range looks {
			a, b := &looks[i], &looks[j]
			if a.end < b.begin && a.value != b.value && h.loads[b.value].begin < h.loads[a.value].end {
				t.Errorf("rule 5: %s had load %s of %v, and then %s of %v", key, a.value, h.loads[a.value].span, b.value, h.loads[b.value].span)
				return
			}
		}
	}
}
