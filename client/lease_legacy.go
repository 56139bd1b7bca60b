package client

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// Nodes without meta commands have no leases, so there an item is put into an
// envelope that has what memcached would know of it: until when it is there,
// whether it is stale, and who has its lease until when. Everything that
// changes it goes by cas. What is weaker than on memcached: a read is one round
// trip only where nothing is to be won, the hosts' clocks count, and a fill
// takes two.

// An envelope is an item on a legacy.
type envelope struct {
	hasValue bool // else it is a stub
	stale    bool
	// owner is a random number for the one who has the lease, or had it; 0 for
	// nobody. It is the lease's CAS id.
	owner    uint64
	deadline time.Time // of the lease
	expires  time.Time // of the item; zero for never
	flags    uint32    // the value's own
	value    []byte
}

const (
	// envelopeFlags are the client flags of an item in an envelope.
	envelopeFlags   uint32 = 0x52534c01
	envelopeVersion        = 1
	envelopeHeader         = 1 + 1 + 8 + 8 + 8 + 4

	envelopeHasValue = 1 << 0
	envelopeStale    = 1 << 1

	// ownerMark tells an owner from a CAS id of the server.
	ownerMark = 1 << 63
)

func (e *envelope) append(b []byte) []byte {
	var bits byte
	if e.hasValue {
		bits |= envelopeHasValue
	}
	if e.stale {
		bits |= envelopeStale
	}
	b = append(b, envelopeVersion, bits)
	b = binary.BigEndian.AppendUint64(b, millis(e.expires))
	b = binary.BigEndian.AppendUint64(b, e.owner)
	b = binary.BigEndian.AppendUint64(b, millis(e.deadline))
	b = binary.BigEndian.AppendUint32(b, e.flags)
	return append(b, e.value...)
}

// parseEnvelope reads an envelope. ok is false for anything else.
func parseEnvelope(s seen) (e envelope, ok bool) {
	b := s.value
	if s.flags != envelopeFlags || len(b) < envelopeHeader || b[0] != envelopeVersion {
		return envelope{}, false
	}
	return envelope{
		hasValue: b[1]&envelopeHasValue != 0,
		stale:    b[1]&envelopeStale != 0,
		expires:  fromMillis(binary.BigEndian.Uint64(b[2:])),
		owner:    binary.BigEndian.Uint64(b[10:]),
		deadline: fromMillis(binary.BigEndian.Uint64(b[18:])),
		flags:    binary.BigEndian.Uint32(b[26:]),
		value:    b[envelopeHeader:],
	}, true
}

// isVoid tells that the envelope stands for an item that was removed.
func (e *envelope) isVoid() bool { return !e.hasValue && e.owner == 0 && e.expires.IsZero() }

func millis(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixMilli())
}

func fromMillis(ms uint64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms))
}

// id names the envelope in its state: by its owner, and by the server's CAS id
// where it has none.
func (e *envelope) id(s seen) uint64 {
	if e.owner != 0 {
		return e.owner
	}
	return s.cas
}

// exptime is what the server is told.
func (e *envelope) exptime(now time.Time) int64 {
	if e.expires.IsZero() {
		return 0
	}
	return exptime(e.expires.Sub(now), now)
}

// until is when an item with an exptime of memcached's ends.
func until(exptime int64, now time.Time) time.Time {
	switch {
	case exptime == 0:
		return time.Time{}
	case exptime > memcached.MaxRelative:
		return time.Unix(exptime, 0)
	}
	return now.Add(time.Duration(exptime) * time.Second)
}

// isLeased tells whether the op is one of stampede's.
func (o *op) isLeased() bool {
	return o.kind == opLeased || o.kind == opInvalidate || o.fromName != "" || o.wantCAS || o.voids
}

// leasedReads carries out the leased reads at the front of ops, and tells how
// many they were; 0 where there are not at least two.
func (l *epoch) leasedReads(ops []op) int {
	n := 0
	for n < len(ops) && ops[n].kind == opLeased && ops[n].err == nil {
		n++
	}
	if n < 2 {
		return 0
	}
	keys := make([]string, n)
	for i := range keys {
		keys[i] = ops[i].key
	}
	found, err := l.seeAll(keys)
	for i := range ops[:n] {
		s, ok := found[keys[i]]
		if !ok && err != nil {
			ops[i].err = l.failure(err)
		} else if err := l.readLeased(&ops[i], s, ok); err != nil {
			ops[i].err = l.failure(err)
		}
	}
	return n
}

