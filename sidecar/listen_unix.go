//go:build unix

package sidecar

import (
	"errors"
	"net"
	"sync"
	"syscall"
)

// umasking guards the umask, which is the whole process's.
var umasking sync.Mutex

// listenOwner makes a unix socket that only its owner may use: from the begin,
// as whoever connects before a chmod stays connected. What others of this
// process create meanwhile gets a narrower mode, never a wider one.
func listenOwner(path string) (net.Listener, error) {
	umasking.Lock()
	defer umasking.Unlock()
	defer syscall.Umask(syscall.Umask(0o077))
	return net.Listen("unix", path)
}

func isTooManyFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
