package client

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// A conn is one pipelined connection. It has no goroutine of its own: the
// callers carry the requests and replies of one another.
//
// Writing. A caller appends its request to wbuf. The first that finds no
// writer becomes it, lets others join, and writes until wbuf is empty, unless
// that waits for replies, see pace, or for more to come, see Cork. It never blocks: what the socket does not
// take at once is left to a goroutine.
//
// Reading. A caller that has to wait and finds no reader becomes it. It
// delivers replies, its own and others', until its own call is done; then it
// promotes a parked caller to the role. A reader that leaves early, because
// its context ended, does the same; if nobody is parked and replies are still
// to come, a goroutine drains them. Half-read replies stay with the conn, so
// the role can change hands in the middle of one.
//
// As a write does not block the reader may write too. If it did, a server that
// stops reading until its replies are taken would never go on.
type conn struct {
	node       *node
	nc         net.Conn
	raw        rawSocket
	generation uint64
	silentMiss bool // the node's misses have no opaque
	lane       bool // it carries the node's large values

	// mu guards the fields down to pace, and in that those before the reader's.
	// Only a Cork is locked under it.
	mu      sync.Mutex
	err     error // why the connection is broken; set once
	writing bool
	reading bool
	ticking bool // the reader looks once in a readTick who has waited for long; see wakeBlind
	wbuf    []byte
	spare   []byte
	first   *call // calls that the reader has not taken yet, in wire order
	last    *call
	opaque  opaque // of the last request
	queued  uint64 // requests appended in all
	offered uint64 // requests that the socket was offered and may have taken
	pace

	// What follows belongs to the holder of the reader's role.
	head        *call // calls that the reader has taken, in wire order
	at          int32 // the op of head that the next reply is for
	held        *call // calls before head whose last replies wait for a proof
	heldLast    *call
	settled     *call // calls whose replies are in, to be told so; empty outside of deliver
	settledLast *call
	doubt       bool // an error line was taken, and no proof since
	rbuf        []byte
	r, w        int // rbuf[r:w] is unread
	rep         memcached.Reply
	big         []byte // a large value on its way, with its line's end
	bigAt       int
	deadline    time.Duration // the read deadline that is set, on the client's clock
	lastRead    time.Duration
	swept       time.Duration // when wakeBlind was called last
	trust       int           // how much looking before a sleep is believed to help; see read
	slept       int           // reads since it was last believed
}

const (
	readBuffer = 16 << 10
	// keepBuffer is the largest write buffer that is kept after a burst.
	keepBuffer = 64 << 10
	// idleBuffer is the largest that is kept without traffic.
	idleBuffer = 4 << 10
	// bigValue is the size from which a value that is not yet in the read
	// buffer is read straight to where it will stay.
	bigValue = 4 << 10
	// readGrace is what a late reader allows itself to take replies that may
	// be in the socket already.
	readGrace = 10 * time.Millisecond
	// readTick is how long a reader reads before it has its context watched.
	readTick = time.Millisecond
	// crowd is how many requests in flight make it worth to wait for others.
	// With 8 callers, 0 had 1.0 to 1.1 times gomemcache's throughput, 3 and 4
	// had 1.4 to 1.6, and 8 had 1.25 to 1.3; with 64 there was no difference.
	crowd = 4
	// maxRounds bounds how often a caller writes. With 4,000 callers one was kept
	// for up to 166 rounds, or 7 ms.
	maxRounds = 8
)

func newConn(n *node, nc net.Conn, generation uint64) *conn {
	c := &conn{node: n, nc: nc, generation: generation, deadline: -1, trust: maxTrust}
	c.raw.init(nc)
	c.opaque = newOpaque()
	c.quick = int64(near)
	c.quickest.Store(c.quick)
	c.lastRead = n.client.clock()
	return c
}

// submit queues the call's requests. It fails with errUnsent, and then
// nothing of the call was or will be sent. Where it gives true the caller has
// the writer's role and has to write, and must not wait for anything before.
func (c *conn) submit(ca *call) (writer bool, err error) {
	now := c.node.client.clock()
	c.mu.Lock()
	if c.err == nil && c.idleSince(now) && !c.raw.stillOpen() {
		c.mu.Unlock()
		c.fail(errIdleClosed)
		return false, fmt.Errorf("%w: %w", errUnsent, errIdleClosed)
	}
	if c.err != nil {
		err := c.err
		c.mu.Unlock()
		return false, fmt.Errorf("%w: %w", errUnsent, err)
	}
	if c.lane && ca.cost > keepBuffer {
		c.wbuf = growLarge(c.wbuf, int(ca.cost))
	}
	before := len(c.wbuf)
	for i := range ca.ops {
		o := &ca.ops[i]
		c.opaque = c.opaque.next()
		o.opaque = c.opaque
		o.fenced = c.fence(o)
		c.wbuf = o.appendTo(c.wbuf)
		o.value, o.meta = nil, nil
	}
	ca.conn, ca.generation = c, c.generation
	ca.start = now
	ca.size = int64(len(c.wbuf) - before)
	c.queued += uint64(len(ca.ops))
	ca.end = c.queued
	if c.last == nil {
		c.first = ca
	} else {
		c.last.next = ca
	}
	c.last = ca
	c.urgent = c.urgent || ca.own
	writer = !c.writing && !c.holds() && !ca.cork.takes(c)
	c.writing = c.writing || writer
	c.mu.Unlock()
	return writer, nil
}

