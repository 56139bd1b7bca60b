//go:build unix

package nonblock

import (
	"io"
	"net"
	"syscall"
)

// A Socket is the raw side of a net.Conn. At a time one goroutine may read and
// one may write. Deadlines are those of the net.Conn, and errors have no more
// around them than those of a syscall.RawConn.
type Socket struct {
	raw syscall.RawConn // nil where it is no plain socket

	read, await, write attempt
}

// An attempt is one system call, on a buffer.
type attempt struct {
	do  func(fd uintptr) bool
	buf []byte
	n   int
	err error
}

func (a *attempt) init(call func(fd uintptr, b []byte) (int, error), wait bool) {
	a.do = func(fd uintptr) bool {
		a.n, a.err = call(fd, a.buf)
		return !wait || a.err != syscall.EAGAIN
	}
}

func (a *attempt) run(through func(func(fd uintptr) bool) error, b []byte) (int, error) {
	a.buf = b
	err := through(a.do)
	a.buf = nil
	if err == nil && a.err != syscall.EAGAIN {
		err = a.err
	}
	if err != nil || a.err != nil {
		return 0, err
	}
	return a.n, nil
}

// Init takes the socket of nc. It has to be called before the other methods.
func (s *Socket) Init(nc net.Conn) {
	s.raw = nil
	if sc, ok := nc.(syscall.Conn); ok {
		s.raw, _ = sc.SyscallConn()
	}
	s.read.init(read, false)
	s.await.init(read, true)
	s.write.init(write, false)
}

// Plain tells whether it is a socket with nothing on top, as TLS would be. Where
// it is not, the other methods must not be called.
func (s *Socket) Plain() bool { return s.raw != nil }

// Write writes what the socket takes at once, which may be nothing.
func (s *Socket) Write(b []byte) (int, error) { return s.write.run(s.raw.Write, b) }

// Read reads what is there, 0 bytes and no error if there is nothing. At the
// end of the stream it is io.EOF.
func (s *Socket) Read(b []byte) (int, error) {
	n, err := s.read.run(s.raw.Read, b)
	if n == 0 && err == nil && s.read.err == nil {
		err = io.EOF
	}
	return n, err
}

// Await waits until there is something to read. As with Each, the buffer must
// not be empty.
func (s *Socket) Await(b []byte) (int, error) {
	n, err := s.await.run(s.raw.Read, b)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// Each reads again and again, into what room gives, and has took told of how
// many bytes, until took gives false; then it returns nil. Where a read did not
// fill the room it took all there was, and the next one comes when the poller
// reports more: so it saves the read in vain that others make before they
// sleep, which is one of three system calls for a small request and its reply.
//
// The poller reports edges. What a short read leaves behind has none to come: an
// end of the stream that arrived with the last bytes, and what stands behind TCP's
// urgent data or a message with file descriptors. It is seen when the read
// deadline has passed, which therefore has to be set, and near; and then a read
// that waits has to follow, as Each may have used up the edge of what came
// meanwhile. To close the net.Conn waits for took, so that took must not wait for
// whoever does it.
func (s *Socket) Each(room func() []byte, took func(n int) bool) error {
	var end error
	err := s.raw.Read(func(fd uintptr) bool {
		for {
			b := room()
			n, err := read(fd, b)
			switch {
			case err == syscall.EAGAIN:
				return false
			case err == nil && n == 0:
				end = io.EOF
				return true
			case err != nil:
				end = err
				return true
			case !took(n):
				return true
			case n < len(b):
				return false
			}
		}
	})
	if err == nil {
		err = end
	}
	return err
}
