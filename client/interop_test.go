//go:build interop

package client_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/stampede"
)

// TestOldServers: yrmcds and twemproxy have no meta commands.
func TestOldServers(t *testing.T) {
	t.Run("yrmcds", func(t *testing.T) {
		c := newClient(t, client.Config{Servers: []string{realserver.Yrmcds(t).Addr()}})
		legacyOperations(t, c)
		leases(t, c)
		repeatedIDs(t, c)
	})
	t.Run("nutcracker", func(t *testing.T) {
		pool := realserver.Pool{}
		for range 3 {
			pool.Servers = append(pool.Servers, realserver.Memcached(t).Addr())
		}
		c := newClient(t, client.Config{Servers: []string{realserver.Nutcracker(t, pool).Addr()}})
		legacyOperations(t, c)
		leases(t, c)
		var keys []string
		for i := range 300 {
			keys = append(keys, fmt.Sprint("key:", i))
			if err := c.Set(t.Context(), &client.Item{Key: keys[i], Value: []byte(keys[i])}); err != nil {
				t.Fatal(err)
			}
		}
		if items, err := c.GetMulti(t.Context(), keys); err != nil || len(items) != len(keys) {
			t.Errorf("multi-get: %d of %d, %v", len(items), len(keys), err)
		}
	})
}

// repeatedIDs: yrmcds counts the CAS ids of each item from 1. A fill looks at the envelope and then
// compares by that id, so the lease that follows on another must not have the same.
func repeatedIDs(t *testing.T, c *client.Client) {
	l := leaser{t, c, "repeated"}
	ask := stampede.Read{Lease: time.Minute, Grace: time.Minute}
	id := func() uint64 {
		t.Helper()
		item, err := c.Get(t.Context(), l.key) // the envelope as it is
		if err != nil {
			t.Fatal(err)
		}
		return item.CasID
	}
	seen := map[uint64]string{}
	for _, end := range []stampede.WriteKind{stampede.Delete, stampede.Remove, stampede.Invalidate, stampede.Delete} {
		won := l.is(l.read(ask), "", "W")
		now := id()
		if before, ok := seen[now]; ok {
			t.Errorf("CAS id %d again, before it was that of %s", now, before)
		}
		seen[now] = fmt.Sprintf("the lease that kind %d ended", end)
		w := stampede.Write{Kind: end, Key: l.key, TTL: time.Minute}
		if end == stampede.Remove {
			w = stampede.Write{Kind: end, Lease: won.Lease}
		}
		l.write(w, nil)
	}
}
