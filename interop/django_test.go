//go:build interop && unix

package interop

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/ringside-cache/ringside/internal/realserver"
)

// Django's cache framework, pages and sessions included, with both its memcached backends and no setting but
// the address; and the same on memcached, to know that what the script wants is right.
func TestDjango(t *testing.T) {
	t.Parallel()
	if exec.Command(python, "-c", "import django, pymemcache, pylibmc").Run() != nil {
		missing(t, "Django, pymemcache or pylibmc")
	}
	servers := map[string]string{
		"memcached": realserver.Memcached(t).Addr(),
		"sidecar":   startSidecar(t, "--servers", strings.Join(startFleet(t, 3), ",")).memcached,
	}
	for _, backend := range []string{"PyMemcacheCache", "PyLibMCCache"} {
		for name, addr := range servers {
			// One after the other: they clear the cache.
			t.Run(backend+" on "+name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), scriptTimeout)
				defer cancel()
				out, err := exec.CommandContext(ctx, python, "-B", "testdata/django_cache.py", backend, addr).CombinedOutput()
				if err != nil || !strings.HasSuffix(string(out), "clearing\n") {
					t.Errorf("%v; it has done:\n%s", err, out)
				}
			})
		}
	}
}
