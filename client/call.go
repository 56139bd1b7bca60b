package client

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
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
	// wake holds a signal for a parked caller: its call is done, or it is to
	// take the reader's role.
	wake chan struct{}
	next *call
	// start is when the call was queued, on the client's clock; size is its
	// bytes on the wire, and end the connection's byte count behind it.
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
	own        bool // the connection's own; see submitOwn
	one        [1]op
}

const (
	callPending   uint32 = iota // queued, the caller is busy elsewhere
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
	c.next, c.node, c.conn, c.own = nil, nil, nil, false
	callPool.Put(c)
}

// finish marks the call done and wakes its caller. abandoned tells that it has
// left.
func (c *call) finish() (abandoned bool) {
	before := c.state.Swap(callDone)
	if before == callParked {
		c.wake <- struct{}{}
	}
	return before == callAbandoned
}

// fail gives every op that has no reply yet the error.
func (c *call) fail(err error) {
	for i := int(c.delivered.Load()); i < len(c.ops); i++ {
		c.ops[i].err = err
	}
	c.delivered.Store(int32(len(c.ops)))
	c.finish()
}

// appendTo appends the op's request. Keys were checked before.
func (o *op) appendTo(b []byte) []byte {
	if o.fenced != nil || o.kind == opNoop {
		return append(b, "mn\r\n"...)
	}
	switch o.kind {
	case opGet:
		b = append(append(append(b, "mg "...), o.key...), " v f c"...)
	case opGetAndTouch:
		b = append(append(append(b, "mg "...), o.key...), " v f c T"...)
		b = strconv.AppendInt(b, o.ttl(), 10)
	case opTouch:
		b = append(append(append(b, "mg "...), o.key...), " c T"...)
		b = strconv.AppendInt(b, o.ttl(), 10)
	case opSet:
		return o.appendSet(b)
	case opDelete:
		b = append(append(b, "md "...), o.key...)
		if o.hasCAS {
			b = strconv.AppendUint(append(b, " C"...), o.cas, 10)
		}
	case opLeased:
		return o.appendLeased(b)
	case opInvalidate:
		b = append(append(append(b, "md "...), o.key...), " I T"...)
		b = strconv.AppendInt(b, o.ttl(), 10)
	case opArithmetic:
		b = append(append(append(b, "ma "...), o.key...), " v D"...)
		b = strconv.AppendUint(b, o.delta, 10)
		if o.mode != 0 {
			b = append(b, " M"...)
			b = append(b, o.mode)
		}
	case opGiveBack:
		b = append(append(append(b, "md "...), o.key...), " I C"...)
		b = strconv.AppendUint(b, o.cas, 10)
		if o.exptime > 0 {
			b = strconv.AppendInt(append(b, " T"...), o.ttl(), 10)
		}
	case opMeta:
		return o.appendMeta(b)
	case opFlushAll:
		b = append(b, "flush_all"...)
		if o.exptime > 0 {
			b = strconv.AppendInt(append(b, ' '), o.exptime, 10)
		}
		return append(b, "\r\n"...)
	case opVersion:
		return append(b, "version\r\n"...)
	case opStats:
		if o.key != "" {
			return append(append(append(b, "stats "...), o.key...), "\r\n"...)
		}
		return append(b, "stats\r\n"...)
	}
	return append(o.appendOpaque(b), "\r\n"...)
}

func (o *op) appendOpaque(b []byte) []byte {
	return o.opaque.append(append(b, " O"...))
}

func (o *op) appendSet(b []byte) []byte {
	b = append(append(append(b, "ms "...), o.key...), ' ')
	b = strconv.AppendInt(b, int64(len(o.value)), 10)
	if ttl := o.ttl(); ttl != 0 {
		b = strconv.AppendInt(append(b, " T"...), ttl, 10)
	}
	if o.flags != 0 {
		b = strconv.AppendUint(append(b, " F"...), uint64(o.flags), 10)
	}
	if o.mode != 0 {
		b = append(b, " M"...)
		b = append(b, o.mode)
	}
	if o.hasCAS {
		b = strconv.AppendUint(append(b, " C"...), o.cas, 10)
	}
	if o.wantCAS {
		b = append(b, " c"...)
	}
	b = append(o.appendOpaque(b), "\r\n"...)
	return append(append(b, o.value...), "\r\n"...)
}

