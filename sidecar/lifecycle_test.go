package sidecar_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
	"github.com/ringside-cache/ringside/sidecar"
)

// TestEmbedded: three nodes out of nothing.
func TestEmbedded(t *testing.T) {
	t.Parallel()
	s := start(t, sidecar.Config{Embedded: 3, Memcached: "on", GRPC: "on", Admin: "on"})
	p := dial(t, s.addr("memcached"))
	c, ctx := cacheOf(t, s), within(t)
	for i := range 100 {
		key := fmt.Sprintf("key:%d", i)
		p.want(fmt.Sprintf("set %s 0 0 3\r\n%03d\r\n", key, i), "STORED\r\n")
		resp, err := c.Get(ctx, &ringsidev1.GetRequest{Key: []byte(key)})
		if err != nil || string(resp.GetValue().GetValue()) != fmt.Sprintf("%03d", i) {
			t.Errorf("Get %s = %v, %v", key, resp, err)
		}
	}
	st := s.Status()
	if len(st.Nodes) != 3 {
		t.Fatalf("there are %d nodes, want 3", len(st.Nodes))
	}
	for i, n := range st.Nodes {
		if want := fmt.Sprintf("embedded-%d", i+1); n.Name != want || n.Requests == 0 || n.State != "up" {
			t.Errorf("node %d is %+v, want %s to be up and used", i, n, want)
		}
	}
	if got := p.ask("stats\r\n"); !strings.Contains(got, "STAT curr_items 100\r\n") {
		t.Errorf("stats are %q, want 100 items", got)
	}
}

// TestRunEnded: a context that ends before anything runs is a drain like any
// other, and so is one that ends while the listeners begin.
func TestRunEnded(t *testing.T) {
	t.Parallel()
	for i := range 50 {
		s, err := sidecar.Start(sidecar.Config{Embedded: 1, Memcached: "127.0.0.1:0", GRPC: "127.0.0.1:0", Admin: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if i%2 == 0 {
			cancel()
		} else {
			time.AfterFunc(time.Duration(i)*10*time.Microsecond, cancel)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run = %v", err)
			}
		case <-time.After(patience):
			t.Fatal("Run does not end")
		}
	}
}

// TestDrain: what was sent is answered, in order, and then everything ends.
func TestDrain(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	s, node := onNode(t, sidecar.Config{
		Memcached: "unix:" + dir + "/memcached", GRPC: "unix:" + dir + "/grpc", Admin: "unix:" + dir + "/admin",
		DrainTimeout: patience,
	})
	c, ctx := cacheOf(t, s), within(t)
	idle := dial(t, s.addr("memcached"))
	idle.want("set slow 0 0 1\r\nx\r\n", "STORED\r\n")
	watch, err := healthv1.NewHealthClient(dialGRPC(t, s)).Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := watch.Recv(); err != nil || resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Fatalf("Watch = %v, %v, want SERVING", resp, err)
	}

	// Both listeners wait for the node, one of them with more behind it.
	first := node.Inject(memnode.Stall(), memnode.Key("slow"))
	busy := dial(t, s.addr("memcached"))
	busy.send("get slow\r\nversion\r\n")
	<-first.Hit()
	busy.send("mg slow v\r\n")
	second := node.Inject(memnode.Stall(), memnode.Key("slow2"))
	called := make(chan error, 1)
	go func() {
		_, err := c.Get(ctx, &ringsidev1.GetRequest{Key: []byte("slow2")})
		called <- err
	}()
	eventually(t, "both are under way", func() bool { return s.Client().Stats().Nodes[0].InFlight >= 2 })

	s.cancel()
	eventually(t, "/readyz says no", func() bool { code, _ := fetch(t, s, "GET", "/readyz"); return code == 503 })
	if code, _ := fetch(t, s, "GET", "/healthz"); code != 200 {
		t.Errorf("in a drain /healthz is answered %d, want 200", code)
	}
	for _, name := range []string{"memcached", "grpc"} {
		eventually(t, name+" accepts nothing more", func() bool {
			nc, err := net.Dial("unix", dir+"/"+name)
			if err != nil {
				return true
			}
			// One that was accepted before is closed and not served.
			defer nc.Close()
			return false
		})
	}
	select {
	case <-s.ended:
		t.Fatal("the drain has ended, with requests under way")
	default:
	}
	// An idle connection and a watch hold up nothing.
	if got := idle.until("never"); got != closed {
		t.Errorf("the idle connection is told %q", got)
	}
	for err = nil; err == nil; {
		_, err = watch.Recv()
	}
	first.Release()
	second.Release()
	want := "VALUE slow 0 1\r\nx\r\nEND\r\nVERSION 1.6.18-ringside-" + sidecar.Version + "\r\nVA 1\r\nx\r\n" + closed
	if got := busy.until("never"); got != want {
		t.Errorf("what was sent before the drain is answered %q, want %q", got, want)
	}
	if err := <-called; err != nil {
		t.Errorf("the call that was under way = %v", err)
	}
	s.stop(t)
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("the sockets %v are left", left)
	}
}

