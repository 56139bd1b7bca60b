package client

import (
	"fmt"
	"time"
)

// errEjected breaks the connections of a node that is ejected. What was under
// way on them was sent, so it is not ErrNodeDown, which is safe to retry.
var errEjected = fmt.Errorf("%w: the node was ejected", ErrConnLost)

// nodeFailed counts a failure against a node and ejects it where that was one
// too many.
func (c *Client) nodeFailed(n *node, err error) {
	if c.life.Err() != nil {
		return
	}
	n.failures.Add(1)
	ejected := false
	c.healthMu.Lock()
	if n.index >= 0 {
		ejected = c.health.Failure(n.index, time.Now())
		n.failing.Store(!c.health.Ejected(n.index))
		if ejected {
			n.out.Store(true)
		}
	}
	c.healthMu.Unlock()
	if hook := c.cfg.Hooks.Failed; hook != nil {
		hook(n.Name, err)
	}
	if !ejected {
		return
	}
	n.ejections.Add(1)
	// Nobody waits any longer for a node that is out.
	n.disconnect(errEjected)
	if hook := c.cfg.Hooks.Ejected; hook != nil {
		hook(n.Name)
	}
	c.wakeProber()
}

// wakeProber has the prober look again at who is due.
func (c *Client) wakeProber() {
	select {
	case c.probeSoon <- struct{}{}:
	default:
	}
}

// nodeAnswered ends a node's row of failures.
func (c *Client) nodeAnswered(n *node) {
	c.healthMu.Lock()
	defer c.healthMu.Unlock()
	n.failing.Store(false)
	if n.index >= 0 {
		c.health.Success(n.index)
	}
}

// probeLoop probes ejected nodes when they are due. It sleeps while none is.
func (c *Client) probeLoop() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		c.healthMu.Lock()
		i, at, any := c.health.NextProbe()
		now := time.Now()
		due := any && !at.After(now)
		var n *node
		if due {
			n = c.members[i]
			// Not again before this probe has ended, which moves it anew.
			c.health.Postpone(i, now.Add(time.Hour))
		}
		c.healthMu.Unlock()
		if due {
			c.spawn(func() { c.probe(n) })
			continue
		}
		wait := time.Hour
		if any {
			wait = at.Sub(now)
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-c.probeSoon:
		case <-c.life.Done():
			return
		}
	}
}

// probe tests an ejected node and takes it back where it is well.
func (c *Client) probe(n *node) {
	start := time.Now()
	err := n.probe(c.life)
	took := time.Since(start)
	if c.life.Err() != nil {
		return
	}
	n.probes.Add(1)
	if err == nil {
		n.welcome()
	}
	rejoined := false
	c.healthMu.Lock()
	if n.index >= 0 {
		rejoined = c.health.Probed(n.index, err == nil, time.Now())
	}
	if rejoined {
		n.failing.Store(false)
		n.out.Store(false)
	}
	c.healthMu.Unlock()
	if hook := c.cfg.Hooks.Probed; hook != nil {
		hook(n.Name, took, err)
	}
	if rejoined {
		if hook := c.cfg.Hooks.Rejoined; hook != nil {
			hook(n.Name)
		}
	}
	// Whatever the result, the time of the next probe has changed.
	c.wakeProber()
}
