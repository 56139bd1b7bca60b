package sidecar

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringside-cache/ringside/internal/nonblock"
	"github.com/ringside-cache/ringside/proto/memcached"
)

// A memcachedServer answers memcached's protocol, classic and meta. Each
// connection has one goroutine. The requests that a read brings travel
// together as one client.Batch; their replies leave in order in one write.
type memcachedServer struct {
	s *Sidecar
	// life ends when what is under way is cut off.
	life context.Context
	cut  context.CancelFunc

	collapser collapser

	// mu guards the fields below.
	mu       sync.Mutex
	conns    map[net.Conn]*memcachedConn
	draining bool
	drains   atomic.Bool // the same, to look at without the lock
	lastRead time.Time   // of a drain: when reads end
	listener net.Listener
	running  sync.WaitGroup
}

func newMemcachedServer(s *Sidecar) *memcachedServer {
	m := &memcachedServer{s: s, conns: make(map[net.Conn]*memcachedConn), collapser: collapser{busy: make(map[string]*sharedGet)}}
	m.life, m.cut = context.WithCancel(context.Background())
	return m
}

func (m *memcachedServer) serve(l net.Listener) error {
	m.mu.Lock()
	m.listener = l
	draining := m.draining
	m.mu.Unlock()
	if draining {
		// A drain that began before it knew the listener could not close it.
		return l.Close()
	}
	for {
		nc, err := l.Accept()
		if err != nil {
			if m.isDraining() {
				return nil
			}
			var temporary interface{ Timeout() bool }
			if errors.As(err, &temporary) && temporary.Timeout() {
				continue
			}
			// Out of file descriptors: those in use will end.
			if isTooManyFiles(err) {
				m.s.log.Warn("accept", "err", err)
				time.Sleep(50 * time.Millisecond)
				continue
			}
			return err
		}
		m.accept(nc)
	}
}

func (m *memcachedServer) accept(nc net.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.draining:
		nc.Close()
	case !m.s.clients.take():
		m.s.metrics.conns[listenerMemcached].refused.Inc()
		if _, secured := nc.(*tls.Conn); secured {
			nc.Close() // a handshake is more than it gets
			return
		}
		m.running.Go(func() {
			nc.SetWriteDeadline(time.Now().Add(time.Second))
			nc.Write([]byte("SERVER_ERROR too many connections\r\n"))
			nc.Close()
		})
	default:
		c := newMemcachedConn(m, nc)
		m.conns[nc] = c
		m.s.metrics.conns[listenerMemcached].open.Inc()
		m.running.Go(func() {
			if m.handshake(nc) {
				c.serve()
			}
			nc.Close()
			m.s.metrics.conns[listenerMemcached].open.Dec()
			m.s.clients.giveBack()
			m.mu.Lock()
			delete(m.conns, nc)
			m.mu.Unlock()
		})
	}
}

func (m *memcachedServer) isDraining() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.draining
}

const (
	// drainGrace is how long after the begin of a drain connections are still
	// read, for requests that were on their way.
	drainGrace = 100 * time.Millisecond
	// drainLook is how long a connection that was busy then looks for what
	// has come in. It is there at once, or there is nothing.
	drainLook = 5 * time.Millisecond
)

// drain accepts nothing more and lets each connection answer what has come
// in, or comes in within drainGrace.
func (m *memcachedServer) drain(ctx context.Context) {
	m.mu.Lock()
	m.draining = true
	m.drains.Store(true)
	m.lastRead = time.Now().Add(drainGrace)
	if m.listener != nil {
		m.listener.Close()
	}
	for nc := range m.conns {
		nc.SetReadDeadline(m.lastRead)
	}
	m.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		m.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		m.cut()
		m.mu.Lock()
		open := slices.Collect(maps.Keys(m.conns))
		m.mu.Unlock()
		// Without the lock: to close a busy connection waits for its exchange,
		// which may want the lock.
		for _, nc := range open {
			nc.Close()
		}
		<-ended
	}
	m.cut()
}

// A memcachedConn is one connection of a client.
type memcachedConn struct {
	m   *memcachedServer
	nc  net.Conn
	raw nonblock.Socket
	buf []byte // what was read and is not answered yet
	out []byte
	run exchange
	// pass is the number of bytes to pass over before the next request.
	pass int
	// written is the size of the replies of an exchange; failed says that
	// they can not be written any more.
	written int
	failed  bool
	// bounded says that a read deadline is set; writeBy is the write deadline
	// that is.
	bounded bool
	writeBy time.Time
	// looked says that a drain has taken what was sent before it; lookEnd is
	// when it stops to look, 0 before it begins.
	looked  bool
	lookEnd time.Time
	// paced is when exchanges began to be counted, and exchanges how many
	// there were since; see busy.
	paced     time.Time
	exchanges int
}

func newMemcachedConn(m *memcachedServer, nc net.Conn) *memcachedConn {
	c := &memcachedConn{m: m, nc: nc}
	c.raw.Init(nc)
	c.run.most = max(1, min(maxExchange, maxReplies/m.s.cfg.MaxValueBytes))
	c.run.limit, c.run.spill = min(firstExchange, c.run.most), c.spill
	c.run.counts = tally{m: c.m.s.metrics, protocol: protocolMemcached}
	return c
}

