//go:build unix

package client

import (
	"crypto/tls"
	"net"
	"syscall"
)

// A rawWriter writes to a socket without ever blocking, and looks whether the
// other side has closed it. On a connection that is no plain socket, as with
// TLS, it leaves every write to a goroutine, which may block.
type rawWriter struct {
	raw     syscall.RawConn // nil where writes have to block
	peek    syscall.RawConn
	attempt func(fd uintptr) bool
	buf     []byte
	n       int
	err     error
}

func (w *rawWriter) init(nc net.Conn) {
	if sc, ok := nc.(syscall.Conn); ok {
		w.raw, _ = sc.SyscallConn()
		w.peek = w.raw
	} else if t, ok := nc.(*tls.Conn); ok {
		if sc, ok := t.NetConn().(syscall.Conn); ok {
			w.peek, _ = sc.SyscallConn()
		}
	}
	w.attempt = func(fd uintptr) bool {
		for {
			w.n, w.err = syscall.Write(int(fd), w.buf)
			if w.err != syscall.EINTR {
				return true
			}
		}
	}
}

// write writes what the socket takes at once. Only the writer calls it.
func (w *rawWriter) write(b []byte) (int, error) {
	if w.raw == nil {
		return 0, nil
	}
	w.buf = b
	err := w.raw.Write(w.attempt)
	w.buf = nil
	n := max(w.n, 0)
	switch {
	case err != nil:
		return 0, err
	case w.err == syscall.EAGAIN:
		return n, nil
	}
	return n, w.err
}

// stillOpen looks for the end of the stream, or for bytes that nobody asked
// for, without taking or awaiting anything.
func (w *rawWriter) stillOpen() bool {
	if w.peek == nil {
		return true
	}
	open := true
	// Control, unlike Read, does not mind a read deadline that has passed.
	err := w.peek.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		open = err == syscall.EAGAIN || err == syscall.EINTR
	})
	return err == nil && open
}
