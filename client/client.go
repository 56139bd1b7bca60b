package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringside-cache/ringside/ring"
)

// Client spreads keys over the nodes of its Config. It is safe for concurrent
// use. Make it with New, end it with Close.
type Client struct {
	cfg   Config
	began time.Time
	// fleet is the ring and its nodes. It is replaced as a whole; an
	// operation uses the one that it began with.
	fleet atomic.Pointer[fleet]
	// generation numbers the connections of all nodes.
	generation atomic.Uint64
	// probeKey is this client's own reserved key.
	probeKey string
	// crowd is how many requests in flight beside a caller's own make it wait
	// for others to share its write.
	crowd int
	// standInTTL is Config.StandInTTL in whole seconds.
	standInTTL int64

	// life ends with Close; it bounds dials and probes.
	life context.Context
	end  context.CancelFunc

	// spawnMu guards closed and orders goroutines.Add before Close's Wait.
	spawnMu    sync.Mutex
	closed     bool
	goroutines sync.WaitGroup

	// changeMu is held while the fleet changes. changeMu -> healthMu.
	changeMu sync.Mutex

	// healthMu guards health, its order of the nodes, and node.index, which
	// is a node's place in it or -1 once it has left. It is held for a few
	// field accesses only; nothing is locked and nothing is called under it.
	healthMu sync.Mutex
	health   *ring.Health
	members  []*node
	// probeSoon wakes the prober when a node was ejected.
	probeSoon chan struct{}
}

// New checks the config and makes a client of it. Connections are made when
// they are needed, so New succeeds while nodes are down; only entries of
// Config.Servers that have to be looked up are, for 5 s at most.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("ringside: config: %w", err)
	}
	cfg = cfg.withDefaults()
	cfg.TLS = cfg.TLS.Clone()                // nil stays nil
	static, sources, _ := cfg.splitSources() // Validate has checked them
	d := &discovery{static: static, sources: sources, last: make([][]string, len(sources)), check: func(servers []string) error {
		_, err := cfg.ring(servers)
		return err
	}}
	ctx, cancel := context.WithTimeout(context.Background(), discoverTimeout)
	servers, err := d.refresh(ctx)
	cancel()
	if err != nil {
		return nil, fmt.Errorf("ringside: config: Servers: %w", err)
	}
	r, err := cfg.ring(servers)
	if err != nil {
		return nil, fmt.Errorf("ringside: config: %w", err)
	}
	c := &Client{
		cfg:        cfg,
		began:      time.Now(),
		probeKey:   "__ringside__.probe." + strconv.FormatUint(rand.Uint64(), 36),
		standInTTL: int64((cfg.StandInTTL + time.Second - 1) / time.Second),
		probeSoon:  make(chan struct{}, 1),
		crowd:      crowd,
	}
	if cfg.ShareWrites {
		c.crowd = 0
	}
	c.life, c.end = context.WithCancel(context.Background())
	if c.health, err = ring.NewHealth(0, cfg.Health, rand.Uint64()); err != nil {
		return nil, fmt.Errorf("ringside: config: %w", err)
	}
	c.change(r)
	c.spawn(c.probeLoop)
	if len(sources) > 0 {
		c.spawn(func() { c.discover(d) })
	}
	return c, nil
}

// Close ends every connection and goroutine of the client and waits for them.
// Operations that are under way fail with ErrClosed.
func (c *Client) Close() error {
	c.spawnMu.Lock()
	if c.closed {
		c.spawnMu.Unlock()
		return nil
	}
	c.closed = true
	c.spawnMu.Unlock()
	c.end()
	c.changeMu.Lock() // a change that has begun; after it none begins
	for _, n := range c.fleet.Load().nodes {
		n.disconnect(ErrClosed)
	}
	c.changeMu.Unlock()
	c.goroutines.Wait()
	return nil
}

// spawn runs f on a goroutine that Close waits for. After Close it runs f
// right here: whatever role f has must be played, and on closed connections
// it is short.
func (c *Client) spawn(f func()) {
	c.spawnMu.Lock()
	if c.closed {
		c.spawnMu.Unlock()
		f()
		return
	}
	c.goroutines.Add(1)
	c.spawnMu.Unlock()
	go func() {
		defer c.goroutines.Done()
		f()
	}()
}

// clock is the time since the client was made: cheaper to keep and to compare
// than a time.Time.
func (c *Client) clock() time.Duration { return time.Since(c.began) }

func (c *Client) at(d time.Duration) time.Time { return c.began.Add(d) }

// route gives the index in the fleet of the node that is asked for a key.
// standIn tells that it is not the key's owner.
func (c *Client) route(f *fleet, key string) (i int, standIn bool, err error) {
	owner := f.ring.Lookup(key)
	if !f.nodes[owner].out.Load() {
		return owner, false, nil
	}
	if c.cfg.Failover == FailoverNone {
		return owner, false, ErrNodeDown
	}
	for i := range f.ring.Successors(key) {
		if !f.nodes[i].out.Load() {
			return i, true, nil
		}
	}
	return owner, false, nil
}

// do runs the only op of a call for its key. The caller releases the call
// where there is no error. Errors are *OpError.
func (c *Client) do(ctx context.Context, ca *call) error {
	o := &ca.ops[0]
	name, key := o.name(), o.key
	f := c.fleet.Load()
	i, err := c.prepare(f, o)
	var n *node
	if i >= 0 {
		n = f.nodes[i]
	}
	if err == nil {
		ca.cork = c.corkOf(ctx)
		err = n.run(ctx, n.slotFor(o), ca)
	}
	if err == nil {
		err = o.err
	}
	if err != nil {
		return opError(name, n, key, err)
	}
	return nil
}

