package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ringside-cache/ringside/proto/memcached"
	"github.com/ringside-cache/ringside/stampede"
)

// Get reads a key. It returns ErrCacheMiss when the key is not there.
func (c *Client) Get(ctx context.Context, key string) (*Item, error) {
	ca := newCall(1)
	ca.one[0].kind, ca.one[0].key = opGet, key
	return c.read(ctx, ca)
}

// GetAndTouch reads a key and sets a new expiration, in seconds as in Item.
// It returns ErrCacheMiss when the key is not there.
func (c *Client) GetAndTouch(ctx context.Context, key string, expiration int32) (*Item, error) {
	ca := newCall(1)
	o := &ca.one[0]
	o.kind, o.key, o.exptime = opGetAndTouch, key, int64(expiration)
	return c.read(ctx, ca)
}

func (c *Client) read(ctx context.Context, ca *call) (*Item, error) {
	o := &ca.ops[0]
	key := o.key
	if err := c.do(ctx, ca); err != nil {
		return nil, err
	}
	c.giveBack(ca, o)
	if !o.hit() {
		ca.release()
		return nil, ErrCacheMiss
	}
	item := o.toItem(key, ca.node, ca.generation)
	ca.release()
	return item, nil
}

// GetInto reads a key and appends its value to buf, which it returns with the
// client flags. It allocates nothing where buf has the room. It returns
// ErrCacheMiss, and buf as it was, when the key is not there.
func (c *Client) GetInto(ctx context.Context, key string, buf []byte) ([]byte, uint32, error) {
	ca := newCall(1)
	o := &ca.one[0]
	o.kind, o.key, o.into = opGet, key, true
	if err := c.do(ctx, ca); err != nil {
		return buf, 0, err
	}
	c.giveBack(ca, o)
	if !o.hit() {
		ca.release()
		return buf, 0, ErrCacheMiss
	}
	buf = append(buf, o.got...)
	flags := o.gotFlags
	ca.release()
	return buf, flags, nil
}

// hit tells whether a read found a value. An empty item with a mark of a
// lease and without flags is a stub, or a stale stub: no value. Nor is what a
// stampede.Cache left to say that there is none, nor an envelope.
func (o *op) hit() bool {
	if stampede.IsMarker(o.gotFlags) || o.lease&leaseEnvelope != 0 {
		return false
	}
	return o.reply == memcached.MetaValue && (o.lease == 0 || !o.isStub())
}

// isStub tells that what was read is a lease without a value.
func (o *op) isStub() bool { return len(o.got) == 0 && o.gotFlags == 0 }

// giveBack returns the lease that memcached hands to any reader of a stale
// item, so that it goes to somebody who refills. It waits for nothing.
func (c *Client) giveBack(ca *call, o *op) {
	if o.lease&leaseWon == 0 {
		return
	}
	back := newCall(1)
	b := &back.one[0]
	b.kind, b.key, b.cas = opGiveBack, o.key, o.gotCAS
	// Behind the read on the same connection, or not at all: on another
	// the CAS id could be some other item's.
	if ca.conn.submitOwn(back) == nil {
		ca.conn.drainIfUnread()
	}
}

// Set stores an item whether its key is there or not.
func (c *Client) Set(ctx context.Context, item *Item) error {
	return c.store(ctx, item, 0)
}

// Add stores an item if its key is not there, else it returns ErrNotStored.
// A lease on the key (a stub) counts as there.
func (c *Client) Add(ctx context.Context, item *Item) error {
	return c.store(ctx, item, 'E')
}

// Replace stores an item if its key is there, else it returns ErrNotStored.
func (c *Client) Replace(ctx context.Context, item *Item) error {
	return c.store(ctx, item, 'R')
}

// Append puts the item's value behind the one that is there; it returns
// ErrNotStored when the key is not there. Flags and expiration stay as they
// are.
func (c *Client) Append(ctx context.Context, item *Item) error {
	return c.store(ctx, item, 'A')
}

// Prepend puts the item's value before the one that is there; it returns
// ErrNotStored when the key is not there. Flags and expiration stay as they
// are.
func (c *Client) Prepend(ctx context.Context, item *Item) error {
	return c.store(ctx, item, 'P')
}

// CompareAndSwap stores an item that was read before if nobody has changed it
// since, else it returns ErrCASConflict; ErrCacheMiss when it is gone. An item
// that was read on another node or connection than the one it would go to now
// is a conflict: after a restart CAS ids begin again and may match by chance. So
// is one whose key has a write under way that was given up on another connection.
func (c *Client) CompareAndSwap(ctx context.Context, item *Item) error {
	ca := newCall(1)
	o := &ca.one[0]
	o.set(item, 0)
	o.compare(item)
	if item.node != nil && checkKey(item.Key) == nil {
		f := c.fleet.Load()
		if i, _, err := c.route(f, item.Key); err == nil && f.nodes[i] != item.node {
			ca.release()
			return ErrCASConflict
		}
	}
	return c.stored(ctx, ca)
}

// set fills the op with a storage request.
func (o *op) set(item *Item, mode byte) {
	o.kind, o.mode, o.key, o.value = opSet, mode, item.Key, item.Value
	o.flags, o.exptime = item.Flags, int64(item.Expiration)
}

func (o *op) compare(item *Item) {
	o.hasCAS, o.cas, o.generation = true, item.CasID, item.generation
}

func (c *Client) store(ctx context.Context, item *Item, mode byte) error {
	ca := newCall(1)
	ca.one[0].set(item, mode)
	return c.stored(ctx, ca)
}

