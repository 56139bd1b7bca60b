package client

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringside-cache/ringside/proto/memcached"
)

type opKind uint8

const (
	opGet opKind = iota
	opGetAndTouch
	opTouch
	opSet // mode: 0, or E add, R replace, A append, P prepend; cas compares
	opDelete
	opArithmetic // mode: 0 increment, D decrement
	opGiveBack   // ends a lease: the next reader wins it
	opLeased     // a read that asks for a lease; exptime is N, delta is R
	opInvalidate // marks a value stale
	opFlushAll
	opVersion
	opStats
	opNoop // a proof that the stream is in step
	opMeta // a meta request as it is
)

// An op is one request on the wire and what came back. The request's fields
// are read while it is appended, under the connection's lock and on the
// caller's goroutine; after that only key stays in use.
type op struct {
	kind       opKind
	mode       byte
	into       bool // the value goes into buf, not into memory of its own
	hasCAS     bool
	from       *node  // where the item of a compare-and-swap was read, or nil
	fromName   string // the name of the node that a lease came from, or empty
	refused    error  // what is wrong with a meta request
	key        string
	value      []byte
	flags      uint32
	exptime    int64
	cas        uint64
	delta      uint64
	meta       *memcached.Request // opMeta, until it is appended
	metaCmd    memcached.Command
	metaFlags  []memcached.MetaFlag // the same on a legacy: copies for the reply
	opaqueBack []byte               // opMeta: the caller's own opaque, nil without one
	capTTL     int64                // on a stand-in: the longest TTL in seconds, else 0
	standInTTL int64                // on a stand-in: the exptime, if not 0, before it is capped
	wantCAS    bool                 // opSet: the reply has the new item's CAS id
	voids      bool                 // opDelete: ends leases too, which a legacy has to be told
	opaque     opaque

	// generation, if not 0, is the connection that cas came from.
	generation uint64
	// fenced, if not nil, is why the op must not go out on the connection that
	// it came to. A no-op goes in its place.
	fenced error
	buf    []byte // into: reused by the next call
	opResult
}

// opResult is what came back, written by the reader before the call's
// delivered count passes its op.
type opResult struct {
	reply    memcached.ReplyKind
	lease    lease
	item     *Item // holds got where that is small and was read for an Item
	got      []byte
	gotFlags uint32
	gotCAS   uint64
	number   uint64
	left     int64            // opLeased: seconds that the item will be there
	text     []string         // opVersion: the version; opStats: name, value, …
	raw      *memcached.Reply // opMeta
	err      error
}

// lease has the marks of a lease on a meta reply.
type lease uint8

const (
	leaseWon   lease = 1 << iota // W
	leaseStale                   // X
	leaseTaken                   // Z
	// leaseEnvelope is no mark: the value is an envelope, which a client wrote
	// that took the node for one without meta commands.
	leaseEnvelope
)

// A call is a run of ops that stand next to each other on one connection, and
// the caller that waits for them. The connection's reader fills in the ops in
// order. A caller that leaves early may still look at the ops below delivered;
// its call goes to the garbage collector, every other back to the pool.
type call struct {
	ops []op
	// delivered counts the ops whose replies have come. An op below it
	// belongs to the caller and is never written again.
	delivered atomic.Int32
	state     atomic.Uint32
	// wake holds a signal for a parked caller: its call is done, it is to take the
	// reader's role, or it is to look at its context from now on.
	wake chan struct{}
	next *call
	// start is when the call was queued, on the client's clock; size is its
	// bytes on the wire, and end the connection's count of requests behind it.
	start time.Duration
	size  int64
	end   uint64
	// cost is what the call counts for in node.bytesInFlight.
	cost int64
	// node was asked, and its connection conn took the call; it is that of
	// generation.
	node       *node
	conn       *conn
	generation uint64
	lane       *lane         // that counts it
	cork       *Cork         // that may hold it
	ghost      bool          // counted in node.ghosts
	over       chan struct{} // of a ghost: closed when it is put to rest
	own        bool          // the connection's own; see submitOwn
	blind      bool          // parked without a look at the caller's context
	watched    bool          // its caller looks at its context whenever it parks
	one        [1]op
}

const (
	callPending   uint32 = iota // queued, the caller is busy elsewhere or about to park
	callParked                  // the caller sleeps on wake
	callPromoted                // the caller was woken to take the reader's role
	callDone                    // every reply is in, or an error
	callAbandoned               // the caller left, the reader drains the replies
)

var callPool = sync.Pool{New: func() any { return &call{wake: make(chan struct{}, 1)} }}

// newCall gives a call with n zeroed ops.
func newCall(n int) *call {
	c := callPool.Get().(*call)
	switch {
	case n == 1:
		c.ops = c.one[:]
	case cap(c.ops) >= n:
		c.ops = c.ops[:n]
	default:
		c.ops = make([]op, n)
	}
	return c
}

// release puts the call back. It belongs to nobody else any more.
func (c *call) release() {
	const keepBuf = 64 << 10
	for i := range c.ops {
		buf := c.ops[i].buf
		if cap(buf) > keepBuf {
			buf = nil
		}
		c.ops[i] = op{buf: buf[:0]}
	}
	c.delivered.Store(0)
	c.state.Store(callPending)
	c.next, c.node, c.conn, c.lane, c.cork = nil, nil, nil, nil, nil
	c.own, c.blind, c.watched = false, false, false
	callPool.Put(c)
}

// finish marks the call done and wakes its caller. abandoned tells that it has
// left.
func (c *call) finish() (abandoned bool) {
	before := c.state.Swap(callDone)
	if before == callParked {
		c.wake <- struct{}{}
	}
	abandoned = before == callAbandoned
	if abandoned && c.ghost {
		c.node.ghosts.rest(c)
	}
	return abandoned
}

// fail gives every op that has no reply yet the error.
func (c *call) fail(err error) {
	for i := int(c.delivered.Load()); i < len(c.ops); i++ {
		c.ops[i].err = err
	}
	c.delivered.Store(int32(len(c.ops)))
	c.finish()
}

// changes tells whether the op may change something on the server.
func (o *op) changes() bool {
	switch o.kind {
	case opGet, opVersion, opStats, opNoop:
		return false
	}
	return true
}

func (o *op) name() string {
	switch o.kind {
	case opGet:
		return "get"
	case opGetAndTouch:
		return "gat"
	case opTouch:
		return "touch"
	case opSet:
		switch {
		case o.hasCAS:
			return "cas"
		case o.mode == 'E':
			return "add"
		case o.mode == 'R':
			return "replace"
		case o.mode == 'A':
			return "append"
		case o.mode == 'P':
			return "prepend"
		}
		return "set"
	case opDelete:
		return "delete"
	case opArithmetic:
		if o.mode == 'D' {
			return "decr"
		}
		return "incr"
	case opGiveBack:
		return "give back"
	case opLeased:
		return "leased get"
	case opInvalidate:
		return "invalidate"
	case opFlushAll:
		return "flush_all"
	case opVersion:
		return "version"
	case opStats:
		return "stats"
	case opNoop:
		return "noop"
	case opMeta:
		return o.metaCmd.String()
	}
	return "unknown"
}
