package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// A Batch is a list of operations that travel together: one round trip to
// each node that is concerned, all nodes at the same time. Operations on one
// key keep their order; others may overtake one another.
//
// A Batch is used by one goroutine. After Do it holds the results, by the
// index that adding the operation returned; Reset makes it empty again.
//
//	var b client.Batch
//	user, hits := b.Get("user:42"), b.Increment("hits", 1)
//	err := c.Do(ctx, &b)
//	item, err := b.Item(user)
//	n, err := b.Number(hits)
type Batch struct {
	fleet       *fleet // that Do began with
	ops         []op
	nodes       []*node // which node each op was routed to, nil before Do
	lines       []int32 // which connection, as an index over all nodes' slots
	order       []int32 // ops sorted by connection
	starts      []int32
	unconnected []int // the connections that have to be made first
	calls       []pending
	generations []uint64 // of the connection that each op went over
}

// maxCall is the most ops of a batch that are under way to a node at a time.
const maxCall = 1024

// Len is the number of operations.
func (b *Batch) Len() int { return len(b.ops) }

// Reset removes all operations and results and keeps the memory.
func (b *Batch) Reset() {
	clear(b.ops)
	clear(b.nodes)
	b.fleet = nil
	b.ops, b.nodes = b.ops[:0], b.nodes[:0]
}

func (b *Batch) add() (*op, int) {
	b.ops = append(b.ops, op{})
	b.nodes = append(b.nodes, nil)
	i := len(b.ops) - 1
	return &b.ops[i], i
}

// Get adds a read; its result is an Item.
func (b *Batch) Get(key string) int {
	o, i := b.add()
	o.kind, o.key = opGet, key
	return i
}

// GetAndTouch adds a read that sets a new expiration; its result is an Item.
func (b *Batch) GetAndTouch(key string, expiration int32) int {
	o, i := b.add()
	o.kind, o.key, o.exptime = opGetAndTouch, key, int64(expiration)
	return i
}

// Set adds a store. The item's value is read until Do returns.
func (b *Batch) Set(item *Item) int { return b.store(item, 0) }

// Add adds a store if the key is not there.
func (b *Batch) Add(item *Item) int { return b.store(item, 'E') }

// Replace adds a store if the key is there.
func (b *Batch) Replace(item *Item) int { return b.store(item, 'R') }

// Append adds an append to what is there.
func (b *Batch) Append(item *Item) int { return b.store(item, 'A') }

// Prepend adds a prepend to what is there.
func (b *Batch) Prepend(item *Item) int { return b.store(item, 'P') }

func (b *Batch) store(item *Item, mode byte) int {
	o, i := b.add()
	o.set(item, mode)
	return i
}

// CompareAndSwap adds a store if the item is as it was read.
func (b *Batch) CompareAndSwap(item *Item) int {
	o, i := b.add()
	o.set(item, 0)
	o.compare(item)
	o.from = item.node
	return i
}

// Delete adds a removal.
func (b *Batch) Delete(key string) int {
	o, i := b.add()
	o.kind, o.key = opDelete, key
	return i
}

// Touch adds a new expiration.
func (b *Batch) Touch(key string, seconds int32) int {
	o, i := b.add()
	o.kind, o.key, o.exptime = opTouch, key, int64(seconds)
	return i
}

// Increment adds an increment; its result is a Number.
func (b *Batch) Increment(key string, delta uint64) int {
	o, i := b.add()
	o.kind, o.key, o.delta = opArithmetic, key, delta
	return i
}

// Decrement adds a decrement; its result is a Number.
func (b *Batch) Decrement(key string, delta uint64) int {
	i := b.Increment(key, delta)
	b.ops[i].mode = 'D'
	return i
}