// stored runs a call and turns the reply of its op into a result.
func (c *Client) stored(ctx context.Context, ca *call) error {
	o := &ca.ops[0]
	if err := c.do(ctx, ca); err != nil {
		if errors.Is(err, ErrCASConflict) {
			return ErrCASConflict
		}
		return err
	}
	err := o.outcome()
	ca.release()
	return err
}

// outcome is the result that is no failure: nil, or a sentinel.
func (o *op) outcome() error {
	switch o.reply {
	case memcached.MetaNotStored:
		return ErrNotStored
	case memcached.MetaExists:
		return ErrCASConflict
	case memcached.MetaNotFound, memcached.MetaMiss:
		return ErrCacheMiss
	}
	return nil
}

// Delete removes a key. It returns ErrCacheMiss when it was not there.
func (c *Client) Delete(ctx context.Context, key string) error {
	ca := newCall(1)
	ca.one[0].kind, ca.one[0].key = opDelete, key
	return c.stored(ctx, ca)
}

// Touch sets a new expiration, in seconds as in Item. It returns ErrCacheMiss
// when the key is not there.
func (c *Client) Touch(ctx context.Context, key string, seconds int32) error {
	ca := newCall(1)
	o := &ca.ops[0]
	o.kind, o.key, o.exptime = opTouch, key, int64(seconds)
	if err := c.do(ctx, ca); err != nil {
		return err
	}
	c.giveBack(ca, o)
	err := o.outcome()
	ca.release()
	return err
}

// Increment adds delta to a decimal number and returns the sum, which wraps
// around at 64 bits. It returns ErrCacheMiss when the key is not there, and
// ErrClientError when it holds no number; a lease on a missing key (a stub)
// holds none.
func (c *Client) Increment(ctx context.Context, key string, delta uint64) (uint64, error) {
	return c.arithmetic(ctx, key, delta, 0)
}

// Decrement subtracts delta from a decimal number, but not below 0, and
// returns the difference. Its errors are those of Increment.
func (c *Client) Decrement(ctx context.Context, key string, delta uint64) (uint64, error) {
	return c.arithmetic(ctx, key, delta, 'D')
}

func (c *Client) arithmetic(ctx context.Context, key string, delta uint64, mode byte) (uint64, error) {
	ca := newCall(1)
	o := &ca.ops[0]
	o.kind, o.mode, o.key, o.delta = opArithmetic, mode, key, delta
	if err := c.do(ctx, ca); err != nil {
		return 0, err
	}
	n, err := o.number, o.outcome()
	ca.release()
	return n, err
}

// FlushAll empties every node. The error lists the nodes that could not be
// told.
func (c *Client) FlushAll(ctx context.Context) error { return c.FlushAllAfter(ctx, 0) }

// FlushAllAfter empties every node after a delay in seconds: what is written
// until then is gone too. The error lists the nodes that could not be told.
func (c *Client) FlushAllAfter(ctx context.Context, seconds int64) error {
	// On every connection, so that it is behind what was asked before and given
	// up, whichever way that has gone.
	_, _, err := c.everywhere(ctx, (*node).connected, func() *call {
		ca := newCall(1)
		ca.one[0].kind, ca.one[0].exptime = opFlushAll, seconds
		return ca
	})
	return err
}

// Ping asks every node for its version. The error lists those that did not
// answer.
func (c *Client) Ping(ctx context.Context) error {
	_, _, err := c.everywhere(ctx, (*node).anyone, func() *call {
		ca := newCall(1)
		ca.one[0].kind = opVersion
		return ca
	})
	return err
}

// ServerStat is one line of a node's own statistics.
type ServerStat struct{ Name, Value string }

// ServerStats asks every node for its own statistics, as "stats ARG" does,
// and gives them by node name. The error lists the nodes that did not answer.
func (c *Client) ServerStats(ctx context.Context, arg string) (map[string][]ServerStat, error) {
	for _, b := range []byte(arg) {
		if b < ' ' || b == 0x7f {
			return nil, &OpError{Op: "stats", Err: fmt.Errorf("%w: the argument has the byte 0x%02x", ErrClientError, b)}
		}
	}
	nodes, answers, err := c.everywhere(ctx, (*node).anyone, func() *call {
		ca := newCall(1)
		ca.one[0].kind, ca.one[0].key = opStats, arg
		return ca
	})
	stats := make(map[string][]ServerStat, len(nodes))
	for i, text := range answers {
		var list []ServerStat
		for j := 0; j+1 < len(text); j += 2 {
			list = append(list, ServerStat{text[j], text[j+1]})
		}
		if list != nil {
			stats[nodes[i].Name] = list
		}
	}
	return stats, err
}

// everywhere runs a call on every node at the same time and gives the text of
// the answers by node.
func (c *Client) everywhere(ctx context.Context, slots func(*node) []int, request func() *call) ([]*node, [][]string, error) {
	nodes := c.fleet.Load().nodes
	texts := make([][]string, len(nodes))
	errs := make([]*OpError, len(nodes))
	var mu sync.Mutex // guards both
	var asked sync.WaitGroup
	for i, n := range nodes {
		for _, slot := range slots(n) {
			asked.Add(1)
			// After Close it runs right here.
			c.spawn(func() {
				defer asked.Done()
				ca := request()
				name := ca.ops[0].name()
				err := n.run(ctx, slot, ca)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					texts[i], err = ca.ops[0].text, ca.ops[0].err
					ca.release()
				}
				if err != nil {
					errs[i] = opError(name, n, "", err)
				}
			})
		}
	}
	asked.Wait()
	var failed *MultiError
	for _, err := range errs {
		if err != nil {
			if failed == nil {
				failed = &MultiError{Total: len(nodes)}
			}
			failed.Errors = append(failed.Errors, err)
		}
	}
	if failed == nil {
		return nodes, texts, nil
	}
	return nodes, texts, failed
}
