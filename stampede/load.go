package stampede

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// A loading is what a loader says of its values by the context.
type loading struct {
	mu   sync.Mutex // guards keys
	keys map[string]keySettings
}

type keySettings struct {
	ttl     time.Duration // 0: the call's
	noStore bool
}

type loadingKey struct{}

// SetTTL is called by a loader, with its context, to set how long the value of
// key will be fresh, within the bounds of the option TTL. It gives false where
// ctx is not a loader's. A key that is not being loaded is ignored.
func SetTTL(ctx context.Context, key string, ttl time.Duration) bool {
	return setFor(ctx, key, func(k *keySettings) { k.ttl = max(ttl, time.Second) })
}

// NoStore is called by a loader, with its context, to keep the value of key
// out of the cache. It gives false where ctx is not a loader's. A key that is
// not being loaded is ignored.
func NoStore(ctx context.Context, key string) bool {
	return setFor(ctx, key, func(k *keySettings) { k.noStore = true })
}

func setFor(ctx context.Context, key string, set func(*keySettings)) bool {
	l, ok := ctx.Value(loadingKey{}).(*loading)
	if !ok {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keys[key]
	set(&k)
	if l.keys == nil {
		l.keys = make(map[string]keySettings)
	}
	l.keys[key] = k
	return true
}

func (l *loading) of(key string) keySettings {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.keys[key]
}

// An outcome is what a load brought for one key.
type outcome struct {
	value []byte
	err   error
	keySettings
}

// acquire takes the slot of a load, if there is one.
func (c *Cache) acquire() bool {
	select {
	case c.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// run runs a loader in the slot that was taken, on a context of its own. The
// slot is free again when the loader has returned, which may be after run has:
// the origin is still busy with it.
func run[T any](ctx context.Context, c *Cache, keys int, load func(context.Context) (T, error)) (T, *loading, error) {
	l := new(loading)
	ctx = context.WithValue(context.WithoutCancel(ctx), loadingKey{}, l)
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.LoadTimeout, ErrLoadTimeout)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	began := time.Now()
	c.counters.loads.Add(1)
	c.loaders.Go(func() {
		var r result
		defer func() {
			// A loader may also end its goroutine, as a failed test does.
			if p := recover(); p != nil {
				if err, ok := p.(error); ok {
					r.err = fmt.Errorf("%w: %w\n%s", ErrLoadPanicked, err, debug.Stack())
				} else {
					r.err = fmt.Errorf("%w: %v\n%s", ErrLoadPanicked, p, debug.Stack())
				}
			}
			<-c.slots // before anybody hears of it and wants the next
			done <- r
		}()
		r.err = ErrLoadPanicked
		r.value, r.err = load(ctx)
	})
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		r.err = context.Cause(ctx)
	}
	switch {
	case r.err == nil:
	case c.life.Err() != nil:
		r.err = ErrClosed
	case ctx.Err() != nil && errors.Is(r.err, context.DeadlineExceeded):
		r.err = ErrLoadTimeout
	}
	c.noteLoaded(keys, time.Since(began), r.err)
	return r.value, l, r.err
}

// loadOnly loads without a lease: for the callers and not for the cache.
func (c *Cache) loadOnly(ctx context.Context, key string, load Loader) ([]byte, error) {
	if !c.acquire() {
		c.noteShed(key)
		return nil, ErrOriginBusy
	}
	b, _, err := run(ctx, c, 1, func(ctx context.Context) ([]byte, error) { return load(ctx, key) })
	if err != nil {
		return nil, err
	}
	return nonNil(b), nil
}

// loadAndFill loads under the lease that the reply won, and ends the lease.
func (c *Cache) loadAndFill(ctx context.Context, key string, won *Reply, v verdict, load Loader, s *settings) ([]byte, error) {
	if !c.acquire() {
		c.noteShed(key)
		c.shed([]Reply{*won}, []verdict{v})
		return nil, ErrOriginBusy
	}
	b, l, err := run(ctx, c, 1, func(ctx context.Context) ([]byte, error) { return load(ctx, key) })
	o := outcome{value: nonNil(b), err: err, keySettings: l.of(key)}
	c.settle(ctx, []Reply{*won}, []verdict{v}, []outcome{o}, s)
	if err != nil {
		return nil, err
	}
	return o.value, nil
}

// settle ends the leases that were won with what the load brought, and tells
// for each whether it was stored.
func (c *Cache) settle(ctx context.Context, won []Reply, verdicts []verdict, outcomes []outcome, s *settings) []error {
	writes := make([]Write, 0, len(won))
	of := make([]int, 0, len(won)) // the place in won of each write
	for i := range won {
		if w, ok := c.ending(&won[i], verdicts[i], &outcomes[i], s); ok {
			writes, of = append(writes, w), append(of, i)
		}
	}
	errs := make([]error, len(won))
	if len(writes) == 0 {
		return errs
	}
	var again []Write
	var againOf []int
	for j, r := range c.write(ctx, writes) {
		w := &writes[j]
		errs[of[j]] = r.Err
		if w.Kind == Fill && w.Flags == flagValue || w.Kind == Fill && c.cfg.Shared {
			c.noteFill(w.Lease.Key, r.Err)
			if errors.Is(r.Err, ErrTooLarge) {
				if m, ok := c.marker(&won[of[j]], flagUncachable, c.cfg.ErrorTTL, nil, s); ok {
					again, againOf = append(again, m), append(againOf, of[j])
				}
			}
		}
	}
	if again != nil {
		for j, r := range c.write(ctx, again) {
			if r.Err != nil {
				errs[againOf[j]] = r.Err // the old value may still be there
			}
		}
	}
	return errs
}

// ending is the write that ends a lease. ok is false where it is left to be
// taken over: a refill failed, the old value goes on being served, and the
// origin is given until then.
func (c *Cache) ending(won *Reply, v verdict, o *outcome, s *settings) (w Write, ok bool) {
	switch {
	case errors.Is(o.err, ErrClosed):
		return c.marker(won, 0, None, nil, s)
	case errors.Is(o.err, ErrNotFound):
		return c.marker(won, flagNotFound, c.cfg.NotFoundTTL, nil, s)
	case o.err != nil && v.has():
		c.counters.staleOnError.Add(1)
		if hook := c.cfg.Hooks.ServedOnError; hook != nil {
			hook(won.Lease.Key, o.err)
		}
		return Write{}, false
	case o.err != nil:
		return c.marker(won, flagFailed, c.cfg.ErrorTTL, failureText(o.err), s)
	case o.noStore:
		return c.marker(won, flagUncachable, c.cfg.ErrorTTL, nil, s)
	}
	ttl := s.ttl
	if o.ttl != 0 {
		ttl = min(o.ttl, maxTime-s.grace)
		c.shortest.add(ttl, time.Now(), c.cfg.TTL)
	}
	if c.cfg.Jitter > 0 {
		ttl = max(time.Second, ttl-time.Duration(rand.Float64()*c.cfg.Jitter*float64(ttl)))
	}
	w = Write{Kind: Fill, Lease: won.Lease, Value: o.value, Flags: flagValue, TTL: ttl, Grace: s.grace}
	if c.cfg.Shared {
		w.Flags = 0
	}
	return w, true
}

// marker is the write that ends a lease without a value. Without a time, and
// in a cache that classic clients read, it just gives the lease up; but a
// value that is known to be wrong goes.
func (c *Cache) marker(won *Reply, flags uint32, ttl time.Duration, text []byte, s *settings) (Write, bool) {
	if ttl > 0 && !c.cfg.Shared {
		return Write{Kind: Fill, Lease: won.Lease, Value: text, Flags: flags, TTL: ttl, Grace: s.grace}, true
	}
	if won.isStub() || flags != 0 {
		return Write{Kind: Remove, Lease: won.Lease}, true
	}
	return Write{Kind: Reopen, Lease: won.Lease}, true
}

// cost is a moving mean of how long loads take, for early refresh.
type cost struct{ bits atomic.Uint64 }

// add counts a load with a weight of one fifth.
func (c *cost) add(took time.Duration) {
	for {
		old := c.bits.Load()
		mean := math.Float64frombits(old)
		if mean == 0 {
			mean = took.Seconds()
		}
		mean += (took.Seconds() - mean) / 5
		if c.bits.CompareAndSwap(old, math.Float64bits(mean)) {
			return
		}
	}
}

func (c *cost) seconds() float64 { return math.Float64frombits(c.bits.Load()) }

// shortest is the shortest TTL that loaders have set of late: what is stored
// with less than was drawn for early refresh would be due at birth.
type shortest struct {
	now atomic.Int64 // 0 for none

	mu    sync.Mutex // guards since and next
	since time.Time
	next  time.Duration
}

// add notes a TTL. One is forgotten after one to two windows.
func (s *shortest) add(ttl time.Duration, at time.Time, window time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.Sub(s.since) > window {
		s.now.Store(int64(s.next))
		s.since, s.next = at, 0
	}
	if s.next == 0 || ttl < s.next {
		s.next = ttl
	}
	if now := s.now.Load(); now == 0 || int64(ttl) < now {
		s.now.Store(int64(ttl))
	}
}

// of is ttl, or the shortest of late where that is less.
func (s *shortest) of(ttl time.Duration) time.Duration {
	if now := time.Duration(s.now.Load()); now != 0 && now < ttl {
		return now
	}
	return ttl
}