// Meta adds a meta request, mg ms md ma or me, that goes to the key's node as
// it is; its result is a Reply. The key that is routed is given beside the
// request because its own may be in base64. The flag q is left out, as each
// operation has a reply; an opaque comes back as it was given. On a stand-in
// T and N are bounded by Config.StandInTTL, and R is left out. The request is read until Do
// returns.
func (b *Batch) Meta(key string, req *memcached.Request) int {
	o, i := b.add()
	o.kind, o.key, o.meta, o.metaCmd = opMeta, key, req, req.Command
	if req.Command == memcached.MetaSet {
		o.value = req.Value // for the size check
	}
	o.refused = checkMeta(req)
	return i
}

// checkMeta refuses what memcached would answer in a way that leaves the
// stream out of step for the others on it.
func checkMeta(req *memcached.Request) error {
	// 1.6.18 counts the flags and then takes the value for a command, and it
	// hangs up on a line of more than 2,048 bytes.
	const maxFlags, maxLine = 20, 2000
	line := len(req.Key) + len(" 2147483647 O") + opaqueLen
	for _, f := range req.Meta {
		line += 2 + len(f.Arg)
	}
	switch {
	case !req.Command.IsMeta() || req.Command == memcached.MetaNoop:
		return fmt.Errorf("%w: %v is no meta command for a key", ErrClientError, req.Command)
	case len(req.Meta) > maxFlags || line > maxLine:
		return fmt.Errorf("%w: options flags are too long", ErrClientError)
	}
	if _, err := memcached.AppendRequest(nil, req); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformedKey, err)
	}
	return nil
}

// Do runs the batch. It returns nil when every operation was carried out or
// came to a result such as ErrCacheMiss; else a *MultiError with those that
// failed, while the results of the others stand. A Batch may be run again, and
// then all of it is.
//
// A connection takes 1,024 operations at a time, and Config.Timeout bounds
// each such round.
func (c *Client) Do(ctx context.Context, b *Batch) error {
	c.routeBatch(b)
	total := int32(len(b.order))
	for offset := int32(0); offset < total; offset += maxCall {
		more := false
		by := c.clock() + c.cfg.Timeout
		// First to those that can be sent to at once: they shall not wait
		// for a node that has to be connected to.
		b.unconnected = b.unconnected[:0]
		unwritten := int64(0)
		for line := range len(b.starts) - 1 {
			begun, err := c.beginLine(ctx, b, line, offset, by, false)
			if err != nil {
				b.unconnected = append(b.unconnected, line)
			}
			more = more || begun
			if n := len(b.calls); begun && n > 0 {
				// With large values it would have the roles for long.
				if unwritten += b.calls[n-1].call.size; unwritten > keepBuffer {
					b.write()
					unwritten = 0
				}
			}
		}
		b.write()
		if len(b.unconnected) > 0 {
			end := readAhead(b.calls)
			for _, line := range b.unconnected {
				begun, _ := c.beginLine(ctx, b, line, offset, by, true)
				b.write()
				more = more || begun
			}
			end()
		}
		if !more {
			break
		}
		b.collect(ctx)
		clear(b.calls)
		b.calls = b.calls[:0]
	}
	return b.failures()
}

// routeBatch finds each op's connection and sorts the ops by it.
func (c *Client) routeBatch(b *Batch) {
	slots := c.cfg.ConnsPerNode + 1
	f := c.fleet.Load()
	b.fleet = f
	n := len(b.ops)
	b.lines = append(b.lines[:0], make([]int32, n)...)
	b.order = append(b.order[:0], make([]int32, n)...)
	b.starts = append(b.starts[:0], make([]int32, len(f.nodes)*slots+1)...)
	b.generations = append(b.generations[:0], make([]uint64, n)...)
	inLane := false
	for i := range b.ops {
		o := &b.ops[i]
		o.opResult, o.capTTL = opResult{err: o.refused}, 0
		b.lines[i] = -1
		place, err := c.prepare(f, o)
		var node *node
		if place >= 0 {
			node = f.nodes[place]
		}
		b.nodes[i] = node
		switch {
		case o.err != nil:
		case err != nil:
			o.err = err
		case o.from != nil && o.from != node, o.fromName != "" && o.fromName != node.Name:
			o.err = ErrCASConflict
		default:
			slot := node.slotFor(o)
			inLane = inLane || slot == node.laneSlot()
			b.lines[i] = int32(place*slots + slot)
		}
	}
	if inLane {
		b.together(slots)
	}
	sendable := 0
	for _, line := range b.lines {
		if line >= 0 {
			b.starts[line+1]++
			sendable++
		}
	}
	for line := 1; line < len(b.starts); line++ {
		b.starts[line] += b.starts[line-1]
	}
	// A counting sort keeps the order within a connection.
	b.order = b.order[:sendable]
	next := make([]int32, len(b.starts))
	copy(next, b.starts)
	for i, line := range b.lines {
		if line >= 0 {
			b.order[next[line]] = int32(i)
			next[line]++
		}
	}
	// Start missing connections all at once, not one after the other.
	for line := range len(b.starts) - 1 {
		if b.starts[line] == b.starts[line+1] {
			continue
		}
		node, slot := f.nodes[line/slots], line%slots
		if node.slots[slot].conn.Load() == nil {
			node.dial(&node.slots[slot]) //nolint:errcheck // begin meets the error again
		}
	}
}

