package client_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/proto/memcached"
)

// largeInTest is Config.LargeValue in these tests.
const largeInTest = 1000

func small(key string) *client.Item { return &client.Item{Key: key, Value: []byte("small")} }

func large(key string) *client.Item {
	return &client.Item{Key: key, Value: bytes.Repeat([]byte("large"), largeInTest/5)}
}

// withLane gives a client whose node has a connection for large values, over
// which "large" has come, while "small" has come over the other.
func withLane(t *testing.T) (*client.Client, *memnode.Node) {
	t.Helper()
	n := newMemnode(t)
	c := newClient(t, client.Config{Servers: []string{n.Addr()}, Timeout: time.Minute, LargeValue: largeInTest})
	set(t, c, small("small"))
	if got := c.Stats().Nodes[0].Connections; got != 1 {
		t.Fatalf("%d connections before there is a large value, want 1", got)
	}
	set(t, c, large("large"))
	eventually(t, 10*time.Second, "there is a second connection", func() bool { return c.Stats().Nodes[0].Connections == 2 })
	return c, n
}

func set(t *testing.T, c *client.Client, item *client.Item) {
	t.Helper()
	if err := c.Set(t.Context(), item); err != nil {
		t.Fatal(err)
	}
}

// block has the connection on which a key is asked for wait until the function
// that it returns is called.
func block(t *testing.T, c *client.Client, n *memnode.Node, key string) (release func()) {
	t.Helper()
	in := n.Inject(memnode.Stall(), memnode.Key(key), memnode.On(memcached.MetaGet))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if _, err := c.Get(context.Background(), key); err != nil { // ended by release
			t.Error(err)
		}
	}()
	<-in.Hit()
	release = func() {
		in.Release()
		<-ended
	}
	t.Cleanup(release)
	return release
}

func has(t *testing.T, c *client.Client, key string, want *client.Item) {
	t.Helper()
	got, err := c.Get(t.Context(), key)
	switch {
	case want == nil && errors.Is(err, client.ErrCacheMiss):
	case err != nil:
		t.Fatalf("get %s: %v", key, err)
	case want == nil || !bytes.Equal(got.Value, want.Value):
		t.Fatalf("get %s: %d bytes, %.10q, want %v", key, len(got.Value), got.Value, want)
	}
}

// TestLane: large values and small ones do not wait for one another, where a key
// goes follows its value's size, and what is small again returns.
func TestLane(t *testing.T) {
	c, n := withLane(t)
	set(t, c, large("shrinks"))
	set(t, c, small("shrinks")) // behind the large one
	set(t, c, small("grows"))
	set(t, c, large("grows"))
	set(t, c, large("read-only"))
	other := newClient(t, client.Config{Servers: []string{n.Addr()}, Timeout: time.Minute, LargeValue: largeInTest})
	has(t, other, "read-only", large(""))
	eventually(t, 10*time.Second, "a read makes the second connection too", func() bool {
		has(t, other, "read-only", large(""))
		return other.Stats().Nodes[0].Connections == 2
	})
	release := block(t, other, n, "read-only")
	has(t, other, "small", small(""))
	release()
	set(t, other, large("large"))
	set(t, c, small("read-only"))
	has(t, other, "read-only", small(""))
	release = block(t, other, n, "large")
	has(t, other, "read-only", small(""))
	release()

	release = block(t, c, n, "large")
	has(t, c, "small", small(""))
	has(t, c, "shrinks", small(""))
	set(t, c, small("new"))
	release()

	release = block(t, c, n, "small")
	has(t, c, "large", large(""))
	has(t, c, "grows", large(""))
	set(t, c, large("another"))
	set(t, c, small("another"))
	release()
}

// TestLaneAppend: what an append adds is not the value's size.
func TestLaneAppend(t *testing.T) {
	c, n := withLane(t)
	if err := c.Append(t.Context(), small("large")); err != nil {
		t.Fatal(err)
	}
	block(t, c, n, "small")
	if got, err := c.Get(t.Context(), "large"); err != nil || len(got.Value) != largeInTest+len("small") {
		t.Fatal(got, err)
	}
}

