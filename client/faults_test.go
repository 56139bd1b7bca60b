package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/proto/memcached"
	"github.com/ringside-cache/ringside/ring"
)

func stallSets() (memnode.Fault, memnode.When, memnode.When) {
	return memnode.Stall(), memnode.On(memcached.MetaSet), memnode.Always()
}

// healthy is a config for tests of one node: it is never ejected.
func healthy(addr string) client.Config {
	return client.Config{Servers: []string{addr}, Timeout: 300 * time.Millisecond}
}

// TestFaults: each fault of a reply fails what waits on the connection with
// an error of its own, and the next request finds a new connection.
func TestFaults(t *testing.T) {
	tests := []struct {
		name  string
		fault memnode.Fault
		want  error
	}{
		{"stall", memnode.Stall(), client.ErrTimeout},
		{"half a reply, then stall", memnode.Half(memnode.Stall()), client.ErrTimeout},
		{"half a reply, then reset", memnode.Half(memnode.Reset()), client.ErrConnLost},
		{"half a reply, then hang up", memnode.Half(memnode.HangUp()), client.ErrConnLost},
		{"reset", memnode.Reset(), client.ErrConnLost},
		{"hang up", memnode.HangUp(), client.ErrConnLost},
		{"garbage", memnode.Garbage("HTTP/1.1 400 Bad Request\r\n"), client.ErrDesynchronised},
		{"another request's reply", memnode.Garbage("VA 5 f0 c1 O4294967295\r\nwrong\r\n"), client.ErrDesynchronised},
		{"a reply without opaque", memnode.Garbage("VA 5 f0 c1\r\nwrong\r\n"), client.ErrDesynchronised},
		{"a miss without opaque", memnode.Garbage("EN\r\n"), client.ErrDesynchronised},
		{"another request's error", memnode.Garbage("CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"), client.ErrDesynchronised},
		{"a value of 2 GiB", memnode.Garbage("VA 2147483647 f0 c1 O1\r\nwrong\r\n"), client.ErrDesynchronised},
		{"bad command line format", memnode.Garbage("CLIENT_ERROR bad command line format\r\n"), client.ErrDesynchronised},
		{"server error", memnode.Garbage("SERVER_ERROR out of memory\r\n"), client.ErrServerError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newMemnode(t)
			c := newClient(t, healthy(n.Addr()))
			ctx := t.Context()
			if err := c.Set(ctx, &client.Item{Key: "user:42", Value: []byte("right")}); err != nil {
				t.Fatal(err)
			}
			n.Inject(tt.fault, memnode.On(memcached.MetaGet))
			item, err := c.Get(ctx, "user:42")
			var op *client.OpError
			if !errors.Is(err, tt.want) || !errors.As(err, &op) || op.Op != "get" || op.Node != n.Addr() || op.Key != "user:42" {
				t.Fatalf("%v, %v; want %v in an *OpError", item, err, tt.want)
			}
			if strings.Contains(err.Error(), "user:42") {
				t.Errorf("the error prints the key: %v", err)
			}
			if client.SafeToRetry(err) {
				t.Errorf("safe to retry, although it was sent: %v", err)
			}
			// In step or on a new connection, what follows works. The first
			// failed dial after a broken connection would be none.
			if item, err := c.Get(ctx, "user:42"); err != nil || string(item.Value) != "right" {
				t.Errorf("after the fault: %v, %v", item, err)
			}
			if lost := c.Stats().Nodes[0].ConnectionsLost; (lost == 0) != errors.Is(tt.want, client.ErrServerError) {
				t.Errorf("%d connections lost", lost)
			}
		})
	}
}

