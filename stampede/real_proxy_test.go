package stampede_test

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ringside-cache/ringside/internal/realserver"
)

// A proxy stands before a server that stays up while connections to it do not.
type proxy struct {
	listener net.Listener
	target   string
	// gate is passed by every reply. Who holds it holds them back.
	gate sync.RWMutex
	// held is how many replies are being held back.
	held atomic.Int64
	// cut has the next reply end its connection instead.
	cut atomic.Bool

	mu      sync.Mutex // guards conns and closed, and orders Adds before the Wait
	conns   map[*net.TCPConn]struct{}
	closed  bool
	running sync.WaitGroup
}

func newProxy(t *testing.T, server *realserver.Server) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, target: server.Addr(), conns: make(map[*net.TCPConn]struct{})}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		l.Close()
		p.drop()
		p.running.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// drop resets every connection.
func (p *proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		reset(c)
	}
	clear(p.conns)
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	c.Close()
}

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		s, err := net.Dial("tcp", p.target)
		if err != nil {
			c.Close()
			continue
		}
		client, server := c.(*net.TCPConn), s.(*net.TCPConn)
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			reset(client)
			reset(server)
			return
		}
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		p.running.Go(func() {
			defer client.Close()
			defer server.Close()
			_, _ = io.Copy(server, client)
		})
		p.running.Go(func() {
			defer client.Close()
			defer server.Close()
			p.replies(client, server)
		})
		p.mu.Unlock()
	}
}

func (p *proxy) replies(client, server *net.TCPConn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		p.held.Add(1)
		p.gate.RLock()
		p.held.Add(-1)
		cut := p.cut.CompareAndSwap(true, false)
		if !cut {
			_, err = client.Write(buf[:n])
		}
		p.gate.RUnlock()
		if cut || err != nil {
			reset(client)
			return
		}
	}
}
