package client

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// This file has the reader's role of a conn: how it is taken, what it does,
// and how it is handed on. See conn.go for the whole.

// wait returns when the call is done, with true, or when ctx has ended, with
// false: then the call was left to the connection, and only its ops below
// delivered may be looked at.
func (c *conn) wait(ctx context.Context, ca *call) bool {
	for {
		if ca.state.Load() == callDone {
			return true
		}
		c.mu.Lock()
		if !c.reading {
			c.reading, c.ticking = true, true
			c.mu.Unlock()
			if !c.lead(ctx, ca) {
				return false
			}
			continue
		}
		done := ctx.Done()
		ca.blind = done != nil && c.ticking && !ca.watched && ctx.Err() == nil
		if !ca.state.CompareAndSwap(callPending, callParked) {
			c.mu.Unlock()
			continue // done in the meantime
		}
		watch := done != nil && !ca.blind
		c.mu.Unlock()
		if watch {
			select {
			case <-ca.wake:
			case <-done:
				if c.abandon(ca) {
					return false
				}
				<-ca.wake // done, or promoted, a moment before
			}
		} else {
			<-ca.wake
		}
		if ca.state.CompareAndSwap(callPromoted, callPending) && !c.lead(ctx, ca) {
			return false
		}
	}
}

// abandon leaves the call to the connection. It fails when the call is done
// or its caller was just promoted.
func (c *conn) abandon(ca *call) bool {
	c.haunt(ca)
	if !ca.state.CompareAndSwap(callParked, callAbandoned) && !ca.state.CompareAndSwap(callPending, callAbandoned) {
		if ca.ghost {
			c.node.ghosts.rest(ca)
		}
		return false
	}
	c.drainIfUnread()
	return true
}

// drainIfUnread starts a goroutine that reads where replies are to come and
// nobody reads.
func (c *conn) drainIfUnread() {
	c.mu.Lock()
	unread := !c.reading && (c.first != nil || c.head != nil)
	if unread {
		c.reading, c.ticking = true, true
	}
	c.mu.Unlock()
	if unread {
		c.node.client.spawn(func() { c.lead(context.Background(), nil) })
	}
}

// lead has the reader's role. It reads until own is done, and returns true;
// or until ctx has ended, and returns false with own abandoned. Without own it
// drains: it reads until nothing is left or a parked caller takes over.
func (c *conn) lead(ctx context.Context, own *call) bool {
	// To watch a context costs allocations, and most replies come sooner than
	// anybody gives up: at first the read just ends after readTick to look.
	// It does so without a context to watch too: with a deadline that is near
	// the runtime's thread came back sooner from its sleep, and a lone
	// caller's median was 47 us instead of 59.
	var stop func() bool
	slow := false
	defer func() {
		if stop != nil {
			stop()
		}
	}()
	for {
		if err := c.deliver(); err != nil {
			c.tearDown(err)
			return true
		}
		c.flush()
		if own != nil && own.state.Load() == callDone {
			c.handOver()
			return true
		}
		if own == nil && c.handOverDrain() {
			return true
		}
		if ctx.Err() != nil {
			c.haunt(own)
			own.state.Store(callAbandoned)
			c.handOver()
			return false
		}
		if slow && stop == nil {
			// An ended context wakes the read by its deadline.
			stop = context.AfterFunc(ctx, c.interrupt)
			c.wakeBlind(false)
		} else if stop == nil && c.lastRead-c.swept > readTick {
			c.wakeBlind(true)
		}
		interrupted, err := c.fill(ctx, stop == nil)
		if err != nil {
			c.tearDown(err)
			return true
		}
		slow = slow || interrupted && ctx.Done() != nil
	}
}

// wakeBlind has callers that wait without a look at their contexts, as most do
// not wait for long, look at them from now on: those that have waited for
// readTick, or, when this reader will not look again, all.
func (c *conn) wakeBlind(again bool) {
	now := c.node.client.clock()
	c.swept = now
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ticking = again
	for _, from := range [3]*call{c.held, c.head, c.first} {
		for ca := from; ca != nil; ca = ca.next {
			if again && now-ca.start < readTick {
				return // and so have those behind it
			}
			if ca.blind && ca.state.CompareAndSwap(callParked, callPending) {
				ca.blind, ca.watched = false, true
				ca.wake <- struct{}{}
			}
		}
	}
}

// interrupt makes a read return at once. It may come late and hit the next
// reader, which then finds nothing overdue and reads on.
func (c *conn) interrupt() { c.nc.SetReadDeadline(time.Unix(1, 0)) }

// handOver gives the reader's role to a parked caller. Without one the role
// is free for the next caller that comes to wait, unless a call was abandoned
// and its replies need a goroutine to drain them.
func (c *conn) handOver() {
	c.asleep()
	c.mu.Lock()
	promoted, abandoned := c.promote()
	if promoted {
		c.mu.Unlock()
		return
	}
	if err := c.err; err != nil {
		// fail saw a reader and left the rest to it.
		c.mu.Unlock()
		c.tearDown(err)
		return
	}
	if !abandoned {
		c.idle()
		c.reading = false
		c.mu.Unlock()
		return
	}
	c.ticking = true
	c.mu.Unlock()
	c.node.client.spawn(func() { c.lead(context.Background(), nil) })
}

