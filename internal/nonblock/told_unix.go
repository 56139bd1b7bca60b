//go:build unix

package nonblock

import "syscall"

// readTold and writeTold tell the scheduler.
func readTold(fd uintptr, b []byte) (int, error) { return told(syscall.Read, fd, b) }

func writeTold(fd uintptr, b []byte) (int, error) { return told(syscall.Write, fd, b) }

func told(call func(fd int, b []byte) (int, error), fd uintptr, b []byte) (int, error) {
	for {
		n, err := call(int(fd), b)
		if err == nil {
			return n, nil
		}
		if err != syscall.EINTR {
			return 0, err
		}
	}
}
