package realserver

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// sysProcAttr makes the kernel kill the child when its parent is gone, so that a test binary that
// panics, times out or is killed leaves no server behind. The kernel forgets this when the child
// changes its user id (tried: memcached -u nobody, started by root, outlives its parent).
// A process group of its own keeps a Ctrl-C at the terminal from ending servers before their owner has.
func sysProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// lockPort keeps other test binaries on this host from choosing port until the lock is closed or this
// process has ended. A killed server leaves its port free, for seconds in some tests, and packages are
// tested in parallel. An abstract socket has no file that could be left behind, and like a port it
// belongs to the network namespace.
func lockPort(port int) (io.Closer, error) {
	return net.Listen("unix", fmt.Sprintf("@ringside-realserver-%d", port))
}

// allStopped reports whether every thread of the process is stopped. SIGSTOP returns earlier.
func allStopped(pid int) bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		return false
	}
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil {
			return false
		}
		// "pid (name) state ...": the name may itself have brackets and blanks.
		_, rest, found := bytes.Cut(b[bytes.LastIndexByte(b, ')')+1:], []byte(" "))
		if !found || len(rest) == 0 || (rest[0] != 'T' && rest[0] != 't') {
			return false
		}
	}
	return true
}