// TestOneBadRequestHurtsNobodyElse: an error reply is one caller's result.
func TestOneBadRequestHurtsNobodyElse(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		c := newClient(t, healthy(addr))
		ctx := t.Context()
		if err := c.Set(ctx, &client.Item{Key: "word", Value: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for range 200 {
					if i%2 == 0 {
						if _, err := c.Increment(ctx, "word", 1); !errors.Is(err, client.ErrClientError) {
							t.Errorf("increment of a word: %v", err)
						}
					} else if item, err := c.Get(ctx, "word"); err != nil || string(item.Value) != "x" {
						t.Errorf("get: %v, %v", item, err)
					}
				}
			})
		}
		wg.Wait()
		if n := c.Stats().Nodes[0]; n.ConnectionsLost != 0 || n.FailuresTotal != 0 || n.Dials != 1 {
			t.Errorf("%d connections lost, %d failures, %d dials", n.ConnectionsLost, n.FailuresTotal, n.Dials)
		}
	})
}

// TestErrorsAreNotMixedUp: an error line has no opaque. Where replies are lost,
// repeated or swapped, it must not be believed by a caller whose own request
// was carried out.
func TestErrorsAreNotMixedUp(t *testing.T) {
	tests := []struct {
		name  string
		fault memnode.Fault
		key   string // whose reply suffers it
	}{
		{"the reply before is lost", memnode.Drop(), "number"},
		{"the error comes twice", memnode.Duplicate(), "word"},
		{"the reply before comes behind it", memnode.Swap(), "number"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newMemnode(t)
			c := newClient(t, healthy(n.Addr()))
			ctx := t.Context()
			for key, value := range map[string]string{"number": "0", "word": "x", "behind": "0"} {
				if err := c.Set(ctx, &client.Item{Key: key, Value: []byte(value)}); err != nil {
					t.Fatal(err)
				}
			}
			n.Inject(tt.fault, memnode.Key(tt.key))
			var b client.Batch
			number, word, behind := b.Increment("number", 1), b.Increment("word", 1), b.Increment("behind", 1)
			c.Do(ctx, &b) //nolint:errcheck // each has its own
			for _, i := range []int{number, behind} {
				if err := b.Err(i); err != nil && (errors.Is(err, client.ErrClientError) || client.SafeToRetry(err)) {
					t.Errorf("%s was incremented, and its caller is told: %v", b.Key(i), err)
				}
			}
			if err := b.Err(word); !errors.Is(err, client.ErrDesynchronised) {
				t.Errorf("the error that may be another's: %v", err)
			}
			// Without a fault the error is believed, alone and among others.
			b.Reset()
			number, word, behind = b.Increment("number", 1), b.Increment("word", 1), b.Increment("behind", 1)
			c.Do(ctx, &b) //nolint:errcheck // each has its own
			if b.Err(number) != nil || !errors.Is(b.Err(word), client.ErrClientError) || b.Err(behind) != nil {
				t.Errorf("without a fault: %v, %v, %v", b.Err(number), b.Err(word), b.Err(behind))
			}
			if _, err := c.Increment(ctx, "word", 1); !errors.Is(err, client.ErrClientError) {
				t.Errorf("alone: %v", err)
			}
			eventually(t, 10*time.Second, "nothing in flight", func() bool {
				s := c.Stats().Nodes[0]
				return s.InFlight == 0 && s.BytesInFlight == 0
			})
		})
	}
}

