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
// or before it sleeps. On a long way, where it would cost up to half the time
// there and back, nothing is held.
type pace struct {
	prior  uint64 // offered before the last write
	awake  bool   // the reader is, and writes what is held before it sleeps
	urgent bool   // a request of the connection's own is among those to be written

	// What follows is written by the reader.
	answered atomic.Uint64 // the end of the last call that was answered
	quickest atomic.Int64  // about the shortest time of late that a call took, in ns
	wakeful  bool          // awake, as the reader knows
}

// near is how quick a node has to be for requests to be held. One on the same
// host is at 30 to 100 us when both are busy.
const near = 200 * time.Microsecond

// noteAnswer notes that the last reply to a call has come.
func (c *conn) noteAnswer(ca *call) {
	c.answered.Store(ca.end)
	quickest := c.quickest.Load()
	c.quickest.Store(min(quickest+quickest/256+1, int64(c.lastRead-ca.start)))
}

// holds tells whether what is to be written waits for the reader. c.mu is held.
func (c *conn) holds() bool {
	return c.awake && !c.urgent && c.answered.Load() < c.prior && c.quickest.Load() < int64(near)
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