// appendMeta appends a caller's own meta request. Its opaque is replaced by
// ours, put back into the reply by takeMeta, and q is left out: a reply must
// come.
func (o *op) appendMeta(b []byte) []byte {
	r := o.meta
	b = append(b, r.Command.String()...)
	b = append(append(b, ' '), r.Key...)
	if r.Command == memcached.MetaSet {
		b = strconv.AppendInt(append(b, ' '), int64(len(r.Value)), 10)
	}
	hasOpaque, hasTTL := false, false
	for _, f := range r.Meta {
		switch {
		case f.Letter == 'q':
			continue
		case f.Letter == 'O':
			hasOpaque = true
			o.opaqueBack = append([]byte{}, f.Arg...)
			b = o.appendOpaque(b)
			continue
		case f.Letter == 'R' && o.capTTL != 0:
			// As in appendLeased: with it every read would win what lives no
			// longer than that on a stand-in.
			continue
		case f.Letter == 'T' || f.Letter == 'N':
			hasTTL = hasTTL || f.Letter == 'T'
			if t, err := f.Int(); err == nil && o.capTTL != 0 {
				b = append(b, ' ', f.Letter)
				b = strconv.AppendInt(b, capExptime(t, o.capTTL, time.Now()), 10)
				continue
			}
		}
		b = append(b, ' ', f.Letter)
		b = append(b, f.Arg...)
	}
	if o.capTTL != 0 && !hasTTL && r.Command == memcached.MetaSet {
		b = strconv.AppendInt(append(b, " T"...), o.capTTL, 10)
	}
	// me takes no flags; its reply names the key instead.
	if !hasOpaque && r.Command != memcached.MetaDebug {
		b = o.appendOpaque(b)
	}
	b = append(b, "\r\n"...)
	if r.Command == memcached.MetaSet {
		b = append(append(b, r.Value...), "\r\n"...)
	}
	return b
}

// appendLeased appends a leased read. N stands before t, or a fresh stub would
// have one second less. On a stand-in nothing is due: what stands there lives
// shorter than its grace.
func (o *op) appendLeased(b []byte) []byte {
	b = append(append(b, "mg "...), o.key...)
	if o.exptime > 0 {
		b = strconv.AppendInt(append(b, " N"...), o.exptime, 10)
	}
	if o.delta > 0 && o.capTTL == 0 {
		b = strconv.AppendUint(append(b, " R"...), o.delta, 10)
	}
	return append(o.appendOpaque(append(b, " v f c t"...)), "\r\n"...)
}

// ttl is the exptime to send.
func (o *op) ttl() int64 {
	switch {
	case o.capTTL == 0:
		return o.exptime
	case o.standInTTL != 0:
		return capExptime(o.standInTTL, o.capTTL, time.Now())
	}
	return capExptime(o.exptime, o.capTTL, time.Now())
}

// capExptime bounds a memcached exptime: 0 is for ever, negative is gone at
// once, above MaxRelative is a Unix time.
func capExptime(exptime, limit int64, now time.Time) int64 {
	left := exptime
	if exptime > memcached.MaxRelative {
		left = exptime - now.Unix()
		if left <= 0 {
			return -1
		}
	}
	if exptime == 0 || left > limit {
		return limit
	}
	return exptime
}

