package stampede

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"
)

// A flight is what the callers of one process that miss a key wait for
// together: a load under this process's lease, or the fill by another process.
//
// x/sync/singleflight does not fit here. A flight that waits for another
// process has to be given the lease that a later caller of this one wins, and
// a caller must not join a load that began under an older lease than the one
// it has seen: the key may have been invalidated in between.
type flight struct {
	key flightKey
	// wake wakes a flight that waits: there is an offer, or nobody waits.
	wake chan struct{}

	// What follows is guarded by Cache.mu.

	// before are those who joined before the last read began, and may be given
	// what it brings. since has those who came after that, or is nil: the key
	// may have been changed between the read and their coming.
	before  []*party
	since   *party
	offers  []answer // with leases that callers have won
	loading bool
	lease   Lease // that it loads under, zero without
}

// A party are callers of a flight that get the same result.
type party struct {
	size int // callers that wait, guarded by Cache.mu
	// done is closed when value and err have been written.
	done  chan struct{}
	value []byte
	err   error
}

// Those who want a fresh value do not join those who take any.
type flightKey struct {
	key   string
	fresh bool
}

const (
	minPoll = 2 * time.Millisecond
	maxPoll = 25 * time.Millisecond
)

// join waits for a value with the others of this process, or begins to see to
// one.
func (c *Cache) join(ctx context.Context, key string, a answer, load Loader, s *settings) ([]byte, error) {
	began := time.Now()
	k := flightKey{key, s.fresh}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		c.giveUp(&a)
		return nil, ErrClosed
	}
	f := c.flights[k]
	joined := f != nil && f.takes(&a)
	var p *party
	switch {
	case joined && f.since != nil:
		p = f.since
	case joined:
		p = &party{done: make(chan struct{})}
		f.since = p
	default:
		// Its own read is the flight's first.
		p = &party{done: make(chan struct{})}
		f = &flight{key: k, wake: make(chan struct{}, 1), before: []*party{p}}
		c.flights[k] = f
		set := *s
		c.work.Go(func() { c.fly(context.WithoutCancel(ctx), f, a, load, &set) })
	}
	if joined && a.Won {
		f.offers = append(f.offers, a)
		f.signal()
	}
	p.size++
	c.mu.Unlock()

	// One that won sees to the value, in its own flight or another's.
	waits := !a.Won && (joined || a.Taken)
	select {
	case <-p.done:
		if waits {
			c.noteWaited(key, began, p.err)
		}
		if joined { // each caller may write into its own
			return bytes.Clone(p.value), p.err
		}
		return p.value, p.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	if p.size--; f.empty() {
		f.signal()
	}
	c.mu.Unlock()
	if waits {
		c.noteWaited(key, began, ctx.Err())
	}
	return nil, ctx.Err()
}

// takes tells whether a caller with this answer may join: what the flight will
// bring is not older than what the caller has seen.
func (f *flight) takes(a *answer) bool {
	switch {
	case !f.loading:
		return true
	case a.Won:
		return false
	case a.Taken:
		return f.lease == a.Lease
	}
	return true
}

// empty tells that nobody waits any more.
func (f *flight) empty() bool {
	waits := func(p *party) bool { return p.size > 0 }
	return !slices.ContainsFunc(f.before, waits) && (f.since == nil || f.since.size == 0)
}

func (f *flight) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// forget has later callers begin a flight of their own.
func (c *Cache) forget(key string) {
	c.mu.Lock()
	delete(c.flights, flightKey{key, false})
	delete(c.flights, flightKey{key, true})
	c.mu.Unlock()
}

// land gives what a load or an error brought to everybody, and ends the
// flight.
func (c *Cache) land(f *flight, value []byte, err error) {
	c.mu.Lock()
	f.board()
	unused := c.landed(f, value, err)
	c.mu.Unlock()
	for i := range unused {
		c.giveUp(&unused[i])
	}
}

// landRead gives what was read to those who had joined before, and ends the
// flight unless somebody has joined since. It is one step: between a look at
// who has joined and the landing one could come who has seen that value
// deleted.
func (c *Cache) landRead(f *flight, value []byte, err error) (ended bool) {
	c.mu.Lock()
	unused := c.landed(f, value, err)
	ended = f.since == nil
	c.mu.Unlock()
	for i := range unused {
		c.giveUp(&unused[i])
	}
	return ended
}

// landed gives those who had joined before the last read the result. Where
// there are no others the flight ends, and its leases are not needed. mu is
// held.
func (c *Cache) landed(f *flight, value []byte, err error) (unused []answer) {
	for _, p := range f.before {
		p.value, p.err = value, err
		close(p.done)
	}
	f.before = nil
	if f.since != nil {
		return nil
	}
	if c.flights[f.key] == f {
		delete(c.flights, f.key)
	}
	unused, f.offers = f.offers, nil
	return unused
}