// TestDrainUnderLoad: each request whose last byte was sent before the drain
// is answered.
func TestDrainUnderLoad(t *testing.T) {
	t.Parallel()
	s := start(t, sidecar.Config{
		Client: client.Config{Timeout: patience / 2}, Embedded: 3, Memcached: "on", GRPC: "on", DrainTimeout: patience,
	})
	c := cacheOf(t, s)
	// The drain begins while nobody is in the middle of a send.
	var sending sync.RWMutex
	draining := false
	var answered, workers sync.WaitGroup
	const peers = 8
	answered.Add(2 * peers)
	for i := range peers {
		key := fmt.Sprintf("key:%d", i)
		p := dial(t, s.addr("memcached"))
		workers.Go(func() {
			for n := 0; ; n++ {
				request := fmt.Sprintf("set %s 0 0 8\r\n%08d\r\nget %s missing\r\n", key, n, key)
				want := fmt.Sprintf("STORED\r\nVALUE %s 0 8\r\n%08d\r\nEND\r\n", key, n)
				sending.RLock()
				late := draining
				io.WriteString(p.nc, request)
				sending.RUnlock()
				got := make([]byte, len(want))
				if m, err := io.ReadFull(p.r, got); err != nil {
					if !late || m != 0 {
						t.Errorf("request %d, sent in the drain: %v, is answered %q, %v", n, late, got[:m], err)
					}
					return
				}
				if string(got) != want {
					t.Errorf("request %d is answered %q, want %q", n, got, want)
				}
				if n == 20 {
					answered.Done()
				}
			}
		})
		workers.Go(func() {
			for n := 0; ; n++ {
				sending.RLock()
				late := draining
				sending.RUnlock()
				_, err := c.Get(t.Context(), &ringsidev1.GetRequest{Key: []byte(key)})
				if err != nil {
					// Unavailable is what gRPC says of a call that was not
					// taken any more.
					if status.Code(err) != codes.Unavailable {
						t.Errorf("call %d, begun in the drain: %v, = %v", n, late, err)
					}
					return
				}
				if n == 20 {
					answered.Done()
				}
			}
		})
	}
	answered.Wait()
	sending.Lock()
	draining = true
	s.cancel()
	sending.Unlock()
	workers.Wait()
	s.stop(t)
}

// TestDrainTimeout cuts what hangs.
func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	s, node := onNode(t, sidecar.Config{
		Client: client.Config{Timeout: 10 * time.Minute}, GRPC: "on", Admin: "on", DrainTimeout: 200 * time.Millisecond, WriteTimeout: time.Hour,
	})
	// One waits for a node that hangs, in each protocol.
	p := dial(t, s.addr("memcached"))
	p.want("set big 0 0 500000\r\n"+strings.Repeat("x", 500000)+"\r\n", "STORED\r\n")
	stall := node.Inject(memnode.Stall(), memnode.Key("slow"), memnode.Always())
	// One does not read its replies.
	deaf := dial(t, s.addr("memcached"))
	deaf.send(strings.Repeat("get big\r\n", 500))
	eventually(t, "the values are there", func() bool { return s.Client().Stats().Nodes[0].Requests > 60 })
	p.send("get slow\r\n")
	<-stall.Hit()
	c := cacheOf(t, s)
	called := make(chan error, 1)
	go func() {
		_, err := c.Get(within(t), &ringsidev1.GetRequest{Key: []byte("slow")})
		called <- err
	}()
	eventually(t, "both are under way", func() bool { return s.Client().Stats().Nodes[0].InFlight >= 2 })
	s.stop(t)
	if got := p.until("never"); !strings.HasSuffix(got, closed) || strings.Contains(got, "END") {
		t.Errorf("the request that hung is answered %q, want no END", got)
	}
	if err := <-called; err == nil {
		t.Error("the call that hung has an answer")
	}
}