// handOverDrain ends a drain where it can: nothing is left to read, or a
// parked caller takes over.
func (c *conn) handOverDrain() bool {
	c.asleep()
	c.mu.Lock()
	if c.head == nil && c.first == nil {
		if err := c.err; err != nil {
			c.mu.Unlock()
			c.tearDown(err)
			return true
		}
		c.idle()
		c.reading = false
		c.mu.Unlock()
		return true
	}
	promoted, _ := c.promote()
	c.mu.Unlock()
	return promoted
}

// promote wakes the first parked caller to be the reader. c.mu is held: a
// caller parks under it, so none can slip in between the search and what is
// decided on it.
func (c *conn) promote() (promoted, abandoned bool) {
	for _, from := range [3]*call{c.held, c.head, c.first} {
		for ca := from; ca != nil; ca = ca.next {
			if ca.state.CompareAndSwap(callParked, callPromoted) {
				c.ticking = true
				ca.wake <- struct{}{}
				return true, abandoned
			}
			abandoned = abandoned || ca.state.Load() == callAbandoned
		}
	}
	return false, abandoned
}

// idle lets go of the buffers when nothing is in them and nothing awaited, so
// that a connection without traffic costs little. c.mu is held.
func (c *conn) idle() {
	if c.r != c.w || c.big != nil || c.head != nil || c.first != nil {
		return
	}
	if len(c.rbuf) == readBuffer {
		readBuffers.Put((*[readBuffer]byte)(c.rbuf))
	}
	c.rbuf, c.r, c.w = nil, 0, 0
	if len(c.wbuf) == 0 && cap(c.wbuf) > idleBuffer {
		c.wbuf = nil
	}
	if cap(c.spare) > idleBuffer {
		c.spare = nil
	}
}

// readBuffers are lent to the connections that are being read.
var readBuffers = sync.Pool{New: func() any { return new([readBuffer]byte) }}

// next gives the oldest call whose replies are not all in, nil if there is
// none.
func (c *conn) next() *call {
	if c.head == nil {
		c.mu.Lock()
		c.head = c.first
		c.first, c.last = nil, nil
		c.mu.Unlock()
	}
	return c.head
}

// deliver hands out every complete reply in the buffer.
func (c *conn) deliver() error {
	err := c.takeReplies()
	c.finish()
	return err
}

// takeReplies reads every complete reply in the buffer into its op. The lists
// are cut before a call is finished, since after that it may be in use again.
func (c *conn) takeReplies() error {
	for {
		if c.big != nil && c.bigAt < len(c.big) {
			return nil
		}
		if c.r == c.w && c.big == nil {
			return nil
		}
		ca := c.next()
		if ca == nil {
			return desynchronised("%d bytes that nobody asked for", c.w-c.r)
		}
		complete, err := c.parse(&ca.ops[c.at])
		if err != nil || !complete {
			return err
		}
		if c.lane || c.node.client.isLarge(len(c.rep.Value)) {
			c.node.noteSize(ca.ops[c.at].key, len(c.rep.Value))
		}
		more, err := ca.ops[c.at].take(&c.rep, c.silentMiss)
		c.big = nil
		if err != nil {
			return err
		}
		if more {
			continue
		}
		c.at++
		last := int(c.at) == len(ca.ops)
		if last {
			c.noteAnswer(ca)
			c.head, ca.next, c.at = ca.next, nil, 0
		}
		switch {
		case c.doubt || c.rep.Kind.IsError():
			if err := c.hold(ca, last); err != nil {
				return err
			}
		case last:
			c.settle(ca)
		default:
			ca.delivered.Store(c.at)
		}
	}
}

// parse reads the reply at the front of the buffer into c.rep and takes it
// off. It gives false where more bytes are needed.
func (c *conn) parse(o *op) (complete bool, err error) {
	if c.big != nil {
		// The line was parsed before, and what it pointed to may be gone.
		end := len(c.big) - 2
		if err := memcached.CheckValueEnd(c.big[end:]); err != nil {
			return false, err
		}
		o.got = c.big[:end:end]
		c.rep.Value = o.got
		return true, nil
	}
	buf := c.rbuf[c.r:c.w]
	head, body, err := memcached.ParseReplyHead(buf, &c.rep)
	if err != nil || head > len(buf) {
		return false, err
	}
	if body < 0 {
		c.r += head
		return true, nil
	}
	total := head + body + 2
	if total <= len(buf) {
		if err := memcached.CheckValueEnd(buf[total-2:]); err != nil {
			return false, err
		}
		c.rep.Value = buf[head : total-2]
		c.r += total
		return true, nil
	}
	if limit := c.node.maxReply(); body > limit {
		return false, desynchronised("a value of %d bytes where the node takes %d at most", body, limit)
	}
	if body < bigValue || o.into {
		c.reserve(total)
		return false, nil
	}
	// The flags point into the read buffer, which is filled anew meanwhile.
	for i := range c.rep.Meta {
		c.rep.Meta[i].Arg = clone(c.rep.Meta[i].Arg)
	}
	c.big = make([]byte, body+2)
	c.bigAt = copy(c.big, buf[head:])
	c.r += head + c.bigAt
	return false, nil
}

