package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/proto/memcached"
)

// This file has callers that leave before they are answered.

// patient gives a connected client whose Timeout is longer than any test.
func patient(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	cfg.Timeout = time.Minute
	c := newClient(t, cfg)
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// leaves waits for a caller that was cancelled.
func leaves(t *testing.T, left <-chan error) {
	t.Helper()
	select {
	case err := <-left:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("it leaves with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it does not leave")
	}
}

func TestContexts(t *testing.T) {
	c := newClient(t, client.Config{Servers: []string{newMemnode(t).Addr()}})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Get(ended, "a"); !errors.Is(err, context.Canceled) || !client.SafeToRetry(err) {
		t.Errorf("an ended context: %v", err)
	}
	late, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	if err := c.Set(late, &client.Item{Key: "a"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a deadline that has passed: %v", err)
	}
	if n := c.Stats().Nodes[0].Requests; n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// TestLeavesBehindEachReader: a caller leaves whatever the one does who reads
// for it: looks up now and then, sleeps until its own context ends, or has
// replies all the time.
func TestLeavesBehindEachReader(t *testing.T) {
	const many = 1000
	var keys []string
	for i := range many {
		keys = append(keys, fmt.Sprint(i))
	}
	endless, end := context.WithCancel(context.Background())
	defer end()
	for _, tt := range []struct {
		name   string
		fault  memnode.Fault
		reader context.Context
		keys   []string
	}{
		{"that looks up", memnode.Stall(), context.Background(), keys[:1]},
		{"that sleeps", memnode.Stall(), endless, keys[:1]},
		{"that has replies", memnode.Slow(400 * time.Microsecond), context.Background(), keys},
		{"that has replies and a context", memnode.Slow(400 * time.Microsecond), endless, keys},
	} {
		for _, after := range []time.Duration{0, 300 * time.Microsecond, 20 * time.Millisecond} {
			t.Run(fmt.Sprint(tt.name, " after ", after), func(t *testing.T) {
				n := newMemnode(t)
				c := patient(t, client.Config{Servers: []string{n.Addr()}})
				in := n.Inject(tt.fault, memnode.On(memcached.MetaGet), memnode.Always())
				done := make(chan error, 1)
				go func() {
					_, err := c.GetMulti(tt.reader, tt.keys)
					done <- err
				}()
				inFlight := func() int64 { return c.Stats().Nodes[0].InFlight }
				eventually(t, 10*time.Second, "the reader's requests are under way", func() bool { return inFlight() > 0 })
				ctx, cancel := context.WithCancel(t.Context())
				left := make(chan error, 1)
				before := inFlight()
				go func() {
					_, err := c.Get(ctx, "behind")
					left <- err
				}()
				if len(tt.keys) == 1 {
					eventually(t, 10*time.Second, "a request waits behind them", func() bool { return inFlight() > before })
				}
				time.AfterFunc(after, cancel)
				leaves(t, left)
				if len(done) > 0 {
					t.Error("it has not left before the others were served")
				}
				in.Remove()
				if err := <-done; err != nil {
					t.Errorf("the reader: %v", err)
				}
			})
		}
	}
}

// TestLeavesBehindAReaderThatFellSilent: it slept until its own context ends, had
// a reply, and sleeps again.
func TestLeavesBehindAReaderThatFellSilent(t *testing.T) {
	n := newMemnode(t)
	c := patient(t, client.Config{Servers: []string{n.Addr()}})
	n.Inject(memnode.Slow(20*time.Millisecond), memnode.Key("first"))
	stall := n.Inject(memnode.Stall(), memnode.Key("second"))
	reader, end := context.WithCancel(context.Background())
	defer end()
	read := c.Stats().Nodes[0].BytesIn
	done := make(chan error, 1)
	go func() {
		_, err := c.GetMulti(reader, []string{"first", "second"})
		done <- err
	}()
	<-stall.Hit()
	eventually(t, 10*time.Second, "the first reply is read", func() bool { return c.Stats().Nodes[0].BytesIn > read })
	requests := c.Stats().Nodes[0].Requests
	left := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	const callers = 5 // the first may come before the reader sleeps again
	for range callers {
		go func() {
			_, err := c.Get(ctx, "behind")
			left <- err
		}()
		requests++
		eventually(t, 10*time.Second, "a request waits behind them", func() bool { return c.Stats().Nodes[0].Requests == requests })
	}
	cancel()
	for range callers {
		leaves(t, left)
	}
	stall.Remove()
	if err := <-done; err != nil {
		t.Errorf("the reader: %v", err)
	}
}

// TestLeavesDuringAHook: a connection that breaks calls hooks before it fails its
// calls, and who waits for it, or comes to, does not wait for them.
func TestLeavesDuringAHook(t *testing.T) {
	hung, dies := newMemnode(t), newMemnode(t)
	called, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	var once sync.Once
	c := patient(t, client.Config{
		Servers: []string{"a@" + hung.Addr(), "b@" + dies.Addr()},
		Hooks: client.Hooks{Failed: func(string, error) {
			once.Do(func() { close(called) })
			<-release
		}},
	})
	hung.Inject(memnode.Stall(), memnode.On(memcached.MetaGet), memnode.Always())
	stall := dies.Inject(memnode.Stall(), memnode.On(memcached.MetaGet), memnode.Always())
	var keys []string
	for i := range 50 {
		keys = append(keys, fmt.Sprint(i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 2)
	many := func() {
		_, err := c.GetMulti(ctx, keys)
		left <- err
	}
	go many()
	<-stall.Hit()
	dies.Kill()
	<-called
	go many()
	eventually(t, 10*time.Second, "the second is under way", func() bool { return c.Stats().Nodes[0].InFlight > 25 })
	cancel()
	for range 2 {
		leaves(t, left)
	}
}

// TestCancelledCallerLeavesAtOnce, whether it is the reader, waits behind it,
// or is in the middle of a batch; its reply is drained, and those behind it
// get theirs.
func TestCancelledCallerLeavesAtOnce(t *testing.T) {
	n := newMemnode(t)
	c := patient(t, client.Config{Servers: []string{n.Addr()}})
	ctx := t.Context()
	for i := range 10 {
		if err := c.Set(ctx, &client.Item{Key: fmt.Sprint(i), Value: fmt.Append(nil, "value ", i)}); err != nil {
			t.Fatal(err)
		}
	}
	stall := n.Inject(memnode.Stall(), memnode.On(memcached.MetaGet), memnode.Always())
	left, leave := context.WithCancel(ctx)
	var leaving, staying sync.WaitGroup
	for i := range 5 {
		leaving.Go(func() {
			if _, err := c.Get(left, fmt.Sprint(i)); !errors.Is(err, context.Canceled) {
				t.Errorf("a cancelled get: %v", err)
			}
		})
		staying.Go(func() {
			if item, err := c.Get(ctx, fmt.Sprint(5+i)); err != nil || string(item.Value) != fmt.Sprint("value ", 5+i) {
				t.Errorf("%v, %v", item, err)
			}
		})
		leaving.Go(func() {
			if _, err := c.GetMulti(left, []string{"1", "2", "3"}); !errors.Is(err, context.Canceled) {
				t.Errorf("a cancelled batch: %v", err)
			}
		})
	}
	eventually(t, 10*time.Second, "all have been sent", func() bool { return c.Stats().Nodes[0].InFlight == 25 })
	leave()
	leaving.Wait() // the test hangs here if nobody leaves
	stall.Remove()
	staying.Wait()
	eventually(t, 10*time.Second, "nothing in flight", func() bool { return c.Stats().Nodes[0].InFlight == 0 })
	if s := c.Stats().Nodes[0]; s.ConnectionsLost != 0 {
		t.Errorf("%d connections lost", s.ConnectionsLost)
	}
}
