package sidecar_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
	"github.com/ringside-cache/ringside/sidecar"
)

// TestIdleTimeout: who is idle for too long goes, who is not stays.
func TestIdleTimeout(t *testing.T) {
	t.Parallel()
	const timeout = 400 * time.Millisecond
	s, _ := onNode(t, sidecar.Config{IdleTimeout: timeout})
	idle, silent, busy := dial(t, s.addr("memcached")), dial(t, s.addr("memcached")), dial(t, s.addr("memcached"))
	idle.want("get a\r\n", "END\r\n")
	began := time.Now()
	gone := make(chan string, 2)
	for _, p := range []*peer{idle, silent} {
		go func() { gone <- p.until("never") }()
	}
	tick := time.NewTicker(timeout / 20)
	defer tick.Stop()
	for left := 2; left > 0; {
		select {
		case got := <-gone:
			if got != closed {
				t.Errorf("the idle connection is told %q", got)
			}
			left--
		case <-tick.C:
			busy.want("get a\r\n", "END\r\n")
		}
	}
	if d := time.Since(began); d < timeout/2 {
		t.Errorf("they were ended after %v", d)
	}
	for end := time.Now().Add(2 * timeout); time.Now().Before(end); <-tick.C {
		busy.want("get a\r\n", "END\r\n")
	}
}

// TestConnsOfAllListeners: gRPC counts against MaxConns too, admin does not.
func TestConnsOfAllListeners(t *testing.T) {
	t.Parallel()
	s, _ := onNode(t, sidecar.Config{MaxConns: 3, GRPC: "on", Admin: "on"})
	first, second := dial(t, s.addr("memcached")), dial(t, s.addr("memcached"))
	first.want("", "")
	second.want("", "")
	if n := s.metric(t, "ringside_connections_max"); n != 3 {
		t.Errorf("the limit is %v, want 3", n)
	}
	third := dial(t, s.addr("grpc"))
	eventually(t, "the third is counted", func() bool { return s.metric(t, "ringside_grpc_connections ") == 1 })
	for _, name := range []string{"memcached", "grpc"} {
		got := dial(t, s.addr(name)).until("never")
		if want := map[string]string{"memcached": "SERVER_ERROR too many connections\r\n" + closed, "grpc": closed}[name]; got != want {
			t.Errorf("one too many is told %q by %s, want %q", got, name, want)
		}
		if n := s.metric(t, "ringside_"+name+"_connections_refused_total"); n != 1 {
			t.Errorf("%s has refused %v, want 1", name, n)
		}
	}
	third.nc.Close()
	second.nc.Close()
	eventually(t, "there is room for gRPC", func() bool {
		_, err := cacheOf(t, s).Get(within(t), &ringsidev1.GetRequest{Key: []byte("a")})
		return err == nil
	})
	first.want("get a\r\n", "END\r\n")
}

// TestAdminConns: the admin listener has its own bound.
func TestAdminConns(t *testing.T) {
	t.Parallel()
	s, _ := onNode(t, sidecar.Config{Admin: "on"})
	held := make([]net.Conn, 63)
	for i := range held {
		held[i] = dial(t, s.addr("admin")).nc
	}
	if code, _ := fetch(t, s, "GET", "/readyz"); code != 200 {
		t.Errorf("below the bound /readyz is answered %d", code)
	}
	last := dial(t, s.addr("admin"))
	if got := dial(t, s.addr("admin")).until("never"); got != closed {
		t.Errorf("one too many is told %q", got)
	}
	last.nc.Close()
	held[0].Close()
	eventually(t, "there is room again", func() bool {
		nc := dial(t, s.addr("admin"))
		nc.send("GET /readyz HTTP/1.0\r\n\r\n")
		return strings.Contains(nc.until("never"), "200 OK")
	})
}

// TestLongLines: a line of more than memcached's 2,048 bytes is read to its
// end and answered as what it is, one without an end is not kept.
func TestLongLines(t *testing.T) {
	t.Parallel()
	s, _ := onNode(t, sidecar.Config{})
	for _, n := range []int{2047, 2048, 2049, 4096, 60_000} {
		p := dial(t, s.addr("memcached"))
		p.want(strings.Repeat("x", n-2)+"\r\n", "ERROR\r\n")
		p.want("delete "+strings.Repeat("k", n-9)+"\r\n", badFormat)
		p.want("get a"+strings.Repeat(" ", n-7)+"\r\n", "END\r\n")
	}
	for _, n := range []int{66_000, 300_000} {
		p := dial(t, s.addr("memcached"))
		p.want(strings.Repeat("x", n), "CLIENT_ERROR line too long\r\n"+closed)
	}
}

// TestByteByByte: a connection that dribbles holds what has come, and no more.
func TestByteByByte(t *testing.T) {
	s, _ := onNode(t, sidecar.Config{MaxValueBytes: 1 << 30})
	before := heap()
	const peers, sent = 20, 300
	all := make([]*peer, peers)
	for i := range all {
		all[i] = dial(t, s.addr("memcached"))
		all[i].send(fmt.Sprintf("set k%d 0 0 %d\r\n", i, 1<<30))
	}
	for range sent {
		for _, p := range all {
			p.send("x")
		}
	}
	dial(t, s.addr("memcached")).want("get k0\r\n", "END\r\n")
	if grown, most := heap()-before, int64(peers*(64<<10)+(4<<20)); grown > most {
		t.Errorf("%d connections that have sent %d bytes each take %d bytes, want at most %d", peers, sent, grown, most)
	}
}

// TestSilentGRPC: a connection that says nothing holds up no drain.
func TestSilentGRPC(t *testing.T) {
	t.Parallel()
	s, _ := onNode(t, sidecar.Config{GRPC: "on", DrainTimeout: patience})
	dial(t, s.addr("grpc"))
	dial(t, s.addr("memcached")).want("get a\r\n", "END\r\n")
	began := time.Now()
	s.stop(t)
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("the drain took %v", d)
	}
}
