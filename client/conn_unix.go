//go:build unix

package client

import (
	"crypto/tls"
	"io"
	"net"
	"syscall"
)

// A rawSocket reads and writes a socket without ever blocking, and looks
// whether the other side has closed it. On a connection that is no plain
// socket, as with TLS, it does neither: every write is left to a goroutine,
// which may block, and every read to the connection.
type rawSocket struct {
	raw  syscall.RawConn // nil where it is no plain socket
	peek syscall.RawConn
	in   attempt // the reader's
	out  attempt // the writer's
}

// An attempt is one system call.
type attempt struct {
	do  func(fd uintptr) bool
	buf []byte
	n   int
	err error
}

func (a *attempt) init(call func(fd int, b []byte) (int, error)) {
	a.do = func(fd uintptr) bool {
		for {
			a.n, a.err = call(int(fd), a.buf)
			if a.err != syscall.EINTR {
				return true
			}
		}
	}
}

// run makes the attempt by way of through, which is a method of a
// syscall.RawConn. Where the socket is not ready n is 0 and err nil.
func (a *attempt) run(through func(func(fd uintptr) bool) error, b []byte) (n int, err error) {
	a.buf = b
	err = through(a.do)
	a.buf = nil
	n = max(a.n, 0)
	switch {
	case err != nil:
		return 0, err
	case a.err == syscall.EAGAIN:
		return n, nil
	}
	return n, a.err
}

func (w *rawSocket) init(nc net.Conn) {
	if sc, ok := nc.(syscall.Conn); ok {
		w.raw, _ = sc.SyscallConn()
		w.peek = w.raw
	} else if t, ok := nc.(*tls.Conn); ok {
		if sc, ok := t.NetConn().(syscall.Conn); ok {
			w.peek, _ = sc.SyscallConn()
		}
	}
	w.in.init(syscall.Read)
	w.out.init(syscall.Write)
}

// plain tells whether the connection is a plain socket.
func (w *rawSocket) plain() bool { return w.raw != nil }

// write writes what the socket takes at once. Only the writer calls it.
func (w *rawSocket) write(b []byte) (int, error) {
	if w.raw == nil {
		return 0, nil
	}
	return w.out.run(w.raw.Write, b)
}

// read reads what is there, 0 bytes if there is nothing. Only the reader calls
// it, on a plain socket.
func (w *rawSocket) read(b []byte) (int, error) {
	n, err := w.in.run(w.raw.Read, b)
	if n == 0 && err == nil && w.in.err == nil {
		err = io.EOF
	}
	return n, err
}

// stillOpen looks for the end of the stream, or for bytes that nobody asked
// for, without taking or awaiting anything.
func (w *rawSocket) stillOpen() bool {
	_, quiet := w.state()
	return quiet
}

// state tells whether the stream has come to its end, and whether there is
// neither an end nor a byte to be read. It takes and awaits nothing.
func (w *rawSocket) state() (ended, quiet bool) {
	if w.peek == nil {
		return false, true
	}
	// Control, unlike Read, does not mind a read deadline that has passed.
	err := w.peek.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = err == syscall.EAGAIN || err == syscall.EINTR
		ended = !quiet && (err != nil || n == 0)
	})
	return ended || err != nil, quiet && err == nil
}
