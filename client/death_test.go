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
	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/ring"
)

// TestNodeDies: three memcacheds, 32 goroutines that read and write for 30 s;
// one node dies and comes back after 10 s.
func TestNodeDies(t *testing.T) {
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		nodeDies(t, (*realserver.Server).Kill, func(t *testing.T, s *realserver.Server) {
			if err := s.Restart(); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		nodeDies(t, func(s *realserver.Server) {
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		}, func(t *testing.T, s *realserver.Server) {
			if err := s.Continue(); err != nil {
				t.Error(err)
			}
		})
	})
}

func nodeDies(t *testing.T, die func(*realserver.Server), comeBack func(*testing.T, *realserver.Server)) {
	const (
		lasts, diesAt, awayFor = 30 * time.Second, 5 * time.Second, 10 * time.Second
		workers, keysEach      = 32, 50
		// Config.Timeout is 500 ms and bounds the whole operation. What comes on
		// top is the scheduler's. What watchFreezes saw is taken off; it sees no
		// pause below 100 ms, of which a reader and the caller that it wakes may
		// meet one each. With nine processes on two cores the longest took 501 ms.
		patience = 750 * time.Millisecond
	)
	frozen := watchFreezes(t)
	var longest atomic.Int64
	servers := []*realserver.Server{realserver.Memcached(t), realserver.Memcached(t), realserver.Memcached(t)}
	var list []string
	for i, s := range servers {
		list = append(list, fmt.Sprintf("node%d@%s", i, s.Addr()))
	}
	const victim = 1
	var ejected, rejoined atomic.Int64 // Unix nanoseconds
	cfg := client.Config{Servers: list, Hooks: client.Hooks{
		Ejected: func(node string) {
			if node != "node1" {
				t.Errorf("%s was ejected", node)
			}
			ejected.Store(time.Now().UnixNano())
		},
		Rejoined: func(string) { rejoined.Store(time.Now().UnixNano()) },
	}}
	c := newClient(t, cfg)
	nodes, err := ring.ParseNodes(list)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ring.New(nodes, "")
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var died, back atomic.Int64
	var workersDone sync.WaitGroup
	var ops, failed, afterEjection, healthyFailed atomic.Int64
	for w := range workers {
		workersDone.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 1))
			for n := 0; ctx.Err() == nil; n++ {
				// Each key has one writer, so what may be read is known.
				key := fmt.Sprintf("key:%d:%d", w, random.IntN(keysEach))
				start, before := time.Now(), frozen.Load()
				var err error
				if random.IntN(4) == 0 {
					err = c.Set(context.WithoutCancel(ctx), &client.Item{Key: key, Value: fmt.Appendf(nil, "%s=%d", key, n)})
				} else {
					var item *client.Item
					item, err = c.Get(context.WithoutCancel(ctx), key)
					if err == nil && !strings.HasPrefix(string(item.Value), key+"=") {
						t.Errorf("%s has the value %q, which was never written to it", key, item.Value)
					}
				}
				ops.Add(1)
				took := time.Since(start) - time.Duration(frozen.Load()-before)
				if took > patience {
					t.Errorf("an operation took %v, Config.Timeout is 500ms", took)
				}
				for was := longest.Load(); int64(took) > was && !longest.CompareAndSwap(was, int64(took)); was = longest.Load() {
				}
				if err == nil || errors.Is(err, client.ErrCacheMiss) {
					continue
				}
				failed.Add(1)
				var op *client.OpError
				if !errors.As(err, &op) || op.Node != "node1" {
					healthyFailed.Add(1)
					t.Errorf("an error that is not of the dead node: %v", err)
				}
				if at := ejected.Load(); at != 0 && start.UnixNano() > at {
					afterEjection.Add(1)
					t.Errorf("an error %v after the ejection: %v", start.Sub(time.Unix(0, at)), err)
				}
			}
		})
	}
	script := time.AfterFunc(diesAt, func() {
		died.Store(time.Now().UnixNano())
		die(servers[victim])
		timer := time.NewTimer(awayFor)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		comeBack(t, servers[victim])
		back.Store(time.Now().UnixNano())
	})
	defer script.Stop()
	workersDone.Wait()

	if ejected.Load() == 0 || rejoined.Load() == 0 {
		t.Fatalf("ejected %v, rejoined %v", ejected.Load() != 0, rejoined.Load() != 0)
	}
	since := func(from, to *atomic.Int64) time.Duration { return time.Duration(to.Load() - from.Load()) }
	t.Logf("%d operations, %d failed, the longest took %v; ejected %v after the death, back in %v after the return",
		ops.Load(), failed.Load(), time.Duration(longest.Load()), since(&died, &ejected), since(&back, &rejoined))
	// The interval is 2 s, as it starts to grow only after 30 s.
	if took := since(&back, &rejoined); took > 3*time.Second {
		t.Errorf("the node rejoined %v after it was back, want 3s at most", took)
	}
	if n := c.Stats().Nodes[victim]; n.Ejections != 1 || n.State != ring.Up {
		t.Errorf("%d ejections, state %v", n.Ejections, n.State)
	}
	checkPlaces(t, r, servers, victim, workers, keysEach)
}

// checkPlaces looks into the servers themselves: a healthy node holds its own
// keys and those of the dead one that it stood in for, and no others.
func checkPlaces(t *testing.T, r *ring.Ring, servers []*realserver.Server, victim, workers, keysEach int) {
	at := make([]*client.Client, len(servers))
	for i, s := range servers {
		at[i] = newClient(t, client.Config{Servers: []string{s.Addr()}})
	}
	for w := range workers {
		var keys []string
		for k := range keysEach {
			keys = append(keys, fmt.Sprintf("key:%d:%d", w, k))
		}
		for i, c := range at {
			items, err := c.GetMulti(t.Context(), keys)
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range keys {
				owner := r.Lookup(key)
				if owner != i && owner != victim && items[key] != nil {
					t.Errorf("%s of node %d is on node %d: a healthy node's key has moved", key, owner, i)
				}
				if owner == i && i != victim && items[key] == nil {
					t.Errorf("%s is not on its owner, node %d", key, i)
				}
			}
		}
	}
}

