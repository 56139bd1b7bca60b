package memnode

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// rebindTimeout is how long Restart tries for an address that somebody
	// else has for a moment: a client's outgoing connection may get the port
	// of a node that is down.
	rebindTimeout = 5 * time.Second
	retryPause    = 5 * time.Millisecond
)

// ErrClosed is returned by the methods of a Node that was closed.
var ErrClosed = errors.New("memnode: the node is closed")

// Node is one memcached node. Its methods are safe for concurrent use.
type Node struct {
	cfg     Config
	network string
	address string // what is listened on, and dialled

	script script
	gate   gate

	mu     sync.Mutex // guards what follows; taken before any lock of a life
	life   *life      // nil while killed or closed
	closed bool
}

// Start listens and serves until Close.
func Start(cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("memnode: %w", err)
	}
	n := &Node{cfg: cfg.withDefaults()}
	n.network, n.address, _ = splitAddr(n.cfg.Addr)
	l, err := n.live()
	if err != nil {
		return nil, fmt.Errorf("memnode: %w", err)
	}
	n.life = l
	if n.network == "tcp" {
		n.address = l.listener.Addr().String()
	}
	return n, nil
}

// splitAddr takes the form of Config.Addr apart.
func splitAddr(addr string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if path == "" {
			return "", "", errors.New("Addr is unix: without a path")
		}
		return "unix", path, nil
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return "", "", fmt.Errorf("Addr: %w", err)
	}
	return "tcp", addr, nil
}

// Addr is where the node listens, in the form that client.Config.Servers takes:
// "127.0.0.1:1234" or "unix:/path". It stays the same for the node's life.
func (n *Node) Addr() string {
	if n.network == "unix" {
		return "unix:" + n.address
	}
	return n.address
}

// Close ends the listener, the connections and every goroutine of the node. It
// may be called again.
func (n *Node) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	n.endLocked()
	return nil
}

// Kill ends the listener and the connections as the death of a server's process
// does, and forgets every item. Clients are refused until Restart. It does
// nothing to a node that is killed or closed.
func (n *Node) Kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.endLocked()
}

func (n *Node) endLocked() {
	if n.life != nil {
		n.life.end()
		n.life = nil
	}
	n.gate.open()
}

// Restart serves on the same address with an empty memory, after Kill or
// instead of it. CAS ids start again at 1, as a real server's do: an old one
// may come to fit a new item. Faults that were injected stay.
func (n *Node) Restart() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return ErrClosed
	}
	n.endLocked()
	deadline := time.Now().Add(rebindTimeout)
	for {
		l, err := n.live()
		if err == nil {
			n.life = l
			return nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return fmt.Errorf("memnode: restart: %w", err)
		}
		time.Sleep(retryPause)
	}
}

// Stop makes the node hang as a frozen process does: it is connected to, and
// what it is sent stays unread, but for a buffer. Requests that were being
// carried out are finished.
func (n *Node) Stop() { n.gate.shut() }

// Resume ends a Stop. What has piled up is answered.
func (n *Node) Resume() { n.gate.open() }

// CloseIdle closes the connections on which no request is under way, as a
// server with an idle timeout does, and tells how many there were.
func (n *Node) CloseIdle() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life == nil {
		return 0
	}
	return n.life.closeIdle()
}

// Items is the number of items, expired ones included that nobody asked for
// since.
func (n *Node) Items() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life == nil {
		return 0
	}
	return n.life.store.length()
}

// Stats gives the node's counts since it was started, restarted or reset.
func (n *Node) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life == nil {
		return Stats{}
	}
	return n.life.stats()
}

// gate holds up every connection while it is shut.
type gate struct {
	shutSince atomic.Pointer[chan struct{}] // nil while open; closed by open
}

func (g *gate) shut() {
	ch := make(chan struct{})
	g.shutSince.CompareAndSwap(nil, &ch)
}

func (g *gate) open() {
	if ch := g.shutSince.Swap(nil); ch != nil {
		close(*ch)
	}
}

// pass waits until the gate is open. It gives false when done came first.
func (g *gate) pass(done <-chan struct{}) bool {
	for {
		ch := g.shutSince.Load()
		if ch == nil {
			return true
		}
		select {
		case <-*ch:
		case <-done:
			return false
		}
	}
}

// life is a node from Start or Restart to its end.
type life struct {
	node     *Node
	listener net.Listener
	store    *store
	done     chan struct{} // closed when it ends

	bytesRead, bytesWritten atomic.Uint64

	wg sync.WaitGroup // the accept loop and the connections

	mu                 sync.Mutex // guards what follows
	conns              map[*conn]struct{}
	ended              bool
	accepted, rejected uint64
}

func (n *Node) live() (*life, error) {
	s, err := newStore(n.cfg)
	if err != nil {
		return nil, err
	}
	ln, err := listen(n.network, n.address)
	if err != nil {
		return nil, err
	}
	l := &life{node: n, listener: ln, store: s, done: make(chan struct{}), conns: map[*conn]struct{}{}}
	l.wg.Go(l.accept)
	return l, nil
}

// listen takes over a unix socket that nobody listens on any more.
func listen(network, address string) (net.Listener, error) {
	ln, err := net.Listen(network, address)
	if network != "unix" {
		return ln, err
	}
	if errors.Is(err, syscall.EADDRINUSE) && isDead(address) && os.Remove(address) == nil {
		ln, err = net.Listen(network, address)
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(address, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// isDead tells whether the file is a socket on which nobody listens.
func isDead(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return false // other files refuse connections too
	}
	nc, err := net.Dial("unix", path)
	if err == nil {
		nc.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func (l *life) accept() {
	for {
		nc, err := l.listener.Accept()
		if err == nil {
			l.welcome(nc)
			continue
		}
		// Too many open files, most likely: it passes.
		select {
		case <-l.done:
			return
		case <-time.After(retryPause):
		}
	}
}

func (l *life) welcome(nc net.Conn) {
	c := newConn(l, nc)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended:
		nc.Close()
	case len(l.conns) >= l.node.cfg.MaxConns:
		l.rejected++
		// It fits in the socket's buffer: this does not block.
		_, _ = nc.Write([]byte("ERROR Too many open connections\r\n"))
		nc.Close()
	default:
		l.accepted++
		l.conns[c] = struct{}{}
		l.wg.Go(func() {
			c.serve()
			l.forget(c)
		})
	}
}

func (l *life) forget(c *conn) {
	c.nc.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

func (l *life) end() {
	close(l.done)
	l.listener.Close()
	l.mu.Lock()
	l.ended = true
	for c := range l.conns {
		c.nc.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
}

func (l *life) closeIdle() (closed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if c.idle.Load() {
			c.nc.Close()
			closed++
		}
	}
	return closed
}
