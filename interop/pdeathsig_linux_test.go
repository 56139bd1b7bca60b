//go:build interop

package interop

import "syscall"

// endWithParent makes the kernel end a sidecar whose test was killed.
func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
