package client_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/internal/realserver"
)

// TestMain proves that no test leaves a goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newClient makes a client that the test's end closes.
func newClient(t testing.TB, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// newMemnode starts an in-process node that the test's end closes.
func newMemnode(t testing.TB) *memnode.Node {
	t.Helper()
	n, err := memnode.Start(memnode.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// onBoth runs a test on a real memcached and on a memnode, so that the two
// can not drift apart.
func onBoth(t *testing.T, test func(t *testing.T, addr string)) {
	t.Run("memcached", func(t *testing.T) { test(t, realserver.Memcached(t).Addr()) })
	t.Run("memcached on a unix socket", func(t *testing.T) { test(t, realserver.MemcachedUnix(t).Addr()) })
	t.Run("memnode", func(t *testing.T) { test(t, newMemnode(t).Addr()) })
}

// eventually waits until ok holds, for at most d.
func eventually(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", d, what)
		case <-tick.C:
		}
	}
}

// watchFreezes counts, until the test ends, for how many nanoseconds the machine
// stood still: nobody ran, as a ticking goroutine saw it. Then nobody could
// return in time either. Where single goroutines are starved it sees nothing.
func watchFreezes(t *testing.T) *atomic.Int64 {
	const every = 10 * time.Millisecond
	frozen := new(atomic.Int64)
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for last := time.Now(); ; {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			now := time.Now()
			if gap := now.Sub(last); gap > 10*every {
				frozen.Add(int64(gap))
			}
			last = now
		}
	})
	t.Cleanup(func() { close(stop); watch.Wait() })
	return frozen
}
