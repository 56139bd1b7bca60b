package stampede

import (
	"context"
	"time"
)

// A room has the callers of a Broker that wait for a key on the same terms. One
// goroutine reads for all of them: when a fill or a release goes through this
// Broker, and from time to time, as it may go through another.
type room struct {
	key   string
	terms terms
	wake  chan struct{}
	// waiters is guarded by Broker.mu. The first has waited longest.
	waiters []*waiter
}

// A waiter is one caller. Its result is written under Broker.mu, unless it has
// left.
type waiter struct {
	holder *Holder
	done   chan struct{}
	ended  bool // left, or has its result
	answer Answer
	err    error
}

// wait waits for another caller's fill.
func (b *Broker) wait(ctx context.Context, ask *Ask, t *terms) (Answer, error) {
	began := time.Now()
	w := &waiter{holder: ask.Holder, done: make(chan struct{})}
	r, ok := b.enterRoom(ask.Key, t, w)
	if !ok {
		return Answer{}, ErrClosed
	}
	timer := time.NewTimer(ask.Wait)
	defer timer.Stop()
	err := error(nil)
	select {
	case <-w.done:
	case <-timer.C:
	case <-ask.Until:
	case <-ctx.Done():
		err = ctx.Err()
	}
	b.mu.Lock()
	left := !w.ended
	w.ended = true
	b.mu.Unlock()
	switch {
	case left:
		r.signal() // it may be empty now
		w.answer, w.err = Answer{State: StateWait}, err
	case err != nil && w.answer.State == StateWon:
		// It came at the same moment.
		b.mu.Lock()
		l := b.loans[w.answer.Token]
		b.mu.Unlock()
		if l != nil {
			b.giveUp([]*loan{l})
		}
		w.answer, w.err = Answer{}, err
	}
	b.cache.noteWaited(ask.Key, began, w.err)
	return w.answer, w.err
}

// enterRoom adds a waiter to the room of its terms, which is opened if need be.
func (b *Broker) enterRoom(key string, t *terms, w *waiter) (*room, bool) {
	b.mu.Lock()
	for _, r := range b.rooms[key] {
		if r.terms == *t {
			r.waiters = append(r.waiters, w)
			b.mu.Unlock()
			return r, true
		}
	}
	r := &room{key: key, terms: *t, wake: make(chan struct{}, 1), waiters: []*waiter{w}}
	b.rooms[key] = append(b.rooms[key], r)
	b.mu.Unlock()
	if b.cache.spawn(func() { b.attend(r) }) {
		return r, true
	}
	b.mu.Lock()
	b.close(r)
	b.mu.Unlock()
	return nil, false
}

// close removes an empty room. b.mu is held.
func (b *Broker) close(r *room) {
	rooms := b.rooms[r.key]
	for i := range rooms {
		if rooms[i] == r {
			rooms = append(rooms[:i], rooms[i+1:]...)
			break
		}
	}
	if b.rooms[r.key] = rooms; len(rooms) == 0 {
		delete(b.rooms, r.key)
	}
}

func (r *room) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// wake has the rooms of a key look at once.
func (b *Broker) wake(key string) {
	b.mu.Lock()
	for _, r := range b.rooms[key] {
		r.signal()
	}
	b.mu.Unlock()
}

// present gives those who wait, and closes the room where there are none.
func (b *Broker) present(r *room) []*waiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	still := r.waiters[:0]
	for _, w := range r.waiters {
		if !w.ended && w.holder != nil && w.holder.gone {
			// Nothing can be lent to it. If it stayed, a lease that is won for
			// it would be given up and won again without end.
			w.ended, w.answer = true, Answer{State: StateWait}
			close(w.done)
		}
		if !w.ended {
			still = append(still, w)
		}
	}
	clear(r.waiters[len(still):])
	if r.waiters = still; len(still) == 0 {
		b.close(r)
		return nil
	}
	return append([]*waiter(nil), still...)
}

// give ends a wait. It does nothing where the waiter has left.
func (b *Broker) give(w *waiter, a Answer, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !w.ended {
		w.ended, w.answer, w.err = true, a, err
		close(w.done)
	}
}

// attend reads for a room until nobody waits there.
func (b *Broker) attend(r *room) {
	c := b.cache
	timer := time.NewTimer(minPoll)
	defer timer.Stop()
	for delay := minPoll; ; {
		woken := false
		select {
		case <-timer.C:
		case <-r.wake:
			woken = true
		case <-c.life.Done():
		}
		// Only for them: for those who come while this reads it may be too old.
		present := b.present(r)
		if present == nil {
			return
		}
		if c.life.Err() != nil {
			for _, w := range present {
				b.give(w, Answer{}, ErrClosed)
			}
			continue
		}
		a := b.read(context.Background(), r.key, &r.terms, Lease{}, 0)
		answer, err, ok := b.judge(context.Background(), r.key, &a, &r.terms, nil)
		switch {
		case ok && answer.State == StateWon:
			b.pass(present, answer)
			delay = minPoll
		case ok:
			for _, w := range present {
				b.give(w, answer, err)
			}
		case woken:
			delay = minPoll
		default:
			delay = min(2*delay, maxPoll)
		}
		timer.Reset(delay)
	}
}

// pass lends a lease that was won for a room to the first who still waits
// there. The others are served the old value, or wait on.
func (b *Broker) pass(present []*waiter, won Answer) {
	b.mu.Lock()
	l := b.loans[won.Token]
	if l == nil {
		b.mu.Unlock()
		return // it took so long that it is overdue
	}
	for _, w := range present {
		if w.ended || w.holder != nil && w.holder.gone {
			continue
		}
		l.lendTo(w.holder)
		w.ended, w.answer = true, won
		close(w.done)
		b.mu.Unlock()
		return
	}
	b.mu.Unlock()
	b.giveUp([]*loan{l})
}