// beginLine submits the next ops of one connection, and tells whether there
// were any. Only errNotConnected is an error here, see begin; others are the
// ops'.
func (c *Client) beginLine(ctx context.Context, b *Batch, line int, offset int32, by time.Duration, mayWait bool) (bool, error) {
	first, last := b.starts[line]+offset, b.starts[line+1]
	if first >= last {
		return false, nil
	}
	last = min(last, first+maxCall)
	list := b.order[first:last]
	slots := c.cfg.ConnsPerNode + 1
	node := b.fleet.nodes[line/slots]
	ca := newCall(len(list))
	ca.cork = c.corkOf(ctx)
	for j, i := range list {
		ca.ops[j] = b.ops[i]
	}
	p, err := node.begin(ctx, line%slots, ca, by, mayWait)
	switch {
	case errors.Is(err, errNotConnected):
		ca.release()
		return false, err
	case err != nil:
		for _, i := range list {
			b.ops[i].err = err
		}
		return true, nil
	}
	p.batch = list
	b.calls = append(b.calls, p)
	return true, nil
}

// write writes what was submitted to all connections. Where others share a node
// they first have the time to add their own to every connection.
func (b *Batch) write() {
	for i := range b.calls {
		if p := &b.calls[i]; p.writer && p.node.crowded(len(p.call.ops)) {
			p.node.yield()
			break
		}
	}
	rounds := maxRounds
	if len(b.calls) > 1 {
		rounds = 1 // the last shall not wait for others' requests to the first
	}
	for i := range b.calls {
		b.calls[i].write(rounds)
	}
}

// collect waits for the submitted calls and takes their results.
func (b *Batch) collect(ctx context.Context) {
	if len(b.calls) > 1 {
		defer readAhead(b.calls)()
	}
	waiting, err := ctx, error(nil)
	for _, p := range b.calls {
		if err == nil && ctx.Err() != nil {
			// The time went by on another node. What this one has answered
			// meanwhile is in the socket.
			err = ctx.Err()
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), readGrace)
			defer cancel()
			waiting = late
		}
		failed := p.wait(waiting)
		got := len(p.batch)
		if failed != nil {
			got = int(p.call.delivered.Load())
			if err != nil {
				failed = err
			}
		}
		for j, i := range p.batch {
			o := &b.ops[i]
			if j >= got || failed != nil && o.kind == opLeased {
				// The leases that came are given up by the connection.
				o.err = failed
				continue
			}
			from := &p.call.ops[j]
			o.opResult = from.opResult
			b.generations[i] = p.call.generation
			p.node.client.giveBackBatch(p.call, from)
		}
		if failed == nil {
			p.call.release()
		}
	}
}

// readAhead has the replies of all connections read, should waiting for one
// of them take long: a batch waits for one after the other, and the answers
// of healthy nodes shall be here when its time is up. The function that it
// returns ends that.
func readAhead(calls []pending) (end func()) {
	const patience = 2 * time.Millisecond
	done := make(chan struct{})
	timer := time.AfterFunc(patience, func() {
		defer close(done)
		for _, p := range calls {
			if p.conn != nil {
				p.conn.drainIfUnread()
			}
		}
	})
	return func() {
		if !timer.Stop() {
			<-done
		}
	}
}

