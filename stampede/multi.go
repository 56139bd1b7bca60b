package stampede

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"
)

// FetchMulti returns the values of many keys: one batched read, and one
// batched load of the keys whose lease this caller won, while those that
// others load are waited for. Keys that the origin does not have are in
// neither result; for the rest *MultiError lists why there is no value. For
// everything else see Fetch.
func (c *Cache) FetchMulti(ctx context.Context, keys []string, load MultiLoader, options ...Option) (map[string][]byte, error) {
	m := c.fetchMulti(ctx, keys, load, options)
	return m.values, m.err()
}

func (c *Cache) fetchMulti(ctx context.Context, keys []string, load MultiLoader, options []Option) *multi {
	s := c.settings(options)
	m := &multi{
		cache: c, load: load, settings: &s,
		values: make(map[string][]byte, len(keys)),
		began:  time.Now(),
	}
	for _, key := range keys {
		m.pending = append(m.pending, waitingKey{key: key})
	}
	slices.SortFunc(m.pending, func(a, b waitingKey) int { return cmp.Compare(a.key, b.key) })
	m.pending = slices.CompactFunc(m.pending, func(a, b waitingKey) bool { return a.key == b.key })
	m.total = len(m.pending)
	if !c.enter() {
		m.ended(ErrClosed)
	} else {
		defer c.leave()
	}
	for delay := minPoll; len(m.pending) > 0; {
		if m.round(ctx) {
			delay = minPoll
			continue
		}
		if len(m.pending) == 0 {
			break
		}
		c.wait(ctx, delay)
		delay = min(2*delay, maxPoll)
	}
	return m
}

// A multi is a FetchMulti that is under way.
type multi struct {
	cache    *Cache
	load     MultiLoader
	settings *settings
	began    time.Time
	total    int // of different keys
	values   map[string][]byte
	errs     map[string]error
	// pending are the keys without a result, in order.
	pending []waitingKey
}

// A waitingKey is waited for after the first round.
type waitingKey struct {
	key    string
	waited bool
	reopen Lease // to be taken over with the next read
	stub   time.Duration
}

func (m *multi) err() error {
	if len(m.errs) == 0 {
		return nil
	}
	return &MultiError{Errors: m.errs, Total: m.total}
}

func (m *multi) fail(key string, err error) {
	if m.errs == nil {
		m.errs = make(map[string]error)
	}
	m.errs[key] = err
}

// ended gives every pending key the error.
func (m *multi) ended(err error) {
	for _, w := range m.pending {
		m.fail(w.key, err)
	}
	m.pending = nil
}

// A batch is what one loader call is to bring.
type batch struct {
	keys     []string
	won      []Reply // no lease where Won is not set
	verdicts []verdict
}

func (b *batch) add(a *answer, key string, v verdict) {
	b.keys, b.won, b.verdicts = append(b.keys, key), append(b.won, a.Reply), append(b.verdicts, v)
}

// leases are the replies that hold one.
func (b *batch) leases() []Reply {
	var won []Reply
	for i := range b.won {
		if b.won[i].Won {
			won = append(won, b.won[i])
		}
	}
	return won
}

// round reads what is pending and loads what there is to load. It tells
// whether it loaded.
func (m *multi) round(ctx context.Context) bool {
	c, s := m.cache, m.settings
	if err := ctx.Err(); err != nil {
		m.ended(err)
		return false
	}
	if c.life.Err() != nil {
		m.ended(ErrClosed)
		return false
	}
	reads := make([]Read, len(m.pending))
	asked := make([]bool, len(m.pending))
	for i, w := range m.pending {
		reads[i], asked[i] = c.readFor(w.key, s)
		if asked[i] {
			reads[i].Reopen, reads[i].ReopenStub = w.reopen, w.stub
		}
	}
	replies := c.store.ReadLeased(ctx, reads)
	if err := ctx.Err(); err != nil {
		for i := range replies {
			c.giveUp(&answer{Reply: replies[i]})
		}
		m.ended(err)
		return false
	}
	var due, wanted batch
	var waiting []waitingKey
	for i, w := range m.pending {
		a := answer{replies[i], asked[i]}
		if a.Won && reads[i].Reopen.CAS != 0 {
			c.noteTookOver(w.key)
		}
		switch v := judge(&a.Reply, s.grace); {
		case v == fresh, v == stale && !s.fresh:
			c.noteHit(w.key, v)
			m.values[w.key] = nonNil(a.Value)
			m.upkeep(&due, w.key, &a, v)
		case v == notFound:
			c.noteMarker(w.key, ErrNotFound)
			m.upkeep(&due, w.key, &a, v)
		case v == failed:
			err := remoteFailure(&a.Reply)
			c.noteMarker(w.key, err)
			m.fail(w.key, err)
			m.upkeep(&due, w.key, &a, v)
		case v == unknown && errors.Is(a.Err, ErrBadKey):
			m.fail(w.key, a.Err)
		case v == stale && !a.Won && time.Since(m.began) > c.cfg.LoadTimeout:
			// The load of another has failed, or its holder is dead.
			c.noteHit(w.key, v)
			m.values[w.key] = nonNil(a.Value)
		case !a.Won && a.Taken:
			w.waited = true
			if a.asked || a.Lease != w.reopen {
				w.reopen, w.stub = Lease{}, 0
			}
			if !c.busy() && c.watch.taken(a.Lease, time.Now(), c.cfg.Lease) {
				w.reopen = a.Lease
				if a.isStub() {
					w.stub = c.cfg.stub()
				}
			}
			waiting = append(waiting, w)
			continue
		case v != unknown && !a.Won && !a.asked && !c.busy():
			// It was not asked for a lease, as all slots were in use.
			waiting = append(waiting, w)
			continue
		default:
			if a.Won {
				c.noteWon(w.key, false)
			}
			wanted.add(&a, w.key, v)
		}
		if w.waited {
			c.noteWaited(w.key, m.began, m.errs[w.key])
		}
	}
	m.pending = waiting
	m.refill(ctx, &due)
	if len(wanted.keys) == 0 {
		return false
	}
	m.fetch(ctx, &wanted)
	return true
}