const (
	connBuffer = 4 << 10
	// keepConnBuffer is the largest buffer that an idle connection keeps.
	keepConnBuffer = 16 << 10
	// flushAt is the size from which replies are written before all of an
	// exchange are there.
	flushAt = 64 << 10
	// maxExchange and exchangeBytes bound the keys and the replies of one
	// exchange, and so what a connection holds in memory at a time. How large
	// replies are shows only when they are there, so a connection begins with
	// firstExchange keys, and an exchange that was too large makes the next
	// one smaller.
	maxExchange   = 256
	firstExchange = 64
	exchangeBytes = 4 << 20
	// maxReplies bounds the values of an exchange where each is as large as
	// can be.
	maxReplies = 256 << 20
)

func (c *memcachedConn) serve() {
	need, open := 0, true // need is the size of the request that is there in part, 0 if none
	for open {
		if c.busy() {
			if need, open = c.serveBusy(); !open {
				break
			}
		}
		if !c.read(need) {
			return
		}
		need, open = c.answer()
	}
	c.linger()
}

const (
	// busyTime is the time in which busyExchanges make a connection a busy one,
	// and how long one without requests is still taken for that.
	busyTime      = 200 * time.Millisecond
	busyExchanges = 32
)

// busy tells whether much has come of late, as with one request behind the other,
// and nothing is there of the next.
func (c *memcachedConn) busy() bool {
	if now := c.run.began; now.Sub(c.paced) > busyTime {
		c.paced, c.exchanges = now, 0
	}
	c.exchanges++
	return c.exchanges > busyExchanges && len(c.buf) == 0 && c.pass == 0 && c.raw.Plain()
}

// serveBusy serves a connection for as long as it is busy, with a system call
// less for each exchange; see nonblock.Socket.Each. It gives false when the
// connection is to be closed.
func (c *memcachedConn) serveBusy() (need int, open bool) {
	var until time.Time
	// bound sets the read deadline that Each needs.
	bound := func() bool {
		if c.run.began.Add(busyTime / 2).Before(until) {
			return !c.m.drains.Load()
		}
		c.m.mu.Lock()
		defer c.m.mu.Unlock()
		if c.m.draining {
			return false
		}
		c.bounded, until = true, time.Now().Add(busyTime)
		c.nc.SetReadDeadline(until)
		return true
	}
	if !bound() {
		return 0, true
	}
	open = true
	err := c.raw.Each(func() []byte {
		c.makeRoom(need)
		return c.buf[len(c.buf):cap(c.buf)]
	}, func(n int) bool {
		c.buf = c.buf[:len(c.buf)+n]
		need, open = c.answer()
		// What comes in part does not put the end off: then it has its own time.
		return open && bound()
	})
	return need, open && (err == nil || errors.Is(err, os.ErrDeadlineExceeded))
}

// linger lets the client read the last reply. Closing a socket with unread
// bytes in it sends a reset, which can overtake the reply.
func (c *memcachedConn) linger() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if c.failed || !ok || half.CloseWrite() != nil {
		return
	}
	const most = 1 << 20
	c.nc.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.CopyN(io.Discard, c.nc, most)
}

// read appends what comes to buf, which grows to hold a request of need bytes.
// The deadline for the rest of a request starts anew with
// every read, so that a large one over a slow line gets through.
func (c *memcachedConn) read(need int) bool {
	c.makeRoom(need)
	var deadline time.Time
	if len(c.buf) > 0 || c.pass > 0 {
		deadline = time.Now().Add(c.m.s.limits().RequestTimeout)
	} else if idle := c.m.s.limits().IdleTimeout; idle > 0 {
		deadline = time.Now().Add(idle)
	}
	room := c.buf[len(c.buf):cap(c.buf)]
	if deadline.IsZero() && !c.bounded && !c.m.drains.Load() {
		// A drain that begins now sets the deadline of every connection.
		n, err := c.readSome(room)
		c.buf = c.buf[:len(c.buf)+n]
		return n > 0 || err == nil
	}
	c.bounded = !deadline.IsZero()
	// Under the lock, as drain sets a deadline too and must win.
	last := false
	c.m.mu.Lock()
	if c.m.draining {
		deadline = c.m.lastRead
		if now := time.Now(); now.After(deadline) && !c.looked {
			// It was busy until now, or a busy one, and what came meanwhile was sent
			// in time.
			deadline, last = now.Add(drainLook), true
			if c.lookEnd.IsZero() {
				c.lookEnd = now.Add(drainGrace)
			}
		}
	}
	c.nc.SetReadDeadline(deadline)
	c.m.mu.Unlock()
	n, err := c.readSome(room)
	c.buf = c.buf[:len(c.buf)+n]
	if last {
		// What TLS gives is one record, and others may be behind it.
		_, records := c.nc.(*tls.Conn)
		c.looked = n < len(room) && (!records || err != nil) || time.Now().After(c.lookEnd)
	}
	return n > 0 || err == nil
}

