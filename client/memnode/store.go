package memnode

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/ringside-cache/ringside/proto/memcached"
)

const (
	shardCount = 64 // a power of two, well above the number of cores

	// firstSecond is where the store's clock starts. It is not 0, which
	// means never, and 1 lies in the past: both as in memcached.
	firstSecond = 62
	longPast    = 1
)

// store is the memory of one life of a node: it starts empty, and its CAS ids
// start at 1.
//
// Items live in an otter cache, which alone decides what is evicted. It is
// keyed by a hash of the key, so that a lookup allocates nothing; an item whose
// key is another one than asked for counts as a miss, and is evicted when the
// other is stored. With 64 bits and a seed of its own a store of a million
// items sees that once in 37 million.
//
// Every operation on a key runs under the lock of the key's shard, from its
// lookup to the bytes of its reply. So an operation is atomic, and items can be
// changed in place. otter's own locks are taken below a shard's and never the
// other way round: it calls nothing that takes one.
type store struct {
	now         func() time.Time
	started     time.Time
	epoch       int64 // the Unix time of second 0 of the store's clock
	maxItemSize int

	items     *otter.Cache[uint64, *item]
	seed      maphash.Seed
	lastCAS   atomic.Uint64
	evictions atomic.Uint64

	// flushTime and flushCAS mark what flush_all has removed. They are
	// written under the locks of all shards and read under one.
	flushTime uint32
	flushCAS  uint64

	shards [shardCount]shard
}

// shard guards the items whose hash ends in its index.
type shard struct {
	mu     sync.Mutex
	counts Counts // of what was done under mu
	_      [64]byte
}

func newStore(cfg Config) (*store, error) {
	s := &store{now: cfg.Now, started: cfg.Now(), maxItemSize: cfg.MaxItemSize, seed: maphash.MakeSeed()}
	s.epoch = s.started.Unix() - firstSecond
	var err error
	s.items, err = otter.New(&otter.Options[uint64, *item]{
		MaximumWeight: uint64(cfg.MaxBytes),
		Weigher:       func(_ uint64, it *item) uint32 { return uint32(it.size() + itemOverhead) },
		OnAtomicDeletion: func(e otter.DeletionEvent[uint64, *item]) {
			if e.WasEvicted() {
				s.evictions.Add(1)
			}
		},
		// Maintenance runs on the goroutine that comes to need it: none
		// outlives a Close, and memory does not run ahead of it.
		Executor: func(f func()) { f() },
	})
	return s, err
}

// clock gives the store's time. It ticks in whole seconds, as memcached's does:
// an item with a TTL of 1 may live for a hundredth of a second.
func (s *store) clock() uint32 {
	return firstSecond + uint32(max(0, s.now().Sub(s.started)/time.Second))
}

// deadline gives the store's time for an exptime of the protocol. memcached
// 1.6.18 keeps exptimes in 32 bits: an absolute time after January 2038 is
// negative and lies in the past.
func (s *store) deadline(exptime int64, now uint32) uint32 {
	switch e := int32(exptime); {
	case e == 0:
		return 0
	case e < 0:
		return longPast
	case e <= memcached.MaxRelative:
		return now + uint32(e)
	case int64(e) <= s.epoch:
		return longPast
	default:
		return uint32(int64(e) - s.epoch)
	}
}

// slot is one key under its shard's lock.
type slot struct {
	*store
	shard *shard
	hash  uint64
	key   []byte
	now   uint32
}

// lock locks the key's shard. The slot ends with unlock.
func (s *store) lock(key []byte) slot {
	hash := maphash.Bytes(s.seed, key)
	sh := &s.shards[hash%shardCount]
	sh.mu.Lock()
	return slot{store: s, shard: sh, hash: hash, key: key, now: s.clock()}
}

func (sl *slot) unlock() { sl.shard.mu.Unlock() }

func (sl *slot) counts() *Counts { return &sl.shard.counts }

// get gives the key's item, nil if there is none. It does not count as a use.
func (sl *slot) get() *item {
	it, ok := sl.items.GetIfPresent(sl.hash)
	switch {
	case !ok || string(it.key()) != string(sl.key):
		return nil
	case sl.flushed(it, sl.now):
		sl.counts().GetFlushed++
	case it.exptime != 0 && it.exptime <= sl.now:
		sl.counts().GetExpired++
	default:
		return it
	}
	sl.unlink()
	return nil
}

// touch notes a use of the item. As in memcached the first one leaves its time
// alone and the second one does not. From then on memcached updates the time
// when its LRU comes by, and we once a minute.
func (sl *slot) touch(it *item) {
	switch {
	case it.bits&fetched == 0:
		it.bits |= fetched
	case it.bits&active == 0 || sl.now-it.time > 60:
		it.bits |= active
		it.time = sl.now
	}
}

// link makes it the key's item, under a new CAS id.
func (sl *slot) link(it *item) {
	it.time = sl.now
	it.cas = sl.lastCAS.Add(1)
	sl.items.Set(sl.hash, it)
	sl.counts().TotalItems++
}

// unlink removes the key's item.
func (sl *slot) unlink() { sl.items.Invalidate(sl.hash) }

// flushed tells whether flush_all has removed the item.
func (s *store) flushed(it *item, now uint32) bool {
	if s.flushTime == 0 || s.flushTime > now {
		return false
	}
	return it.time <= s.flushTime || it.cas < s.flushCAS
}

// flush removes everything that is older than the exptime, which is in the
// future or not. The rules are memcached's: a flush to come replaces one that
// was announced before, and what is stored until then goes as well.
func (s *store) flush(exptime int64) {
	for i := range s.shards {
		s.shards[i].mu.Lock()
	}
	now := s.clock()
	oldest := now
	if int32(exptime) > 0 {
		oldest = s.deadline(exptime, now)
	}
	s.flushTime = oldest - 1
	if s.flushTime <= now {
		s.flushCAS = s.lastCAS.Add(1)
		// An absolute time in the past flushes nothing in memcached.
		if s.flushTime != 0 {
			s.items.InvalidateAll()
		}
	}
	s.shards[0].counts.CmdFlush++
	for i := range s.shards {
		s.shards[i].mu.Unlock()
	}
}

// length is the number of items, expired ones included that nobody asked for.
func (s *store) length() int {
	s.items.CleanUp()
	return s.items.EstimatedSize()
}
