package memnode

import (
	"strconv"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// mode is how a value is stored.
type mode uint8

const (
	modeSet mode = iota
	modeAdd
	modeReplace
	modeAppend
	modePrepend
	modeCAS
)

// write is a value to be stored.
type write struct {
	mode        mode
	key, value  []byte
	clientFlags uint32
	exptime     uint32
	cas         uint64 // that the item must have; 0 asks for none
	// allowStale is the flag I of ms: with a CAS id older than the item's
	// the value is stored all the same, marked stale.
	allowStale bool
	binaryKey  bool
}

// fits tells whether the item is within MaxItemSize.
func (s *store) fits(nkey, nvalue int, clientFlags uint32) bool {
	return itemSize(nkey, nvalue, clientFlags) <= s.maxItemSize
}

// apply carries out a write. The kind is Stored, with the new CAS id, or
// NotStored, Exists or NotFound.
func (sl *slot) apply(w *write) (kind memcached.ReplyKind, cas uint64) {
	old := sl.get()
	if old == nil {
		switch w.mode {
		case modeCAS:
			sl.counts().CASMisses++
			return memcached.NotFound, 0
		case modeReplace, modeAppend, modePrepend:
			return memcached.NotStored, 0
		}
		return memcached.Stored, sl.put(w, 0, w.exptime)
	}
	switch w.mode {
	case modeAdd:
		old.time = sl.now
		return memcached.NotStored, 0
	case modeAppend, modePrepend:
		return sl.concat(w, old)
	case modeCAS:
		return sl.compareAndSwap(w, old)
	}
	return memcached.Stored, sl.put(w, 0, w.exptime)
}

func (sl *slot) put(w *write, marks bits, exptime uint32) (cas uint64) {
	it := newItem(w.key, w.clientFlags, exptime, w.value)
	it.bits = marks
	if w.binaryKey {
		it.bits |= binaryKey
	}
	sl.link(it)
	return it.cas
}

// concat appends or prepends. As in memcached the new item keeps the old one's
// client flags and TTL, and none of its marks: a stale item is fresh again.
func (sl *slot) concat(w *write, old *item) (memcached.ReplyKind, uint64) {
	if w.cas != 0 && w.cas != old.cas {
		return memcached.Exists, 0
	}
	if !sl.fits(len(w.key), len(old.value())+len(w.value), old.clientFlags) {
		return memcached.NotStored, 0
	}
	first, second := old.value(), w.value
	if w.mode == modePrepend {
		first, second = second, first
	}
	it := newItem(w.key, old.clientFlags, old.exptime, first, second)
	sl.link(it)
	return memcached.Stored, it.cas
}

func (sl *slot) compareAndSwap(w *write, old *item) (memcached.ReplyKind, uint64) {
	switch {
	case w.cas != 0 && w.cas == old.cas:
		sl.counts().CASHits++
		return memcached.Stored, sl.put(w, 0, w.exptime)
	case w.cas != 0 && w.allowStale && w.cas < old.cas:
		sl.counts().CASHits++
		return memcached.Stored, sl.put(w, stale|old.bits&leased, old.exptime)
	}
	sl.counts().CASBadval++
	return memcached.Exists, 0
}

// countMiss counts an incr or decr of a key that is missing, and stays so.
func (sl *slot) countMiss(incr bool) {
	if incr {
		sl.counts().IncrMisses++
	} else {
		sl.counts().DecrMisses++
	}
}

// sum is the outcome of an incr or decr.
type sum uint8

const (
	sumDone sum = iota
	sumMissing
	sumNotNumber
	sumExists
)

// addDelta adds to or subtracts from the key's number. incr wraps at 64 bits,
// decr stops at 0.
//
// The item it returns is the old one when the number became longer than the
// item's value, with the CAS id of its successor. So it is in memcached 1.6.18,
// where therefore `ma key T30` loses the T whenever a number grows.
func (sl *slot) addDelta(incr bool, delta, cas uint64) (it *item, number uint64, outcome sum) {
	it = sl.get()
	switch {
	case it == nil:
		return nil, 0, sumMissing
	case len(it.value()) == 0:
		return nil, 0, sumNotNumber
	case cas != 0 && cas != it.cas:
		return nil, 0, sumExists
	}
	number, ok := parseNumber(it.value())
	if !ok {
		return nil, 0, sumNotNumber
	}
	if incr {
		sl.counts().IncrHits++
		number += delta
	} else {
		sl.counts().DecrHits++
		number -= min(delta, number)
	}
	if it.setNumber(number) {
		it.cas = sl.lastCAS.Add(1)
		it.time = sl.now
		return it, number, sumDone
	}
	var digits [20]byte
	longer := newItem(sl.key, it.clientFlags, it.exptime, strconv.AppendUint(digits[:0], number, 10))
	sl.link(longer)
	it.cas = longer.cas
	return it, number, sumDone
}