// giveUpLeases ends the leases that came, with the first n ops, when their
// caller had left. That an epoch has ended meanwhile does not matter: a lease is
// known by its owner's number, and no other has that.
func (l *legacy) giveUpLeases(ca *call, n int) {
	for i := range ca.ops[:n] {
		o := &ca.ops[i]
		if o.kind != opLeased || o.err != nil || o.lease&leaseWon == 0 {
			continue
		}
		back := op{kind: opGiveBack, key: o.key, hasCAS: true, cas: o.gotCAS, fromName: l.node.Name}
		if o.isStub() {
			back.kind = opDelete
		}
		l.step([]op{back}) // where it fails the lease ends by its deadline
	}
}

const (
	// casTries bounds how often a change is tried that others are faster with.
	casTries = 8

	// voidTTL is how long, in seconds, an envelope without anything in it
	// stands where one was removed. yrmcds counts the CAS ids of each item
	// from 1 (memcached those of all items together), so behind a delete the
	// stub of the next lease had the id of the one before, and a fill that
	// had looked at that landed on this. It is well above the time between a
	// fill's look and its cas, which Config.Timeout bounds.
	voidTTL = 10
)

// leased carries out an op of stampede's.
func (l *epoch) leased(o *op) error {
	if o.generation != 0 && o.generation != l.id {
		return ErrCASConflict
	}
	if o.kind == opSet && o.mode == 'E' {
		return l.addPlain(o)
	}
	var err error
	for range casTries {
		var s seen
		s, err = l.see(o.key)
		found := err == nil
		if err != nil && !errors.Is(err, ErrCacheMiss) {
			return err
		}
		if o.kind == opLeased {
			return l.readLeased(o, s, found)
		}
		if !found {
			o.reply = memcached.MetaNotFound
			return nil
		}
		switch err = l.change(o, s); {
		case err == nil:
			return nil
		case errors.Is(err, ErrCacheMiss):
			o.reply = memcached.MetaNotFound
			return nil
		case !errors.Is(err, ErrCASConflict):
			return err
		}
	}
	o.reply = memcached.MetaExists
	if o.kind == opInvalidate || o.voids { // it must not stay as it is
		o.reply = memcached.MetaOK
		return l.void(o.key)
	}
	return nil
}

// void puts an empty envelope where one is, whatever is in it.
func (l *epoch) void(key string) error {
	e := envelope{}
	return l.set(key, e.append(nil), envelopeFlags, voidTTL)
}

// change writes to an item that was seen. ErrCASConflict asks to look again.
func (l *epoch) change(o *op, s seen) error {
	now := time.Now()
	e, ok := parseEnvelope(s)
	if ok && e.isVoid() {
		o.reply = memcached.MetaNotFound
		return nil
	}
	if o.fromName != "" {
		id := s.cas
		if ok {
			id = e.id(s)
		}
		if id != o.cas {
			o.reply = memcached.MetaExists
			return nil
		}
	}
	o.reply = memcached.MetaOK
	switch o.kind {
	case opSet: // a fill
		switch {
		case !ok && !bytes.Equal(s.value, o.value):
			// A plain value is filled with what it is, for longer. This is
			// another of the same CAS id.
			o.reply = memcached.MetaExists
			return nil
		case ok && !e.expires.IsZero() && e.expires.Sub(now) < l.node.client.cfg.Timeout:
			// It may be gone, and another of its CAS id there, before the cas
			// arrives.
			o.reply = memcached.MetaNotFound
			return nil
		}
		ttl := o.ttl()
		e = envelope{hasValue: true, expires: until(ttl, now), flags: o.flags, value: o.value}
		return l.replaceSeen(o.key, s, e.append(nil), envelopeFlags, ttl)
	case opDelete:
		return l.remove(o.key, s)
	}
	if !ok {
		return l.remove(o.key, s) // there is no way to mark it
	}
	e.owner, e.deadline = 0, time.Time{}
	e.stale = e.hasValue
	if o.exptime > 0 {
		e.expires = until(o.ttl(), now)
	}
	return l.replaceSeen(o.key, s, e.append(nil), envelopeFlags, e.exptime(now))
}

