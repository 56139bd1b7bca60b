package client

import (
	"context"
	"fmt"
	"math/rand/v2"
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

	// slots has Config.ConnsPerNode places, and that of the lane behind them.
	slots  []slot
	lane   atomic.Pointer[lane] // nil until there was a large value
	ghosts ghosts
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
	return &node{client: c, Node: n, addr: newNodeAddr(n), slots: make([]slot, c.cfg.ConnsPerNode+1)}
}

// slotOf gives the slot whose connection carries the key outside of the lane.
func (n *node) slotOf(key string) int {
	if n.client.cfg.ConnsPerNode == 1 {
		return 0
	}
	return int(keyHash(key)>>16) % n.client.cfg.ConnsPerNode
}

// anyone gives the slot for what can go over any connection.
func (n *node) anyone() []int { return []int{0} }

// connected gives the slots that have a connection, or the one to connect.
func (n *node) connected() []int {
	slots := n.anyone()
	for i := range n.slots {
		if i > 0 && n.slots[i].conn.Load() != nil {
			slots = append(slots, i)
		}
	}
	return slots
}

// admit counts a call as in flight, or refuses it. One that is above a limit
// by itself is let through when nothing else is in flight.
func (n *node) admit(ca *call) error {
	k := int64(len(ca.ops))
	ca.cost = 0
	for i := range ca.ops {
		// The most that a request has beside key and value: a ms with every flag
		// has 88 bytes.
		const overhead = 96
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
	ca.leaveLane()
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
	if limit == 0 || !o.stores() {
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
	// A node that answers elsewhere is not judged by a lane that it does not want.
	spare := s == &n.slots[n.laneSlot()] && n.connectedOutside()
	if err == nil && c == nil && spare {
		err = fmt.Errorf("%w: no meta commands on this connection", ErrDial)
		d.err = err
	}
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
			if s == &n.slots[n.laneSlot()] {
				c.carryLarge()
			}
			s.conn.Store(c)
		}
	}
	s.mu.Unlock()
	close(d.done)
	if hook := n.client.cfg.Hooks.Dialled; hook != nil {
		hook(n.Name, took, err)
	}
	if err != nil {
		if !spare {
			n.client.nodeFailed(n, err)
		}
	} else if ended := n.ended(); c != nil && ended != nil {
		c.fail(ended) // Close ran while we dialled, or the node was removed
	}
}

// connectedOutside tells whether the node has a connection outside of the lane.
func (n *node) connectedOutside() bool {
	for i := range n.slots[:n.laneSlot()] {
		if n.slots[i].conn.Load() != nil {
			return true
		}
	}
	return false
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