// TestFailover: what is written to a stand-in lives StandInTTL at most, and
// FailoverNone fails at once instead.
func TestFailover(t *testing.T) {
	a, b := newMemnode(t), newMemnode(t)
	servers := []string{"a@" + a.Addr(), "b@" + b.Addr()}
	ejected := make(chan string, 2)
	cfg := client.Config{
		Servers: servers, StandInTTL: 20 * time.Second,
		Health: ring.HealthConfig{FailureLimit: 1, RetryTimeout: time.Hour, MaxRetryTimeout: time.Hour},
		Hooks:  client.Hooks{Ejected: func(node string) { ejected <- node }},
	}
	next := newClient(t, cfg)
	cfg.Failover = client.FailoverNone
	none := newClient(t, cfg)
	key := ""
	for i := range 100 {
		key = fmt.Sprintf("key:%d", i)
		if e, err := next.Explain(key); err == nil && e.Owner == "a" {
			break
		}
	}
	a.Kill()
	ctx := t.Context()
	for _, c := range []*client.Client{next, none} {
		if _, err := c.Get(ctx, key); !errors.Is(err, client.ErrDial) || !client.SafeToRetry(err) {
			t.Errorf("get from the dead node: %v, want ErrDial", err)
		}
		eventually(t, 5*time.Second, "the ejection", func() bool { return c.Stats().Nodes[0].State == ring.Ejected })
	}

	_, err := none.Get(ctx, key)
	var op *client.OpError
	if !errors.Is(err, client.ErrNodeDown) || !errors.As(err, &op) || op.Node != "a" || !client.SafeToRetry(err) {
		t.Errorf("FailoverNone: %v, want ErrNodeDown of node a", err)
	}
	if e, err := none.Explain(key); err != nil || e.Asked != "" || e.OwnerState != "ejected" {
		t.Errorf("FailoverNone explains %+v, %v", e, err)
	}
	if e, err := next.Explain(key); err != nil || e.Asked != "b" || e.OwnerState != "ejected" {
		t.Errorf("FailoverNext explains %+v, %v", e, err)
	}

	in := func(d time.Duration) int32 { return int32(time.Now().Add(d).Unix()) }
	tests := []struct {
		name       string
		expiration int32
		most       string // the highest TTL that may stand there
	}{
		{"for ever", 0, "t20"},
		{"long", 3600, "t20"},
		{"short", 5, "t5"},
		{"absolute, long", in(400 * 24 * time.Hour), "t20"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ttl := func() string {
				return strings.TrimSpace(strings.TrimPrefix(raw(t, b.Addr(), "mg "+key+" t\r\n"), "HD "))
			}
			check := func(op string, err error) {
				t.Helper()
				if err != nil {
					t.Errorf("%s: %v", op, err)
				}
				if got := ttl(); got != tt.most && got != fmt.Sprintf("t%d", atoi(tt.most[1:])-1) {
					t.Errorf("%s: the item on the stand-in has %s, want %s", op, got, tt.most)
				}
			}
			check("set", next.Set(ctx, &client.Item{Key: key, Value: []byte("1"), Expiration: tt.expiration}))
			raw(t, b.Addr(), "ms "+key+" 1\r\n1\r\n")
			check("touch", next.Touch(ctx, key, tt.expiration))
			raw(t, b.Addr(), "ms "+key+" 1\r\n1\r\n")
			_, err := next.GetAndTouch(ctx, key, tt.expiration)
			check("get and touch", err)
			var batch client.Batch
			batch.Set(&client.Item{Key: key, Value: []byte("1"), Expiration: tt.expiration})
			raw(t, b.Addr(), "ms "+key+" 1\r\n1\r\n")
			check("batch", next.Do(ctx, &batch))
		})
	}
	if s := next.Stats().Nodes[1]; s.StandIns == 0 {
		t.Error("no stand-in requests were counted")
	}
}

func atoi(s string) (n int) {
	fmt.Sscan(s, &n)
	return n
}

// TestProbeNeedsASetAndAGet: a node that answers version but can not store
// stays out.
func TestProbeNeedsASetAndAGet(t *testing.T) {
	a, b := newMemnode(t), newMemnode(t)
	probed := make(chan error, 100)
	c := newClient(t, client.Config{
		Servers: []string{"a@" + a.Addr(), "b@" + b.Addr()},
		Timeout: 200 * time.Millisecond,
		Health:  ring.HealthConfig{FailureLimit: 1, RetryTimeout: 20 * time.Millisecond},
		Hooks:   client.Hooks{Probed: func(_ string, _ time.Duration, err error) { probed <- err }},
	})
	sick := a.Inject(stallSets())
	for i := range 50 {
		key := fmt.Sprintf("key:%d", i)
		if e, err := c.Explain(key); err != nil || e.Owner != "a" {
			continue
		}
		if err := c.Set(t.Context(), &client.Item{Key: key}); !errors.Is(err, client.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) || client.SafeToRetry(err) {
			t.Errorf("set on the sick node: %v, want ErrTimeout", err)
		}
		break
	}
	for range 3 {
		if err := <-probed; err == nil {
			t.Error("a probe of a node that can not store succeeded")
		}
	}
	sick.Remove()
	eventually(t, 5*time.Second, "the node rejoins", func() bool { return c.Stats().Nodes[0].State == ring.Up })
}
