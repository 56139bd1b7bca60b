package client_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/proto/memcached"
)

// A fault is what a faultProxy does to a reply, or to a connection.
type fault int

const (
	faultReset      fault = iota // a RST in place of the reply
	faultHangUp                  // the end of the stream in place of the reply
	faultStall                   // nothing more comes on this connection
	faultHalf                    // a part of the reply, then the end of the stream
	faultHalfReset               // a part of the reply, then a RST
	faultGarbage                 // something else in place of the reply
	faultExtra                   // something else before the reply
	faultDuplicate               // the reply twice
	faultDrop                    // no reply, and on with the next
	faultSwap                    // the reply behind the next one
	faultDelay                   // the reply later, and with it all that are behind it
	faultSplit                   // the reply byte by byte
	faultDrip                    // the reply byte by byte, slower than anybody waits
	faultCutRequest              // a part of what the client wrote, then a RST to both sides
	faultDeaf                    // the server reads nothing for longer than anybody waits
	faultRefuse                  // a connection is accepted and closed
	faultHandshake               // the end of the stream in the middle of a handshake
	faultLie                     // the value of another key: for proving that a test can fail
	faultKinds
)

var faultNames = [faultKinds]string{
	"reset", "hang up", "stall", "half", "half and reset", "garbage", "extra garbage", "duplicate", "drop", "swap",
	"delay", "split", "drip", "cut request", "deaf", "refuse", "handshake", "lie",
}

// everyFault is all that a network and a confused server or proxy may do.
var everyFault = []fault{
	faultReset, faultHangUp, faultStall, faultHalf, faultHalfReset, faultGarbage, faultExtra, faultDuplicate,
	faultDrop, faultSwap, faultDelay, faultSplit, faultDrip, faultCutRequest, faultDeaf, faultRefuse, faultHandshake,
}

// networkFaults is what happens without anybody confused.
var networkFaults = []fault{
	faultReset, faultHangUp, faultStall, faultHalf, faultHalfReset, faultDelay, faultSplit, faultDrip, faultCutRequest, faultDeaf,
	faultRefuse, faultHandshake,
}

// garbage is what no server answers to the request that it stands for. Some of
// it would be a reply to another one.
var garbage = []string{
	"\r\n", "\n", "\x00\x00\x00\x00\r\n", "HTTP/1.1 400 Bad Request\r\n", "ERROR\r\n", "OK\r\n", "END\r\n", "MN\r\n",
	"CLIENT_ERROR bad data chunk\r\n", "CLIENT_ERROR bad command line format\r\n", "VALUE a 0 3\r\nbad\r\nEND\r\n",
	"HD O1\r\n", "EN O1\r\n", "NS O1\r\n", "VA 3 f0 c1 O1\r\nbad\r\n", "VA 3 f0 c1\r\nbad\r\n", "VA 999999999 O1\r\n", "HD\r\n", "EN\r\n",
	"12\r\n", "VERSION 1.6.18\r\n", "STAT pid 1\r\n",
}

// A faultProxy stands between a client and a real memcached. It passes
// requests on, takes the replies apart, and does something to one of them now
// and then. What it draws is seeded; which reply is met depends on the
// scheduler too.
type faultProxy struct {
	t        testing.TB
	listener net.Listener
	target   string
	seed     uint64
	faults   []fault
	// every is the mean number of replies to a fault; 0 is none at all.
	every atomic.Int64

	accepted atomic.Uint64
	struck   [faultKinds]atomic.Int64

	// mu guards what follows, and orders running.Add before Wait.
	mu sync.Mutex
	// tls, if not nil, is how the client's side is spoken to.
	tls *tls.Config
	// version, if not empty, is what the server is made to say it is, one
	// before 1.6.18.
	version string
	closed  bool
	conns   map[*proxyConn]struct{}
	running sync.WaitGroup
}

// newFaultProxy starts a proxy in front of a memcached of its own. It strikes
// nothing before every is set, and the test's end closes it.
func newFaultProxy(t testing.TB, seed uint64, faults []fault) *faultProxy {
	t.Helper()
	s := realserver.Memcached(t, "-m", "1024", "-c", "4096")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &faultProxy{t: t, listener: l, target: s.Addr(), seed: seed, faults: faults, conns: make(map[*proxyConn]struct{})}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *faultProxy) addr() string { return p.listener.Addr().String() }