// fence tells why an op must not go out on this connection: its CAS id came
// from another, or its item is too large, which may have become known only
// when the connection was made.
func (c *conn) fence(o *op) error {
	if o.generation != 0 && o.generation != c.generation {
		return ErrCASConflict
	}
	return c.node.fits(o)
}

// idleSince tells whether the connection has had nothing to do for so long
// that the server may have closed it. c.mu is held.
func (c *conn) idleSince(now time.Duration) bool {
	const idle = time.Second
	return !c.reading && !c.writing && c.first == nil && c.head == nil && now-c.lastRead > idle
}

// write has the writer's role, and gives it up when there is nothing left, or
// what is left is held.
// What others add while it writes it writes too, for so many rounds at most;
// then a goroutine goes on, as a caller is here for its own request.
func (c *conn) write(rounds int) {
	c.mu.Lock()
	for ; ; rounds-- {
		if c.err != nil || len(c.wbuf) == 0 || c.holds() {
			c.writing = false
			c.mu.Unlock()
			return
		}
		if rounds == 0 {
			c.mu.Unlock()
			c.node.client.spawn(func() { c.write(-1) })
			return
		}
		buf := c.wbuf
		c.wbuf, c.spare = c.spare[:0], nil
		c.urgent = false
		c.prior, c.offered = c.offered, c.queued
		c.mu.Unlock()

		n, err := c.raw.write(buf)
		c.node.bytesOut.Add(uint64(n))
		c.node.writes.Add(1)
		if err != nil {
			c.fail(lost(err))
			return
		}
		if n < len(buf) {
			// The socket is full. Somebody has to read on for the server to
			// take more, and this caller may be the one.
			c.node.client.spawn(func() { c.writeRest(buf, n) })
			return
		}
		c.mu.Lock()
		if cap(buf) <= keepBuffer {
			c.spare = buf[:0]
		} else if c.lane {
			returnLarge(buf)
		}
	}
}

// writeRest writes what the socket did not take at once, then goes on as the
// writer. It blocks until the node reads on or the connection is closed,
// which the reader does when the oldest request is overdue.
func (c *conn) writeRest(buf []byte, done int) {
	n, err := c.nc.Write(buf[done:])
	if c.lane {
		returnLarge(buf)
	}
	c.node.bytesOut.Add(uint64(n))
	if err != nil {
		c.fail(lost(err))
		return
	}
	c.write(-1)
}

// fail breaks the connection. Its reader, if there is one, finds out by the
// closed socket and tears down; else this goroutine does.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	tearDown := !c.reading
	c.reading = true
	c.mu.Unlock()
	// At once, or a caller that finds it broken would be given it again.
	c.node.forget(c)
	c.nc.Close()
	if tearDown {
		// It calls hooks, and a batch may have other connections to write to.
		c.node.client.spawn(func() { c.tearDown(err) })
	}
}

// tearDown ends the connection and fails what is pending. The caller holds
// the reader's role and keeps it for good, so nobody reads after it.
func (c *conn) tearDown(err error) {
	c.wakeBlind(false) // hooks are called before the calls fail
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	err = c.err
	offered := c.offered
	lists := [3]*call{c.held, c.head, c.first}
	c.first, c.last = nil, nil
	c.wbuf, c.spare = nil, nil
	c.mu.Unlock()
	c.nc.Close()
	c.head, c.held, c.heldLast = nil, nil, nil
	c.big, c.rbuf = nil, nil
	c.r, c.w = 0, 0
	c.node.connectionEnded(c, err)
	for _, ca := range lists {
		for ca != nil {
			next := ca.next
			ca.next = nil
			c.node.settled(ca)
			if ca.end-uint64(len(ca.ops)) >= offered {
				ca.fail(fmt.Errorf("%w: %w", errUnsent, err))
			} else {
				ca.fail(err)
			}
			ca = next
		}
	}
}

// errIdleClosed is no failure of the node: servers close idle connections.
var errIdleClosed = fmt.Errorf("%w: closed by the node while idle", ErrConnLost)

func lost(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: closed by the node", ErrConnLost)
	}
	return fmt.Errorf("%w: %w", ErrConnLost, err)
}

func desynchronised(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDesynchronised, fmt.Sprintf(format, args...))
}