func opError(name string, n *node, key string, err error) *OpError {
	e := &OpError{Op: name, Key: key, Err: err}
	if n != nil {
		e.Node = n.Name
	}
	return e
}

// prepare checks an op and finds the node to ask, as an index in the fleet; -1
// where none is to be asked.
func (c *Client) prepare(f *fleet, o *op) (int, error) {
	if o.kind != opMeta { // there the key may be in base64, and was checked
		if err := checkKey(o.key); err != nil {
			return -1, err
		}
	}
	i, standIn, err := c.route(f, o.key)
	if err != nil {
		return i, err
	}
	n := f.nodes[i]
	if standIn {
		o.capTTL = c.standInTTL
		n.standIns.Add(1)
	}
	return i, n.fits(o)
}

// run submits a call to one of the node's connections and waits for it. An
// error speaks for the whole call; errors of single ops are in them.
func (n *node) run(ctx context.Context, slot int, ca *call) error {
	p, err := n.begin(ctx, slot, ca, 0, true)
	if err != nil {
		return err
	}
	if p.writer {
		// A lone caller does not yield: that wakes another thread of the runtime
		// to look for work.
		if n.crowded(len(ca.ops)) {
			n.yield()
		}
		p.write(maxRounds)
	}
	return p.wait(ctx)
}

// pending is a call that was submitted.
type pending struct {
	node   *node
	call   *call
	conn   *conn
	legacy *legacy // in place of conn
	// by is when the operation's Timeout ends, 0 where the connection's own
	// watch over its oldest request is enough.
	by time.Duration
	// writer tells that the caller has the connection's writer's role.
	writer bool
	// batch has the places in the Batch of the call's ops.
	batch []int32
}

// begin submits a call, until the client's clock shows by, or for
// Config.Timeout where by is 0: to read the clock for every call, most of which
// do not wait here, costs some percent. A connection that
// breaks before anything was sent is replaced once: that is the one retry
// there is. Where the caller is the writer it calls write before it waits for
// anything; a caller that is the writer elsewhere has mayWait false, and gets
// errNotConnected where there is no connection.
func (n *node) begin(ctx context.Context, slot int, ca *call, by time.Duration, mayWait bool) (pending, error) {
	if n.client.life.Err() != nil {
		return pending{}, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return pending{}, fmt.Errorf("%w: %w", errUnsent, err)
	}
	k := len(ca.ops)
	ca.node = n
	if err := n.admit(ca); err != nil {
		return pending{}, err
	}
	if l := n.lane.Load(); l != nil && slot == n.laneSlot() {
		ca.lane = l
		l.ops.Add(int64(k))
	}
	p := pending{node: n, call: ca}
	for attempt := 0; ; attempt++ {
		if l := n.legacy.Load(); l != nil {
			p.legacy, p.by = l, n.orTimeout(by)
			l.run(ca)
			n.requests.Add(uint64(k))
			return p, nil
		}
		conn := n.slots[slot].conn.Load()
		var err error
		if conn == nil {
			if !mayWait {
				n.settled(ca)
				n.dial(&n.slots[slot]) //nolint:errcheck // the next begin meets the error again
				return pending{}, errNotConnected
			}
			var waited time.Duration
			conn, waited, err = n.connect(ctx, slot, by)
			if waited != 0 {
				by, p.by = waited, waited
			}
		}
		if err == nil && conn == nil && attempt < 2 {
			continue // a legacy, as was just found out
		}
		if err == nil && conn != nil {
			p.conn = conn
			if p.writer, err = conn.submit(ca); err == nil {
				n.requests.Add(uint64(k))
				return p, nil
			}
			// It is breaking; the next attempt shall not meet it again.
			n.slots[slot].conn.CompareAndSwap(conn, nil)
		}
		if conn == nil || attempt >= 1 {
			n.settled(ca)
			if err == nil {
				err = fmt.Errorf("%w: %w", errUnsent, ErrConnLost)
			}
			if n.client.life.Err() != nil {
				err = ErrClosed
			}
			return pending{}, err
		}
	}
}

var errNotConnected = errors.New("not connected")

// orTimeout is by, or Config.Timeout from now where that is 0.
func (n *node) orTimeout(by time.Duration) time.Duration {
	if by == 0 {
		by = n.client.clock() + n.client.cfg.Timeout
	}
	return by
}

// write writes what was submitted, the call's and what others have added.
func (p *pending) write(rounds int) {
	if p.writer {
		p.writer = false
		p.conn.write(rounds)
	}
}

// wait waits for a submitted call. After an error only its ops below
// delivered may be looked at.
func (p pending) wait(ctx context.Context) error {
	limited := ctx
	if p.by != 0 {
		// Part of the time went into connecting.
		var cancel context.CancelFunc
		limited, cancel = context.WithDeadline(ctx, p.node.client.at(p.by))
		defer cancel()
	}
	done := false
	if p.legacy != nil {
		done = p.legacy.wait(limited, p.call)
	} else {
		done = p.conn.wait(limited, p.call)
	}
	switch {
	case done:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return ErrTimeout
	}
}
