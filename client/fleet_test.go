package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/ring"
)

// TestSetServers changes the fleet under load: no operation fails, nodes that
// stay keep their connections, no key moves between nodes that stay.
func TestSetServers(t *testing.T) {
	var servers []string
	for i := range 4 {
		servers = append(servers, fmt.Sprintf("node%d@%s", i, newMemnode(t).Addr()))
	}
	c := newClient(t, client.Config{Servers: servers[:3], Timeout: 5 * time.Second})
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for w := range 16 {
		load.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("key:%d:%d", w, i%100)
				if err := c.Set(t.Context(), &client.Item{Key: key, Value: []byte(key)}); err != nil {
					t.Error(err)
				}
				if _, err := c.GetMulti(t.Context(), []string{key, "a", "b", "c"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	lists := [][]string{servers, servers[1:], servers[:3], {servers[0]}, servers}
	for round := range 20 {
		want := lists[round%len(lists)]
		requests := c.Stats().Nodes[0].Requests
		if err := c.SetServers(want); err != nil {
			t.Error(err)
		}
		if got := c.Servers(); !slices.Equal(got, want) {
			t.Errorf("servers %v, want %v", got, want)
		}
		eventually(t, 10*time.Second, "traffic goes on", func() bool {
			return c.Stats().Nodes[0].Requests > requests+100 || c.Stats().Nodes[0].Requests < requests
		})
	}
	stop()
	load.Wait()

	c2 := newClient(t, client.Config{Servers: servers[:3]})
	for i := range 100 {
		if err := c2.Set(t.Context(), &client.Item{Key: fmt.Sprint(i), Value: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	before := c2.Stats().Nodes
	// A node that moves to another address under its name is a new one; one
	// that stays keeps its counters and its connection.
	if err := c2.SetServers([]string{servers[0], servers[1] + "*2", "node2@" + newMemnode(t).Addr()}); err != nil {
		t.Fatal(err)
	}
	after := c2.Stats().Nodes
	if after[0].Dials != 1 || after[1].Dials != 1 || after[1].Requests != before[1].Requests || after[2].Dials != 0 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	for _, bad := range [][]string{nil, {"a:1", "a:1"}, {"a:0"}, {"a:1*0"}} {
		if err := c2.SetServers(bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	if got := c2.Servers(); len(got) != 3 {
		t.Errorf("after bad lists: %v", got)
	}
	if err := c2.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c2.SetServers(servers); !errors.Is(err, client.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestSetServersKeepsHealth: an ejected node that stays is still out, and
// rejoins at its new place in the list.
func TestSetServersKeepsHealth(t *testing.T) {
	nodes := []*memnode.Node{newMemnode(t), newMemnode(t), newMemnode(t)}
	var servers []string
	for i, n := range nodes {
		servers = append(servers, fmt.Sprintf("node%d@%s", i, n.Addr()))
	}
	c := newClient(t, client.Config{Servers: servers, Health: ring.HealthConfig{FailureLimit: 1, RetryTimeout: 50 * time.Millisecond}})
	nodes[2].Kill()
	eventually(t, 10*time.Second, "the dead node is ejected", func() bool {
		c.GetMulti(t.Context(), []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"})
		return c.Stats().Nodes[2].State == ring.Ejected
	})
	if err := c.SetServers([]string{servers[2], servers[0], servers[1]}); err != nil {
		t.Fatal(err)
	}
	if s := c.Stats().Nodes[0]; s.Name != "node2" || s.State != ring.Ejected {
		t.Errorf("after the change: %s is %v", s.Name, s.State)
	}
	if err := nodes[2].Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the node rejoins", func() bool { return c.Stats().Nodes[0].State == ring.Up })
}

// fakeDNS is a Resolver whose answers a test sets.
type fakeDNS struct {
	mu    sync.Mutex
	hosts []string
	srv   []*net.SRV
	err   error
}

func (d *fakeDNS) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (d *fakeDNS) LookupHost(_ context.Context, host string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if host != "cache.example.net" {
		return nil, fmt.Errorf("no such host %s", host)
	}
	return slices.Clone(d.hosts), d.err
}

func (d *fakeDNS) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if service != "" || proto != "" || name != "_memcached._tcp.example.net" {
		return "", nil, fmt.Errorf("no such name %s", name)
	}
	return name, d.srv, d.err
}

func TestDiscovery(t *testing.T) {
	dns := &fakeDNS{}
	file := filepath.Join(t.TempDir(), "servers")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	problems := make(chan error, 1000)
	cfg := client.Config{
		Resolver: dns, DiscoverEvery: 10 * time.Millisecond,
		Hooks: client.Hooks{Discovered: func(_, _ []string, err error) {
			if err != nil {
				problems <- err
			}
		}},
	}
	become := func(t *testing.T, c *client.Client, want ...string) {
		t.Helper()
		eventually(t, 10*time.Second, fmt.Sprintf("the servers are %v", want), func() bool {
			got := c.Servers()
			slices.Sort(got)
			return slices.Equal(got, want)
		})
	}

	t.Run("host", func(t *testing.T) {
		dns.set(func() { dns.hosts = []string{"10.0.0.2", "10.0.0.1"} })
		cfg := cfg
		cfg.Servers = []string{"dns+cache.example.net:11211", "fixed@10.9.9.9:11211*2"}
		c := newClient(t, cfg)
		become(t, c, "10.0.0.1:11211", "10.0.0.2:11211", "fixed@10.9.9.9:11211*2")
		dns.set(func() { dns.hosts = []string{"10.0.0.3", "10.0.0.2", "10.0.0.1"} })
		become(t, c, "10.0.0.1:11211", "10.0.0.2:11211", "10.0.0.3:11211", "fixed@10.9.9.9:11211*2")

		// A failed look-up and an empty answer keep the last one.
		for _, broken := range []func(){func() { dns.err = errors.New("server misbehaving") }, func() { dns.hosts = nil }} {
			dns.set(broken)
			for len(problems) > 0 {
				<-problems
			}
			if err := <-problems; !strings.Contains(err.Error(), "dns+cache.example.net:11211") {
				t.Errorf("the problem does not name its entry: %v", err)
			}
			become(t, c, "10.0.0.1:11211", "10.0.0.2:11211", "10.0.0.3:11211", "fixed@10.9.9.9:11211*2")
			dns.set(func() { dns.err = nil })
		}
		dns.set(func() { dns.hosts = []string{"10.0.0.1"} })
		become(t, c, "10.0.0.1:11211", "fixed@10.9.9.9:11211*2")
	})

	t.Run("SRV", func(t *testing.T) {
		dns.set(func() {
			dns.srv = []*net.SRV{{Target: "a.example.net.", Port: 11311}, {Target: "b.example.net.", Port: 11312}}
		})
		cfg := cfg
		cfg.Servers = []string{"dnssrv+_memcached._tcp.example.net"}
		c := newClient(t, cfg)
		become(t, c, "a.example.net:11311", "b.example.net:11312")
	})

	t.Run("file", func(t *testing.T) {
		write("a:1 # the first\n\n# none\nname@b:2*3\n")
		cfg := cfg
		cfg.Servers = []string{"file:" + file}
		c := newClient(t, cfg)
		become(t, c, "a:1", "name@b:2*3")
		write("a:1\nb:x\n")
		for len(problems) > 0 {
			<-problems
		}
		if err := <-problems; !strings.Contains(err.Error(), "line 2") || !strings.Contains(err.Error(), `port "x"`) {
			t.Errorf("the problem does not name its line: %v", err)
		}
		become(t, c, "a:1", "name@b:2*3")
	})

	t.Run("an answer that drops nearly all", func(t *testing.T) {
		var all []string
		for i := range 9 {
			all = append(all, fmt.Sprintf("n%d:1", i))
		}
		write(strings.Join(all, "\n"))
		cfg := cfg
		cfg.Servers = []string{"file:" + file}
		var mu sync.Mutex
		var left []int
		cfg.Hooks.Discovered = func(_, l []string, _ error) {
			mu.Lock()
			defer mu.Unlock()
			if len(l) > 0 { // a file that is just being written is empty for a moment, which is an error
				left = append(left, len(l))
			}
		}
		c := newClient(t, cfg)
		write("n8:1\n")
		become(t, c, "n8:1")
		// A third each time; the hook runs after the change that it tells of.
		eventually(t, 10*time.Second, "the hook has told of every change", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.Equal(left, []int{3, 2, 1, 1, 1})
		})
	})

	t.Run("bad entries", func(t *testing.T) {
		for _, entry := range []string{"dns+nowhere", "dns+:1", "dnssrv+", "file:", "file:/nonexistent/file", "dns+nobody.example.net:1"} {
			cfg := cfg
			cfg.Servers = []string{entry}
			c, err := client.New(cfg)
			if err == nil {
				c.Close()
			}
			if err == nil || !strings.Contains(err.Error(), entry) {
				t.Errorf("%s: error %v, want one that names it", entry, err)
			}
		}
	})
}
