package stampede

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A Broker gives the leases of a Store to callers whose loaders are elsewhere:
// in the processes that a sidecar serves. It says what a key has, and tells one
// caller in the fleet to load; that one comes back with Fill, Fail or Release.
// Those who wait for a fill that goes through the same Broker are woken by it.
//
// It takes part with the Caches of other processes on the same keys. Make it
// with NewBroker, end it with Close. It is safe for concurrent use.
type Broker struct {
	// cache has the settings, the Store and the counters. A place in its slots
	// is taken for each lease that is lent.
	cache *Cache

	// mu guards loans, rooms and their waiters, and what Holders hold. Nothing
	// is called under it.
	mu    sync.Mutex
	loans map[string]*loan
	lent  map[Lease]*loan // the same by the lease
	rooms map[string][]*room
}

// NewBroker makes a Broker. Of the Config, MaxLoads bounds the leases that are
// lent at a time, LoadTimeout is not used, and Shared is refused.
func NewBroker(store Store, cfg Config) (*Broker, error) {
	if cfg.Shared {
		return nil, errors.New("stampede: config: Shared is set, a Broker has no such keys")
	}
	c, err := New(store, cfg)
	if err != nil {
		return nil, err
	}
	return &Broker{cache: c, loans: make(map[string]*loan), lent: make(map[Lease]*loan), rooms: make(map[string][]*room)}, nil
}

// Stats gives the counters. A lease that is lent is a load.
func (b *Broker) Stats() Stats { return b.cache.Stats() }

// Waiting is how many callers wait for another's fill.
func (b *Broker) Waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, rooms := range b.rooms {
		for _, r := range rooms {
			n += len(r.waiters)
		}
	}
	return n
}

// Close gives up the leases that are lent, and ends every wait with ErrClosed.
func (b *Broker) Close() error {
	c := b.cache
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.end()
	c.calls.Wait()
	b.mu.Lock()
	var all []*loan
	for _, l := range b.loans {
		all = append(all, l)
	}
	b.mu.Unlock()
	b.giveUp(all)
	return c.Close()
}

// A State is what a Broker says of a key.
type State uint8

const (
	// StateFresh: there is a value, and nothing else to do.
	StateFresh State = iota + 1
	// StateStale: there is an old value, which somebody else refills.
	StateStale
	// StateWon: the lease is the caller's, under Answer.Token. The old value
	// is there too, if there is one.
	StateWon
	// StateWait: there is no value, and somebody else loads.
	StateWait
	// StateNotFound: a loader has found that the origin has no such key.
	StateNotFound
	// StateFailed: a load has failed, Answer.Err has its text.
	StateFailed
	// StateNoLease: the cache can not be asked (Answer.Err says why) or gives
	// no lease. What is loaded is not to be filled.
	StateNoLease
)

// An Ask is what a caller wants of a key.
type Ask struct {
	Key string
	// Grace and Lease are those of Config for this key; 0 is the Broker's own,
	// and None for Grace is none. All that use a key have to agree on Grace.
	Grace, Lease time.Duration
	// Wait is how long to wait for another caller's fill where there is no
	// value.
	Wait time.Duration
	// Fresh asks not to be served a stale value, but to wait as for a missing
	// one.
	Fresh bool
	// Until, if not nil, ends the wait when it is closed, as the end of Wait
	// does.
	Until <-chan struct{}
	// Holder, if not nil, is who the lease is lent to.
	Holder *Holder
}

// An Answer is what a Broker says of a key.
type Answer struct {
	State State
	// Value is not nil with StateFresh and StateStale, and with StateWon where
	// there is an old one.
	Value []byte
	Token string
	Err   error
}

// A Holder is somebody who may go away with the leases that were lent to him,
// such as a connection. The zero Holder is ready for use.
type Holder struct {
	gone  bool
	loans map[*loan]struct{}
}

// Gone gives up the leases that are lent to h. It is lent no more of them.
func (b *Broker) Gone(h *Holder) {
	b.mu.Lock()
	h.gone = true
	var all []*loan
	for l := range h.loans {
		all = append(all, l)
	}
	b.mu.Unlock()
	b.giveUp(all)
}

// A loan is a lease that a caller has.
type loan struct {
	token    string
	won      Reply
	verdict  verdict
	settings settings
	lease    time.Duration
	began    time.Time
	holder   *Holder
	// overdue frees the slot of a caller who does not come back. By then the
	// stub is gone and a value's lease taken over.
	overdue *time.Timer
}

