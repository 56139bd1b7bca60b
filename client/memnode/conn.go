package memnode

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/ringside-cache/ringside/proto/memcached"
)

const (
	// version is what clients are told, that of the server whose answers a
	// node gives. They read major.minor.patch from it and nothing behind.
	version = "1.6.18"

	// usualBuffer is what each of a connection's two buffers holds. They grow
	// for large values only: to an item of MaxItemSize, and that and a
	// usualBuffer of replies.
	usualBuffer = 16 << 10
	// shrinkAfter is the number of fills or flushes in a row that did without
	// a grown buffer, after which it is given back.
	shrinkAfter = 64

	// After a reply that announces the end of the connection as much as this
	// is read and thrown away: a close with unread bytes would reset the
	// connection, and could take the reply with it.
	lingerTime  = time.Second
	lingerBytes = 1 << 20
)

// conn is one connection. All of it belongs to the goroutine of serve, but for
// nc.Close and idle.
type conn struct {
	life *life
	nc   net.Conn
	idle atomic.Bool // waits for a request, and has read no part of it

	in         []byte // its length is its capacity
	start, end int    // what is unread in it
	need       int    // bytes without which a request is not complete
	skip       int    // bytes to pass over, behind those in the buffer
	out        []byte // replies

	inQuiet, outQuiet int // fills and flushes since a large buffer was needed

	req    memcached.Request
	rep    memcached.Reply
	args   []byte                 // what rep.Meta points into
	binary [memcached.MaxKey]byte // a decoded key

	held   []byte // a reply that goes behind the next one: fault Swap
	failed bool   // nothing can be read or written any more, or nothing should
	strike bool   // a fault strikes this request: its reply must stay in one piece
}

func newConn(l *life, nc net.Conn) *conn { return &conn{life: l, nc: nc} }

// serve answers requests until the connection or the node ends. What arrived
// together is answered together.
func (c *conn) serve() {
	for c.fill() {
		for !c.failed && c.next() {
		}
		if !c.flush() {
			return
		}
	}
}

// next carries out one request of the buffer, and gives false when none is
// complete.
func (c *conn) next() bool {
	if c.end == c.start || c.end-c.start < c.need {
		return false
	}
	if !c.life.node.gate.pass(c.life.done) {
		c.failed = true
		return false
	}
	b := c.in[c.start:c.end]
	n, err := memcached.ParseRequest(b, &c.req, c.life.store.maxItemSize)
	switch {
	case err != nil:
		c.refuse(err)
		return true
	case n > len(b):
		c.need = n
		return false
	}
	if c.life.node.script.active.Load() || c.held != nil {
		c.doScripted()
	} else {
		c.do()
	}
	c.drop(n)
	return true
}

// drop passes over n bytes, which may have to come yet.
func (c *conn) drop(n int) {
	c.need = 0
	have := min(n, c.end-c.start)
	c.start += have
	c.skip = n - have
}

// refuse answers what is not a request that can be carried out.
func (c *conn) refuse(err error) {
	var bad *memcached.RequestError
	if !errors.As(err, &bad) { // not with this parser
		c.failed = true
		return
	}
	b := c.in[c.start:c.end]
	switch {
	case c.req.Command == memcached.CommandNone && isHTTP(b):
		// As memcached: a browser that was led here gets nothing.
		c.hangUp()
		return
	case bad.Reply == tooLarge:
		c.refuseValue()
	case !c.req.NoReply:
		c.line(bad.Reply)
	}
	c.release()
	c.drop(bad.Size)
	if bad.Close {
		c.hangUp()
	}
}

// isHTTP tells whether b begins with a line that ends in HTTP/1.1 or the like.
func isHTTP(b []byte) bool {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	line = bytes.TrimRight(line, " \r")
	return bytes.HasPrefix(line[bytes.LastIndexByte(line, ' ')+1:], []byte("HTTP/"))
}

// fill reads more into the buffer. It gives false when the connection is over.
func (c *conn) fill() bool {
	if c.failed {
		return false
	}
	c.makeRoom()
	for {
		// Idle is said before the read: a request may arrive right after,
		// as it may at a server that closes an idle connection.
		c.idle.Store(c.end == 0 && c.skip == 0)
		n, err := c.nc.Read(c.in[c.end:])
		c.idle.Store(false)
		c.life.bytesRead.Add(uint64(n))
		if err != nil && n == 0 {
			return false
		}
		if c.skip > 0 {
			skipped := min(c.skip, n)
			c.skip -= skipped
			n = copy(c.in[c.end:], c.in[c.end+skipped:c.end+n])
		}
		c.end += n
		if n > 0 {
			return true
		}
	}
}

// makeRoom moves what is unread to the front, and grows a buffer that is full.
// A large buffer is given back when it was not needed for a while.
func (c *conn) makeRoom() {
	c.end = copy(c.in, c.in[c.start:c.end])
	c.start = 0
	c.inQuiet++
	switch {
	case c.in == nil:
		c.in = make([]byte, usualBuffer)
	case c.need > usualBuffer || c.end > usualBuffer/2:
		c.inQuiet = 0
		// Doubled as the bytes come, and not at once to what a line has
		// announced: announcing costs nothing.
		if c.end == len(c.in) {
			grown := make([]byte, max(2*len(c.in), min(c.need, 4*len(c.in))))
			copy(grown, c.in)
			c.in = grown
		}
	case len(c.in) > usualBuffer && c.inQuiet > shrinkAfter:
		small := make([]byte, usualBuffer)
		copy(small, c.in[:c.end])
		c.in = small
	}
}

// flush writes the replies. It gives false when the connection is over.
func (c *conn) flush() bool {
	if len(c.out) > 0 && !c.failed {
		// Not behind a gate that was shut since.
		if !c.life.node.gate.pass(c.life.done) {
			c.failed = true
			return false
		}
		// Counted first: who has read a reply finds it in the stats.
		c.life.bytesWritten.Add(uint64(len(c.out)))
		_, err := c.nc.Write(c.out)
		c.failed = c.failed || err != nil
	}
	c.outQuiet++
	if len(c.out) > 2*usualBuffer {
		c.outQuiet = 0
	}
	c.out = c.out[:0]
	if cap(c.out) > 4*usualBuffer && c.outQuiet > shrinkAfter {
		c.out = nil
	}
	return !c.failed
}

// spill flushes when the buffer is full, in the middle of a batch or of a reply
// of many values: a client can ask for more than there is memory.
func (c *conn) spill() {
	if len(c.out) > usualBuffer && !c.strike {
		c.flush()
	}
}

// hangUp sends what was answered and ends the connection.
func (c *conn) hangUp() {
	if c.flush() {
		c.linger()
	}
	c.failed = true
}

func (c *conn) linger() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	if c.nc.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, c.nc, lingerBytes)
}

// send appends the reply in c.rep.
func (c *conn) send() { c.out = memcached.AppendReply(c.out, &c.rep) }

// reply appends a reply of one word.
func (c *conn) reply(kind memcached.ReplyKind) {
	c.rep.Reset()
	c.rep.Kind = kind
	c.send()
}

// line appends a line as it is.
func (c *conn) line(text string) { c.out = append(append(c.out, text...), "\r\n"...) }

// answer is reply to a request that may want none.
func (c *conn) answer(kind memcached.ReplyKind) {
	if !c.req.NoReply {
		c.reply(kind)
	}
}

// complain is line for a request that may want no reply.
func (c *conn) complain(text string) {
	if !c.req.NoReply {
		c.line(text)
	}
}
