package sidecar_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/sidecar"
)

// keepBusy sends one request behind the other, so many that the connection is
// taken for a busy one.
func keepBusy(p *peer) {
	p.t.Helper()
	for i := range 200 {
		text := fmt.Sprintf("value %d", i)
		p.want(fmt.Sprintf("set a 0 0 %d\r\n%s\r\nget a\r\n", len(text), text),
			fmt.Sprintf("STORED\r\nVALUE a 0 %d\r\n%s\r\nEND\r\n", len(text), text))
	}
}

// TestBusyConnection: what a busy connection is served with is what any other
// is: requests that come in parts, and in bursts larger than its buffer.
func TestBusyConnection(t *testing.T) {
	t.Parallel()
	s, _ := onNode(t, sidecar.Config{Memcached: "unix:" + shortDir(t) + "/s"})
	p := dial(t, s.addr("memcached"))
	const burst = 2000
	for range 3 {
		keepBusy(p)
		p.send("get")
		p.want(" a\r\n", "VALUE a 0 9\r\nvalue 199\r\nEND\r\n")
		keepBusy(p)
		p.send("set a 0 0 5\r\nva")
		p.want("lue\r\n", "STORED\r\n")
		keepBusy(p)
		p.want("set b 0 0 20000\r\n"+strings.Repeat("b", 20000)+"\r\n", "STORED\r\n")
		keepBusy(p)
		p.want(strings.Repeat("get nothing\r\n", burst), strings.Repeat("END\r\n", burst))
		keepBusy(p)
		p.want("get "+strings.Repeat("k", 300)+"\r\n", "CLIENT_ERROR bad command line format\r\n")
	}
	keepBusy(p)
	p.send("quit\r\n")
	if got := p.until("never"); got != closed {
		t.Errorf("quit is answered %q", got)
	}
}

// TestBusyEnds: a busy connection whose end comes together with its last
// request is answered and closed, and one that falls silent has its time.
func TestBusyEnds(t *testing.T) {
	t.Parallel()
	s, _ := onNode(t, sidecar.Config{})
	for range 20 {
		p := dial(t, s.addr("memcached"))
		keepBusy(p)
		p.send("get nothing\r\n")
		if err := p.nc.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, want := p.until("never"), "END\r\n"+closed; got != want {
			t.Errorf("the last request is answered %q, want %q", got, want)
		}
	}

	const idle = 500 * time.Millisecond
	s, _ = onNode(t, sidecar.Config{IdleTimeout: idle})
	p := dial(t, s.addr("memcached"))
	keepBusy(p)
	wantEnd(p, idle)
}

// wantEnd waits until a connection is closed without a word, and not long before
// its time.
func wantEnd(p *peer, limit time.Duration) {
	p.t.Helper()
	began := time.Now()
	if got := p.until("never"); got != closed {
		p.t.Errorf("it is answered %q", got)
	}
	if d := time.Since(began); d < limit/2 {
		p.t.Errorf("it was ended after %v", d)
	}
}

// TestBusyThenSlow: a busy connection that sends half of the next request has the
// same time for the rest as any other.
func TestBusyThenSlow(t *testing.T) {
	t.Parallel()
	const limit = 400 * time.Millisecond
	s, _ := onNode(t, sidecar.Config{RequestTimeout: limit})
	p := dial(t, s.addr("memcached"))
	keepBusy(p)
	p.send("get ")
	wantEnd(p, limit)
}

// TestDrainOfBusyConnections: a drain whose time is over ends connections in the
// middle of an exchange.
func TestDrainOfBusyConnections(t *testing.T) {
	t.Parallel()
	s, node := onNode(t, sidecar.Config{Admin: "on", DrainTimeout: 200 * time.Millisecond, Client: client.Config{Timeout: 10 * time.Minute}})
	peers := make([]*peer, 64)
	for i := range peers {
		peers[i] = dial(t, s.addr("memcached"))
		keepBusy(peers[i])
	}
	for range 40 { // all of them busy at a time
		for _, p := range peers {
			p.want("get nothing\r\n", "END\r\n")
		}
	}
	// So long that they want to set their read deadlines anew.
	time.Sleep(150 * time.Millisecond)
	stalled := node.Inject(memnode.Stall())
	for _, p := range peers {
		p.send("get slow\r\n")
	}
	<-stalled.Hit()
	eventually(t, "every connection waits for the node", func() bool {
		_, body := fetch(t, s, "GET", "/metrics")
		return strings.Contains(body, fmt.Sprintf("\nringside_node_in_flight{node=%q} %d\n", node.Addr(), len(peers)))
	})
	s.stop(t)
}