// TestNoLane: without one there is one connection.
func TestNoLane(t *testing.T) {
	n := newMemnode(t)
	c := newClient(t, client.Config{Servers: []string{n.Addr()}, Timeout: time.Minute, LargeValue: -1})
	for range 3 {
		set(t, c, &client.Item{Key: "large", Value: make([]byte, 500<<10)})
	}
	release := block(t, c, n, "large")
	waiting := make(chan error, 1)
	go func() { waiting <- c.Set(t.Context(), small("small")) }()
	eventually(t, 10*time.Second, "the small one is under way", func() bool { return c.Stats().Nodes[0].InFlight == 2 })
	select {
	case err := <-waiting:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	release()
	if err := <-waiting; err != nil {
		t.Fatal(err)
	}
	if s := c.Stats().Nodes[0]; s.Connections != 1 || s.Dials != 1 {
		t.Errorf("%d connections, %d dials, want 1", s.Connections, s.Dials)
	}
}

// TestLaneAfterGivingUp: what a caller asks for after it has given up something on
// the same key happens after that, whichever connection the two would have gone over.
func TestLaneAfterGivingUp(t *testing.T) {
	for _, tt := range []struct {
		name    string
		blocked string // which connection does not move on
		first   []*client.Item
		then    func(context.Context, *client.Client) error
		want    *client.Item
	}{
		{"a large set, then a delete", "large", []*client.Item{large("k")}, func(ctx context.Context, c *client.Client) error { return c.Delete(ctx, "k") }, nil},
		{"a large set and a small one, then a delete", "large", []*client.Item{large("k"), small("k")}, func(ctx context.Context, c *client.Client) error { return c.Delete(ctx, "k") }, nil},
		{"a large set, then a small one", "large", []*client.Item{large("k")}, func(ctx context.Context, c *client.Client) error { return c.Set(ctx, small("k")) }, small("k")},
		{"a large set, then a batch", "large", []*client.Item{large("k")}, func(ctx context.Context, c *client.Client) error {
			var b client.Batch
			b.Set(small("k"))
			b.Set(small("another"))
			return c.Do(ctx, &b)
		}, small("k")},
		{"a small set, then a large one", "small", []*client.Item{small("k")}, func(ctx context.Context, c *client.Client) error { return c.Set(ctx, large("k")) }, large("k")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, n := withLane(t)
			release := block(t, c, n, tt.blocked)
			underWay := int64(1)
			oneMore := func() {
				t.Helper()
				underWay++
				eventually(t, 10*time.Second, "one more is under way", func() bool { return c.Stats().Nodes[0].InFlight >= underWay })
			}
			for _, item := range tt.first {
				ctx, cancel := context.WithCancel(t.Context())
				given := make(chan error, 1)
				go func() { given <- c.Set(ctx, item) }()
				oneMore()
				cancel()
				if err := <-given; !errors.Is(err, context.Canceled) {
					t.Fatalf("%v, want it to be given up", err)
				}
			}
			done := make(chan error, 1)
			go func() { done <- tt.then(t.Context(), c) }()
			oneMore()
			release()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			has(t, c, "k", tt.want)
			// Behind it all the key is free to go where it belongs.
			set(t, c, small("k"))
			block(t, c, n, "large")
			has(t, c, "k", small("k"))
		})
	}
}

// TestFlushAllAfterGivingUp: nothing that was given up before stands behind it,
// whichever connection it has gone over.
func TestFlushAllAfterGivingUp(t *testing.T) {
	c, n := withLane(t)
	release := block(t, c, n, "large")
	underWay := func(want int64) {
		t.Helper()
		eventually(t, 10*time.Second, "one more is under way", func() bool { return c.Stats().Nodes[0].InFlight == want })
	}
	ctx, cancel := context.WithCancel(t.Context())
	given := make(chan error, 1)
	go func() { given <- c.Set(ctx, large("k")) }()
	underWay(2)
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, want it to be given up", err)
	}
	done := make(chan error, 1)
	go func() { done <- c.FlushAll(t.Context()) }()
	select {
	case err := <-done:
		t.Fatalf("FlushAll = %v before the Set that was given up is over", err)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	has(t, c, "k", nil)
}

// TestLaneBatch: a batch's operations on one key keep their order, where their
// values are of different sizes and where a CAS id binds one to a connection.
func TestLaneBatch(t *testing.T) {
	for _, blocked := range []string{"large", "small"} {
		t.Run(blocked+" is blocked", func(t *testing.T) {
			c, n := withLane(t)
			swapped := make(map[string]*client.Item)
			for key, changed := range map[string]*client.Item{"small": large("small"), "large": small("large")} {
				item, err := c.Get(t.Context(), key)
				if err != nil {
					t.Fatal(err)
				}
				item.Value = changed.Value
				swapped[key] = item
			}
			release := block(t, c, n, blocked)
			go func() {
				time.Sleep(20 * time.Millisecond) // what overtakes has done so by then
				release()
			}()
			var b client.Batch
			want := make(map[int]*client.Item)
			b.Set(large("k"))
			want[b.Get("k")] = large("")
			b.Set(small("k"))
			want[b.Get("k")] = small("")
			for key, item := range swapped {
				b.CompareAndSwap(item)
				want[b.Get(key)] = item
			}
			if err := c.Do(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
			for i := range b.Len() {
				if err := b.Err(i); err != nil {
					t.Errorf("operation %d: %v", i, err)
				}
			}
			for place, want := range want {
				if got, err := b.Item(place); err != nil || !bytes.Equal(got.Value, want.Value) {
					t.Errorf("operation %d: %v, %v", place, got, err)
				}
			}
		})
	}
}

// TestLaneLost: a large value whose connection breaks does not take the small
// requests with it.
func TestLaneLost(t *testing.T) {
	c, n := withLane(t)
	release := block(t, c, n, "small")
	n.Inject(memnode.HangUp(), memnode.Key("large"))
	if _, err := c.Get(t.Context(), "large"); !errors.Is(err, client.ErrConnLost) {
		t.Fatalf("%v, want the connection to be lost", err)
	}
	release() // its Get has an answer
	has(t, c, "large", large(""))
}

// TestLaneRefused: a node that takes no more connections serves large values over
// the one that it has, and is neither taken for an old server nor for a sick one.
func TestLaneRefused(t *testing.T) {
	n, err := memnode.Start(memnode.Config{MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	c := newClient(t, client.Config{Servers: []string{n.Addr()}, Timeout: time.Minute, LargeValue: largeInTest})
	set(t, c, small("small"))
	eventually(t, 20*time.Second, "it was tried twice", func() bool {
		set(t, c, large("large"))
		has(t, c, "large", large(""))
		return c.Stats().Nodes[0].DialErrors >= 2
	})
	if s := c.Stats().Nodes[0]; s.Connections != 1 || s.Legacy || s.FailuresTotal != 0 || s.Version == "" {
		t.Errorf("%+v", s)
	}
}
