package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/proto/memcached"
	"github.com/ringside-cache/ringside/stampede"
)

// onNode gives a client of one node.
func onNode(t *testing.T) *Client {
	t.Helper()
	node, err := memnode.Start(memnode.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	c, err := New(Config{Servers: []string{node.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestHasMeta(t *testing.T) {
	for version, want := range map[string]bool{
		"1.6.18": true, "1.6.10": true, "1.6.9": false, "1.6.0": false, "1.6": false, "1.5.22": false, "1.4.39": false, "2.0.0": true,
		"1.6.18-ringside-0.1.0": true, "1.6.45_1": true, "yrmcds version 1.1.9": false, "": false, "1.6.x": false,
	} {
		if got := hasMeta(version); got != want {
			t.Errorf("hasMeta(%q) = %v, want %v", version, got, want)
		}
	}
}

// TestBrokenWhileHandedOver: a connection that is broken by another goroutine
// while its reader gives the role away is torn down all the same.
func TestBrokenWhileHandedOver(t *testing.T) {
	c := onNode(t)
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() {
		for ctx.Err() == nil {
			c.Get(t.Context(), "a")
		}
	})
	n := c.fleet.Load().nodes[0]
	for range 2000 {
		n.disconnect(errEjected)
		time.Sleep(100 * time.Microsecond) // what races is the end of a Get
	}
	stop()
	load.Wait()
	for range 10 {
		if _, err := c.Get(t.Context(), "a"); !errors.Is(err, ErrCacheMiss) {
			t.Fatalf("the connection stays broken: %v", err)
		}
	}
	if in := n.inFlight.Load(); in != 0 {
		t.Errorf("%d in flight", in)
	}
}

func TestSafeToRetryOfMany(t *testing.T) {
	safe := &OpError{Op: "incr", Err: ErrDial}
	unsafe := &OpError{Op: "incr", Err: ErrConnLost}
	tests := []struct {
		err  error
		want bool
	}{
		{nil, false},
		{safe, true},
		{unsafe, false},
		{&MultiError{Errors: []*OpError{safe, safe}}, true},
		{&MultiError{Errors: []*OpError{safe, unsafe}}, false},
		{fmt.Errorf("wrapped: %w", &MultiError{Errors: []*OpError{unsafe, safe}}), false},
	}
	for _, tt := range tests {
		if got := SafeToRetry(tt.err); got != tt.want {
			t.Errorf("SafeToRetry(%v) = %v, want %v", tt.err, got, tt.want)
		}
	}
}

// A value that has another reply of the same connection in it was put together
// from two replies. What only looks like one is a value.
func TestSwallowedReply(t *testing.T) {
	o := newOpaque()
	token := func(o opaque) string { return string(o.append(nil)) }
	other := newOpaque()
	for other>>counterBits == o>>counterBits {
		other = newOpaque()
	}
	for value, swallowed := range map[string]bool{
		"":                          false,
		"a value of the usual kind": false,
		"key:5VA 44 f0 c304 O" + token(o.next()) + "\r\n": true,
		"VA 44 f0 c304 O" + token(o+40):                   true, // those between were lost
		"abcHD c304 O" + token(o):                         true, // the same again
		"EN O" + token(o-1) + "\r\n":                      true, // in the wrong order
		"HD c1 O1 HD O" + token(o.next()):                 true,
		"order O" + token(other):                          false, // another connection's
		"order O" + token(o)[:secretLen-1] + "!1234":      false,
		"order O":                  false,
		"orderO" + token(o.next()): false, // no flag of a reply
	} {
		if err := o.checkSwallowed([]byte(value)); errors.Is(err, ErrDesynchronised) != swallowed {
			t.Errorf("%q: %v", value, err)
		}
	}
}

// The opaques of a connection differ from one another and from another
// connection's, and only an opaque's own token is taken for it.
func TestOpaque(t *testing.T) {
	o := opaque(0xabcdef012)<<counterBits | counterMask // the last before it comes round
	if next := o.next(); next>>counterBits != 0xabcdef012 || next&counterMask != 0 {
		t.Errorf("%x after %x: the counter ran into the secret", next, o)
	}
	token := o.append(nil)
	if len(token) != opaqueLen || !o.is(token) || o.is(token[1:]) || o.is(o.next().append(nil)) || o.is(append(token, 'A')) {
		t.Errorf("%q is not the only token of %x", token, o)
	}
	if a, b := newOpaque(), newOpaque(); a>>counterBits == b>>counterBits {
		t.Errorf("two connections with the secret %x", a>>counterBits)
	}
}

// TestLeaseGoesBackUnderOverload: a lease that memcached handed to a plain read
// goes back also while the node takes no more, or nobody would refill until
// another took it over.
func TestLeaseGoesBackUnderOverload(t *testing.T) {
	c := onNode(t)
	ctx := t.Context()
	if err := c.Set(ctx, &Item{Key: "a", Value: []byte("v"), Flags: 1}); err != nil {
		t.Fatal(err)
	}
	c.WriteLeased(ctx, []stampede.Write{{Kind: stampede.Invalidate, Key: "a", TTL: time.Minute}})
	ca := newCall(1)
	ca.one[0].kind, ca.one[0].key = opGet, "a"
	if err := c.do(ctx, ca); err != nil || ca.one[0].lease&leaseWon == 0 {
		t.Fatalf("the read of a stale item: %v, marks %b", err, ca.one[0].lease)
	}
	n := c.fleet.Load().nodes[0]
	n.inFlight.Add(1 << 20)
	c.giveBack(ca, &ca.ops[0])
	n.inFlight.Add(-1 << 20)
	if r := c.ReadLeased(ctx, []stampede.Read{{Key: "a", Lease: time.Minute}}); !r[0].Won {
		t.Errorf("the lease did not come back: %+v", r[0])
	}
	// Only what somebody waited for is in the latencies: the set, the
	// invalidation, the two reads.
	var counted uint64
	for _, n := range c.Stats().Nodes[0].Latency {
		counted += n
	}
	if want := c.Stats().Nodes[0].Requests; counted != want || want != 4 {
		t.Errorf("%d latencies, %d requests, want 4", counted, want)
	}
}

// TestWriterIsFreed: a caller that finds no writer writes for others too, but
// not for as long as they come.
func TestWriterIsFreed(t *testing.T) {
	node, err := memnode.Start(memnode.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	c, err := New(Config{Servers: []string{node.Addr()}, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn := c.fleet.Load().nodes[0].slots[0].conn.Load()
	if !conn.raw.Plain() {
		t.Skip("a goroutine writes on this system")
	}
	own := func() error {
		ca := newCall(1)
		ca.one[0].kind = opNoop
		return conn.submitOwn(ca)
	}
	// Whenever something is written, another request comes.
	returned := make(chan struct{})
	var kept atomic.Bool
	writes := 0
	conn.raw.init(hookedConn{conn.nc, func() {
		if writes++; writes < 100 && !kept.Load() {
			own() //nolint:errcheck // the client may be closed by now
		}
		if writes == 50 {
			select {
			case <-returned:
			case <-time.After(2 * time.Second):
				kept.Store(true)
			}
		}
	}})
	if err := own(); err != nil {
		t.Fatal(err)
	}
	close(returned)
	conn.drainIfUnread()
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if kept.Load() {
		t.Error("the caller wrote for as long as others came")
	}
}

// A hookedConn has write called before each write that does not block.
type hookedConn struct {
	net.Conn
	write func()
}

func (h hookedConn) SyscallConn() (syscall.RawConn, error) {
	raw, err := h.Conn.(syscall.Conn).SyscallConn()
	return hookedRawConn{raw, h.write}, err
}

type hookedRawConn struct {
	syscall.RawConn
	write func()
}

func (h hookedRawConn) Write(f func(fd uintptr) bool) error {
	return h.RawConn.Write(func(fd uintptr) bool {
		h.write()
		return f(fd)
	})
}

// TestMetaOnStandIn: times are bounded there, and nothing is due.
func TestMetaOnStandIn(t *testing.T) {
	req := &memcached.Request{Command: memcached.MetaGet, Key: []byte("a"), Meta: []memcached.MetaFlag{
		{Letter: 'v'}, {Letter: 'N', Arg: []byte("30")}, {Letter: 'R', Arg: []byte("3600")}, {Letter: 'T', Arg: []byte("0")}, {Letter: 'q'},
	}}
	for _, tt := range []struct {
		capTTL int64
		want   string
	}{{0, "mg a v N30 R3600 T0 O"}, {10, "mg a v N10 T10 O"}} {
		o := op{kind: opMeta, metaCmd: req.Command, meta: req, key: "a", capTTL: tt.capTTL, opaque: newOpaque()}
		if got, want := string(o.appendTo(nil)), tt.want+string(o.opaque.append(nil))+"\r\n"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestHeldRequests: while the reader is awake and two writes are under way,
// what comes is held, until the first is answered or the reader sleeps.
func TestHeldRequests(t *testing.T) {
	server := memnodes(t, 1)[0]
	c, err := New(Config{Servers: []string{server}, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := c.fleet.Load().nodes[0]
	conn := n.slots[0].conn.Load()
	if !conn.raw.Plain() {
		t.Skip("a reader is never awake on this system")
	}
	var under []pending
	submit := func() (held bool) {
		ca := newCall(1)
		ca.one[0].kind, ca.one[0].key = opGet, "a"
		p, err := n.begin(t.Context(), 0, ca, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		held = !p.writer
		p.write(maxRounds)
		under = append(under, p)
		return held
	}
	left := func() int {
		conn.mu.Lock()
		defer conn.mu.Unlock()
		return len(conn.wbuf)
	}
	conn.mu.Lock()
	conn.reading = true // by this test
	conn.mu.Unlock()
	conn.wakes()
	conn.quickest.Store(1)
	for i, want := range []bool{false, false, true, true} {
		if got := submit(); got != want {
			t.Errorf("request %d is held: %v", i, got)
		}
	}
	conn.flush()
	if left() == 0 {
		t.Error("it was written before the first was answered")
	}
	conn.answered.Store(under[0].call.end)
	conn.flush()
	if left() > 0 {
		t.Error("it was not written when the first was answered")
	}
	if !submit() {
		t.Error("it is not held, though two are under way again")
	}
	if err := conn.askProof(); err != nil || left() > 0 {
		t.Errorf("a request of the connection's own is held: %v", err)
	}
	if !submit() || left() == 0 {
		t.Error("it is not held, though two are under way again")
	}
	conn.quickest.Store(int64(near))
	if submit() || left() > 0 {
		t.Error("it is held though the node is far")
	}
	conn.quickest.Store(1)
	if !submit() || left() == 0 {
		t.Error("it is not held, though two are under way again")
	}
	conn.asleep()
	if left() > 0 {
		t.Error("it is held while the reader sleeps")
	}
	if submit() {
		t.Error("it is held though the reader sleeps")
	}
	conn.handOver()
	for i, p := range under {
		if err := p.wait(t.Context()); err != nil {
			t.Errorf("request %d: %v", i, err)
		}
	}
}

// TestHoldsNotTooMuch: the node is not left to run dry while much waits.
func TestHoldsNotTooMuch(t *testing.T) {
	for _, tt := range []struct {
		answered, prior, offered, waiting uint64
		want                              bool
	}{
		{answered: 9, prior: 10, offered: 12, waiting: 1, want: true},
		{answered: 9, prior: 10, offered: 12, waiting: worthwhile - 1, want: true},
		{answered: 9, prior: 10, offered: 12, waiting: worthwhile, want: false},
		{answered: 9, prior: 10, offered: 9 + worthwhile, waiting: worthwhile, want: true},
		{answered: 9, prior: 10, offered: 9 + worthwhile, waiting: worthwhile + 1, want: false},
		{answered: 9, prior: 10, offered: 90, waiting: 81, want: true},
		{answered: 9, prior: 10, offered: 90, waiting: 82, want: false},
		{answered: 10, prior: 10, offered: 90, waiting: 1, want: false},
	} {
		c := &conn{offered: tt.offered, queued: tt.offered + tt.waiting, pace: pace{prior: tt.prior, awake: true}}
		c.answered.Store(tt.answered)
		if got := c.holds(); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

// TestQuickest: the shortest time is kept, and forgotten after some hundred
// calls that took longer.
func TestQuickest(t *testing.T) {
	c := &conn{}
	c.quick = int64(near)
	note := func(took time.Duration) time.Duration {
		c.lastRead = time.Second
		c.noteAnswer(&call{start: time.Second - took, end: c.end + 1})
		c.publish()
		return time.Duration(c.quickest.Load())
	}
	for _, took := range []time.Duration{50 * time.Microsecond, 40 * time.Microsecond} {
		if got := note(took); got != took {
			t.Errorf("%v, want %v", got, took)
		}
	}
	if got := note(time.Millisecond); got > 41*time.Microsecond {
		t.Errorf("one slow call made it %v", got)
	}
	for range 2000 {
		note(time.Millisecond)
	}
	if got := note(time.Millisecond); got < near {
		t.Errorf("%v after 2,000 slow calls", got)
	}
}

// TestBatchHoldsNoRole: a batch that has to connect to one node has written to
// the others before.
func TestBatchHoldsNoRole(t *testing.T) {
	server := memnodes(t, 1)[0]
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := New(Config{Servers: []string{server, l.Addr().String()}, Timeout: 500 * time.Millisecond, Failover: FailoverNone})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	good, hung := keyOn(c, 0), keyOn(c, 1)
	if err := c.Set(t.Context(), &Item{Key: good}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.GetMulti(t.Context(), []string{good, hung})
		done <- err
	}()
	// It connects before it submits anything, and is at its wait 20 ms later.
	slot := &c.fleet.Load().nodes[1].slots[0]
	for begun, last := false, time.Now().Add(5*time.Second); !begun; time.Sleep(time.Millisecond) {
		slot.mu.Lock()
		begun = slot.dialing != nil
		slot.mu.Unlock()
		if time.Now().After(last) {
			t.Fatal("the batch does not connect")
		}
	}
	time.Sleep(20 * time.Millisecond)
	for range 50 {
		if _, err := c.Get(t.Context(), good); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("the batch was over before the others: %v", err)
	default:
	}
	if err := <-done; err == nil {
		t.Error("a node that never answers failed no key")
	}
}

// TestBatchAndHook: what a failed write of a batch calls may use the client, as
// the batch still has to write to other nodes.
func TestBatchAndHook(t *testing.T) {
	servers := memnodes(t, 2)
	var c *Client
	var onOther atomic.Pointer[string]
	inHook := make(chan error, 1)
	c, err := New(Config{Servers: servers, Timeout: time.Second, Hooks: Hooks{Failed: func(string, error) {
		if key := onOther.Swap(nil); key != nil {
			_, err := c.Get(context.Background(), *key)
			inHook <- err
		}
	}}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, b := keyOn(c, 0), keyOn(c, 1)
	for _, key := range []string{a, b} {
		if err := c.Set(t.Context(), &Item{Key: key}); err != nil {
			t.Fatal(err)
		}
	}
	onOther.Store(&b)
	if err := c.fleet.Load().nodes[0].slots[0].conn.Load().nc.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	items, err := c.GetMulti(t.Context(), []string{a, b})
	if items[b] == nil || err == nil {
		t.Errorf("%d items, %v", len(items), err)
	}
	if err := <-inHook; err != nil {
		t.Errorf("in the hook: %v", err)
	}
}

// TestBatchOfLargeValues: they are written while the rest of the batch is put
// together.
func TestBatchOfLargeValues(t *testing.T) {
	servers := memnodes(t, 2)
	c, err := New(Config{Servers: servers, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	var b Batch
	first := c.fleet.Load().nodes[0]
	b.Set(&Item{Key: keyOn(c, 0), Value: make([]byte, 2*keepBuffer)})
	b.Set(&Item{Key: keyOn(c, 1)})
	second := c.fleet.Load().nodes[1].slots[0].conn.Load()
	written := first.bytesOut.Load()
	second.mu.Lock() // it can not be put together
	done := make(chan error, 1)
	go func() { done <- c.Do(context.Background(), &b) }()
	for last := time.Now().Add(5 * time.Second); first.bytesOut.Load()-written < keepBuffer && time.Now().Before(last); {
		time.Sleep(time.Millisecond)
	}
	wrote := first.bytesOut.Load() - written
	second.mu.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if wrote < keepBuffer {
		t.Errorf("%d bytes were written", wrote)
	}
}

// keyOn gives a key of the node at a place.
func keyOn(c *Client, place int) string {
	for i := 0; ; i++ {
		key := strconv.Itoa(i)
		if at, _, err := c.route(c.fleet.Load(), key); err == nil && at == place {
			return key
		}
	}
}

// memnodes starts in-process nodes that the test's end closes.
func memnodes(t *testing.T, n int) (addrs []string) {
	t.Helper()
	for range n {
		s, err := memnode.Start(memnode.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		addrs = append(addrs, s.Addr())
	}
	return addrs
}
