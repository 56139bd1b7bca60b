package sidecar_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/sidecar"
)

// TestCollapseGets: who comes while a get is under way shares the next one, and
// sees what was written before it came.
func TestCollapseGets(t *testing.T) {
	t.Parallel()
	for _, collapse := range []bool{true, false} {
		t.Run(fmt.Sprint(collapse), func(t *testing.T) {
			t.Parallel()
			s, node := onNode(t, sidecar.Config{CollapseGets: collapse, Admin: "on"})
			direct := dial(t, node.Addr())
			direct.want("set a 3 0 3\r\nold\r\n", "STORED\r\n")
			stall := node.Inject(memnode.Stall(), memnode.Key("a"))
			first := dial(t, s.addr("memcached"))
			first.send("get a\r\n")
			<-stall.Hit()
			direct.want("set a 3 0 3\r\nnew\r\n", "STORED\r\n")
			const n = 20
			peers := make([]*peer, n)
			for i := range peers {
				peers[i] = dial(t, s.addr("memcached"))
				peers[i].send("get a\r\n")
			}
			// Others have their own way: another key, a write, a get with a CAS id.
			mixed := dial(t, s.addr("memcached"))
			mixed.send("set b 0 0 1\r\nx\r\nget a b\r\nmn\r\n")
			eventually(t, "all have come", func() bool {
				want := int64(1 + 2 + 1) // the first one, and the mixed one's
				if !collapse {
					want += n
				}
				return s.Client().Stats().Nodes[0].InFlight >= want-1 && s.metric(t, "ringside_memcached_connections ") == n+2
			})
			time.Sleep(50 * time.Millisecond) // and are read
			stall.Release()
			first.until("END\r\n")
			for _, p := range peers {
				p.want("", "VALUE a 3 3\r\nnew\r\nEND\r\n")
			}
			if got, want := mixed.until("MN\r\n"), "STORED\r\nVALUE a 3 3\r\nnew\r\nVALUE b 0 1\r\nx\r\nEND\r\n"; got != want {
				t.Errorf("the mixed requests are answered %q, want %q", got, want)
			}
			collapsed, sent := s.metric(t, "ringside_memcached_collapsed_gets_total"), s.Client().Stats().Nodes[0].Requests
			if collapse && (collapsed != n-1 || sent != 1+3+1) || !collapse && (collapsed != 0 || sent != 1+3+n) {
				t.Errorf("%v gets were collapsed, the node had %d requests", collapsed, sent)
			}
			// Misses and a key twice in one exchange. Nothing is sent behind a
			// get that is to be collapsed.
			get := func(keys, want string) {
				t.Helper()
				first.send("get " + keys + "\r\n")
				if got := first.until("END\r\n"); got != want {
					t.Errorf("get %s is answered %q, want %q", keys, got, want)
				}
			}
			get("nothing", "")
			get("a a", "VALUE a 3 3\r\nnew\r\nVALUE a 3 3\r\nnew\r\n")
			// A failure is an error to all, and no miss.
			node.Inject(memnode.Garbage("SERVER_ERROR out of memory\r\n"), memnode.Key("a"))
			first.send("get a\r\n")
			if line, err := first.r.ReadString('\n'); !strings.HasPrefix(line, "SERVER_ERROR ") {
				t.Errorf("a failed get is answered %q, %v", line, err)
			}
			get("a", "VALUE a 3 3\r\nnew\r\n")
		})
	}
}

// TestCollapsedGetsAreFresh: no get misses a set that was acknowledged before
// it was sent.
func TestCollapsedGetsAreFresh(t *testing.T) {
	t.Parallel()
	s, node := onNode(t, sidecar.Config{CollapseGets: true, Admin: "on"})
	var acknowledged atomic.Int64
	var readers sync.WaitGroup
	stop := make(chan struct{})
	// Its writes do not stand in one line with the gets of the sidecar.
	writer := dial(t, node.Addr())
	writer.want("set a 0 0 8\r\n00000000\r\n", "STORED\r\n")
	for range 16 {
		p := dial(t, s.addr("memcached"))
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				least := acknowledged.Load()
				var got int64
				p.send("get a\r\n") // and nothing behind it, so that it is collapsed
				answer := p.until("END\r\n")
				if _, err := fmt.Sscanf(answer, "VALUE a 0 8\r\n%d", &got); err != nil || got < least {
					t.Errorf("after %d was acknowledged get is answered %q", least, answer)
					return
				}
			}
		})
	}
	for n := int64(1); n <= 3000; n++ {
		writer.want(fmt.Sprintf("set a 0 0 8\r\n%08d\r\n", n), "STORED\r\n")
		acknowledged.Store(n)
	}
	close(stop)
	readers.Wait()
	if s.metric(t, "ringside_memcached_collapsed_gets_total") == 0 {
		t.Error("nothing was collapsed")
	}
}
