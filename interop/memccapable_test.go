//go:build interop && unix

package interop

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/ringside-cache/ringside/internal/realserver"
)

// memccapable is libmemcached's conformance test. Each of its tests passes or fails on the sidecar as it does
// on memcached itself.
func TestMemccapable(t *testing.T) {
	t.Parallel()
	direct := memccapable(t, realserver.Memcached(t).Addr())
	s := startSidecar(t, "--servers", strings.Join(startFleet(t, 3), ","))
	through := memccapable(t, s.memcached)
	if len(direct) == 0 || len(through) == 0 {
		t.Fatalf("memccapable has %d results on memcached and %d on the sidecar", len(direct), len(through))
	}
	for name, result := range direct {
		if got := through[name]; got != result {
			t.Errorf("%-30s memcached %-8s sidecar %s", name, result, got)
		}
	}
	t.Logf("%d tests", len(direct))
}

// memccapable gives the result of each of its tests of the text protocol.
func memccapable(t *testing.T, addr string) map[string]string {
	t.Helper()
	program, err := exec.LookPath("memccapable")
	if err != nil {
		missing(t, "memccapable")
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "-h", host, "-p", port, "-a", "-t", "5").CombinedOutput()
	var exit *exec.ExitError
	if ctx.Err() != nil || err != nil && !errors.As(err, &exit) {
		t.Fatalf("memccapable: %v, %v\n%s", err, ctx.Err(), out)
	}
	results := map[string]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && strings.HasPrefix(fields[len(fields)-1], "[") {
			results[strings.Join(fields[:len(fields)-1], " ")] = fields[len(fields)-1]
		}
	}
	return results
}
