package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringside-cache/ringside/proto/memcached"
	"github.com/ringside-cache/ringside/ring"
)

// A node is one server: its connections, what is in flight to it, and whether
// it is out.
type node struct {
	client *Client
	ring.Node
	// index is the node's place in Client.health; see Client.healthMu.
	index int
	// addr is the node as gomemcache sees it.
	addr *nodeAddr

	slots []slot
	// out is true while the node is ejected; failing while health counts
	// failures that a success would end.
	out     atomic.Bool
	failing atomic.Bool
	// removed is set when the node has left the fleet and its time is over.
	removed atomic.Bool

	inFlight      atomic.Int64
	bytesInFlight atomic.Int64

	// itemMax is the node's own limit for an item, 0 until it told.
	itemMax atomic.Int64
	version atomic.Pointer[string]

	// metaCredit is how many hang-ups in a handshake are taken for losses,
	// because the server has shown that it has the meta commands.
	metaCredit atomic.Int32
	// legacy is set while the server has no meta commands.
	legacy atomic.Pointer[legacy]
	nodeCounters
}

// A slot is the place of one connection. Its conn is replaced when it breaks.
type slot struct {
	conn atomic.Pointer[conn]

	// mu guards what follows. node.slot.mu -> nothing.
	mu      sync.Mutex
	dialing *dialing
	failed  int       // dials that failed in a row
	retryAt time.Time // no dial before it
	lastErr error
}

// dialing is an attempt to connect that many callers may wait for. Without an
// error and a conn it found a server for node.legacy.
type dialing struct {
	done chan struct{}
	conn *conn
	err  error
}

func newNode(c *Client, n ring.Node) *node {
	return &node{client: c, Node: n, addr: newNodeAddr(n), slots: make([]slot, c.cfg.ConnsPerNode)}
}

// slotOf gives the slot whose connection carries the key.
func (n *node) slotOf(key string) int {
	if len(n.slots) == 1 {
		return 0
	}
	var h uint32 = 2166136261
	for i := range len(key) {
		h = (h ^ uint32(key[i])) * 16777619
	}
	return int(h>>16) % len(n.slots)
}

// connected tells whether the slot can be sent to at once.
func (n *node) connected(slot int) bool {
	return n.slots[slot].conn.Load() != nil || n.legacy.Load() != nil
}

// admit counts a call as in flight, or refuses it. One that is above a limit
// by itself is let through when nothing else is in flight.
func (n *node) admit(ca *call) error {
	k := int64(len(ca.ops))
	ca.cost = 0
	for i := range ca.ops {
		// What the request has beside key and value is about so much.
		const overhead = 64
		ca.cost += int64(len(ca.ops[i].key)+len(ca.ops[i].value)) + overhead
	}
	count, bytes := n.inFlight.Add(k), n.bytesInFlight.Add(ca.cost)
	if count > k && (count > int64(n.client.cfg.MaxInFlight) || bytes > n.client.cfg.MaxInFlightBytes) {
		n.settled(ca)
		n.overloaded.Add(uint64(k))
		return ErrOverloaded
	}
	return nil
}

// settled takes a call off what is in flight.
func (n *node) settled(ca *call) {
	n.inFlight.Add(-int64(len(ca.ops)))
	n.bytesInFlight.Add(-ca.cost)
}

// answered notes a reply; it ends a row of failures.
func (n *node) answered() {
	if n.failing.Load() {
		n.client.nodeAnswered(n)
	}
}

// maxReply is the largest value that a reply of this node may have.
func (n *node) maxReply() int {
	if limit := n.itemMax.Load(); limit > 0 {
		return int(limit)
	}
	return 1 << 30
}

// itemOverhead is what memcached 1.6 adds to an item's key and value: its
// header, the CAS id, the key's end and the value's line end. Client flags
// take 4 bytes more.
const itemOverhead = 48 + 8 + 1 + 2

// fits tells whether the node can hold the item. To let memcached find out
// would lose what is there: it deletes the old item first.
func (n *node) fits(o *op) error {
	limit := n.itemMax.Load()
	if limit == 0 || o.kind != opSet && o.metaCmd != memcached.MetaSet {
		return nil
	}
	size := int64(itemOverhead + len(o.key) + len(o.value))
	if o.flags != 0 || o.meta != nil && hasClientFlags(o.meta) {
		size += 4
	}
	if size > limit {
		return fmt.Errorf("%w: value of %d bytes, item of %d bytes, limit %d", ErrTooLarge, len(o.value), size, limit)
	}
	return nil
}

