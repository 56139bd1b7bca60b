package client

import (
	"runtime"
	"sync/atomic"
	"time"
)

// A pace is what a conn knows of the writes under way, to make fewer and larger
// ones. While the reader is awake and looks for replies, what comes when two
// writes are under way is held: the node takes requests in order, and would not
// get to it before it has answered the first of them. Then the reader writes it,
// or before it sleeps, or sooner where the node has fewer left to answer than
// wait here and might run dry. On a long way, where it would cost up to half the
// time there and back, nothing is held.
type pace struct {
	prior  uint64 // offered before the last write
	awake  bool   // the reader is, and writes what is held before it sleeps
	urgent bool   // a request of the connection's own is among those to be written

	// What follows is written by the reader.
	answered atomic.Uint64 // requests answered, up to the end of a call
	quickest atomic.Int64  // about the shortest time of late that a call took, in ns
	wakeful  bool          // awake, as the reader knows
	end      uint64        // answered and quickest, as the reader knows
	quick    int64
}

// near is how quick a node has to be for requests to be held. One on the same
// host is at 30 to 100 us when both are busy.
const near = 200 * time.Microsecond

// worthwhile is how many requests have to wait to be written before a second
// write is answered. With 64 callers 8 to 24 had 1.02 to 1.04 times the
// throughput of none, with 8 callers it made no difference.
const worthwhile = 16

// noteAnswer notes that the last reply to a call has come.
func (c *conn) noteAnswer(ca *call) {
	c.end = ca.end
	c.quick = min(c.quick+c.quick/256+1, int64(c.lastRead-ca.start))
}

// publish has the writers know of the answers that were noted.
func (c *conn) publish() {
	if c.end != c.answered.Load() {
		c.answered.Store(c.end)
		c.quickest.Store(c.quick)
	}
}

// holds tells whether what is to be written waits for the reader. c.mu is held.
func (c *conn) holds() bool {
	answered := c.answered.Load()
	if !c.awake || c.urgent || answered >= c.prior || c.quickest.Load() >= int64(near) {
		return false
	}
	waiting := c.queued - c.offered
	return waiting < worthwhile || waiting <= c.offered-answered
}

// flush writes what was held, if it is no longer. The caller has the reader's
// role.
func (c *conn) flush() {
	if c.wakeful {
		c.release(true)
	}
}

// wakes tells that the reader does not sleep until asleep is called.
func (c *conn) wakes() {
	if !c.wakeful {
		c.wakeful = true
		c.mu.Lock()
		c.awake = true
		c.mu.Unlock()
	}
}

// asleep is called before the reader sleeps or gives up its role.
func (c *conn) asleep() {
	if c.wakeful {
		c.wakeful = false
		c.release(false)
	}
}

func (c *conn) release(awake bool) {
	c.mu.Lock()
	c.awake = awake
	c.unlockAndWrite(maxRounds)
}

// unlockAndWrite unlocks c.mu and writes what is there, where nobody does and
// the reader does not hold it.
func (c *conn) unlockAndWrite(rounds int) {
	write := len(c.wbuf) > 0 && !c.writing && !c.holds()
	c.writing = c.writing || write
	c.mu.Unlock()
	if write {
		c.write(rounds)
	}
}

// yield lets other callers add to what the caller is about to write, and once
// more where some did. With 64 callers a write has 20 requests with it where it
// has 15 with one turn; with three or more turns 8 callers become slower.
func (n *node) yield() {
	before := n.inFlight.Load()
	runtime.Gosched()
	if n.inFlight.Load() > before {
		runtime.Gosched()
	}
}

// crowded tells whether so many callers share the node that it is worth to
// let them join before a call of n ops is written.
func (n *node) crowded(ops int) bool {
	return n.inFlight.Load() > int64(ops+n.client.crowd)
}