func (c *Client) giveBackBatch(ca *call, o *op) {
	if o.kind == opGet || o.kind == opGetAndTouch || o.kind == opTouch {
		c.giveBack(ca, o)
	}
}

// failures lists the ops that had no answer.
func (b *Batch) failures() error {
	var e *MultiError
	for i := range b.ops {
		o := &b.ops[i]
		if o.err == nil || errors.Is(o.err, ErrCASConflict) {
			continue
		}
		if e == nil {
			e = &MultiError{Total: len(b.ops)}
		}
		failed := opError(o.name(), b.nodes[i], o.key, o.err)
		o.err = failed
		e.Errors = append(e.Errors, failed)
	}
	if e == nil {
		return nil
	}
	return e
}

// Err is the result of an operation without a value: nil, a sentinel such as
// ErrCacheMiss, or an *OpError.
func (b *Batch) Err(i int) error {
	o := &b.ops[i]
	switch {
	case o.err != nil:
		if errors.Is(o.err, ErrCASConflict) {
			return ErrCASConflict
		}
		return o.err
	case o.kind == opGet || o.kind == opGetAndTouch:
		if !o.hit() {
			return ErrCacheMiss
		}
		return nil
	}
	return o.outcome()
}

// Item is the result of a read: the item, or ErrCacheMiss, or an *OpError. It
// is the same item each time.
func (b *Batch) Item(i int) (*Item, error) {
	if err := b.Err(i); err != nil {
		return nil, err
	}
	o := &b.ops[i]
	return o.toItem(o.key, b.nodes[i], b.generations[i]), nil
}

// Read is the result of a read without an Item around it. ok is false after a
// miss or an error.
func (b *Batch) Read(i int) (value []byte, flags uint32, casID uint64, ok bool) {
	o := &b.ops[i]
	if o.err != nil || !o.hit() {
		return nil, 0, 0, false
	}
	return o.got, o.gotFlags, o.gotCAS, true
}

// Number is the result of Increment and Decrement.
func (b *Batch) Number(i int) (uint64, error) {
	if err := b.Err(i); err != nil {
		return 0, err
	}
	return b.ops[i].number, nil
}

// Reply is the result of Meta. An error line of the node is a reply too.
func (b *Batch) Reply(i int) (*memcached.Reply, error) {
	if o := &b.ops[i]; o.err != nil {
		return nil, o.err
	}
	return b.ops[i].raw, nil
}

// Key gives back the key of an operation.
func (b *Batch) Key(i int) string { return b.ops[i].key }

// Node is the name of the node that an operation was sent to, after Do; empty
// where it was sent to none.
func (b *Batch) Node(i int) string {
	if n := b.nodes[i]; n != nil {
		return n.Name
	}
	return ""
}

// GetMulti reads many keys, one round trip to each node. It returns those
// that are there; with failures, what was found and a *MultiError that lists
// the keys which could not be read.
func (c *Client) GetMulti(ctx context.Context, keys []string) (map[string]*Item, error) {
	b := batches.Get().(*Batch)
	b.ops = slices.Grow(b.ops, len(keys))
	b.nodes = slices.Grow(b.nodes, len(keys))
	for _, key := range keys {
		b.Get(key)
	}
	err := c.Do(ctx, b)
	items := make(map[string]*Item, len(keys))
	for i := range b.ops {
		if item, err := b.Item(i); err == nil {
			items[item.Key] = item
		}
	}
	if len(b.ops) <= maxKeptBatch {
		b.Reset()
		batches.Put(b)
	}
	return items, err
}

// batches are lent to the calls that read many keys.
var batches = sync.Pool{New: func() any { return new(Batch) }}

// maxKeptBatch is the most operations of a Batch that is lent again.
const maxKeptBatch = 1024
