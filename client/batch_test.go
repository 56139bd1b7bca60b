package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/proto/memcached"
	"github.com/ringside-cache/ringside/stampede"
)

// TestBatchDeadline: a context that ends before Timeout, while one node hangs
// in a request or in being connected to, costs the keys of that node only.
func TestBatchDeadline(t *testing.T) {
	for _, connected := range []bool{true, false} {
		t.Run(fmt.Sprintf("connected %v", connected), func(t *testing.T) {
			nodes := []*memnode.Node{newMemnode(t), newMemnode(t), newMemnode(t)}
			servers := []string{"a@" + nodes[0].Addr(), "b@" + nodes[1].Addr(), "c@" + nodes[2].Addr()}
			writer := newClient(t, client.Config{Servers: servers})
			reader := newClient(t, client.Config{Servers: servers, Timeout: 10 * time.Second})
			owned := map[string]int{}
			var keys []string
			value := strings.Repeat("x", 20_000)
			for i := range 300 {
				keys = append(keys, fmt.Sprint("key:", i))
				if err := writer.Set(t.Context(), &client.Item{Key: keys[i], Value: []byte(value)}); err != nil {
					t.Fatal(err)
				}
				e, err := writer.Explain(keys[i])
				if err != nil {
					t.Fatal(err)
				}
				owned[e.Owner]++
				if connected || e.Owner != "a" {
					if _, err := reader.Get(t.Context(), keys[i]); err != nil {
						t.Fatal(err)
					}
				}
			}
			nodes[0].Stop()
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			items, err := reader.GetMulti(ctx, keys)
			if !errors.Is(err, context.DeadlineExceeded) || len(items) != owned["b"]+owned["c"] {
				t.Errorf("%d items, %v; want the %d of the two healthy nodes", len(items), err, owned["b"]+owned["c"])
			}
			for _, n := range reader.Stats().Nodes[1:] {
				if n.FailuresTotal != 0 {
					t.Errorf("the healthy node %s has %d failures", n.Name, n.FailuresTotal)
				}
			}
			nodes[0].Resume()
		})
	}
}