// terms are what an Ask comes to.
type terms struct {
	settings
	lease time.Duration
}

func (t *terms) stub() time.Duration { return ceilSecond(t.lease) + 2*time.Second }

// ErrTerms is returned for a Grace, Lease, TTL or Wait that is out of bounds.
var ErrTerms = errors.New("stampede: out of bounds")

func (b *Broker) terms(grace, lease time.Duration, fresh bool) (terms, error) {
	cfg := &b.cache.cfg
	t := terms{settings{grace: max(0, cfg.Grace), fresh: fresh}, cfg.Lease}
	switch {
	case grace == None:
		t.grace = 0
	case grace < 0 || grace > maxTime-time.Second:
		return t, fmt.Errorf("%w: grace is %v, it must be from 0 to 30 days", ErrTerms, grace)
	case grace != 0:
		t.grace = grace
	}
	switch {
	case lease == 0:
	case lease < minLease || lease > maxLease:
		return t, fmt.Errorf("%w: lease is %v, it must be between %v and %v", ErrTerms, lease, minLease, maxLease)
	default:
		t.lease = lease
	}
	t.ttl = min(cfg.TTL, maxTime-t.grace)
	return t, nil
}

// maxWait bounds Ask.Wait.
const maxWait = time.Minute

// Lease says what a key has, and lends the lease to the caller where it is to
// be had. It returns ErrBadKey, ErrTerms, ErrOriginBusy where MaxLoads leases
// are lent and there is no value, ErrClosed, or the context's error.
func (b *Broker) Lease(ctx context.Context, ask Ask) (Answer, error) {
	t, err := b.terms(ask.Grace, ask.Lease, ask.Fresh)
	if err == nil && (ask.Wait < 0 || ask.Wait > maxWait) {
		err = fmt.Errorf("%w: wait is %v, it must be from 0 to %v", ErrTerms, ask.Wait, maxWait)
	}
	if err != nil {
		return Answer{}, err
	}
	if !b.cache.enter() {
		return Answer{}, ErrClosed
	}
	defer b.cache.leave()
	a := b.read(ctx, ask.Key, &t, Lease{}, 0)
	if err := ctx.Err(); err != nil {
		b.cache.giveUp(&a)
		return Answer{}, err
	}
	answer, err, ok := b.judge(ctx, ask.Key, &a, &t, ask.Holder)
	switch {
	case ok:
		return answer, err
	case ask.Wait == 0:
		return Answer{State: StateWait}, nil
	}
	return b.wait(ctx, &ask, &t)
}

// read asks for a key and its lease, unless no more are lent. reopen is a
// lease to be taken from its holder first, stub tells that it is a stub's.
func (b *Broker) read(ctx context.Context, key string, t *terms, reopen Lease, stub time.Duration) answer {
	r := Read{Key: key}
	asked := !b.cache.busy()
	if asked {
		r.Lease, r.Grace, r.Early = t.stub(), t.grace, b.cache.early(t.ttl)
		r.Reopen, r.ReopenStub = reopen, stub
	}
	a := answer{b.cache.store.ReadLeased(ctx, []Read{r})[0], asked}
	if a.Won && r.Reopen.CAS != 0 {
		b.cache.noteTookOver(key)
	}
	return a
}

