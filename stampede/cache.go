package stampede

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// A Loader computes the value of a key from the origin. It returns ErrNotFound
// where the origin has none. Its context carries the values of the caller's,
// but not its end: a load goes on when the caller that began it leaves. It
// ends after Config.LoadTimeout and with Close.
type Loader func(ctx context.Context, key string) ([]byte, error)

// A MultiLoader computes the values of many keys at once. Keys that are not in
// the result are not found; or, with an error, failed with it. For its context
// see Loader.
type MultiLoader func(ctx context.Context, keys []string) (map[string][]byte, error)

// A Cache reads through a Store: what is not there is loaded, by one caller in
// the whole fleet. Make it with New, end it with Close. It is safe for
// concurrent use.
type Cache struct {
	cfg      Config
	store    Store
	counters counters
	watch    watch
	cost     cost
	shortest shortest
	// slots has a place for each load that is running.
	slots chan struct{}

	// life ends with Close.
	life context.Context
	end  context.CancelFunc

	// mu guards closing, closed, flights and what flight says it does, and
	// orders Adds before Close's Waits. Nothing is called under it.
	mu      sync.Mutex
	closing bool // no call begins
	closed  bool // no goroutine begins
	flights map[flightKey]*flight
	work    sync.WaitGroup // goroutines that hold leases
	calls   sync.WaitGroup // calls that callers make
	loaders sync.WaitGroup // goroutines that run a caller's loader
}

// New checks the config and makes a Cache of it. Many may share a Store, with
// different settings for different families of keys.
func New(store Store, cfg Config) (*Cache, error) {
	if store == nil {
		return nil, errors.New("stampede: the store is nil")
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("stampede: config: %w", err)
	}
	cfg = cfg.withDefaults()
	if cfg.Shared {
		store = shared{store}
	}
	c := &Cache{
		cfg:     cfg,
		store:   store,
		slots:   make(chan struct{}, cfg.MaxLoads),
		flights: make(map[flightKey]*flight),
	}
	c.life, c.end = context.WithCancel(context.Background())
	return c, nil
}

// closeGrace is how long Close waits for loaders that do not mind their
// context.
const closeGrace = time.Second

// Close ends every load, gives up the leases that were held, and waits for
// that. Callers that are waiting get ErrClosed. A loader that does not return
// when its context ends is waited for no longer than a second. The Store stays
// open; close it after.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.end()
	c.calls.Wait() // those who are in the middle of a read end their leases
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.work.Wait()
	done := make(chan struct{})
	go func() {
		c.loaders.Wait()
		close(done)
	}()
	timer := time.NewTimer(closeGrace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	return nil
}

// enter begins a call, unless the Cache is closed; leave ends it.
func (c *Cache) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	c.calls.Add(1)
	return true
}

func (c *Cache) leave() { c.calls.Done() }

// spawn runs f on a goroutine that Close waits for. It gives false after
// Close.
func (c *Cache) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.work.Go(f)
	return true
}

// Fetch returns the value of key: from the cache in one round trip where it is
// there, else from load, which one caller in the fleet runs while the others
// wait for it. A value that is due or was invalidated is returned at once and
// refilled in the background by one.
//
// Errors are the loader's own, ErrNotFound, ErrLoadFailed, ErrLoadTimeout,
// ErrLoadPanicked, ErrOriginBusy, ErrBadKey, ErrClosed, or the context's. That
// the cache can not be reached is no error: load is run within MaxLoads.
func (c *Cache) Fetch(ctx context.Context, key string, load Loader, options ...Option) ([]byte, error) {
	if !c.enter() {
		return nil, ErrClosed
	}
	defer c.leave()
	s := c.settings(options)
	a := c.readOne(ctx, key, &s)
	if b, err, ok := c.answer(ctx, key, &a, load, &s); ok {
		return b, err
	}
	if err := ctx.Err(); err != nil {
		c.giveUp(&a)
		return nil, err
	}
	return c.join(ctx, key, a, load, &s)
}

