//go:build interop

package client_test

import (
	"fmt"
	"testing"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/internal/realserver"
)

// TestOldServers: yrmcds and twemproxy have no meta commands.
func TestOldServers(t *testing.T) {
	t.Run("yrmcds", func(t *testing.T) {
		c := newClient(t, client.Config{Servers: []string{realserver.Yrmcds(t).Addr()}})
		legacyOperations(t, c)
		leases(t, c)
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
