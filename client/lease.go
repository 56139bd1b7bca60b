package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ringside-cache/ringside/proto/memcached"
	"github.com/ringside-cache/ringside/stampede"
)

// This file makes a stampede.Store of the client: items with leases, on
// memcached's win tokens. Nodes without meta commands have them in an envelope;
// see lease_legacy.go.

var _ stampede.Store = (*Client)(nil)

// ReadLeased reads keys and asks for their leases, one round trip to each
// node. See stampede.Store.
func (c *Client) ReadLeased(ctx context.Context, reads []stampede.Read) []stampede.Reply {
	if len(reads) == 1 && reads[0].Reopen.CAS == 0 {
		reply, envelope := c.readOneLeased(ctx, &reads[0])
		replies := []stampede.Reply{reply}
		if envelope {
			c.removeEnvelopes(ctx, reads, replies, []found{{0, reply.Lease}})
		}
		return replies
	}
	var envelopes []found
	var b Batch
	b.ops = make([]op, 0, len(reads))
	b.nodes = make([]*node, 0, len(reads))
	places := make([]int, len(reads))
	for i := range reads {
		r := &reads[i]
		if r.Reopen.CAS != 0 {
			// Right before the read, on the same connection. Whether it was in
			// time is seen by whom the read gives the lease.
			o := b.leased(opGiveBack, r.Reopen)
			o.exptime = relative(r.ReopenStub)
		}
		o, place := b.add()
		o.readLeased(r)
		places[i] = place
	}
	c.Do(ctx, &b) //nolint:errcheck // each has its own
	replies := make([]stampede.Reply, len(reads))
	for i, place := range places {
		replies[i] = b.leasedReply(place)
		if b.ops[place].lease&leaseEnvelope != 0 {
			envelopes = append(envelopes, found{i, replies[i].Lease})
		}
	}
	c.removeEnvelopes(ctx, reads, replies, envelopes)
	return replies
}

// A found is the item that the read at a place has found.
type found struct {
	read int
	item stampede.Lease
}

// removeEnvelopes reads again where there was an envelope on a node with meta
// commands: a client wrote it that took the node for a proxy, or before an
// upgrade. It is no value, and while it stands it takes the place of a lease,
// so it is removed, if it is still the same, right before the read. Where
// another has come meanwhile there is no value and no lease to be had.
func (c *Client) removeEnvelopes(ctx context.Context, reads []stampede.Read, replies []stampede.Reply, envelopes []found) {
	if len(envelopes) == 0 {
		return
	}
	var b Batch
	for _, f := range envelopes {
		b.leased(opDelete, f.item)
		o, _ := b.add()
		o.readLeased(&reads[f.read])
	}
	c.Do(ctx, &b) //nolint:errcheck // each has its own
	for i, f := range envelopes {
		place := 2*i + 1
		reply := b.leasedReply(place)
		if b.ops[place].lease&leaseEnvelope != 0 {
			reply = stampede.Reply{StandIn: reply.StandIn}
		}
		replies[f.read] = reply
	}
}

// readOneLeased is a single read without what a Batch needs.
func (c *Client) readOneLeased(ctx context.Context, r *stampede.Read) (reply stampede.Reply, envelope bool) {
	ca := newCall(1)
	o := &ca.one[0]
	o.readLeased(r)
	if err := c.do(ctx, ca); err != nil {
		return stampede.Reply{Err: leaseError(err)}, false
	}
	reply, envelope = o.leasedReply(r.Key, ca.node, ca.generation), o.lease&leaseEnvelope != 0
	ca.release()
	return reply, envelope
}

// readLeased makes the op a leased read.
func (o *op) readLeased(r *stampede.Read) {
	o.kind, o.key = opLeased, r.Key
	o.exptime, o.delta = relative(r.Lease), uint64(relative(r.Grace+r.Early))
}

// leased adds an op on the item that a lease names. Where it would go to
// another node or connection it fails.
func (b *Batch) leased(kind opKind, l stampede.Lease) *op {
	o, _ := b.add()
	o.kind, o.key = kind, l.Key
	o.hasCAS, o.cas, o.generation, o.fromName = true, l.CAS, l.Generation, l.Node
	return o
}

func (b *Batch) leasedReply(i int) stampede.Reply {
	o := &b.ops[i]
	if o.err != nil {
		return stampede.Reply{Err: leaseError(o.err), StandIn: o.capTTL != 0}
	}
	return o.leasedReply(o.key, b.nodes[i], b.generations[i])
}