func (c *memcachedConn) readSome(into []byte) (int, error) {
	if c.raw.Plain() {
		return c.raw.Await(into)
	}
	return c.nc.Read(into)
}

// makeRoom grows buf as the bytes come, and not at once to what a line has
// announced: announcing costs nothing. What a long exchange took it lets go of.
func (c *memcachedConn) makeRoom(need int) {
	if len(c.buf) == 0 {
		if cap(c.buf) > keepConnBuffer {
			c.buf = nil
		}
		c.run.trim()
	}
	size := cap(c.buf)
	switch {
	case size == 0:
		size = connBuffer
	case len(c.buf) <= size/2 || need <= size && size > keepConnBuffer:
		return
	case need <= len(c.buf)+1: // a line, and nobody knows how long it is
		size *= 2
	case need > 8*size:
		size *= 4
	default:
		size = max(need, 2*connBuffer)
	}
	if size > cap(c.buf) {
		c.buf = append(make([]byte, 0, size), c.buf...)
	}
}

// answer carries out every complete request in buf and writes the replies. It
// returns the size of the request that is there in part, and false when the
// connection is to be closed.
func (c *memcachedConn) answer() (need int, open bool) {
	open = true
	rest := c.buf
	for open {
		if c.pass > 0 {
			n := min(c.pass, len(rest))
			rest, c.pass = rest[n:], c.pass-n
		}
		if len(rest) == 0 {
			break
		}
		req := c.run.nextRequest()
		size, err := memcached.ParseRequest(rest, req, c.m.s.cfg.MaxValueBytes)
		var bad *memcached.RequestError
		if errors.As(err, &bad) {
			c.m.s.metrics.badRequests.Inc()
			if req.Command == memcached.CommandNone && isHTTP(rest) {
				open = false
				break
			}
			c.run.reject(req, bad.Reply)
			c.pass = bad.Size
			open = !bad.Close
			if c.run.full() && !c.flush() {
				return 0, false
			}
			continue
		}
		if size > len(rest) {
			need = size
			break
		}
		alone := c.run.isAlone(req)
		if alone && !c.run.empty() {
			// What came before it goes first, and then it is parsed again.
			if !c.flush() {
				return 0, false
			}
			continue
		}
		rest = rest[size:]
		for complete := false; !complete; {
			complete = c.run.add(req)
			if (alone || c.run.full()) && !c.flush() {
				return 0, false
			}
		}
		if req.Command == memcached.Quit {
			open = false
		}
	}
	if !c.flush() {
		return 0, false
	}
	// What is left moves to the front: its requests were all copied or done.
	c.buf = c.buf[:copy(c.buf, rest)]
	return need, open
}

// isHTTP tells whether b begins with a request line of HTTP. As memcached does,
// we hang up on it: a web page can make a browser on this host send commands
// in the body of a request, and nothing else would stop them.
func isHTTP(b []byte) bool {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	line = bytes.TrimRight(line, " \r")
	return bytes.HasPrefix(line[bytes.LastIndexByte(line, ' ')+1:], []byte("HTTP/"))
}

// flush carries out the requests gathered so far and writes the replies, in
// one write unless they are large.
func (c *memcachedConn) flush() bool {
	if c.run.empty() {
		return true
	}
	t := c.m.s.tracer
	span := t.exchange()
	c.run.carryOut(c.m)
	c.written, c.run.errors = 0, 0
	out := c.out
	for i := range c.run.steps {
		out = c.spill(c.run.answer(c.m, &c.run.steps[i], out))
	}
	if span != nil {
		t.endBatch(span, &c.run.batch, c.run.operations(), c.run.errors)
	}
	c.out = c.write(out)
	if cap(c.out) > keepConnBuffer {
		c.out = nil
	}
	c.run.reset(c.written)
	return !c.failed
}

// spill writes the replies gathered so far if they are many, and gives the
// buffer for more.
func (c *memcachedConn) spill(out []byte) []byte {
	if len(out) < flushAt {
		return out
	}
	return c.write(out)
}

func (c *memcachedConn) write(out []byte) []byte {
	c.run.counts.flush() // who has the reply finds it counted
	c.written += len(out)
	if len(out) > 0 && !c.failed {
		// To set it costs as much as parsing the request: not for each.
		limit := c.m.s.limits().WriteTimeout
		now := time.Now()
		if left := c.writeBy.Sub(now); left < limit-limit/8 || left > limit+limit/8 {
			c.writeBy = now.Add(limit + limit/8)
			c.nc.SetWriteDeadline(c.writeBy)
		}
		c.failed = c.writeAll(out) != nil
	}
	return out[:0]
}

func (c *memcachedConn) writeAll(out []byte) error {
	if c.raw.Plain() {
		n, err := c.raw.Write(out)
		if out = out[n:]; err != nil || len(out) == 0 {
			return err
		}
	}
	_, err := c.nc.Write(out)
	return err
}