// take reads a complete reply into the op. more says that further replies
// belong to the same op. An error means that the stream is out of step.
// silentMiss allows a miss without an opaque.
func (o *op) take(rep *memcached.Reply, silentMiss bool) (more bool, err error) {
	if rep.Kind.IsError() {
		return false, o.takeError(rep)
	}
	if o.fenced != nil {
		if rep.Kind != memcached.MetaNoopEnd {
			return false, o.unexpected(rep)
		}
		o.err = o.fenced
		return false, nil
	}
	switch o.kind {
	case opNoop:
		if rep.Kind != memcached.MetaNoopEnd {
			return false, o.unexpected(rep)
		}
		return false, nil
	case opVersion:
		if rep.Kind != memcached.VersionIs {
			return false, o.unexpected(rep)
		}
		o.text = []string{string(rep.Message)}
		return false, nil
	case opFlushAll:
		if rep.Kind != memcached.OK {
			return false, o.unexpected(rep)
		}
		return false, nil
	case opStats:
		switch rep.Kind {
		case memcached.Stat:
			o.text = append(o.text, string(rep.Key), string(rep.Value))
			return true, nil
		case memcached.End, memcached.Reset:
			return false, nil
		}
		return false, o.unexpected(rep)
	}
	if rep.Kind > memcached.MetaInfo || rep.Kind == memcached.MetaNoopEnd {
		return false, o.unexpected(rep)
	}
	if err := o.checkOpaque(rep, silentMiss); err != nil {
		return false, err
	}
	if err := o.opaque.checkSwallowed(rep.Value); err != nil {
		return false, err
	}
	if o.kind == opMeta {
		o.takeMeta(rep)
		return false, nil
	}
	o.reply = rep.Kind
	for _, f := range rep.Meta {
		switch f.Letter {
		case 'f':
			n, err := f.Uint()
			if err != nil || n > math.MaxUint32 {
				return false, o.unexpected(rep)
			}
			o.gotFlags = uint32(n)
		case 'c':
			if o.gotCAS, err = f.Uint(); err != nil {
				return false, o.unexpected(rep)
			}
		case 't': // -1 is for ever
			left, err := f.Int()
			if err != nil {
				return false, o.unexpected(rep)
			}
			o.left = left
		case 'W':
			o.lease |= leaseWon
		case 'X':
			o.lease |= leaseStale
		case 'Z':
			o.lease |= leaseTaken
		}
	}
	if rep.Kind == memcached.MetaValue {
		if _, ok := parseEnvelope(seen{value: rep.Value, flags: o.gotFlags}); ok {
			o.lease |= leaseEnvelope
		}
		return false, o.takeValue(rep)
	}
	return false, nil
}

// toItem gives what a read found as an Item.
func (o *op) toItem(key string, n *node, generation uint64) *Item {
	item := o.item
	if item == nil {
		item = &Item{Value: o.got}
		o.item = item
	}
	item.Key, item.Flags, item.CasID = key, o.gotFlags, o.gotCAS
	item.node, item.generation = n, generation
	return item
}

// takeError reads an error line: an answer to this op alone, or the sign that
// the stream is out of step.
func (o *op) takeError(rep *memcached.Reply) error {
	err, inStep := o.errorFrom(rep)
	if o.kind == opMeta && rep.Kind == memcached.ClientError {
		// What a caller's own flags may get wrong. No value follows these
		// commands but ms, and behind ms 1.6.18 passes over the value except
		// after the two lines that check rules out and this tests for.
		message := string(rep.Message)
		inStep = o.metaCmd != memcached.MetaSet || message != "bad data chunk" && message != "options flags too long"
	}
	if !inStep {
		return err
	}
	if o.kind == opMeta {
		o.takeMeta(rep)
	} else {
		o.err = err
	}
	return nil
}

