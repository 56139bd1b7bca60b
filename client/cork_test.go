package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client/memnode"
)

// corked starts a node and a connected client that shares writes.
func corked(t *testing.T, cfg Config) (*memnode.Node, *Client, *conn) {
	t.Helper()
	node, err := memnode.Start(memnode.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	cfg.Servers, cfg.ShareWrites = []string{node.Addr()}, true
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Set(t.Context(), &Item{Key: "a", Value: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	return node, c, c.fleet.Load().nodes[0].slots[0].conn.Load()
}

// awaitHeld waits until so many gets of a are held.
func awaitHeld(t *testing.T, c *conn, gets int) {
	t.Helper()
	want := gets * len("mg a v f c O0123456789\r\n")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		held := len(c.wbuf)
		c.mu.Unlock()
		if held == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d bytes are held, want %d", held, want)
		}
	}
}

func TestCork(t *testing.T) {
	_, c, conn := corked(t, Config{})
	k := Cork{Longest: time.Hour}
	ctx := WithCork(t.Context(), &k)
	for range 3 {
		k.Hold()
		before := conn.node.writes.Load()
		const calls = 20
		var wg sync.WaitGroup
		for i := range calls {
			wg.Go(func() {
				if i%2 == 0 {
					if item, err := c.Get(ctx, "a"); err != nil || string(item.Value) != "1" {
						t.Errorf("Get = %v, %v", item, err)
					}
					return
				}
				if items, err := c.GetMulti(ctx, []string{"a"}); err != nil || len(items) != 1 {
					t.Errorf("GetMulti = %v, %v", items, err)
				}
			})
		}
		awaitHeld(t, conn, calls)
		if n := conn.node.writes.Load() - before; n != 0 {
			t.Errorf("%d writes before Release", n)
		}
		k.Release()
		wg.Wait()
		if n := conn.node.writes.Load() - before; n != 1 {
			t.Errorf("%d calls took %d writes, want 1", calls, n)
		}
	}
	k.Release() // of nothing
	if _, err := c.Get(ctx, "a"); err != nil {
		t.Errorf("Get behind Release: %v", err)
	}
}

// TestCorkIsLetGo: what is held goes out with what others write, when it is
// much, and by itself.
func TestCorkIsLetGo(t *testing.T) {
	_, c, conn := corked(t, Config{LargeValue: 8 << 10})
	k := Cork{Longest: time.Hour}
	ctx := WithCork(t.Context(), &k)
	held := func(call func() error) chan error {
		k.Hold()
		done := make(chan error, 1)
		go func() { done <- call() }()
		return done
	}
	get := func() error { _, err := c.Get(ctx, "a"); return err }

	done := held(get)
	awaitHeld(t, conn, 1)
	if _, err := c.Get(t.Context(), "a"); err != nil {
		t.Errorf("a call without the cork: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("a call that another's write took along: %v", err)
	}
	for what, size := range map[string]int{"much": fullCork, "large": 9 << 10} {
		if err := <-held(func() error { return c.Set(ctx, &Item{Key: what, Value: make([]byte, size)}) }); err != nil {
			t.Errorf("a Set of what is %s: %v", what, err)
		}
	}
	var forgotten Cork
	for range 2 {
		forgotten.Hold()
		if _, err := c.Get(WithCork(t.Context(), &forgotten), "a"); err != nil {
			t.Errorf("a call whose cork is not released: %v", err)
		}
	}
}

// TestCorkOfOthers: a client that does not share writes knows no cork.
func TestCorkOfOthers(t *testing.T) {
	server := memnodes(t, 1)[0]
	c, err := New(Config{Servers: []string{server}, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	k := Cork{Longest: time.Hour}
	k.Hold()
	if _, err := c.Get(WithCork(t.Context(), &k), "a"); !errors.Is(err, ErrCacheMiss) {
		t.Errorf("Get = %v", err)
	}
}

// TestCorkOnBrokenConnection: what was held when its connection broke was never
// sent.
func TestCorkOnBrokenConnection(t *testing.T) {
	_, c, conn := corked(t, Config{})
	k := Cork{Longest: time.Hour}
	k.Hold()
	done := make(chan error, 1)
	go func() {
		_, err := c.Get(WithCork(t.Context(), &k), "a")
		done <- err
	}()
	awaitHeld(t, conn, 1)
	conn.fail(fmt.Errorf("%w: by this test", ErrConnLost))
	if err := <-done; !errors.Is(err, ErrConnLost) || !SafeToRetry(err) {
		t.Errorf("Get = %v, want a lost connection, safe to retry", err)
	}
	k.Release()
	if _, err := c.Get(t.Context(), "a"); err != nil {
		t.Errorf("Get behind it: %v", err)
	}
}

// TestCorkLosesNothing: whatever holds and releases when, no request is left
// lying. There the timer would find it, so that is off.
func TestCorkLosesNothing(t *testing.T) {
	_, c, _ := corked(t, Config{Timeout: 10 * time.Second})
	corks := [3]Cork{{Longest: time.Hour}, {Longest: time.Hour}, {Longest: time.Hour}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var holders, callers sync.WaitGroup
	var calls atomic.Int64
	for i := range corks {
		k := &corks[i]
		holders.Go(func() {
			for ctx.Err() == nil {
				k.Hold()
				time.Sleep(20 * time.Microsecond)
				k.Release()
			}
		})
		for range 8 {
			callers.Go(func() {
				for ctx.Err() == nil {
					if _, err := c.Get(WithCork(t.Context(), k), "a"); err != nil {
						t.Error(err)
						return
					}
					calls.Add(1)
				}
			})
		}
	}
	holders.Wait()
	callers.Wait()
	t.Logf("%d calls", calls.Load())
}
