//go:build linux && !race && !msan && !asan

package nonblock

import (
	"syscall"
	"unsafe"
)

// large is the size from which copying alone may take so long that the
// scheduler is told of the call after all.
const large = 64 << 10

func read(fd uintptr, b []byte) (int, error) {
	if len(b) > large {
		return readTold(fd, b)
	}
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno == 0 {
			return int(n), nil
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}

func write(fd uintptr, b []byte) (int, error) {
	if len(b) > large {
		return writeTold(fd, b)
	}
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno == 0 {
			return int(n), nil
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}