// remove takes away an item that was seen: an empty envelope stands in its
// place for a while. What classic clients read too is deleted as it is, since
// they would see the empty one. There is no delete that compares, and a cas
// that expires at once is not known to yrmcds; so a newer value may be hit,
// which is a miss.
func (l *epoch) remove(key string, s seen) error {
	if _, ok := parseEnvelope(s); ok {
		e := envelope{}
		return l.replaceSeen(key, s, e.append(nil), envelopeFlags, voidTTL)
	}
	if err := l.mc.Delete(key); err != nil && !errors.Is(err, ErrCacheMiss) {
		return err
	}
	return nil
}

// readLeased answers a leased read from what was seen, and takes the lease
// where it is to be had.
func (l *epoch) readLeased(o *op, s seen, found bool) error {
	for range casTries {
		won, err := l.tryLease(o, s, found)
		if err == nil || !errors.Is(err, ErrCASConflict) && !errors.Is(err, ErrNotStored) && !errors.Is(err, ErrCacheMiss) {
			if won {
				o.lease |= leaseWon
			}
			return err
		}
		// Somebody was faster.
		s, err = l.see(o.key)
		found = err == nil
		if err != nil && !errors.Is(err, ErrCacheMiss) {
			return err
		}
	}
	o.reply = memcached.MetaMiss // nothing is known that would stand still
	return nil
}

func (l *epoch) tryLease(o *op, s seen, found bool) (won bool, err error) {
	now := time.Now()
	lease := time.Duration(o.exptime) * time.Second
	e, ok := parseEnvelope(s)
	o.opResult = opResult{reply: memcached.MetaValue}
	switch {
	case !found:
		if lease == 0 {
			o.reply = memcached.MetaMiss
			return false, nil
		}
		e = envelope{owner: newOwner(), deadline: now.Add(lease), expires: now.Add(lease)}
		o.got, o.gotCAS, o.left = []byte{}, e.owner, o.exptime
		return true, l.add(o.key, e.append(nil), envelopeFlags, o.exptime)
	case !ok:
		// A key that is asked for twice was seen once, and each owns its value.
		o.got, o.gotFlags, o.gotCAS, o.left = append([]byte{}, s.value...), s.flags, s.cas, -1
		return false, nil
	}
	o.got, o.gotFlags, o.left = bytes.Clone(e.value), e.flags, -1
	if o.got == nil {
		o.got = []byte{}
	}
	if !e.expires.IsZero() {
		o.left = max(0, seconds(e.expires.Sub(now)))
	}
	if e.stale {
		o.lease |= leaseStale
	}
	due := !e.hasValue || e.stale || o.capTTL == 0 && o.left >= 0 && o.left < int64(o.delta)
	taken := e.owner != 0 && e.deadline.After(now)
	switch {
	case taken:
		o.lease |= leaseTaken
		fallthrough
	case !due:
		o.gotCAS = e.id(s)
		return false, nil
	case lease == 0 && !e.hasValue:
		o.reply = memcached.MetaMiss
		return false, nil
	}
	e.owner, e.deadline = newOwner(), now.Add(max(lease, time.Second))
	if !e.hasValue {
		e.expires = e.deadline
	}
	o.gotCAS = e.owner
	return true, l.replaceSeen(o.key, s, e.append(nil), envelopeFlags, e.exptime(now))
}

func newOwner() uint64 { return rand.Uint64() | ownerMark }

// addPlain stores a value without an envelope, for those who read it with
// classic clients, and gets its CAS id.
func (l *epoch) addPlain(o *op) error {
	err := l.add(o.key, o.value, o.flags, o.ttl())
	if errors.Is(err, ErrNotStored) {
		o.reply = memcached.MetaNotStored
		return nil
	}
	if err != nil {
		return err
	}
	s, err := l.see(o.key)
	switch {
	case errors.Is(err, ErrCacheMiss), err == nil && !bytes.Equal(s.value, o.value):
		o.reply = memcached.MetaNotStored // somebody else's by now
		return nil
	case err != nil:
		return err
	}
	o.reply, o.gotCAS = memcached.MetaOK, s.cas
	return nil
}
