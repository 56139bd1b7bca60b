package client

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/bradfitz/gomemcache/memcache"

	"github.com/ringside-cache/ringside/ring"
)

// A nodeAddr is a node as gomemcache sees it. There is one for each node, as
// gomemcache groups the keys of a GetMulti by the pointer.
type nodeAddr struct{ network, address string }

func (a *nodeAddr) Network() string { return a.network }
func (a *nodeAddr) String() string  { return a.address }

func newNodeAddr(n ring.Node) *nodeAddr {
	if path, ok := strings.CutPrefix(n.Address, "unix:"); ok {
		return &nodeAddr{"unix", path}
	}
	return &nodeAddr{"tcp", n.Address}
}

// oneNode is a gomemcache selector that knows one server.
type oneNode struct{ addr *nodeAddr }

func (s oneNode) PickServer(string) (net.Addr, error) { return s.addr, nil }
func (s oneNode) Each(f func(net.Addr) error) error   { return f(s.addr) }

// A Selector is the client's ring and health as a memcache.ServerSelector,
// for a service that stays with gomemcache. Gomemcache has it built in.
type Selector struct{ c *Client }

var (
	_ memcache.ServerSelector = oneNode{}
	_ memcache.ServerSelector = (*Selector)(nil)
)

// PickServer gives the node that is asked for a key: its owner, or the
// stand-in while that is out. The same node is the same pointer.
func (s *Selector) PickServer(key string) (net.Addr, error) {
	f := s.c.fleet.Load()
	i, _, err := s.c.route(f, key)
	if err != nil {
		return nil, opError("pick", f.nodes[i], key, err)
	}
	return f.nodes[i].addr, nil
}

// Each calls f for every node.
func (s *Selector) Each(f func(net.Addr) error) error {
	for _, n := range s.c.fleet.Load().nodes {
		if err := f(n.addr); err != nil {
			return err
		}
	}
	return nil
}

// DialContext connects to a node that PickServer gave, and watches the
// connection for the node's health. It is meant for memcache.Client's field
// of that name.
func (s *Selector) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	for _, n := range s.c.fleet.Load().nodes {
		if n.addr.network != network || n.addr.address != address {
			continue
		}
		nc, err := n.dialSocket(ctx)
		if err != nil {
			s.c.nodeFailed(n, fmt.Errorf("%w: %w", ErrDial, err))
			return nil, err
		}
		return &watchedConn{Conn: nc, node: n, broken: func() {}, closed: func() {}}, nil
	}
	return nil, fmt.Errorf("%w: %s is not one of the nodes", ErrDial, address)
}

// Selector gives the client's ring and health to gomemcache.
func (c *Client) Selector() *Selector { return &Selector{c} }

// Gomemcache gives a gomemcache client on this client's ring and health: a
// service gets ketama and auto-eject by changing the line that makes its
// memcache.Client. What this client does better, such as pipelining, contexts
// and the bound on values that a stand-in keeps, it does not get.
func (c *Client) Gomemcache() *memcache.Client {
	s := c.Selector()
	mc := memcache.NewFromSelector(s)
	mc.DialContext = s.DialContext
	mc.Timeout = c.cfg.Timeout
	mc.MaxIdleConns = legacyIdleConns
	return mc
}
