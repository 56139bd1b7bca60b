package client_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/proto/memcached"
	"github.com/ringside-cache/ringside/ring"
)

// Every answered operation is in one latency bucket, and a slow one in a high
// one.
func TestLatencyStats(t *testing.T) {
	n := newMemnode(t)
	for name, addr := range map[string]string{"meta": n.Addr(), "legacy": oldServer(t, versionOf("1.4.39"))} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, healthy(addr))
			for range 10 {
				if _, err := c.Get(t.Context(), "k"); !errors.Is(err, client.ErrCacheMiss) {
					t.Fatal(err)
				}
			}
			var b client.Batch
			for range 5 {
				b.Get("k")
			}
			if err := c.Do(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
			eventually(t, 5*time.Second, "all are counted", func() bool {
				s := c.Stats().Nodes[0]
				var sum uint64
				for _, n := range s.Latency {
					sum += n
				}
				return sum == 15 && s.LatencySum > 0
			})
		})
	}
	c := newClient(t, healthy(n.Addr()))
	in := n.Inject(memnode.Stall(), memnode.On(memcached.MetaGet))
	timer := time.AfterFunc(60*time.Millisecond, in.Release)
	defer timer.Stop()
	c.Get(t.Context(), "k")
	s := c.Stats().Nodes[0]
	for i, count := range s.Latency {
		if count > 0 && i < len(client.LatencyBuckets) && client.LatencyBuckets[i] < 50*time.Millisecond {
			t.Errorf("%d operations took %v at most", count, client.LatencyBuckets[i])
		}
	}
	if s.LatencySum < 50*time.Millisecond {
		t.Errorf("it took %v in all", s.LatencySum)
	}
}

// TestCounters: what the counters count, and what the hooks tell beside them.
func TestCounters(t *testing.T) {
	n := newMemnode(t)
	var mu sync.Mutex
	var dialled, failed, probed []error
	note := func(list *[]error, node string, err error) {
		mu.Lock()
		defer mu.Unlock()
		*list = append(*list, err)
		if node != "cache1" {
			t.Errorf("a hook names %q", node)
		}
	}
	count := func(list *[]error) (all, errs int) {
		mu.Lock()
		defer mu.Unlock()
		for _, err := range *list {
			if err != nil {
				errs++
			}
		}
		return len(*list), errs
	}
	c := newClient(t, client.Config{
		Servers: []string{"cache1@" + n.Addr()}, Timeout: 5 * time.Second,
		Health: ring.HealthConfig{FailureLimit: 3, RetryTimeout: 30 * time.Millisecond, MaxRetryTimeout: 30 * time.Millisecond, MaxEjectedShare: 1},
		Hooks: client.Hooks{
			Dialled: func(node string, took time.Duration, err error) {
				note(&dialled, node, err)
				if took <= 0 || took > 5*time.Second {
					t.Errorf("a dial took %v", took)
				}
			},
			Failed: func(node string, err error) { note(&failed, node, err) },
			Probed: func(node string, _ time.Duration, err error) { note(&probed, node, err) },
		},
	})
	ctx := t.Context()
	stats := func() client.NodeStats { return c.Stats().Nodes[0] }

	// The handshake is not counted, so the bytes are those of the two requests.
	// An opaque has ten characters.
	if err := c.Set(ctx, &client.Item{Key: "a", Value: []byte("value")}); err != nil {
		t.Fatal(err)
	}
	item, err := c.Get(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	out := len("ms a 5 O0123456789\r\nvalue\r\n") + len("mg a v f c O0123456789\r\n")
	in := len("HD O0123456789\r\n") + len(fmt.Sprintf("VA 5 f0 c%d O0123456789\r\nvalue\r\n", item.CasID))
	if s := stats(); s.BytesOut != uint64(out) || s.BytesIn != uint64(in) || s.Writes != 2 || s.Requests != 2 || s.Dials != 1 {
		t.Errorf("%d bytes out, %d in, %d writes, %d requests, %d dials; want %d, %d, 2, 2, 1", s.BytesOut, s.BytesIn, s.Writes, s.Requests, s.Dials, out, in)
	}
	// The hook runs when the dial's callers have been let go.
	eventually(t, 5*time.Second, "the hook has told of the dial", func() bool {
		all, errs := count(&dialled)
		return all == 1 && errs == 0
	})

	// A lost connection, then dials that fail until the node is out.
	n.Kill()
	eventually(t, 10*time.Second, "the node is ejected", func() bool {
		c.Get(ctx, "a") //nolint:errcheck // it fails
		return stats().State == ring.Ejected
	})
	eventually(t, 5*time.Second, "probes fail", func() bool { _, errs := count(&probed); return errs >= 2 })
	if err := n.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the node is back", func() bool { return stats().State == ring.Up })
	eventually(t, 5*time.Second, "hooks and counters agree", func() bool {
		s := stats()
		dials, dialErrs := count(&dialled)
		failures, failErrs := count(&failed)
		probes, probeErrs := count(&probed)
		return s.Dials == uint64(dials) && s.DialErrors == uint64(dialErrs) && s.DialErrors >= 1 &&
			s.FailuresTotal == uint64(failures) && failures == failErrs && s.FailuresTotal == s.DialErrors+s.ConnectionsLost && s.FailuresTotal >= 3 &&
			s.Probes == uint64(probes) && probeErrs == probes-1 && s.Ejections == 1
	})
	mu.Lock()
	defer mu.Unlock()
	for _, err := range failed {
		if !errors.Is(err, client.ErrDial) && !errors.Is(err, client.ErrConnLost) {
			t.Errorf("counted as a failure: %v", err)
		}
	}
}