// TestOneFailureForManyRequests: a lost connection counts once for health,
// however many requests were pending on it.
func TestOneFailureForManyRequests(t *testing.T) {
	n, other := newMemnode(t), newMemnode(t)
	c := newClient(t, client.Config{Servers: []string{"a@" + n.Addr(), "b@" + other.Addr()}, Timeout: time.Second})
	var keys []string
	for i := range 100 {
		key := fmt.Sprintf("key:%d", i)
		if e, err := c.Explain(key); err == nil && e.Owner == "a" {
			keys = append(keys, key)
		}
	}
	// Connected before, or the callers may wait for a dial and not for a reply.
	if _, err := c.Get(t.Context(), keys[0]); !errors.Is(err, client.ErrCacheMiss) {
		t.Fatal(err)
	}
	n.Inject(memnode.Stall(), memnode.On(memcached.MetaGet), memnode.Always())
	var failed atomic.Uint64
	var wg sync.WaitGroup
	for _, key := range keys {
		wg.Go(func() {
			if _, err := c.Get(t.Context(), key); err != nil && !errors.Is(err, client.ErrCacheMiss) {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	eventually(t, 10*time.Second, "a failure", func() bool { return c.Stats().Nodes[0].FailuresTotal > 0 })
	// On a starved machine a straggler is late for the first connection and
	// waits in vain on a second.
	s := c.Stats().Nodes[0]
	if failed.Load() < 20 || s.FailuresTotal > s.Dials || failed.Load() < 10*s.FailuresTotal {
		t.Errorf("%d requests failed on %d connections and were %d failures", failed.Load(), s.Dials, s.FailuresTotal)
	}
}

// TestIdleClose: a connection that the server closed while it was idle costs
// nobody an error and the node no failure.
func TestIdleClose(t *testing.T) {
	n := newMemnode(t)
	c := newClient(t, healthy(n.Addr()))
	ctx := t.Context()
	if err := c.Set(ctx, &client.Item{Key: "a"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the node closes the connection", func() bool { return n.CloseIdle() == 1 })
	// The client looks at a connection that was idle for a second.
	pause, cancel := context.WithTimeout(ctx, 1100*time.Millisecond)
	defer cancel()
	<-pause.Done()
	if _, err := c.Get(ctx, "a"); err != nil {
		t.Errorf("the first request after: %v", err)
	}
	if s := c.Stats().Nodes[0]; s.FailuresTotal != 0 || s.Dials != 2 {
		t.Errorf("%d failures, %d dials", s.FailuresTotal, s.Dials)
	}
}

func TestOverloaded(t *testing.T) {
	n := newMemnode(t)
	cfg := healthy(n.Addr())
	cfg.Timeout, cfg.MaxInFlight = 5*time.Second, 10
	c := newClient(t, cfg)
	stall := n.Inject(memnode.Stall(), memnode.On(memcached.MetaGet), memnode.Always())
	var wg sync.WaitGroup
	var overloaded atomic.Int64
	for i := range 30 {
		wg.Go(func() {
			_, err := c.Get(t.Context(), fmt.Sprint(i))
			switch {
			case errors.Is(err, client.ErrOverloaded):
				if !client.SafeToRetry(err) {
					t.Errorf("not safe to retry: %v", err)
				}
				if overloaded.Add(1) == 20 {
					stall.Remove()
				}
			case !errors.Is(err, client.ErrCacheMiss):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := overloaded.Load(); got != 20 || c.Stats().Nodes[0].Overloaded != 20 {
		t.Errorf("%d were refused, %d counted; want 20", got, c.Stats().Nodes[0].Overloaded)
	}
	// A batch above the limit is let through when nothing else is in flight.
	var keys []string
	for i := range 50 {
		keys = append(keys, fmt.Sprint(i))
	}
	if _, err := c.GetMulti(t.Context(), keys); err != nil {
		t.Error(err)
	}
}

// TestBatchKeepsWhatCame: a deadline in the middle of a batch leaves what had
// arrived.
func TestBatchKeepsWhatCame(t *testing.T) {
	n := newMemnode(t)
	cfg := healthy(n.Addr())
	cfg.Timeout = time.Minute
	c := newClient(t, cfg)
	var keys []string
	for i := range 10 {
		keys = append(keys, fmt.Sprint(i))
		if err := c.Set(t.Context(), &client.Item{Key: keys[i], Value: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	in := n.Inject(memnode.Stall(), memnode.Key("6"))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-in.Hit()
		// What came before the stall is on its way; give it a moment.
		time.AfterFunc(100*time.Millisecond, cancel)
	}()
	items, err := c.GetMulti(ctx, keys)
	var multi *client.MultiError
	if len(items) != 6 || !errors.As(err, &multi) || len(multi.Errors) != 4 || multi.Errors[0].Key != "6" {
		t.Errorf("%d items, %v; want the six before the stall and an error that lists the four others", len(items), err)
	}
	in.Remove()
}

// TestDeadNodeCostsItsOwnKeysOnly, in a GetMulti.
func TestDeadNodeCostsItsOwnKeysOnly(t *testing.T) {
	nodes := []*memnode.Node{newMemnode(t), newMemnode(t), newMemnode(t)}
	c := newClient(t, client.Config{Servers: []string{"a@" + nodes[0].Addr(), "b@" + nodes[1].Addr(), "c@" + nodes[2].Addr()}, Timeout: 300 * time.Millisecond})
	var keys []string
	owned := map[string]int{}
	for i := range 300 {
		key := fmt.Sprintf("key:%d", i)
		keys = append(keys, key)
		if err := c.Set(t.Context(), &client.Item{Key: key, Value: []byte(key)}); err != nil {
			t.Fatal(err)
		}
		e, err := c.Explain(key)
		if err != nil {
			t.Fatal(err)
		}
		owned[e.Owner]++
	}
	for name, die := range map[string]func(){"killed": nodes[1].Kill, "hung": nodes[2].Stop} {
		die()
		items, err := c.GetMulti(t.Context(), keys)
		dead := map[string]string{"killed": "b", "hung": "c"}[name]
		var multi *client.MultiError
		if !errors.As(err, &multi) || len(multi.Errors) != owned[dead] || len(items) != len(keys)-owned[dead] {
			t.Fatalf("%s: %d items, error %v; node %s owns %d of %d keys", name, len(items), err, dead, owned[dead], len(keys))
		}
		for _, op := range multi.Errors {
			if op.Node != dead || items[op.Key] != nil {
				t.Errorf("%s: the error lists %+v", name, op)
			}
		}
		if name == "killed" {
			if err := nodes[1].Restart(); err != nil {
				t.Fatal(err)
			}
			for _, key := range keys {
				eventually(t, 5*time.Second, "the node is back", func() bool {
					return c.Set(t.Context(), &client.Item{Key: key, Value: []byte(key)}) == nil
				})
			}
		} else {
			nodes[2].Resume()
			eventually(t, 10*time.Second, "the node is back", func() bool {
				items, err := c.GetMulti(t.Context(), keys)
				return err == nil && len(items) == len(keys)
			})
		}
	}
}

// TestNeverAWrongValue throws random cancellations and deadlines at
// pipelined traffic, while the nodes reset, stall, cut, repeat, drop and
// reorder replies. Every value names its key; none may reach another's caller.
func TestNeverAWrongValue(t *testing.T) {
	const workers, opsEach = 64, 3200
	nodes := []*memnode.Node{newMemnode(t), newMemnode(t)}
	servers := []string{"a@" + nodes[0].Addr(), "b@" + nodes[1].Addr(), "c@" + realserver.Memcached(t).Addr()}
	c := newClient(t, client.Config{
		Servers: servers, ConnsPerNode: 2, Timeout: 100 * time.Millisecond,
		Health: ring.HealthConfig{FailureLimit: 1000},
	})
	stop := make(chan struct{})
	var trouble sync.WaitGroup
	frozen := watchFreezes(t)
	trouble.Go(func() {
		random := rand.New(rand.NewPCG(1, 2))
		faults := []func() memnode.Fault{
			memnode.Reset, memnode.HangUp, memnode.Drop, memnode.Duplicate, memnode.Swap,
			func() memnode.Fault { return memnode.Half(memnode.Reset()) },
			func() memnode.Fault { return memnode.Half(memnode.Drop()) },
			func() memnode.Fault { return memnode.Half(memnode.Stall()) },
			func() memnode.Fault { return memnode.Slow(20 * time.Millisecond) },
			func() memnode.Fault { return memnode.Garbage("VA 3 f0 c1 O1\r\nbad\r\n") },
			func() memnode.Fault { return memnode.Garbage("\r\n") },
			memnode.Stall,
		}
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			in := nodes[random.IntN(2)].Inject(faults[random.IntN(len(faults))](), memnode.On(memcached.MetaGet, memcached.MetaSet), memnode.Nth(1+random.IntN(50)))
			defer in.Remove()
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	})
	var wrong, hits, failures, late atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 3))
			var buf []byte
			for n := 0; n < opsEach; n++ {
				key := fmt.Sprintf("key:%d", random.IntN(500))
				before := frozen.Load()
				ctx, cancel, deadline := t.Context(), context.CancelFunc(func() {}), time.Now().Add(100*time.Millisecond)
				switch random.IntN(4) {
				case 0:
					deadline = time.Now().Add(time.Duration(random.IntN(3000)) * time.Microsecond)
					ctx, cancel = context.WithDeadline(ctx, deadline)
				case 1:
					ctx, cancel = context.WithCancel(ctx)
					time.AfterFunc(time.Duration(random.IntN(1000))*time.Microsecond, cancel)
				}
				check := func(value []byte, err error) {
					switch {
					case errors.Is(err, client.ErrDial):
						n-- // while the client backs off, nothing is tested
						time.Sleep(time.Millisecond)
					case err == nil:
						hits.Add(1)
						if want := valueFor(key, len(value)); string(value) != want {
							wrong.Add(1)
							t.Errorf("%s has a value of %d bytes that begins %.40q", key, len(value), value)
						}
					case !errors.Is(err, client.ErrCacheMiss):
						failures.Add(1)
					}
				}
				switch random.IntN(8) {
				case 0, 1:
					size := 20 + random.IntN(200)
					if random.IntN(50) == 0 {
						size = 20_000 + random.IntN(50_000)
					}
					if err := c.Set(ctx, &client.Item{Key: key, Value: []byte(valueFor(key, size))}); err != nil {
						failures.Add(1)
					}
				case 2:
					keys := []string{key, fmt.Sprintf("key:%d", random.IntN(500)), fmt.Sprintf("key:%d", random.IntN(500))}
					items, _ := c.GetMulti(ctx, keys)
					for k, item := range items {
						if string(item.Value) != valueFor(k, len(item.Value)) {
							wrong.Add(1)
							t.Errorf("%s in a batch begins %.40q", k, item.Value)
						}
					}
				case 3, 4:
					var err error
					buf, _, err = c.GetInto(ctx, key, buf[:0])
					check(buf, err)
				default:
					item, err := c.Get(ctx, key)
					if err == nil {
						check(item.Value, nil)
					} else {
						check(nil, err)
					}
				}
				cancel()
				// For as long as the machine stood still nobody could return.
				if over := time.Since(deadline) - time.Duration(frozen.Load()-before); over > 2*time.Second {
					late.Add(1)
					t.Errorf("operation %d returned %v past its deadline", n, over)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	trouble.Wait()
	t.Logf("the machine stood still for %v", time.Duration(frozen.Load()))
	lost := uint64(0)
	for _, n := range c.Stats().Nodes {
		lost += n.ConnectionsLost
	}
	t.Logf("%d operations: %d hits, %d failures, %d connections lost, %d wrong values, %d late", workers*opsEach, hits.Load(), failures.Load(), lost, wrong.Load(), late.Load())
	if hits.Load() < 10_000 || lost < 200 {
		t.Errorf("%d hits and %d lost connections: the test did not test much", hits.Load(), lost)
	}
	eventually(t, 10*time.Second, "nothing in flight", func() bool {
		for _, n := range c.Stats().Nodes {
			if n.InFlight != 0 || n.BytesInFlight != 0 {
				return false
			}
		}
		return true
	})
}

// valueFor makes a value of n bytes that only this key has.
func valueFor(key string, n int) string {
	return strings.Repeat(key+";", n/(len(key)+1)+1)[:n]
}