func hasClientFlags(req *memcached.Request) bool {
	f, ok := req.Flag('F')
	flags, err := f.Uint()
	return ok && (err != nil || flags != 0)
}

// connect gives the slot's connection, waiting for one at most until ctx ends
// or the client's clock shows by, which is as in begin. waited is that time
// where it had to wait, else 0.
func (n *node) connect(ctx context.Context, slot int, by time.Duration) (c *conn, waited time.Duration, err error) {
	s := &n.slots[slot]
	if c := s.conn.Load(); c != nil {
		return c, 0, nil
	}
	by = n.orTimeout(by)
	d, err := n.dial(s)
	if d == nil {
		return nil, 0, err
	}
	select {
	case <-d.done:
		return d.conn, by, d.err
	default:
	}
	timer := time.NewTimer(by - n.client.clock())
	defer timer.Stop()
	select {
	case <-d.done:
		return d.conn, by, d.err
	case <-ctx.Done():
		return nil, by, fmt.Errorf("%w: %w", errUnsent, ctx.Err())
	case <-timer.C:
		return nil, by, fmt.Errorf("%w: %w", errUnsent, ErrTimeout)
	}
}

// dial starts an attempt to connect, or joins the one under way. While the
// slot backs off after a failed dial it gives that dial's error at once.
func (n *node) dial(s *slot) (*dialing, error) {
	if err := n.ended(); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnsent, err)
	}
	s.mu.Lock()
	if c := s.conn.Load(); c != nil {
		s.mu.Unlock()
		d := &dialing{done: make(chan struct{}), conn: c}
		close(d.done)
		return d, nil
	}
	if d := s.dialing; d != nil {
		s.mu.Unlock()
		return d, nil
	}
	if time.Now().Before(s.retryAt) {
		err := s.lastErr
		s.mu.Unlock()
		return nil, err
	}
	d := &dialing{done: make(chan struct{})}
	s.dialing = d
	s.mu.Unlock()
	n.client.spawn(func() { n.runDial(s, d) })
	return d, nil
}

func (n *node) runDial(s *slot, d *dialing) {
	start := time.Now()
	c, err := n.open(n.client.life)
	took := time.Since(start)
	n.dials.Add(1)
	if err != nil {
		n.dialErrors.Add(1)
		err = fmt.Errorf("%w: %w", ErrDial, err)
	}
	s.mu.Lock()
	s.dialing = nil
	d.conn, d.err = c, err
	if err == nil && c == nil {
		n.legacy.CompareAndSwap(nil, newLegacy(n))
	}
	if err != nil {
		s.failed++
		s.lastErr = err
		s.retryAt = time.Now().Add(backoff(s.failed))
	} else {
		s.failed, s.retryAt, s.lastErr = 0, time.Time{}, nil
		if c != nil {
			s.conn.Store(c)
		}
	}
	s.mu.Unlock()
	close(d.done)
	if hook := n.client.cfg.Hooks.Dialled; hook != nil {
		hook(n.Name, took, err)
	}
	if err != nil {
		n.client.nodeFailed(n, err)
	} else if ended := n.ended(); c != nil && ended != nil {
		c.fail(ended) // Close ran while we dialled, or the node was removed
	}
}

// ended tells why the node is to have no connections any more: Close, or its
// removal. Whoever makes one asks behind the place from where disconnect takes
// it, which is called after the reason was set: one of the two closes it.
func (n *node) ended() error {
	switch {
	case n.client.life.Err() != nil:
		return ErrClosed
	case n.removed.Load():
		return errRemoved
	}
	return nil
}

// backoff is how long no dial is tried after so many failed ones: 50 ms
// doubling to 2 s, less up to a half.
func backoff(failed int) time.Duration {
	d := min(50*time.Millisecond<<min(failed-1, 6), 2*time.Second)
	return d - rand.N(d/2)
}

// open makes a connection to a server with meta commands; nil, without an
// error, where it has none.
func (n *node) open(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, n.client.cfg.DialTimeout)
	defer cancel()
	nc, meta, err := n.greet(ctx)
	if err != nil {
		return nil, err
	}
	if !meta {
		nc.Close()
		return nil, nil
	}
	c := newConn(n, nc, n.client.generation.Add(1))
	c.silentMiss = missesInSilence(*n.version.Load())
	return c, nil
}