func (o *op) leasedReply(key string, n *node, generation uint64) stampede.Reply {
	r := stampede.Reply{
		Found: o.reply == memcached.MetaValue, StandIn: o.capTTL != 0,
		Won: o.lease&leaseWon != 0, Taken: o.lease&leaseTaken != 0, Stale: o.lease&leaseStale != 0,
	}
	if r.Found {
		r.Value, r.Flags, r.Left = o.got, o.gotFlags, time.Duration(o.left)*time.Second
		r.Lease = stampede.Lease{Key: key, CAS: o.gotCAS, Node: n.Name, Generation: generation}
	}
	return r
}

// WriteLeased fills, ends leases and invalidates, one round trip to each node.
// See stampede.Store.
func (c *Client) WriteLeased(ctx context.Context, writes []stampede.Write) []stampede.Result {
	var b Batch
	now := time.Now()
	for i := range writes {
		w := &writes[i]
		var o *op
		switch w.Kind {
		case stampede.Fill:
			o = b.leased(opSet, w.Lease)
			o.put(w, now)
		case stampede.Add:
			o, _ = b.add()
			o.kind, o.key, o.mode, o.wantCAS = opSet, w.Key, 'E', true
			o.put(w, now)
		case stampede.Reopen:
			b.leased(opGiveBack, w.Lease)
		case stampede.Remove:
			b.leased(opDelete, w.Lease)
		case stampede.Invalidate:
			o, _ = b.add()
			o.kind, o.key, o.exptime = opInvalidate, w.Key, exptime(w.TTL, now)
		default:
			o, _ = b.add()
			o.kind, o.key, o.voids = opDelete, w.Key, true
		}
	}
	c.Do(ctx, &b) //nolint:errcheck // each has its own
	results := make([]stampede.Result, len(writes))
	for i := range writes {
		results[i] = b.leasedResult(i, writes[i].Kind)
	}
	return results
}

// put gives an op the value of a write.
func (o *op) put(w *stampede.Write, now time.Time) {
	o.value, o.flags = w.Value, w.Flags
	o.exptime, o.standInTTL = exptime(w.TTL+w.Grace, now), exptime(w.TTL, now)
}

func (b *Batch) leasedResult(i int, kind stampede.WriteKind) (r stampede.Result) {
	o := &b.ops[i]
	unfenced := kind == stampede.Invalidate || kind == stampede.Delete
	switch {
	case o.err != nil:
		r.Err = leaseError(o.err)
		if unfenced && errors.Is(o.err, ErrNodeDown) {
			r.Err = fmt.Errorf("%w: %w", stampede.ErrOwnerDown, o.err)
		}
		return r
	case unfenced && o.capTTL != 0:
		r.Err = stampede.ErrOwnerDown
		return r
	case unfenced:
		return r // not there is as good
	}
	switch o.reply {
	case memcached.MetaExists, memcached.MetaNotStored:
		r.Err = stampede.ErrChanged
	case memcached.MetaNotFound:
		r.Err = stampede.ErrGone
	default:
		if o.wantCAS {
			r.Lease = stampede.Lease{Key: o.key, CAS: o.gotCAS, Node: b.nodes[i].Name, Generation: b.generations[i]}
		}
	}
	return r
}

// leaseError gives an error the name that stampede knows it by.
func leaseError(err error) error {
	for _, known := range []struct{ ours, theirs error }{
		{ErrCASConflict, stampede.ErrUnbound}, // decided here, not by the node
		{ErrTooLarge, stampede.ErrTooLarge},
		{ErrMalformedKey, stampede.ErrBadKey},
	} {
		if errors.Is(err, known.ours) {
			return fmt.Errorf("%w: %w", known.theirs, err)
		}
	}
	return err
}

// seconds rounds up to the whole seconds that memcached counts in. A time above
// 0 is never 0 seconds, which would be for ever.
func seconds(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return int64((d-1)/time.Second) + 1
}

// relative is a time for N, R and the T of a stub: above 30 days R never wins
// and N lets everybody win.
func relative(d time.Duration) int64 { return min(seconds(d), memcached.MaxRelative) }

// exptime is a time for T, which is at least a second here. Above 30 days it
// is a Unix time.
func exptime(d time.Duration, now time.Time) int64 {
	s := max(1, seconds(d))
	if s > memcached.MaxRelative {
		return now.Unix() + s
	}
	return s
}

// giveUpLeases ends the leases that came when their caller had left. It is
// called by the connection's reader and waits for nothing. The ops are on the
// same connection, so they can only meet the items that the reads saw.
func (c *conn) giveUpLeases(ca *call) {
	for i := range ca.ops {
		o := &ca.ops[i]
		if o.kind != opLeased || o.err != nil || o.lease&leaseWon == 0 {
			continue
		}
		back := newCall(1)
		b := &back.one[0]
		b.kind, b.key, b.cas, b.hasCAS = opGiveBack, o.key, o.gotCAS, true
		if o.isStub() {
			b.kind = opDelete
		}
		if c.submitOwn(back) != nil {
			return
		}
	}
}
