//go:build unix

package sidecar

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestListenOwner: nobody else could have connected before the mode is set, even
// where the umask takes nothing away.
func TestListenOwner(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "s")
	l, err := listenOwner(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got&0o077 != 0 {
		t.Errorf("at first it has mode %v, want nothing for others", got)
	}
	if left := syscall.Umask(0); left != 0 {
		t.Errorf("the umask is left at %04o, it was 0", left)
	}
}