// reserve makes room for a reply of size bytes at the front of the buffer.
func (c *conn) reserve(size int) {
	if size <= len(c.rbuf)-c.r {
		return
	}
	buf := c.rbuf
	if size > len(buf) {
		buf = make([]byte, size)
	}
	c.w = copy(buf, c.rbuf[c.r:c.w])
	c.r, c.rbuf = 0, buf
}

// fill reads once, for readTick at most where so asked. It tells when the
// read ended without anything.
func (c *conn) fill(ctx context.Context, tick bool) (interrupted bool, err error) {
	head := c.next()
	now := c.node.client.clock()
	if head == nil {
		return false, nil
	}
	oldest := head.start
	if c.held != nil {
		oldest = c.held.start
	}
	overdue := oldest + c.node.client.cfg.Timeout
	deadline := overdue
	// This caller was busy elsewhere, and the replies may be here long since.
	// Not so behind a read: a server that drips would put the end off for ever.
	late := overdue < now+readGrace && now-c.lastRead > readGrace
	switch {
	case late:
		deadline = now + readGrace
		c.wakeBlind(false)
	case tick:
		deadline = min(deadline, now+readTick)
	}
	if late || c.deadline < now || c.deadline > deadline {
		c.deadline = deadline
		c.nc.SetReadDeadline(c.node.client.at(c.deadline))
		if ctx.Err() != nil {
			// Its interrupt may have come before the deadline just set.
			return true, nil
		}
	}
	n, err := c.read(c.room(), now, !c.lane && c.node.outside() > int64(len(head.ops)))
	now = c.took(n)
	switch {
	case n > 0:
		return false, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		if now >= overdue && now >= c.deadline {
			return true, ErrTimeout
		}
		c.deadline = -1
		return true, nil
	case err == nil:
		return false, nil
	default:
		return false, lost(err)
	}
}

// room gives the place where the next bytes go.
func (c *conn) room() []byte {
	if c.big != nil {
		return c.big[c.bigAt:]
	}
	if c.rbuf == nil {
		c.rbuf = readBuffers.Get().(*[readBuffer]byte)[:]
	}
	switch {
	case c.r == c.w:
		c.r, c.w = 0, 0
	case c.w == len(c.rbuf) && c.r > 0:
		c.w = copy(c.rbuf, c.rbuf[c.r:c.w])
		c.r = 0
	case c.w == len(c.rbuf):
		c.reserve(2 * len(c.rbuf))
	}
	return c.rbuf[c.w:]
}

// took counts n bytes that were read into room, and gives the time.
func (c *conn) took(n int) time.Duration {
	if c.big != nil {
		c.bigAt += n
	} else {
		c.w += n
	}
	c.node.bytesIn.Add(uint64(n))
	c.lastRead = c.node.client.clock()
	return c.lastRead
}

const (
	// spins bounds how often a reader looks before it sleeps. With half or
	// twice as many the throughput was within the spread.
	spins = 128
	// spinTime bounds how long: each look lets the goroutines run that are
	// ready, which may be many.
	spinTime = 100 * time.Microsecond
	// maxTrust bounds how many looks in vain it takes until it no longer
	// looks, and spinAgain is after how many reads it tries again.
	maxTrust  = 16
	spinAgain = 64
)

// read reads once. Where callers share the connection the next replies are often just about to come
// from a server that is near, and to sleep and be woken costs more than to
// look a few times: 64 callers had 5.9 to 7.2 times gomemcache's throughput
// with it where they had 4.4 to 4.9 without. Where that helps less than one
// time in three, as behind a slow network, it soon stops. Where ShareWrites is
// set it sleeps: the process is one of many, and others have work for the
// processor, whose requests its looking would keep from being read.
func (c *conn) read(into []byte, now time.Duration, shared bool) (int, error) {
	if !c.raw.Plain() {
		c.asleep()
		return c.nc.Read(into)
	}
	if !shared || c.node.client.cfg.ShareWrites {
		c.asleep()
		return c.raw.Await(into)
	}
	if c.trust == 0 {
		if c.slept++; c.slept < spinAgain {
			c.asleep()
			return c.raw.Await(into)
		}
		c.slept, c.trust = 0, 1
	}
	c.wakes()
	for i := 1; i <= spins; i++ {
		if n, err := c.raw.Read(into); n > 0 || err != nil {
			c.trust = min(c.trust+2, maxTrust)
			return n, err
		}
		runtime.Gosched()
		if i%8 == 0 && c.node.client.clock()-now > spinTime {
			break
		}
	}
	c.trust--
	c.asleep()
	return c.raw.Await(into)
}
