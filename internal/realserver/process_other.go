//go:build unix && !linux

package realserver

import (
	"io"
	"syscall"
)

// sysProcAttr cannot tie the child to its parent here: a parent that is killed leaves it running.
func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// lockPort locks nothing here: a port is safe from other test binaries only while its server runs.
func lockPort(int) (io.Closer, error) { return noLock{}, nil }

type noLock struct{}

func (noLock) Close() error { return nil }

// allStopped cannot tell here.
func allStopped(int) bool { return true }