// An answer is a Reply and what was asked.
type answer struct {
	Reply
	// asked: for the lease too. It is not while no load could begin.
	asked bool
}

// readOne asks for a key and its lease.
func (c *Cache) readOne(ctx context.Context, key string, s *settings) answer {
	r, asked := c.readFor(key, s)
	return answer{c.store.ReadLeased(ctx, []Read{r})[0], asked}
}

// readFor makes the Read of a key. While MaxLoads loads are running no lease
// is asked for, as it could not be used.
func (c *Cache) readFor(key string, s *settings) (r Read, asked bool) {
	if c.busy() {
		return Read{Key: key}, false
	}
	return Read{Key: key, Lease: c.cfg.stub(), Grace: s.grace, Early: c.early(s.ttl)}, true
}

// busy tells that no load could begin.
func (c *Cache) busy() bool { return len(c.slots) == cap(c.slots) }

// early draws how early a value is due: XFetch of Vattani, Chierichetti and
// Lowenstein, "Optimal Probabilistic Cache Stampede Prevention" (VLDB 2015).
// The stores count in whole seconds, so the fraction decides by chance. While
// few slots are free they are kept for those who have no value.
func (c *Cache) early(ttl time.Duration) time.Duration {
	if c.cfg.EarlyRefresh < 0 || 4*len(c.slots) >= 3*cap(c.slots) {
		return 0
	}
	cost := c.cost.seconds()
	if cost == 0 {
		return 0
	}
	e := cost*c.cfg.EarlyRefresh*rand.ExpFloat64() + rand.Float64()
	return time.Duration(min(e, c.shortest.of(ttl).Seconds()/4)) * time.Second
}

// answer serves what a reply has, if it has what the caller wants, and sees to
// the lease.
func (c *Cache) answer(ctx context.Context, key string, a *answer, load Loader, s *settings) (b []byte, err error, ok bool) { //nolint:revive // ok says whether the others count
	v := judge(&a.Reply, s.grace)
	switch {
	case v == fresh, v == stale && !s.fresh:
		c.noteHit(key, v)
		b = nonNil(a.Value)
	case v == notFound:
		err = ErrNotFound
		c.noteMarker(key, err)
	case v == failed:
		err = remoteFailure(&a.Reply)
		c.noteMarker(key, err)
	case v == unknown && errors.Is(a.Err, ErrBadKey):
		return nil, a.Err, true
	default:
		return nil, nil, false
	}
	c.upkeep(ctx, key, a, v, load, s)
	return b, err, true
}

// upkeep sees to the lease of an item that is being served.
func (c *Cache) upkeep(ctx context.Context, key string, a *answer, v verdict, load Loader, s *settings) {
	switch {
	case a.Won && v == failed:
		c.keep(a, s)
	case a.Won:
		c.refill(ctx, key, a, v, load, s)
	case a.Taken && v == stale:
		if c.busy() || !c.watch.taken(a.Lease, time.Now(), c.cfg.Lease) {
			return
		}
		lease, s := a.Lease, *s
		c.spawn(func() {
			a := c.takeOver(context.WithoutCancel(ctx), key, lease, 0, &s)
			if a.Won {
				c.refill(ctx, key, &a, judge(&a.Reply, s.grace), load, &s)
			}
		})
	case !a.Taken:
		c.watch.free(key)
	}
}

// keep keeps the lease of a failure's marker that was won early until the
// marker's time is over: the origin is left alone for so long.
func (c *Cache) keep(a *answer, s *settings) {
	won := *a
	ok := !a.StandIn && c.spawn(func() {
		// Until less than Grace is left, in whole seconds.
		c.wait(context.Background(), won.Left-s.grace+time.Second)
		c.giveUp(&won)
	})
	if !ok {
		c.giveUp(a)
	}
}

