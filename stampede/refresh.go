package stampede

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// refreshLoads bounds the loads of one Refresh. Each is lost only to another
// change of the same key.
const refreshLoads = 5

// Refresh is to be called when a write to the origin is committed: fill on
// invalidate. It invalidates key and fills it with what load returns, so that
// nobody waits and nobody else loads. Where the error is nil the old value is
// no longer served, and the value is what the cache has now; it joins no load
// that began before.
//
// With ErrOwnerDown the value was stored on the stand-in only. With other
// errors the old value is marked stale at best, and may be served until it is
// refilled.
func (c *Cache) Refresh(ctx context.Context, key string, load Loader, options ...Option) ([]byte, error) {
	if !c.enter() {
		return nil, ErrClosed
	}
	defer c.leave()
	s := c.settings(options)
	var b []byte
	var down bool
	err := errMoved
	for tries := 0; errors.Is(err, errMoved); tries++ {
		if tries == refreshLoads {
			return nil, ErrStillStale
		}
		err = c.change(ctx, key, c.invalidation(key, &s))
		down = errors.Is(err, ErrOwnerDown)
		if err != nil && !down {
			return nil, err
		}
		b, err = c.replace(ctx, key, load, &s, down)
	}
	switch {
	case down && err == nil:
		err = ErrOwnerDown
	case down:
		err = fmt.Errorf("%w: %w", ErrOwnerDown, err)
	}
	return b, err
}

// errMoved: the node that answered is not the one that was told of the change.
var errMoved = errors.New("stampede: the key has moved to another node")

// replace takes the lease of an item that was just invalidated, from whoever
// has it, and fills. Once it has held a lease itself it leaves that of others
// alone: it is newer, and two that refresh would take it from one another for
// ever.
func (c *Cache) replace(ctx context.Context, key string, load Loader, s *settings, standIn bool) ([]byte, error) {
	var reopen Read
	var before answer
	loads, delay := 0, minPoll
	for tries := 0; ; tries++ {
		r := Read{Key: key, Lease: c.cfg.stub(), Grace: s.grace, Reopen: reopen.Reopen, ReopenStub: reopen.ReopenStub}
		a := answer{c.store.ReadLeased(ctx, []Read{r})[0], true}
		if a.Won && r.Reopen.CAS != 0 {
			c.noteTookOver(key)
		}
		reopen = Read{}
		if a.Err == nil {
			before = a
		}
		err := ctx.Err()
		switch {
		case c.life.Err() != nil:
			err = ErrClosed
		case err == nil && loads == refreshLoads:
			err = ErrStillStale
		}
		v := judge(&a.Reply, s.grace)
		switch {
		case err != nil:
			return nil, c.unstale(key, &before, err)
		case v == unknown:
			return nil, a.Err
		case a.StandIn != standIn:
			c.giveUp(&a)
			return nil, errMoved
		case a.Won:
			loads++
			c.noteWon(key, false)
			b, kept, err := c.replaceBy(ctx, key, &a, load, s)
			if kept || err != nil {
				return b, err
			}
			// It was invalidated again, deleted or taken over since.
		case v == fresh && c.cfg.Shared:
			// It may be one that its filler is about to remove.
			c.write(ctx, []Write{{Kind: Remove, Lease: a.Lease}})
		case v == fresh:
			// Filled since, under a lease that was won after the invalidation.
			return nonNil(a.Value), nil
		case v == notFound:
			return nil, ErrNotFound
		case v == failed, v == uncachable, v == stale && !a.Taken:
			c.write(ctx, []Write{{Kind: Remove, Lease: a.Lease}})
			c.wait(ctx, minPoll)
		case a.Taken:
			overdue := c.watch.taken(a.Lease, time.Now(), c.cfg.Lease)
			if overdue || tries == 0 {
				reopen.Reopen = a.Lease
				if a.isStub() {
					reopen.ReopenStub = c.cfg.stub()
				}
				continue
			}
			c.wait(ctx, delay)
			delay = min(2*delay, maxPoll)
		default:
			return c.loadOnly(ctx, key, load) // nothing is there to be served
		}
	}
}

// wait waits for d, or until the context or the Cache ends.
func (c *Cache) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-c.life.Done():
	}
}

func lostRace(err error) bool { return errors.Is(err, ErrChanged) || errors.Is(err, ErrGone) }

// replaceBy loads and fills under the lease of a. kept tells that the value is
// what the cache has now.
func (c *Cache) replaceBy(ctx context.Context, key string, a *answer, load Loader, s *settings) (b []byte, kept bool, err error) {
	if !c.acquire() {
		c.noteShed(key)
		c.giveUp(a)
		return nil, false, ErrOriginBusy
	}
	type result struct {
		o     outcome
		store error
	}
	done := make(chan result, 1)
	won, set := a.Reply, *s
	ok := c.spawn(func() {
		b, l, err := run(ctx, c, 1, func(ctx context.Context) ([]byte, error) { return load(ctx, key) })
		o := outcome{value: nonNil(b), err: err, keySettings: l.of(key)}
		if o.err != nil && !errors.Is(o.err, ErrNotFound) {
			// Not kept waiting as after a reader's failed refill: whoever
			// reads next may try.
			c.release([]Reply{won})
			done <- result{o, nil}
			return
		}
		done <- result{o, c.settle(ctx, []Reply{won}, []verdict{missing}, []outcome{o}, &set)[0]}
	})
	if !ok {
		<-c.slots
		c.giveUp(a)
		return nil, false, ErrClosed
	}
	select {
	case r := <-done:
		switch {
		case r.o.err != nil && !errors.Is(r.o.err, ErrNotFound):
			return nil, false, r.o.err
		case r.store == nil && r.o.err != nil:
			return nil, true, r.o.err // ErrNotFound
		case r.store == nil, errors.Is(r.store, ErrTooLarge):
			return r.o.value, true, nil
		case lostRace(r.store), errors.Is(r.store, ErrUnbound):
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("%w: %w", ErrStillStale, r.store)
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// unstale removes an old value that can not be replaced, and gives the reason
// why not.
func (c *Cache) unstale(key string, a *answer, reason error) error {
	if a.Err != nil || !a.Found || a.isStub() {
		c.giveUp(a)
		return reason
	}
	c.write(context.Background(), []Write{{Kind: Remove, Lease: a.Lease}})
	c.forget(key)
	return reason
}
