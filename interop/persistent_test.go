//go:build interop && unix

package interop

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/internal/realserver"
)

// A node that keeps its items over a restart (memcached -e FILE) serves them again once it has rejoined:
// a node that comes back is not always an empty one.
func TestPersistentNode(t *testing.T) {
	t.Parallel()
	keeper := realserver.Memcached(t, "-e", filepath.Join(t.TempDir(), "memory"), "-m", "64")
	list := []string{"keeper@" + keeper.Addr(), "other@" + realserver.Memcached(t).Addr()}
	s := startSidecar(t, "--servers", strings.Join(list, ","))
	d := gomemcache.through(t, s)

	keys := make([]string, 200)
	for i := range keys {
		keys[i] = fmt.Sprintf("kept-%d", i)
	}
	write(t, d, keys)
	held := len(gomemcache.start(t, list[:1], nil).do(t, request{Op: "mget", Keys: keys})[0].Items)
	if held == 0 || held == len(keys) {
		t.Fatalf("the node has %d of %d keys, so that this test shows nothing", held, len(keys))
	}

	if err := keeper.Terminate(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the node is ejected", func() bool {
		d.do(t, request{Op: "mget", Keys: keys})
		return s.nodeState(t, "keeper") == "ejected"
	})
	// The stand-in answers now, and has none of them.
	got := d.do(t, request{Op: "mget", Keys: keys})[0]
	if got.Error != "" || len(got.Items) != len(keys)-held {
		t.Errorf("while the node is out: %d items, error %q; want the %d of the other node", len(got.Items), got.Error, len(keys)-held)
	}

	if err := keeper.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the node rejoins", func() bool { return s.nodeState(t, "keeper") == "up" })
	read(t, d, keys)
}
