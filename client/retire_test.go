package client_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
)

// A slowServer tells a version and has nothing stored. It counts the
// connections that are open.
type slowServer struct {
	listener      net.Listener
	version       string
	greets, reads time.Duration // how long each takes
	onGet         func(net.Conn)
	open          atomic.Int32
	accepted      atomic.Int32
	all           sync.WaitGroup
}

func newSlowServer(t *testing.T, version string, greets, reads time.Duration) *slowServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &slowServer{listener: l, version: version, greets: greets, reads: reads}
	s.all.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			s.open.Add(1)
			s.accepted.Add(1)
			s.all.Go(func() { s.serve(nc) })
		}
	})
	t.Cleanup(func() { l.Close() })
	return s
}

func (s *slowServer) addr() string { return s.listener.Addr().String() }

func (s *slowServer) serve(nc net.Conn) {
	defer s.open.Add(-1)
	defer nc.Close()
	r := bufio.NewReader(nc)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Fields(line)
		switch words[0] {
		case "version":
			time.Sleep(s.greets)
			fmt.Fprintf(nc, "VERSION %s\r\n", s.version)
		case "mg": // the first of manyRounds' rounds
			if n, err := strconv.Atoi(words[1]); err == nil && n%1024 == 0 {
				time.Sleep(s.reads)
			}
			fmt.Fprintf(nc, "EN %s\r\n", words[len(words)-1])
		case "get", "gets":
			time.Sleep(s.reads)
			if s.onGet != nil {
				s.onGet(nc)
			}
			fallthrough
		case "stats":
			fmt.Fprint(nc, "END\r\n")
		default:
			fmt.Fprint(nc, "ERROR\r\n")
		}
	}
}

// TestRetiredNode: a node that has left has no connection when its time is
// over, whatever was under way to it, and Close leaves none.
func TestRetiredNode(t *testing.T) {
	for _, tt := range []struct {
		name, version string
		greets, reads time.Duration
		under         func(t *testing.T, c *client.Client)
	}{
		{"a dial that takes long", "1.6.18", 700 * time.Millisecond, 0, func(t *testing.T, c *client.Client) {
			c.Get(t.Context(), "a") //nolint:errcheck // it does not wait for the dial
		}},
		{"a batch of many rounds", "1.6.18", 0, 140 * time.Millisecond, manyRounds},
		{"a batch of many rounds to a legacy", "1.4.39", 0, 140 * time.Millisecond, manyRounds},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSlowServer(t, tt.version, tt.greets, tt.reads)
			c := newClient(t, client.Config{Servers: []string{s.addr()}, Timeout: 200 * time.Millisecond, DialTimeout: 5 * time.Second})
			var under sync.WaitGroup
			under.Go(func() { tt.under(t, c) })
			eventually(t, 5*time.Second, "the node is asked", func() bool { return s.accepted.Load() > 0 })
			if err := c.SetServers([]string{newMemnode(t).Addr()}); err != nil {
				t.Fatal(err)
			}
			under.Wait()
			eventually(t, 2*time.Second, "no connection is left", func() bool { return s.open.Load() == 0 })
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			s.listener.Close()
			s.all.Wait() // hangs where Close leaves a connection
		})
	}
}

// manyRounds asks on the fleet that it began with for longer than a node that
// has left is kept.
func manyRounds(t *testing.T, c *client.Client) {
	var b client.Batch
	for i := range 6 * 1024 {
		b.Get(fmt.Sprint(i))
	}
	c.Do(t.Context(), &b) //nolint:errcheck // part of it fails
}

// TestLegacyConnections: gomemcache dials for each call, so calls to a node
// without meta commands wait for one another above a bound, and each no longer
// than its own time.
func TestLegacyConnections(t *testing.T) {
	const bound, callers = 128, 400
	s := newSlowServer(t, "1.4.39", 0, 100*time.Millisecond)
	c := newClient(t, client.Config{Servers: []string{s.addr()}, Timeout: 20 * time.Second})
	if _, err := c.Get(t.Context(), "a"); !errors.Is(err, client.ErrCacheMiss) {
		t.Fatal(err)
	}
	var load sync.WaitGroup
	var late atomic.Int32
	for range callers {
		load.Go(func() {
			if _, err := c.Get(t.Context(), "a"); !errors.Is(err, client.ErrCacheMiss) {
				t.Error(err)
			}
		})
		load.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			start := time.Now()
			if _, err := c.Get(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			if time.Since(start) > 5*time.Second {
				late.Add(1)
			}
		})
	}
	load.Wait()
	// One was for the client's own first questions.
	if n := s.accepted.Load(); n > bound+1 {
		t.Errorf("%d connections for %d callers, want %d at most", n, callers, bound)
	}
	if n := late.Load(); n > 0 {
		t.Errorf("%d callers waited beyond their contexts", n)
	}
}
