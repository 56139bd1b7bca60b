package memnode

import (
	"net"
	"time"
)

// Fault is what goes wrong with the reply of a request. The request itself is
// carried out: a value whose "STORED" is lost has been stored. What was
// answered before it on the connection is sent first, and what was asked behind
// it waits.
type Fault struct {
	kind faultKind
	pace time.Duration
	data []byte
	then *Fault
}

type faultKind uint8

const (
	faultStall faultKind = iota
	faultSlow
	faultHalf
	faultReset
	faultHangUp
	faultGarbage
	faultSwap
	faultDuplicate
	faultDrop
)

// Stall holds the reply, and with it the connection, until the Injection is
// released or removed, or the node is killed or closed.
func Stall() Fault { return Fault{kind: faultStall} }

// Slow holds the reply for d. With Always it makes a slow node.
func Slow(d time.Duration) Fault { return Fault{kind: faultSlow, pace: d} }

// Half sends the first half of the reply, and lets then happen to the rest:
// Half(Stall()), Half(Reset()), Half(HangUp()), Half(Drop()).
func Half(then Fault) Fault { return Fault{kind: faultHalf, then: &then} }

// Reset ends the connection with a TCP RST in place of the reply. A unix socket
// knows none, and is closed.
func Reset() Fault { return Fault{kind: faultReset} }

// HangUp closes the connection in place of the reply, as a server that ends
// does.
func HangUp() Fault { return Fault{kind: faultHangUp} }

// Garbage sends text in place of the reply, as it is: line ends are for the
// caller to put there.
func Garbage(text string) Fault { return Fault{kind: faultGarbage, data: []byte(text)} }

// Swap sends the reply behind the next one on the connection: two pipelined
// requests are answered in the wrong order. Until there is a next one it is
// held.
func Swap() Fault { return Fault{kind: faultSwap} }

// Duplicate sends the reply twice.
func Duplicate() Fault { return Fault{kind: faultDuplicate} }

// Drop sends no reply, and goes on with the next request.
func Drop() Fault { return Fault{kind: faultDrop} }

// doScripted is do where faults are injected.
func (c *conn) doScripted() {
	in := c.life.node.script.match(&c.req)
	if in == nil {
		c.do()
		c.release()
		return
	}
	before := len(c.out)
	c.strike = true
	c.do()
	c.strike = false
	if c.failed { // quit
		return
	}
	in.note()
	reply := append([]byte(nil), c.out[before:]...)
	c.out = c.out[:before]
	held := c.held
	c.held = nil // or this reply would be sent ahead of itself
	c.suffer(in, in.fault, reply)
	c.out = append(c.out, held...)
}

// release appends what Swap has held.
func (c *conn) release() {
	c.out = append(c.out, c.held...)
	c.held = nil
}

// suffer lets the fault happen to the reply.
func (c *conn) suffer(in *Injection, f Fault, reply []byte) {
	switch f.kind {
	case faultStall:
		c.pause(in.released, 0)
	case faultSlow:
		if f.pace > 0 {
			c.pause(in.released, f.pace)
		}
	case faultHalf:
		half := len(reply) / 2
		c.out = append(c.out, reply[:half]...)
		if c.flush() {
			c.suffer(in, *f.then, reply[half:])
		}
		return
	case faultReset:
		c.reset()
		return
	case faultHangUp:
		c.hangUp()
		return
	case faultGarbage:
		reply = f.data
	case faultSwap:
		c.held = append(c.held, reply...)
		return
	case faultDuplicate:
		c.out = append(c.out, reply...)
	case faultDrop:
		return
	}
	c.out = append(c.out, reply...)
}

// pause sends what was answered before and waits for d, or for as long as it
// takes if d is 0.
func (c *conn) pause(released <-chan struct{}, d time.Duration) {
	if !c.flush() {
		return
	}
	var timeout <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-released:
	case <-timeout:
	case <-c.life.done:
		c.failed = true
	}
}

// reset ends the connection with a RST. What was answered before is sent, but a
// RST overtakes what the client has not read yet.
func (c *conn) reset() {
	c.flush()
	if tcp, ok := c.nc.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.nc.Close()
	c.failed = true
}
