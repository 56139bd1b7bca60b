package client

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/ringside-cache/ringside/ring"
)

// A fleet is a ring and its nodes, in the ring's order. It never changes.
type fleet struct {
	ring  *ring.Ring
	nodes []*node
}

// SetServers replaces the list of servers, each "[name@]address[*weight]". It
// is not for a client whose Config.Servers has entries that are looked up, as
// the next look-up goes by those. A node whose name and address stay keeps its
// connections, state and counters; one that leaves answers what is under way to
// it, and keeps its connections for twice Config.Timeout. Nothing changes on an
// error, which reports every problem of the list.
func (c *Client) SetServers(servers []string) error {
	if _, sources, err := (Config{Servers: servers}).splitSources(); len(sources) > 0 || err != nil {
		return fmt.Errorf("ringside: set servers: %w", cmp.Or(err, errors.New("entries that have to be looked up belong into Config.Servers")))
	}
	r, err := c.cfg.ring(servers)
	if err != nil {
		return fmt.Errorf("ringside: set servers: %w", err)
	}
	if !c.change(r) {
		return fmt.Errorf("ringside: set servers: %w", ErrClosed)
	}
	return nil
}

// Servers gives the current nodes in the form of Config.Servers.
func (c *Client) Servers() []string {
	f := c.fleet.Load()
	list := make([]string, len(f.nodes))
	for i := range list {
		list[i] = f.ring.Node(i).String()
	}
	return list
}

// errRemoved breaks the connections of a node that has left the fleet.
var errRemoved = fmt.Errorf("%w: the node was removed", ErrConnLost)

// change makes r the ring. It does nothing and returns false after Close.
func (c *Client) change(r *ring.Ring) bool {
	c.changeMu.Lock()
	defer c.changeMu.Unlock()
	if c.life.Err() != nil {
		return false
	}
	staying := make(map[ring.Node]*node)
	identity := func(n ring.Node) ring.Node { return ring.Node{Name: n.Name, Address: n.Address} }
	if old := c.fleet.Load(); old != nil {
		for _, n := range old.nodes {
			staying[identity(n.Node)] = n
		}
	}
	f := &fleet{ring: r}
	c.healthMu.Lock()
	from := make([]int, r.Len())
	for i, node := range r.Nodes() {
		n, stays := staying[identity(node)]
		if stays {
			delete(staying, identity(node))
			from[i] = n.index
		} else {
			n = newNode(c, node)
			from[i] = -1
		}
		n.index = i
		f.nodes = append(f.nodes, n)
	}
	for _, n := range staying {
		n.index = -1
	}
	c.health = c.health.Move(from)
	c.members = f.nodes
	c.healthMu.Unlock()
	c.fleet.Store(f)
	for _, n := range staying {
		c.spawn(func() { c.retire(n) })
	}
	c.wakeProber()
	return true
}

// retire closes a node's connections when what was under way to it, or began
// on the fleet before the change, has had its time. From then on none is made:
// a batch may still be at work on the old fleet, and nobody else would ever
// close what it dials.
func (c *Client) retire(n *node) {
	timer := time.NewTimer(2 * c.cfg.Timeout)
	defer timer.Stop()
	select {
	case <-timer.C:
		n.removed.Store(true)
		n.disconnect(errRemoved)
	case <-c.life.Done():
		n.disconnect(ErrClosed)
	}
}

// isOurDoing tells whether a connection ended for a reason that says nothing
// about the node.
func isOurDoing(err error) bool {
	for _, ours := range []error{ErrClosed, errEjected, errRemoved, errIdleClosed} {
		if errors.Is(err, ours) {
			return true
		}
	}
	return false
}