// dialSocket connects, with TLS and authentication where they are configured.
func (n *node) dialSocket(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	var nc net.Conn
	var err error
	cfg := &n.client.cfg
	if path, ok := strings.CutPrefix(n.Address, "unix:"); ok {
		nc, err = d.DialContext(ctx, "unix", path)
	} else if cfg.TLS != nil {
		nc, err = (&tls.Dialer{NetDialer: &d, Config: cfg.TLS}).DialContext(ctx, "tcp", n.Address)
	} else {
		nc, err = d.DialContext(ctx, "tcp", n.Address)
	}
	if err != nil || cfg.Username == "" {
		return nc, err
	}
	return talk(ctx, nc, func() error { return authenticate(nc, cfg.Username+" "+cfg.Password) })
}

// talk asks questions over a connection until ctx ends, and closes it when
// they have an error.
func talk(ctx context.Context, nc net.Conn, questions func() error) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	err := questions()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}

// authenticate sends the credentials as memcached wants them: as the value of
// the first set on a connection, whose key does not matter.
func authenticate(nc net.Conn, credentials string) error {
	line := fmt.Sprintf("set auth 0 0 %d\r\n%s\r\n", len(credentials), credentials)
	return ask(nc, line, func(rep *memcached.Reply) (bool, error) {
		if rep.Kind != memcached.Stored {
			return false, fmt.Errorf("authentication: the node answered %v %s", rep.Kind, rep.Message)
		}
		return true, nil
	})
}

// greet connects and finds out whether the server has the meta commands. It
// asks for the version, since older servers silently ignore what they do not
// know, and then for the item size limit. Twemproxy passes version on to some
// server behind it and closes the connection on stats; what still answers a
// get after that is a proxy. But a connection may be lost in the middle of a
// handshake as well, and what is taken for a proxy is spoken to without
// opaques. So a proxy has to hang up each time, and one that answered once is
// none for a while.
func (n *node) greet(ctx context.Context) (nc net.Conn, meta bool, err error) {
	const hangUps, credit = 3, 5
	for range hangUps {
		nc, err = n.converse(ctx, func(nc net.Conn) error {
			version, err := askVersion(nc)
			if err != nil {
				return err
			}
			n.version.Store(&version)
			if meta = hasMeta(version); !meta {
				return nil
			}
			return n.askLimits(nc)
		})
		if err == nil && meta {
			n.metaCredit.Store(credit)
		}
		if !errors.Is(err, io.EOF) {
			return nc, meta, err
		}
		if n.metaCredit.Load() > 0 {
			n.metaCredit.Add(-1)
			return nil, false, err
		}
	}
	nc, err = n.converse(ctx, func(nc net.Conn) error {
		return ask(nc, "get "+n.client.probeKey+"\r\n", func(rep *memcached.Reply) (bool, error) {
			if rep.Kind != memcached.Value && rep.Kind != memcached.End {
				return false, fmt.Errorf("%v in answer to get", rep.Kind)
			}
			return rep.Kind == memcached.End, nil
		})
	})
	return nc, false, err
}

// converse connects and asks; after an error the connection is closed.
func (n *node) converse(ctx context.Context, questions func(net.Conn) error) (net.Conn, error) {
	nc, err := n.dialSocket(ctx)
	if err != nil {
		return nil, err
	}
	return talk(ctx, nc, func() error { return questions(nc) })
}

// askVersion gives the version, empty where the server does not tell it.
func askVersion(nc net.Conn) (version string, err error) {
	err = ask(nc, "version\r\n", func(rep *memcached.Reply) (bool, error) {
		switch {
		case rep.Kind == memcached.VersionIs:
			version = string(rep.Message)
		case rep.Kind == memcached.ClientError && string(rep.Message) == "unauthenticated":
			return false, errors.New("the node wants authentication, see Config.Username")
		case !rep.Kind.IsError():
			return false, fmt.Errorf("no memcached: %v in answer to version", rep.Kind)
		}
		return true, nil
	})
	return version, err
}