// takeOver takes a lease from a holder believed dead, and asks for the key
// right behind: who is answered Won may load, which is not always this one. It
// only reads if all slots have come into use meanwhile.
func (c *Cache) takeOver(ctx context.Context, key string, lease Lease, stub time.Duration, s *settings) answer {
	r, asked := c.readFor(key, s)
	if asked {
		r.Reopen, r.ReopenStub = lease, stub
	}
	a := answer{c.store.ReadLeased(ctx, []Read{r})[0], asked}
	if a.Won && asked {
		c.noteTookOver(key)
	}
	return a
}

// refill loads a value under a lease that was won, in the background.
func (c *Cache) refill(ctx context.Context, key string, a *answer, v verdict, load Loader, s *settings) {
	c.noteWon(key, v == fresh)
	won, set := *a, *s
	if !c.spawn(func() { c.loadAndFill(ctx, key, &won.Reply, v, load, &set) }) {
		c.giveUp(a)
	}
}

// giveUp ends a lease that was won and is not used.
func (c *Cache) giveUp(a *answer) {
	if !a.Won {
		return
	}
	// Nobody has to wait for it.
	won := []Reply{a.Reply}
	if !c.spawn(func() { c.release(won) }) {
		c.release(won)
	}
}

// release ends leases that were won: of a stub by removing it, of a value by
// letting the next reader win.
func (c *Cache) release(replies []Reply) {
	writes := make([]Write, len(replies))
	for i := range replies {
		writes[i] = Write{Kind: Reopen, Lease: replies[i].Lease}
		if replies[i].isStub() {
			writes[i].Kind = Remove
		}
	}
	c.write(context.Background(), writes)
}

// shed ends leases that were won for a load that can not begin. Who reads next,
// in this process or another, may have a slot. But that of a value which is
// still fresh is left: memcached takes a win token back only by marking the
// item stale, and while slots are rare each reader would win that value and
// give it back. Nobody needs its lease before it is due. Then its readers watch
// it as they do that of a dead holder; this process has done so since now, and
// takes over at once if that is Lease ago.
func (c *Cache) shed(replies []Reply, verdicts []verdict) {
	var back []Reply
	for i := range replies {
		switch {
		case !replies[i].Won:
		case verdicts[i] == fresh:
			c.watch.taken(replies[i].Lease, time.Now(), c.cfg.Lease)
		default:
			back = append(back, replies[i])
		}
	}
	if len(back) > 0 {
		c.release(back)
	}
}

// writeTimeout bounds a write, in case that the store does not.
const writeTimeout = 5 * time.Second

// write writes although ctx may have ended: leases have to be.
func (c *Cache) write(ctx context.Context, writes []Write) []Result {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	return c.store.WriteLeased(ctx, writes)
}

// Invalidate marks the value of key stale: readers are served it on for
// Config.Grace at most, or Lease and 2 s where that is longer, while one of
// them refills it. A load that began
// before does not land after. Without grace the key is deleted. ErrOwnerDown
// tells that only a stand-in knows.
func (c *Cache) Invalidate(ctx context.Context, key string) error {
	if !c.enter() {
		return ErrClosed
	}
	defer c.leave()
	s := c.settings(nil)
	return c.change(ctx, key, c.invalidation(key, &s))
}

// Delete removes key: the next reader has to wait for a load. A load that
// began before does not land after.
func (c *Cache) Delete(ctx context.Context, key string) error {
	if !c.enter() {
		return ErrClosed
	}
	defer c.leave()
	return c.change(ctx, key, Write{Kind: Delete, Key: key})
}

func (c *Cache) invalidation(key string, s *settings) Write {
	if s.grace == 0 {
		return Write{Kind: Delete, Key: key}
	}
	return Write{Kind: Invalidate, Key: key, TTL: max(s.grace, c.cfg.stub())}
}

// change writes what ends the validity of loads that are under way. They are
// forgotten after the answer: one that begins meanwhile may read the old
// value, and nobody who comes later shall get that.
func (c *Cache) change(ctx context.Context, key string, w Write) error {
	err := c.store.WriteLeased(ctx, []Write{w})[0].Err
	c.forget(key)
	return err
}