// TestDrainLosesNothing: 50 connections count while the drain begins, classic,
// by gRPC calls and by gRPC streams, in the clear and over TLS. An increment
// that was not answered was not carried out, so that in the end memcached has
// what the clients were told.
func TestDrainLosesNothing(t *testing.T) {
	for _, secured := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", secured), func(t *testing.T) {
			ca := newAuthority(t)
			cfg := sidecar.Config{GRPC: "on", DrainTimeout: patience}
			trusting := &tls.Config{RootCAs: ca.pool}
			if secured {
				cfg.TLS = ca.install(t.TempDir(), 10)
			}
			s, node := onNode(t, cfg)
			direct := dial(t, node.Addr())
			connect := func() ringsidev1.CacheClient {
				if secured {
					c, _ := cacheTLS(t, s, trusting)
					return c
				}
				return cacheOf(t, s)
			}
			ctx := within(t)
			var workers sync.WaitGroup
			const conns = 50
			told := make([]uint64, conns) // what the client was told last
			sent := make([]uint64, conns) // how many it has sent
			for i := range conns {
				key := fmt.Sprintf("count:%d", i)
				direct.want("set "+key+" 0 0 1\r\n0\r\n", "STORED\r\n")
				switch {
				case i < 30:
					p := dial(t, s.addr("memcached"))
					if secured {
						p, _ = dialTLS(t, s.addr("memcached"), trusting)
					}
					workers.Go(func() {
						for {
							// Several at a time: those behind may be cut off, but no
							// one is carried out that is not answered.
							p.send(strings.Repeat("incr "+key+" 1\r\n", 3))
							sent[i] += 3
							for range 3 {
								line, err := p.r.ReadString('\n')
								if err != nil {
									if line != "" {
										t.Errorf("half an answer: %q", line)
									}
									return
								}
								fmt.Sscan(line, &told[i])
							}
						}
					})
				case i < 40:
					c := connect()
					workers.Go(func() {
						for {
							sent[i]++
							resp, err := c.Increment(ctx, &ringsidev1.IncrementRequest{Key: []byte(key), Delta: 1})
							if err != nil {
								if status.Code(err) != codes.Unavailable {
									t.Errorf("Increment: %v", err)
								}
								return
							}
							told[i] = resp.GetNumber()
						}
					})
				default:
					stream, err := connect().Stream(ctx)
					if err != nil {
						t.Fatal(err)
					}
					workers.Go(func() {
						for {
							sent[i]++
							stream.Send(&ringsidev1.StreamRequest{Id: sent[i], Request: &ringsidev1.StreamRequest_Increment{
								Increment: &ringsidev1.IncrementRequest{Key: []byte(key), Delta: 1},
							}})
							resp, err := stream.Recv()
							if err != nil {
								if status.Code(err) != codes.Unavailable {
									t.Errorf("Stream: %v", err)
								}
								return
							}
							told[i] = resp.GetCount().GetNumber()
						}
					})
				}
			}
			busy := time.Now()
			eventually(t, "all are busy", func() bool {
				return s.Client().Stats().Nodes[0].Requests > 5000 || time.Since(busy) > 2*time.Second
			})
			s.cancel()
			workers.Wait()
			s.stop(t)
			for i := range conns {
				var got uint64
				fmt.Sscanf(direct.ask(fmt.Sprintf("mg count:%d v\r\n", i)), "VA %d\r\n%d", new(int), &got)
				if got != told[i] || told[i] == 0 || told[i] > sent[i] {
					t.Errorf("connection %d: memcached has %d, the client was told %d, and has sent %d", i, got, told[i], sent[i])
				}
			}
		})
	}
}