// judge makes an Answer of a reply. ok is false where there is nothing to do
// but to wait. A lease that is won is lent to the holder or given up.
func (b *Broker) judge(ctx context.Context, key string, a *answer, t *terms, h *Holder) (_ Answer, err error, ok bool) { //nolint:revive // ok says whether the others count
	c := b.cache
	v := judge(&a.Reply, t.grace)
	if a.Taken && (v == stale || v == missing || v == uncachable) &&
		c.watch.taken(a.Lease, time.Now(), max(t.lease, b.lentFor(a.Lease))) {
		// Its holder is believed dead.
		stub := time.Duration(0)
		if a.isStub() {
			stub = t.stub()
		}
		*a = b.read(ctx, key, t, a.Lease, stub)
		v = judge(&a.Reply, t.grace)
	}
	if v != unknown && !a.Taken {
		c.watch.free(key)
	}
	if a.Won && v == failed {
		c.keep(a, &t.settings) // won early: the origin is left alone for the marker's time
	} else if a.Won {
		if lent, ok := b.lend(key, a, v, t, h); ok {
			return lent, nil, true
		}
		c.shed([]Reply{a.Reply}, []verdict{v})
		if !v.has() {
			c.noteShed(key)
			return Answer{}, ErrOriginBusy, true
		}
	}
	switch {
	case v == fresh:
		c.noteHit(key, v)
		return Answer{State: StateFresh, Value: nonNil(a.Value)}, nil, true
	case v == stale && !(t.fresh && a.Taken):
		c.noteHit(key, v)
		return Answer{State: StateStale, Value: nonNil(a.Value)}, nil, true
	case v == notFound:
		c.noteMarker(key, ErrNotFound)
		return Answer{State: StateNotFound}, nil, true
	case v == failed:
		err := remoteFailure(&a.Reply)
		c.noteMarker(key, err)
		return Answer{State: StateFailed, Err: err}, nil, true
	case v == unknown && errors.Is(a.Err, ErrBadKey):
		return Answer{}, a.Err, true
	case v == unknown:
		return Answer{State: StateNoLease, Err: a.Err}, nil, true
	case a.Taken:
		return Answer{}, nil, false
	case !a.asked:
		c.noteShed(key)
		return Answer{}, ErrOriginBusy, true
	}
	return Answer{State: StateNoLease}, nil, true
}

// lentFor is how long the caller that has a lease of this Broker's may take: he
// has asked for it, whatever others believe. 0 for the lease of somebody else.
func (b *Broker) lentFor(lease Lease) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.lent[lease]; l != nil {
		return l.lease
	}
	return 0
}

// lend gives a lease that was won to a caller. It does not where MaxLoads are
// lent, or the holder has gone.
func (b *Broker) lend(key string, a *answer, v verdict, t *terms, h *Holder) (Answer, bool) {
	c := b.cache
	if !c.acquire() {
		return Answer{}, false
	}
	l := &loan{token: rand.Text(), won: a.Reply, verdict: v, settings: t.settings, lease: t.lease, began: time.Now()}
	b.mu.Lock()
	if h != nil && h.gone || c.life.Err() != nil {
		b.mu.Unlock()
		<-c.slots
		return Answer{}, false
	}
	b.loans[l.token], b.lent[a.Lease] = l, l
	l.lendTo(h)
	l.overdue = time.AfterFunc(t.stub(), func() { b.take(l.token) })
	b.mu.Unlock()
	c.noteWon(key, v == fresh)
	c.counters.loads.Add(1)
	answer := Answer{State: StateWon, Token: l.token}
	if v.has() {
		c.noteHit(key, v)
		answer.Value = nonNil(a.Value)
	}
	return answer, true
}

// lendTo notes who has the loan. Broker.mu is held.
func (l *loan) lendTo(h *Holder) {
	if l.holder = h; h == nil {
		return
	}
	if h.loans == nil {
		h.loans = make(map[*loan]struct{})
	}
	h.loans[l] = struct{}{}
}

// take ends a loan, and gives nil if it has ended before.
func (b *Broker) take(token string) *loan {
	b.mu.Lock()
	l := b.loans[token]
	if l != nil {
		delete(b.loans, token)
		if b.lent[l.won.Lease] == l {
			delete(b.lent, l.won.Lease)
		}
		if l.holder != nil {
			delete(l.holder.loans, l)
		}
	}
	b.mu.Unlock()
	if l != nil {
		l.overdue.Stop()
		<-b.cache.slots
	}
	return l
}

// giveUp ends loans for callers that will not.
func (b *Broker) giveUp(loans []*loan) {
	var replies []Reply
	for _, l := range loans {
		if b.take(l.token) != nil {
			replies = append(replies, l.won)
		}
	}
	if len(replies) == 0 {
		return
	}
	b.cache.release(replies)
	for i := range replies {
		b.wake(replies[i].Lease.Key)
	}
}

// Fill stores a value under a lease that was lent and ends it. ttl is how long
// the value is fresh, 0 for Config.TTL. The errors are ErrTerms, and then the
// lease stands; ErrUnbound where it has ended before, or what a Store says to
// a fill: ErrChanged, ErrGone, ErrUnbound, ErrTooLarge.
func (b *Broker) Fill(ctx context.Context, token string, value []byte, ttl time.Duration) error {
	if ttl != 0 && (ttl < time.Second || ttl > maxTime) {
		return fmt.Errorf("%w: ttl is %v, it must be between 1s and 30 days", ErrTerms, ttl)
	}
	return b.end(ctx, token, outcome{value: nonNil(value), keySettings: keySettings{ttl: ttl}}, 0)
}