// errorFrom is the error for an error line, and tells whether the stream is
// still in step behind it. Only lines that are known to be complete answers to
// this request are. After others memcached may read a value as the next
// command, or the line is another request's: it has no opaque to tell.
func (o *op) errorFrom(rep *memcached.Reply) (err error, inStep bool) {
	message := string(rep.Message)
	switch rep.Kind {
	case memcached.Error:
		if o.kind == opStats { // the argument was not known
			return fmt.Errorf("%w: %v %s", ErrClientError, rep.Kind, message), true
		}
	case memcached.ClientError:
		if o.kind == opStats {
			return fmt.Errorf("%w: %v %s", ErrClientError, rep.Kind, message), true
		}
		switch message {
		case "cannot increment or decrement non-numeric value", "invalid numeric delta argument":
			inStep = o.kind == opArithmetic
		case "invalid exptime argument":
			inStep = o.kind == opSet || o.kind == opTouch || o.kind == opGetAndTouch || o.kind == opFlushAll
		}
		if inStep {
			return fmt.Errorf("%w: %s", ErrClientError, message), true
		}
	case memcached.ServerError:
		if o.kind == opNoop {
			break
		}
		if !strings.HasPrefix(message, "object too large") {
			return fmt.Errorf("%w: %s", ErrServerError, message), true
		}
		if o.kind == opSet || o.kind == opMeta {
			return fmt.Errorf("%w: %w: %s", ErrTooLarge, ErrServerError, message), true
		}
	}
	return desynchronised("%v %s in answer to %s", rep.Kind, message, o.name()), false
}

func (o *op) takeValue(rep *memcached.Reply) (err error) {
	switch {
	case o.kind == opArithmetic:
		if o.number, err = (memcached.MetaFlag{Arg: rep.Value}).Uint(); err != nil {
			return o.unexpected(rep)
		}
	case o.kind != opGet && o.kind != opGetAndTouch && o.kind != opLeased:
		return o.unexpected(rep)
	case o.into:
		o.buf = append(o.buf[:0], rep.Value...)
		o.got = o.buf
	case o.got == nil:
		o.item = newItem(len(rep.Value))
		o.got = o.item.Value
		copy(o.got, rep.Value)
	}
	return nil
}

func (o *op) unexpected(rep *memcached.Reply) error {
	return desynchronised("%v in answer to %s", rep.Kind, o.name())
}

// checkOpaque proves that the reply is this op's. Memcached before 1.6.18
// sends no opaque when mg misses, and none ever when me does, which tells the
// key where it hits; any other reply must have it.
func (o *op) checkOpaque(rep *memcached.Reply, silentMiss bool) error {
	f, ok := rep.Flag('O')
	if !ok {
		debug := o.kind == opMeta && o.metaCmd == memcached.MetaDebug
		if rep.Kind == memcached.MetaMiss && (debug || silentMiss && o.reads()) {
			return nil
		}
		// The key of an item that was stored under one in base64 is shown so.
		if rep.Kind == memcached.MetaInfo && debug &&
			(string(rep.Key) == o.key || string(rep.Key) == base64.StdEncoding.EncodeToString([]byte(o.key))) {
			return nil
		}
		return desynchronised("%v without the opaque that was asked for", rep.Kind)
	}
	if !o.opaque.is(f.Arg) {
		return desynchronised("%v with another request's opaque", rep.Kind)
	}
	return nil
}

// reads tells whether the op is an mg.
func (o *op) reads() bool {
	switch o.kind {
	case opGet, opGetAndTouch, opTouch, opLeased:
		return true
	case opMeta:
		return o.metaCmd == memcached.MetaGet
	}
	return false
}

// takeMeta copies the reply, with the caller's own opaque in place of ours.
func (o *op) takeMeta(rep *memcached.Reply) {
	c := &memcached.Reply{Kind: rep.Kind, Key: clone(rep.Key), Message: clone(rep.Message)}
	if o.got != nil { // a large value was read to where it stays
		c.Value = o.got
	} else if rep.Kind == memcached.MetaValue {
		c.Value = append(make([]byte, 0, len(rep.Value)), rep.Value...)
	}
	for _, f := range rep.Meta {
		switch {
		case f.Letter != 'O':
			c.Meta = append(c.Meta, memcached.MetaFlag{Letter: f.Letter, Arg: clone(f.Arg)})
		case o.opaqueBack != nil:
			c.Meta = append(c.Meta, memcached.MetaFlag{Letter: 'O', Arg: o.opaqueBack})
		}
	}
	o.raw = c
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }

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
