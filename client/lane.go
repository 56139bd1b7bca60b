package client

import (
	"slices"
	"sync"
	"sync/atomic"
)

// A lane keeps large values out of the way of small requests: they have a
// connection of their own, the last of node.slots, since on a shared one all
// that is asked behind a value of 1 MiB waits until it has passed.
//
// A node has none until it sees a large value. What is stored shows its size; a
// read goes by how large its key's value was when it was last seen, and one that
// errs is no more than in the others' way.
//
// The order of the requests for a key does not suffer: see ghosts for those whose
// caller has left, and Batch.together for those of a batch. Others are under way
// at the same time only where their callers do not mind.
type lane struct {
	ops atomic.Int64 // under way in it
	// large has the hashes of keys whose values were large, each in the place
	// that a part of it names; 0 is none.
	large [1024]atomic.Uint32
}

// laneSendBuffer is how much of a large value the socket takes at a time. Without a
// bound the kernel lets it grow until it takes a value whole, and the node, which
// reads what there is before it turns to another connection, has small requests
// wait for all of it. With half of it large values were a tenth slower.
const laneSendBuffer = 256 << 10

// carryLarge makes a lane of a connection that is not used yet.
func (c *conn) carryLarge() {
	c.lane = true
	if nc, ok := underneath(c.nc).(interface{ SetWriteBuffer(bytes int) error }); ok {
		nc.SetWriteBuffer(laneSendBuffer) //nolint:errcheck // it works without
	}
}

// laneSlot is the lane's place in node.slots.
func (n *node) laneSlot() int { return len(n.slots) - 1 }

// isLarge tells whether a value of so many bytes belongs into the lane.
func (c *Client) isLarge(bytes int) bool {
	return c.cfg.LargeValue > 0 && bytes >= c.cfg.LargeValue
}

// keyHash is FNV-1a.
func keyHash(key string) uint32 {
	var h uint32 = 2166136261
	for i := range len(key) {
		h = (h ^ uint32(key[i])) * 16777619
	}
	return h
}

// slotFor gives the slot whose connection carries the op.
func (n *node) slotFor(o *op) int {
	l := n.lane.Load()
	if l == nil {
		if !n.client.isLarge(len(o.value)) {
			return n.slotOf(o.key)
		}
		l = n.makeLane()
	}
	wanted := l.wants(n, o)
	slot := &n.slots[n.laneSlot()]
	own := slot.conn.Load()
	if own == nil {
		if wanted && n.legacy.Load() == nil {
			n.dial(slot) //nolint:errcheck // until it is there the others carry it
		}
		return n.slotOf(o.key)
	}
	if i, found := n.ghosts.find(o.key); found {
		return i
	}
	if o.generation != 0 { // it is of no use on another connection
		wanted = o.generation == own.generation
	}
	if wanted {
		return n.laneSlot()
	}
	return n.slotOf(o.key)
}

func (n *node) makeLane() *lane {
	n.lane.CompareAndSwap(nil, new(lane))
	return n.lane.Load()
}

func (l *lane) largeAt(hash uint32) *atomic.Uint32 { return &l.large[hash%uint32(len(l.large))] }

// wants tells whether the op's value is large, or was when it was last seen, and
// notes the size of one that is stored.
func (l *lane) wants(n *node, o *op) bool {
	hash := keyHash(o.key)
	was := l.largeAt(hash).Load() == hash
	if !o.stores() {
		return was
	}
	is := n.client.isLarge(len(o.value))
	// What is added to a value says little of its size.
	if is || o.mode != 'A' && o.mode != 'P' {
		l.note(hash, is)
	}
	return is || was
}

// note notes that a key's value is large, or is not.
func (l *lane) note(hash uint32, is bool) {
	switch at := l.largeAt(hash); {
	case is && at.Load() != hash:
		at.Store(hash)
	case !is:
		at.CompareAndSwap(hash, 0)
	}
}

// noteSize notes the size of a value that was read. An empty one may be a lease
// on what was large and will be again.
func (n *node) noteSize(key string, bytes int) {
	switch l := n.lane.Load(); {
	case n.client.isLarge(bytes):
		if l == nil {
			l = n.makeLane()
		}
		l.note(keyHash(key), true)
	case l != nil && bytes > 0:
		l.note(keyHash(key), false)
	}
}

// outside is how many requests are in flight on the other connections.
func (n *node) outside() int64 {
	all := n.inFlight.Load()
	if l := n.lane.Load(); l != nil {
		all -= l.ops.Load()
	}
	return all
}