// Fail ends a lease that was lent: the load brought reason. With ErrNotFound
// others are told so for ttl. With another error the old value goes on being
// served where there is one, and the next attempt is when the lease is over;
// else others are told for ttl. 0 is Config.NotFoundTTL and Config.ErrorTTL.
func (b *Broker) Fail(ctx context.Context, token string, reason error, ttl time.Duration) error {
	if ttl < 0 || ttl > maxTime || ttl > time.Minute && !errors.Is(reason, ErrNotFound) {
		return fmt.Errorf("%w: ttl is %v, it must be at most 1m for a failure, and 30 days where nothing was found", ErrTerms, ttl)
	}
	return b.end(ctx, token, outcome{err: reason}, ttl)
}

// Release ends a lease that was lent without anything: the next reader wins.
func (b *Broker) Release(_ context.Context, token string) error {
	if !b.cache.enter() {
		return ErrClosed
	}
	defer b.cache.leave()
	b.mu.Lock()
	l := b.loans[token]
	b.mu.Unlock()
	if l == nil {
		return ErrUnbound
	}
	b.giveUp([]*loan{l})
	return nil
}

// end ends a loan with what its load brought.
func (b *Broker) end(ctx context.Context, token string, o outcome, markerTTL time.Duration) error {
	c := b.cache
	if !c.enter() {
		return ErrClosed
	}
	defer c.leave()
	l := b.take(token)
	if l == nil {
		return ErrUnbound
	}
	loadErr := o.err
	if errors.Is(loadErr, ErrNotFound) {
		loadErr = ErrNotFound
	}
	c.noteLoaded(1, time.Since(l.began), loadErr)
	key := l.won.Lease.Key
	var err error
	if markerTTL != 0 && !(l.verdict.has() && loadErr != ErrNotFound) {
		flags, text := flagFailed, failureText(o.err)
		if loadErr == ErrNotFound {
			flags, text = flagNotFound, nil
		}
		w, _ := c.marker(&l.won, flags, markerTTL, text, &l.settings)
		err = c.write(ctx, []Write{w})[0].Err
	} else {
		err = c.settle(ctx, []Reply{l.won}, []verdict{l.verdict}, []outcome{o}, &l.settings)[0]
	}
	b.wake(key)
	return err
}

// Invalidate marks the value of ask.Key stale, as Cache.Invalidate does. Where
// want is set it asks for the lease right after, in place of whoever has it, and
// the Answer is what Lease would have answered; ask.Wait is not used.
// ErrOwnerDown is returned with an Answer.
func (b *Broker) Invalidate(ctx context.Context, ask Ask, want bool) (Answer, error) {
	c := b.cache
	t, err := b.terms(ask.Grace, ask.Lease, ask.Fresh)
	if err != nil {
		return Answer{}, err
	}
	if !c.enter() {
		return Answer{}, ErrClosed
	}
	defer c.leave()
	w := Write{Kind: Delete, Key: ask.Key}
	if t.grace > 0 {
		w = Write{Kind: Invalidate, Key: ask.Key, TTL: max(t.grace, t.stub())}
	}
	changed := c.store.WriteLeased(ctx, []Write{w})[0].Err
	b.wake(ask.Key)
	if changed != nil && !errors.Is(changed, ErrOwnerDown) || !want {
		return Answer{}, changed
	}
	a := b.read(ctx, ask.Key, &t, Lease{}, 0)
	if a.Taken && a.Stale || a.Taken && a.isStub() {
		// It was won since, by somebody who reads and not for this change.
		stub := time.Duration(0)
		if a.isStub() {
			stub = t.stub()
		}
		a = b.read(ctx, ask.Key, &t, a.Lease, stub)
	}
	if err := ctx.Err(); err != nil {
		c.giveUp(&a)
		return Answer{}, err
	}
	answer, err, ok := b.judge(ctx, ask.Key, &a, &t, ask.Holder)
	switch {
	case !ok:
		answer.State = StateWait
	case errors.Is(err, ErrOriginBusy): // the change is made all the same
		answer = Answer{State: StateNoLease, Err: err}
	case err != nil:
		return answer, err
	}
	return answer, changed
}
