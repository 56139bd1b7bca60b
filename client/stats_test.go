package client_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/proto/memcached"
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
