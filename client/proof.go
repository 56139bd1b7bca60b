package client

import "github.com/ringside-cache/ringside/proto/memcached"

// An error line has no opaque. Where a server or proxy loses a reply, repeats
// one or swaps two, a line such as "not a number" reaches an increment that was
// carried out, and its caller would believe that it was not. So what an error
// line has answered is held back until the next reply has shown that the stream
// is in step: its opaque, or, where nothing else was asked, a noop that is asked
// for the purpose.

// proves tells whether the reply that was taken last shows that the stream is
// in step.
func (c *conn) proves() bool {
	if _, ok := c.rep.Flag('O'); ok {
		return true
	}
	return !c.rep.Kind.IsError() && c.rep.Kind != memcached.MetaMiss
}

// hold keeps back the op that the last reply was taken for, or lets go of all
// that were if that reply is a proof. complete tells that the op was the last
// of its call, which is off the list then.
func (c *conn) hold(ca *call, complete bool) error {
	if complete {
		if c.held == nil {
			c.held = ca
		} else {
			c.heldLast.next = ca
		}
		c.heldLast = ca
	}
	if c.doubt = !c.proves(); c.doubt {
		if c.next() == nil {
			return c.askProof()
		}
		return nil
	}
	for c.held != nil {
		ca := c.held
		c.held, ca.next = ca.next, nil
		c.settle(ca)
	}
	c.heldLast = nil
	if !complete {
		ca.delivered.Store(c.at)
	}
	return nil
}

// askProof asks for a noop behind everything else.
func (c *conn) askProof() error {
	proof := newCall(1)
	proof.one[0].kind = opNoop
	return c.submitOwn(proof)
}

// submitOwn submits a call that nobody waits for and that the connection makes
// by itself. It is let through whatever is in flight: what it ends or proves
// holds up others. Its reader, if there is none, is still to be found.
func (c *conn) submitOwn(own *call) error {
	own.state.Store(callAbandoned)
	own.own, own.cost = true, 0
	c.node.inFlight.Add(1)
	if l := c.node.lane.Load(); l != nil && c.lane {
		own.lane = l
		l.ops.Add(1)
	}
	writer, err := c.submit(own)
	if err != nil {
		c.node.settled(own)
	}
	if writer {
		c.write(maxRounds)
	}
	return err
}

// settle notes that a call has its replies, for finish.
func (c *conn) settle(ca *call) {
	if c.settled == nil {
		c.settled = ca
	} else {
		c.settledLast.next = ca
	}
	c.settledLast = ca
}

// finish tells the callers of the calls that were settled. All are counted
// before, at once: to count each would be a good part of what a reply costs.
func (c *conn) finish() {
	c.publish()
	if c.settled == nil {
		return
	}
	n := c.node
	var ops, cost int64
	took := times{node: &n.nodeCounters}
	for ca := c.settled; ca != nil; ca = ca.next {
		ops, cost = ops+int64(len(ca.ops)), cost+ca.cost
		ca.leaveLane()
		if !ca.own {
			took.add(c.lastRead-ca.start, len(ca.ops))
		}
	}
	took.count()
	n.inFlight.Add(-ops)
	n.bytesInFlight.Add(-cost)
	n.answered()
	for c.settled != nil {
		ca := c.settled
		c.settled, ca.next = ca.next, nil
		ca.delivered.Store(int32(len(ca.ops)))
		if ca.finish() {
			c.giveUpLeases(ca)
		}
	}
	c.settledLast = nil
}