// board counts those who have joined since the last read to those who are
// given what comes now. mu is held.
func (f *flight) board() {
	if f.since != nil {
		f.before, f.since = append(f.before, f.since), nil
	}
}

// loads notes that the flight loads now, and under which lease.
func (c *Cache) loads(f *flight, lease Lease) {
	c.mu.Lock()
	f.loading, f.lease = true, lease
	c.mu.Unlock()
}

// fly sees to a value. It polls while another process has the lease, and loads
// once this one has it or there is none to be had.
func (c *Cache) fly(ctx context.Context, f *flight, a answer, load Loader, s *settings) {
	key := f.key.key
	began := time.Now()
	for delay := minPoll; ; {
		if c.life.Err() != nil {
			c.giveUp(&a)
			c.land(f, nil, ErrClosed)
			return
		}
		if a.Won {
			c.offer(f, a)
			a = *c.offered(f)
		}
		b, err, ok := c.answer(ctx, key, &a, load, s)
		v := judge(&a.Reply, s.grace)
		switch {
		case ok:
			if c.landRead(f, b, err) {
				return
			}
			began, delay = time.Now(), minPoll // for the others
		case a.Won:
			c.loads(f, a.Lease)
			c.noteWon(key, false)
			b, err := c.loadAndFill(ctx, key, &a.Reply, v, load, s)
			b, err = c.orStale(key, &a, v, b, err)
			c.land(f, b, err)
			return
		case v == stale && time.Since(began) > c.cfg.LoadTimeout:
			// The load of another has failed, or its holder is dead.
			c.noteHit(key, v)
			if c.landRead(f, nonNil(a.Value), nil) {
				return
			}
			began, delay = time.Now(), minPoll
		case v != unknown && a.Taken:
			stub := time.Duration(0)
			if a.isStub() {
				stub = c.cfg.stub()
			}
			if !c.busy() && c.watch.taken(a.Lease, time.Now(), c.cfg.Lease) {
				lease := a.Lease
				a = c.inFlight(f, func() answer { return c.takeOver(ctx, key, lease, stub, s) })
				continue
			}
			if offer := c.pause(f, delay); offer != nil {
				a = *offer
				continue
			}
			if c.deserted(f) {
				return
			}
			delay = min(2*delay, maxPoll)
		case v != unknown && !a.asked && !c.busy():
			// It was not asked for a lease, as all slots were in use.
		default:
			// No lease is to be had, and what is loaded is not kept.
			c.loads(f, Lease{})
			b, err := c.loadOnly(ctx, key, load)
			b, err = c.orStale(key, &a, v, b, err)
			c.land(f, b, err)
			return
		}
		if offer := c.offered(f); offer != nil {
			a = *offer
			continue
		}
		a = c.inFlight(f, func() answer { return c.readOne(ctx, key, s) })
	}
}

// inFlight reads for those who have joined so far.
func (c *Cache) inFlight(f *flight, read func() answer) answer {
	c.mu.Lock()
	f.board()
	c.mu.Unlock()
	return read()
}

// orStale gives the old value where a fresh one was asked for and is not to be
// had: the load failed, or all slots are in use.
func (c *Cache) orStale(key string, a *answer, v verdict, b []byte, err error) ([]byte, error) {
	if err == nil || v != stale || errors.Is(err, ErrNotFound) || c.life.Err() != nil {
		return b, err
	}
	c.noteHit(key, v)
	return nonNil(a.Value), nil
}

// pause waits, and gives an offer that came meanwhile.
func (c *Cache) pause(f *flight, d time.Duration) *answer {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-f.wake:
	case <-c.life.Done():
	}
	return c.offered(f)
}

// offer adds a lease to those of a flight.
func (c *Cache) offer(f *flight, a answer) {
	c.mu.Lock()
	f.offers = append(f.offers, a)
	c.mu.Unlock()
}

// offered takes the newest of the leases that were offered, and gives the
// others up: they were won one after the other, and offered in any order.
func (c *Cache) offered(f *flight) *answer {
	c.mu.Lock()
	offers := f.offers
	f.offers = nil
	c.mu.Unlock()
	if len(offers) == 0 {
		return nil
	}
	best := 0
	for i := range offers {
		if offers[i].Lease.CAS > offers[best].Lease.CAS {
			best = i
		}
	}
	for i := range offers {
		if i != best {
			c.giveUp(&offers[i])
		}
	}
	return &offers[best]
}

var errDeserted = errors.New("stampede: nobody waits any more")

// deserted ends a flight that only waits and for which nobody waits.
func (c *Cache) deserted(f *flight) bool {
	c.mu.Lock()
	if !f.empty() || len(f.offers) > 0 {
		c.mu.Unlock()
		return false
	}
	// Under the lock, or a caller could join it now.
	if c.flights[f.key] == f {
		delete(c.flights, f.key)
	}
	c.mu.Unlock()
	c.land(f, nil, errDeserted)
	return true
}