// ghosts are the requests under way whose caller has left. Whoever asks for
// their keys next goes the way that they have gone, so that a Delete does not
// overtake the Set that was given up before it. Reads are none: nobody can tell
// when they took place. Where two callers have given up requests on one key, at the
// same time and on both ways, only the one that left last is followed.
type ghosts struct {
	count atomic.Int64
	mu    sync.Mutex
	keys  map[string]*ghost
}

type ghost struct {
	calls []*call
	slot  int
}

// find gives the slot that a ghost has gone by.
func (g *ghosts) find(key string) (slot int, found bool) {
	if g.count.Load() == 0 {
		return 0, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if of := g.keys[key]; of != nil {
		return of.slot, true
	}
	return 0, false
}

// haunt makes ghosts of a call's requests where there is more than one way to go.
func (c *conn) haunt(ca *call) {
	if c.node.client.cfg.LargeValue >= 0 {
		c.node.haunt(ca, c.lane)
	}
}

// haunt makes ghosts of a call's requests. It is called before the call is marked
// as abandoned, and what ends it calls rest.
func (n *node) haunt(ca *call, lane bool) {
	if ca.ghost {
		return
	}
	g := &n.ghosts
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.keys == nil {
		g.keys = make(map[string]*ghost)
	}
	for i := range ca.ops {
		o := &ca.ops[i]
		if !o.changes() {
			continue
		}
		if !ca.ghost {
			ca.ghost, ca.over = true, make(chan struct{})
		}
		of := g.keys[o.key]
		if of == nil {
			of = new(ghost)
			g.keys[o.key] = of
		}
		of.calls = append(of.calls, ca)
		of.slot = n.slotOf(o.key)
		if lane {
			of.slot = n.laneSlot()
		}
	}
	g.count.Store(int64(len(g.keys)))
}

// before gives what has to be over before a call's requests are sent where each has
// a connection of its own: the ghosts of its keys, of which a flush has every one
// and is one of every key.
func (g *ghosts) before(ca *call) (over []<-chan struct{}) {
	if g.count.Load() == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	behind := func(of *ghost) {
		if of != nil {
			for _, c := range of.calls {
				over = append(over, c.over)
			}
		}
	}
	for i := range ca.ops {
		switch o := &ca.ops[i]; {
		case o.kind == opFlushAll:
			for _, of := range g.keys {
				behind(of)
			}
		case o.changes():
			behind(g.keys[o.key])
			behind(g.keys[""]) // that of a flush
		}
	}
	return over
}

// rest ends the ghosts of a call.
func (g *ghosts) rest(ca *call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range ca.ops {
		o := &ca.ops[i]
		if of := g.keys[o.key]; of != nil && o.changes() {
			of.calls = slices.DeleteFunc(of.calls, func(c *call) bool { return c == ca })
			if len(of.calls) == 0 {
				delete(g.keys, o.key)
			}
		}
	}
	g.count.Store(int64(len(g.keys)))
	close(ca.over)
	ca.ghost, ca.over = false, nil
}

// leaveLane takes the call off what is under way in the lane.
func (c *call) leaveLane() {
	if c.lane != nil {
		c.lane.ops.Add(-int64(len(c.ops)))
		c.lane = nil
	}
}

// together has the ops of a batch that have a key in common go over one
// connection. Where they do not agree, it is that of the first one that is bound
// to its connection, and else not the lane.
func (b *Batch) together(slots int) {
	places := make(map[string]int32, len(b.ops))
	for pass := range 3 {
		for i := range b.ops {
			line, o := b.lines[i], &b.ops[i]
			if line < 0 {
				continue
			}
			place, known := places[o.key]
			inLane := int(line)%slots == slots-1
			switch {
			case pass == 0 && o.generation != 0 && !known, pass == 1 && !inLane && !known:
				places[o.key] = line
			case pass == 2 && known && place != line && int(place)/slots == int(line)/slots:
				b.lines[i] = place
			}
		}
	}
}

// largeBuffers are lent to the lanes for what they write.
var largeBuffers sync.Pool

const (
	// minLargeBuffer is the least that is lent, so that it is of use again.
	minLargeBuffer = 256 << 10
	maxLargeBuffer = 16 << 20
)

// growLarge gives b with room for n bytes more.
func growLarge(b []byte, n int) []byte {
	if n <= cap(b)-len(b) {
		return b
	}
	if lent, ok := largeBuffers.Get().(*[]byte); ok {
		if n <= cap(*lent)-len(b) {
			return append((*lent)[:0], b...)
		}
		largeBuffers.Put(lent)
	}
	return slices.Grow(b, max(n, minLargeBuffer))
}

// returnLarge lends a buffer to the next one.
func returnLarge(b []byte) {
	if cap(b) >= minLargeBuffer && cap(b) <= maxLargeBuffer {
		b = b[:0]
		largeBuffers.Put(&b)
	}
}
