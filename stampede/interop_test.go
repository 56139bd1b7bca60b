//go:build interop

package stampede_test

import (
	"testing"
	"time"

	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/stampede"
)

// TestOldServers: what is promised holds in envelopes too.
func TestOldServers(t *testing.T) {
	cfg := stampede.Config{TTL: 2 * time.Second, Grace: 3 * time.Second, Lease: 2 * time.Second, LoadTimeout: 500 * time.Millisecond}
	t.Run("yrmcds", func(t *testing.T) {
		newWorld(8, 20*time.Millisecond).run(t, 4*time.Second, false, cfg, realserver.Yrmcds(t).Addr())
	})
	t.Run("nutcracker", func(t *testing.T) {
		pool := realserver.Pool{Servers: []string{realserver.Memcached(t).Addr(), realserver.Memcached(t).Addr()}}
		newWorld(8, 20*time.Millisecond).run(t, 4*time.Second, false, cfg, realserver.Nutcracker(t, pool).Addr())
	})
}