// TestBatchAgain: a Batch may be run a second time, and all of it is.
func TestBatchAgain(t *testing.T) {
	node := newMemnode(t)
	c := newClient(t, client.Config{Servers: []string{node.Addr()}, Timeout: 200 * time.Millisecond})
	var b client.Batch
	get, bad := b.Get("a"), b.Meta("a b", &memcached.Request{Command: memcached.MetaGet, Key: []byte("a b")})
	for _, value := range []string{"old", "newer"} {
		if err := c.Set(t.Context(), &client.Item{Key: "a", Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
		if err := c.Do(t.Context(), &b); !errors.Is(err, client.ErrMalformedKey) {
			t.Errorf("%v, want the bad request's error each time", err)
		}
		if item, err := b.Item(get); err != nil || string(item.Value) != value {
			t.Errorf("%v, %v; want %s", item, err, value)
		}
		if b.Err(bad) == nil {
			t.Error("the bad request has no error")
		}
	}
	node.Inject(memnode.Stall())
	if err := c.Do(t.Context(), &b); !errors.Is(err, client.ErrTimeout) {
		t.Errorf("%v, want ErrTimeout", err)
	}
	eventually(t, 5*time.Second, "the same batch works again", func() bool {
		c.Do(t.Context(), &b)
		item, err := b.Item(get)
		return err == nil && string(item.Value) == "newer"
	})
}

// TestAMistakeHurtsNobodyElse: what a caller gets wrong is answered to it
// alone and is no failure of the node.
func TestAMistakeHurtsNobodyElse(t *testing.T) {
	c := newClient(t, client.Config{Servers: []string{realserver.Memcached(t).Addr()}})
	ctx := t.Context()
	if err := c.Set(ctx, &client.Item{Key: "a", Value: []byte("old")}); err != nil {
		t.Fatal(err)
	}
	// An item that was stored under a key in base64.
	var b client.Batch
	b.Meta("me", &memcached.Request{Command: memcached.MetaSet, Key: []byte("bWU="), Value: []byte("x"), Meta: metaFlags("b")})
	me := b.Meta("me", &memcached.Request{Command: memcached.MetaDebug, Key: []byte("me")})
	if err := c.Do(ctx, &b); err != nil {
		t.Error(err)
	}
	if rep, err := b.Reply(me); err != nil || rep.Kind != memcached.MetaInfo {
		t.Errorf("me: %v, %v", rep, err)
	}
	for range 5 {
		for _, arg := range []string{"foo", "cachedump", "cachedump x", "reset"} {
			if _, err := c.ServerStats(ctx, arg); err != nil && !errors.Is(err, client.ErrClientError) {
				t.Errorf("stats %s: %v", arg, err)
			}
		}
		var b client.Batch
		long := b.Meta("a", &memcached.Request{Command: memcached.MetaGet, Key: []byte("a"), Meta: metaFlags("P" + strings.Repeat("x", 20_000))})
		large := b.Meta("a", &memcached.Request{Command: memcached.MetaSet, Key: []byte("a"), Value: make([]byte, 2<<20)})
		c.Do(ctx, &b)
		if err := b.Err(long); !errors.Is(err, client.ErrClientError) {
			t.Errorf("a meta request of 20,000 bytes: %v", err)
		}
		if err := b.Err(large); !errors.Is(err, client.ErrTooLarge) {
			t.Errorf("a meta set of 2 MiB: %v", err)
		}
	}
	if item, err := c.Get(ctx, "a"); err != nil || string(item.Value) != "old" {
		t.Errorf("what was there: %v, %v", item, err)
	}
	if n := c.Stats().Nodes[0]; n.FailuresTotal != 0 || n.ConnectionsLost != 0 || n.Dials != 1 {
		t.Errorf("%d failures, %d connections lost, %d dials", n.FailuresTotal, n.ConnectionsLost, n.Dials)
	}
}

// TestTooLargeFirst: the limit becomes known when the first connection is
// made, and holds for the request that had it made.
func TestTooLargeFirst(t *testing.T) {
	s := realserver.Memcached(t)
	if err := newClient(t, client.Config{Servers: []string{s.Addr()}}).Set(t.Context(), &client.Item{Key: "a", Value: []byte("old")}); err != nil {
		t.Fatal(err)
	}
	large := &client.Item{Key: "a", Value: make([]byte, 2<<20)}
	c := newClient(t, client.Config{Servers: []string{s.Addr()}, Timeout: 5 * time.Second})
	if err := c.Set(t.Context(), large); !errors.Is(err, client.ErrTooLarge) {
		t.Errorf("%v, want ErrTooLarge", err)
	}
	c = newClient(t, client.Config{Servers: []string{s.Addr()}, Timeout: 5 * time.Second})
	var b client.Batch
	set, get := b.Set(large), b.Get("a")
	c.Do(t.Context(), &b)
	if err := b.Err(set); !errors.Is(err, client.ErrTooLarge) {
		t.Errorf("in a batch: %v, want ErrTooLarge", err)
	}
	if item, err := b.Item(get); err != nil || string(item.Value) != "old" {
		t.Errorf("what was there: %v, %v", item, err)
	}
}

// TestLegacyBatchEndsWithItsCaller: what was not begun when the caller was
// told of a timeout is not done later, and Close does not wait for it.
func TestLegacyBatchEndsWithItsCaller(t *testing.T) {
	var gate atomic.Pointer[chan struct{}]
	addr := oldServer(t, versionOf("1.4.39"), func(line string) {
		if ch := gate.Load(); ch != nil && strings.HasPrefix(line, "set") {
			<-*ch
		}
	})
	c, err := client.New(client.Config{Servers: []string{addr}, Timeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Set(t.Context(), &client.Item{Key: "k19", Value: []byte("before")}); err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	gate.Store(&closed)
	var b client.Batch
	for i := range 20 {
		b.Set(&client.Item{Key: fmt.Sprint("k", i), Value: []byte("old")})
	}
	if err := c.Do(t.Context(), &b); !errors.Is(err, client.ErrTimeout) {
		t.Errorf("%v, want ErrTimeout", err)
	}
	gate.Store(nil)
	close(closed)
	eventually(t, 5*time.Second, "a newer value is set", func() bool {
		return c.Set(t.Context(), &client.Item{Key: "k19", Value: []byte("new")}) == nil
	})
	if err := c.Close(); err != nil { // waits for what is still under way
		t.Fatal(err)
	}
	again := newClient(t, client.Config{Servers: []string{addr}})
	if item, err := again.Get(t.Context(), "k19"); err != nil || string(item.Value) != "new" {
		t.Errorf("the timed-out batch has overwritten it: %v, %v", item, err)
	}
	if err := c.Set(t.Context(), &client.Item{Key: "a"}); !errors.Is(err, client.ErrClosed) {
		t.Errorf("set after Close: %v", err)
	}
}

// TestSameKeyTwice: each result of a batch owns its value, those of one key too.
func TestSameKeyTwice(t *testing.T) {
	test := func(t *testing.T, addr string) {
		c := newClient(t, client.Config{Servers: []string{addr}})
		if err := c.Set(t.Context(), &client.Item{Key: "a", Value: []byte("value")}); err != nil {
			t.Fatal(err)
		}
		var b client.Batch
		first, second := b.Get("a"), b.Get("a")
		if err := c.Do(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		one, _, _, _ := b.Read(first)
		copy(one, "XXXXX")
		if two, _, _, _ := b.Read(second); string(two) != "value" {
			t.Errorf("the second has %q after the first was written to", two)
		}
		read := stampede.Read{Key: "a", Lease: time.Minute}
		replies := c.ReadLeased(t.Context(), []stampede.Read{read, read})
		copy(replies[0].Value, "XXXXX")
		if string(replies[1].Value) != "value" {
			t.Errorf("the second leased read has %q", replies[1].Value)
		}
	}
	onBoth(t, test)
	t.Run("legacy", func(t *testing.T) { test(t, oldServer(t, versionOf("1.4.39"))) })
}