// askLimits asks for the item size limit.
func (n *node) askLimits(nc net.Conn) error {
	return ask(nc, "stats settings\r\n", func(rep *memcached.Reply) (bool, error) {
		switch rep.Kind {
		case memcached.Stat:
			if string(rep.Key) == "item_size_max" {
				if limit, err := strconv.ParseInt(string(rep.Value), 10, 64); err == nil {
					n.itemMax.Store(limit)
				}
			}
			return false, nil
		case memcached.End:
			return true, nil
		}
		return false, fmt.Errorf("%v in answer to stats settings", rep.Kind)
	})
}

// ask sends a line and reads replies until done says so.
func ask(nc net.Conn, line string, done func(*memcached.Reply) (bool, error)) error {
	if _, err := io.WriteString(nc, line); err != nil {
		return err
	}
	var rep memcached.Reply
	buf := make([]byte, 0, 8<<10)
	for {
		for len(buf) > 0 {
			size, err := memcached.ParseReply(buf, &rep)
			if err != nil {
				return err
			}
			if size > len(buf) {
				break
			}
			finished, err := done(&rep)
			if err != nil || finished {
				return err
			}
			buf = buf[size:]
		}
		buf = append(make([]byte, 0, len(buf)+8<<10), buf...)
		got, err := nc.Read(buf[len(buf):cap(buf)])
		if err != nil {
			return err
		}
		buf = buf[:len(buf)+got]
	}
}

// hasMeta tells whether a server of this version has the meta commands. Before
// 1.6.10 they were an experiment: ms took the size as a flag, and OK stood for
// HD.
func hasMeta(version string) bool { return atLeast(version, 1, 6, 10) }

// missesInSilence tells whether a server of this version leaves the opaque out
// when mg finds nothing.
func missesInSilence(version string) bool { return !atLeast(version, 1, 6, 18) }

// atLeast tells whether a version such as 1.6.18 or 1.6.9_12_gabcdef is want or
// a later one.
func atLeast(version string, want ...int) bool {
	for _, least := range want {
		var word string
		word, version, _ = strings.Cut(version, ".")
		if end := strings.IndexFunc(word, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
			word = word[:end]
		}
		if n, err := strconv.Atoi(word); err != nil || n != least {
			return err == nil && n > least
		}
	}
	return true
}

// forget takes a broken connection out of its slot.
func (n *node) forget(c *conn) {
	for i := range n.slots {
		n.slots[i].conn.CompareAndSwap(c, nil)
	}
}

// connectionEnded notes the end of a connection.
func (n *node) connectionEnded(c *conn, err error) {
	n.forget(c)
	if isOurDoing(err) {
		return
	}
	n.connsLost.Add(1)
	n.client.nodeFailed(n, err)
}

// disconnect breaks all connections of the node.
func (n *node) disconnect(err error) {
	for i := range n.slots {
		if c := n.slots[i].conn.Load(); c != nil {
			c.fail(err)
		}
	}
	if l := n.legacy.Load(); l != nil {
		l.disconnect()
	}
}

// welcome lets a node that rejoined be dialled at once.
func (n *node) welcome() {
	for i := range n.slots {
		s := &n.slots[i]
		s.mu.Lock()
		s.failed, s.retryAt = 0, time.Time{}
		s.mu.Unlock()
	}
}

// probe tests the node out of band: on a connection of its own it writes a
// reserved key and reads it back. A node that answers version but can not
// store is not well.
func (n *node) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.client.cfg.DialTimeout)
	defer cancel()
	nc, meta, err := n.greet(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	value := strconv.FormatUint(rand.Uint64(), 36)
	key := n.client.probeKey
	set, get := fmt.Sprintf("ms %s %d T10\r\n%s\r\n", key, len(value), value), "mg "+key+" v\r\n"
	if !meta {
		set, get = fmt.Sprintf("set %s 0 10 %d\r\n%s\r\n", key, len(value), value), "get "+key+"\r\n"
	}
	_, err = talk(ctx, nc, func() error {
		if err := ask(nc, set, func(rep *memcached.Reply) (bool, error) {
			if rep.Kind != memcached.MetaOK && rep.Kind != memcached.Stored {
				return false, fmt.Errorf("the probe's set was answered %v %s", rep.Kind, rep.Message)
			}
			return true, nil
		}); err != nil {
			return err
		}
		return ask(nc, get, func(rep *memcached.Reply) (bool, error) {
			if rep.Kind != memcached.MetaValue && rep.Kind != memcached.Value || !bytes.Equal(rep.Value, []byte(value)) {
				return false, errors.New("the probe's get did not give back what was set")
			}
			return true, nil
		})
	})
	return err
}