// upkeep sees to the lease of an item that is being served.
func (m *multi) upkeep(due *batch, key string, a *answer, v verdict) {
	c := m.cache
	switch {
	case a.Won && v == failed:
		c.keep(a, m.settings)
	case a.Won:
		c.noteWon(key, v == fresh)
		due.add(a, key, v)
	case a.Taken && v == stale:
		if !c.busy() && c.watch.taken(a.Lease, time.Now(), c.cfg.Lease) {
			// Served already. The one who reads it next may load it.
			lease := a.Lease
			c.spawn(func() {
				if c.write(context.Background(), []Write{{Kind: Reopen, Lease: lease}})[0].Err == nil {
					c.noteTookOver(key)
				}
			})
		}
	case !a.Taken:
		c.watch.free(key)
	}
}

// refill loads what is due in the background.
func (m *multi) refill(ctx context.Context, due *batch) {
	if len(due.keys) == 0 {
		return
	}
	c, set := m.cache, *m.settings
	load := m.load
	if !c.spawn(func() { c.loadBatch(ctx, due, load, &set) }) {
		c.release(due.won)
	}
}

// fetch loads what is missing and waits for it. The load goes on when the
// caller leaves.
func (m *multi) fetch(ctx context.Context, wanted *batch) {
	c, set := m.cache, *m.settings
	load := m.load
	done := make(chan []outcome, 1)
	if !c.spawn(func() { done <- c.loadBatch(ctx, wanted, load, &set) }) {
		c.release(wanted.leases())
		for _, key := range wanted.keys {
			m.fail(key, ErrClosed)
		}
		return
	}
	select {
	case outcomes := <-done:
		for i, key := range wanted.keys {
			switch o := &outcomes[i]; {
			case o.err == nil:
				m.values[key] = o.value
			case wanted.verdicts[i] == stale && !errors.Is(o.err, ErrNotFound):
				// A fresh one was asked for, and is not to be had.
				c.noteHit(key, stale)
				m.values[key] = nonNil(wanted.won[i].Value)
			case !errors.Is(o.err, ErrNotFound):
				m.fail(key, o.err)
			}
		}
	case <-ctx.Done():
		for _, key := range wanted.keys {
			m.fail(key, ctx.Err())
		}
	}
}

// loadBatch loads a batch in one call and ends the leases that were won.
func (c *Cache) loadBatch(ctx context.Context, b *batch, load MultiLoader, s *settings) []outcome {
	outcomes := make([]outcome, len(b.keys))
	if !c.acquire() {
		for i, key := range b.keys {
			c.noteShed(key)
			outcomes[i].err = ErrOriginBusy
		}
		c.shed(b.won, b.verdicts)
		return outcomes
	}
	keys := slices.Clone(b.keys) // the loader's own
	values, l, err := run(ctx, c, len(keys), func(ctx context.Context) (map[string][]byte, error) { return load(ctx, keys) })
	var won []Reply
	var verdicts []verdict
	var ends []outcome
	for i, key := range b.keys {
		o := &outcomes[i]
		o.keySettings = l.of(key)
		value, ok := values[key]
		switch {
		case ok:
			o.value = nonNil(value)
		case err != nil:
			o.err = err
		default:
			o.err = ErrNotFound
		}
		if b.won[i].Won {
			won, verdicts, ends = append(won, b.won[i]), append(verdicts, b.verdicts[i]), append(ends, *o)
		}
	}
	if len(won) > 0 {
		c.settle(ctx, won, verdicts, ends, s)
	}
	return outcomes
}
