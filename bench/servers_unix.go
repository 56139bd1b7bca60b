//go:build unix

package bench

import "github.com/ringside-cache/ringside/internal/realserver"

// startMemcacheds starts n memcacheds with one thread each.
func startMemcacheds(n int, args ...string) ([]server, error) {
	return startManyAtOnce(n, func() (server, error) { return realserver.StartMemcached(args...) })
}