// close ends every connection, and waits for all goroutines.
func (p *faultProxy) close() {
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.end(false)
	}
	p.mu.Unlock()
	p.listener.Close()
	p.running.Wait()
}

// over has connections from now on go over TLS, or to an older server.
func (p *faultProxy) over(version string, cfg *tls.Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.version, p.tls = version, cfg
}

// connections counts those that are open.
func (p *faultProxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// has tells whether a fault is one of the proxy's.
func (p *faultProxy) has(f fault) bool { return slices.Contains(p.faults, f) }

// strikes draws whether something happens, once in every on the mean.
func (p *faultProxy) strikes(random *rand.Rand) bool {
	every := p.every.Load()
	return every > 0 && random.Int64N(every) == 0
}

func (p *faultProxy) accept() {
	random := rand.New(rand.NewPCG(p.seed, 0))
	for {
		nc, err := p.listener.Accept()
		if err != nil {
			return
		}
		n := p.accepted.Add(1)
		if p.has(faultRefuse) && p.every.Load() > 0 && random.IntN(12) == 0 {
			p.struck[faultRefuse].Add(1)
			nc.Close()
			continue
		}
		c := &proxyConn{p: p, tcp: nc.(*net.TCPConn), client: nc, done: make(chan struct{})}
		p.mu.Lock()
		c.version = p.version
		if p.tls != nil {
			c.client = tls.Server(nc, p.tls)
		}
		if p.closed {
			p.mu.Unlock()
			nc.Close()
			return
		}
		p.conns[c] = struct{}{}
		p.running.Go(func() { c.run(n) })
		p.mu.Unlock()
	}
}

// A proxyConn is a client's connection and the one to the server behind it.
type proxyConn struct {
	p       *faultProxy
	version string
	tcp     *net.TCPConn // below client
	client  net.Conn
	server  net.Conn
	done    chan struct{}
	once    sync.Once
}

// end closes the client's side, with a RST where so asked, and without a word
// of TLS.
func (c *proxyConn) end(reset bool) {
	c.once.Do(func() {
		if reset {
			_ = c.tcp.SetLinger(0)
		}
		c.tcp.Close()
		close(c.done)
	})
}

func (c *proxyConn) run(n uint64) {
	defer func() {
		c.end(false)
		c.p.mu.Lock()
		delete(c.p.conns, c)
		c.p.mu.Unlock()
	}()
	server, err := net.Dial("tcp", c.p.target)
	if err != nil {
		return
	}
	c.server = server
	requests := make(chan struct{})
	go func() {
		defer close(requests)
		c.passRequests(rand.New(rand.NewPCG(c.p.seed, 2*n)))
	}()
	c.passReplies(rand.New(rand.NewPCG(c.p.seed, 2*n+1)))
	c.end(false)
	<-requests
}

// passRequests copies what the client sends, and closes both sides at the
// end, which ends passReplies.
func (c *proxyConn) passRequests(random *rand.Rand) {
	defer c.server.Close()
	defer c.end(false)
	buf := make([]byte, 64<<10)
	for {
		n, err := c.client.Read(buf)
		if err != nil {
			return
		}
		if c.p.has(faultCutRequest) && random.IntN(4) == 0 && c.p.strikes(random) {
			c.p.struck[faultCutRequest].Add(1)
			_, _ = c.server.Write(buf[:random.IntN(n)])
			c.end(true)
			return
		}
		if c.p.has(faultDeaf) && random.IntN(4) == 0 && c.p.strikes(random) {
			c.p.struck[faultDeaf].Add(1)
			sleep(300*time.Millisecond, c.done)
		}
		if _, err := c.server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// passReplies takes the server's replies apart and sends them on.
func (c *proxyConn) passReplies(random *rand.Rand) {
	down := &replies{c: c, random: random}
	buf := make([]byte, 0, 64<<10)
	var rep memcached.Reply
	for {
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
		}
		n, err := c.server.Read(buf[len(buf):cap(buf)])
		if err != nil {
			return
		}
		buf = buf[:len(buf)+n]
		used := 0
		for used < len(buf) {
			size, err := memcached.ParseReply(buf[used:], &rep)
			if err != nil {
				c.p.t.Errorf("memcached sent what is no reply: %v", err)
				return
			}
			if used+size > len(buf) {
				break
			}
			if !down.pass(buf[used:used+size], &rep) {
				return
			}
			used += size
		}
		if !down.flush() {
			return
		}
		buf = buf[:copy(buf, buf[used:])]
	}
}

// replies are on their way to the client.
type replies struct {
	c      *proxyConn
	random *rand.Rand
	out    []byte
	held   []byte // by faultSwap
	last   []byte // a value that passed, for faultLie
}

func (r *replies) flush() bool {
	if len(r.out) == 0 {
		return true
	}
	_, err := r.c.client.Write(r.out)
	r.out = r.out[:0]
	return err == nil
}

// pass sends a reply on, or lets a fault happen to it. It returns false when
// the connection is over.
func (r *replies) pass(reply []byte, rep *memcached.Reply) bool {
	p := r.c.p
	switch rep.Kind {
	case memcached.VersionIs:
		if v := r.c.version; v != "" {
			reply = []byte("VERSION " + v + "\r\n")
		}
		return r.passHandshake(reply, 20)
	case memcached.Stat: // there are many
		return r.passHandshake(reply, 1000)
	case memcached.MetaMiss:
		if r.c.version != "" { // as it was before 1.6.18
			reply = []byte("EN\r\n")
		}
	}
	if !p.strikes(r.random) {
		r.out = append(append(r.out, reply...), r.held...)
		r.held = r.held[:0]
		if p.has(faultLie) && len(rep.Value) > 0 {
			r.last = append(r.last[:0], rep.Value...)
		}
		return true
	}
	f := p.faults[r.random.IntN(len(p.faults))]
	switch f {
	case faultCutRequest, faultDeaf, faultRefuse, faultHandshake:
		r.out = append(r.out, reply...)
		return true // they have their own places
	}
	p.struck[f].Add(1)
	return r.suffer(f, reply, rep)
}

// passHandshake sends a reply of a handshake on, or ends the connection once in
// so many.
func (r *replies) passHandshake(reply []byte, every int) bool {
	p := r.c.p
	if p.has(faultHandshake) && p.every.Load() > 0 && r.random.IntN(every) == 0 {
		p.struck[faultHandshake].Add(1)
		r.flush()
		r.c.end(false)
		return false
	}
	r.out = append(r.out, reply...)
	return true
}

func (r *replies) suffer(f fault, reply []byte, rep *memcached.Reply) bool {
	switch f {
	case faultReset, faultHangUp:
		r.flush()
		r.c.end(f == faultReset)
		return false
	case faultStall:
		r.flush()
		<-r.c.done
		return false
	case faultHalf, faultHalfReset:
		r.out = append(r.out, reply[:1+r.random.IntN(len(reply)-1)]...)
		r.flush()
		r.c.end(f == faultHalfReset)
		return false
	case faultGarbage:
		r.out = append(r.out, garbage[r.random.IntN(len(garbage))]...)
	case faultExtra:
		r.out = append(append(r.out, garbage[r.random.IntN(len(garbage))]...), reply...)
	case faultDuplicate:
		r.out = append(append(r.out, reply...), reply...)
	case faultDrop:
	case faultSwap:
		r.held = append(r.held, reply...)
	case faultDelay:
		return r.flush() && sleep(time.Duration(r.random.IntN(30))*time.Millisecond, r.c.done) && r.write(reply)
	case faultSplit:
		return r.flush() && r.split(reply)
	case faultDrip:
		if !r.flush() {
			return false
		}
		for i := range reply {
			if !r.write(reply[i:i+1]) || !sleep(2*time.Millisecond, r.c.done) {
				return false
			}
		}
	case faultLie:
		if len(r.last) > 0 && rep.Kind == memcached.MetaValue {
			copy(rep.Value, r.last) // it points into reply
		}
		r.out = append(r.out, reply...)
	}
	return true
}

func (r *replies) write(b []byte) bool {
	_, err := r.c.client.Write(b)
	return err == nil
}

// split writes the reply byte by byte, but for the middle of a large one.
func (r *replies) split(reply []byte) bool {
	const edge = 200
	for i := 0; i < len(reply); i++ {
		if i == edge && len(reply) > 2*edge {
			if !r.write(reply[i : len(reply)-edge]) {
				return false
			}
			i = len(reply) - edge
		}
		if !r.write(reply[i:i+1]) || i%16 == 0 && !sleep(50*time.Microsecond, r.c.done) {
			return false
		}
	}
	return true
}

// sleep returns false when done is closed.
func sleep(d time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-done:
		return false
	}
}

// struckBy gives how often each fault struck at all the proxies.
func struckBy(proxies []*faultProxy) (total int64, list string) {
	var b strings.Builder
	for f := range faultKinds {
		n := int64(0)
		for _, p := range proxies {
			n += p.struck[f].Load()
		}
		if n > 0 {
			fmt.Fprintf(&b, ", %s %d", faultNames[f], n)
		}
		total += n
	}
	return total, strings.TrimPrefix(b.String(), ", ")
}

// TestFaultProxy: without faults the proxy changes nothing, and each of its
// faults does to a stream what its name says.
func TestFaultProxy(t *testing.T) {
	const ask, one, two, end = "mg a v O1\r\nmg b v O2\r\n", "VA 3 O1\r\none\r\n", "VA 3 O2\r\ntwo\r\n", "MN\r\n"
	tests := []struct {
		fault fault
		want  string // what comes, the reply to a later mn included
		ends  bool   // the stream ends before that, somewhere in want
	}{
		{faultDelay, one + two + end, false},
		{faultSplit, one + two + end, false},
		{faultDuplicate, one + one + two + two + end, false},
		{faultDrop, end, false},
		{faultSwap, end + one + two, false},
		{faultLie, one + "VA 3 O2\r\none\r\n" + end, false},
		{faultStall, "", false},
		{faultHangUp, "", true},
		{faultReset, "", true},
		{faultHalf, one, true},
		{faultHalfReset, one, true},
		{faultCutRequest, one, true},
	}
	for _, tt := range tests {
		t.Run(faultNames[tt.fault], func(t *testing.T) {
			p := newFaultProxy(t, 1, []fault{tt.fault})
			nc, err := net.Dial("tcp", p.addr())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
			say := func(lines string) {
				t.Helper()
				if _, err := io.WriteString(nc, lines); err != nil {
					t.Fatal(err)
				}
			}
			hear := func(want string) {
				t.Helper()
				got := make([]byte, len(want))
				if n, err := io.ReadFull(nc, got); err != nil || string(got) != want {
					t.Fatalf("%q, %v; want %q", got[:n], err, want)
				}
			}
			say("ms a 3\r\none\r\nms b 3\r\ntwo\r\n" + ask)
			hear("HD\r\nHD\r\n" + one + two)
			if tt.fault == faultLie { // it needs a value that passes
				say("mg a v O1\r\n")
				hear(one)
			}
			p.every.Store(1)
			say(ask)
			if tt.ends {
				// A reset may overtake what was sent before it.
				if got, err := io.ReadAll(nc); errors.Is(err, os.ErrDeadlineExceeded) || !strings.HasPrefix(tt.want, string(got)) || string(got) == tt.want && tt.want != "" {
					t.Errorf("%q, %v; want a part of %q and an end", got, err, tt.want)
				}
				return
			}
			strikes := int64(2)
			if tt.fault == faultStall {
				strikes = 1
			}
			eventually(t, 10*time.Second, "the fault has struck", func() bool { return p.struck[tt.fault].Load() == strikes })
			p.every.Store(0)
			say("mn\r\n")
			if tt.fault != faultStall {
				hear(tt.want)
				return
			}
			_ = nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if got, err := io.ReadAll(nc); !errors.Is(err, os.ErrDeadlineExceeded) || len(got) > 0 {
				t.Errorf("%q, %v; want nothing and no end", got, err)
			}
		})
	}
}
