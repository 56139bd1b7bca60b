//go:build unix

package bench

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// A sleeper sleeps to some 60 us on a thread of its own. The runtime's timers
// are rounded up to whole milliseconds while a process is idle, and all that
// an open loop starts too late counts as latency.
type sleeper struct{}

func newSleeper() sleeper {
	runtime.LockOSThread()
	return sleeper{}
}

func (sleeper) close() { runtime.UnlockOSThread() }

// until sleeps until a moment, or until ctx ends.
func (sleeper) until(ctx context.Context, at time.Time) error {
	const tick = 10 * time.Millisecond // how soon the end of ctx is seen
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		d := time.Until(at)
		if d <= 0 {
			return nil
		}
		ts := syscall.NsecToTimespec(int64(min(d, tick)))
		if err := syscall.Nanosleep(&ts, nil); err != nil && err != syscall.EINTR {
			return fmt.Errorf("nanosleep: %w", err)
		}
	}
}

// sharedWords are numbers that several processes see at once: a file that each
// has mapped. A write is seen by whoever reads after it in time, which no
// message between processes could promise.
type sharedWords struct {
	raw   []byte
	words []atomic.Uint64
}

// createShared makes a file of n zeros.
func createShared(path string, n int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(int64(n) * 8)
}

func openShared(path string) (*sharedWords, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping stays
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	raw, err := syscall.Mmap(int(f.Fd()), 0, int(info.Size()), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	// A mapping begins at a page, so every word is aligned.
	return &sharedWords{raw, unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(&raw[0])), len(raw)/8)}, nil
}

func (s *sharedWords) close() {
	s.words = nil
	_ = syscall.Munmap(s.raw) // the process ends soon
}
