package client

import (
	"crypto/tls"
	"net"
	"syscall"

	"github.com/ringside-cache/ringside/internal/nonblock"
)

// A rawSocket reads and writes a socket without ever blocking, and looks
// whether the other side has closed it. On a connection that is no plain
// socket, as with TLS, it does neither: every write is left to a goroutine,
// which may block, and every read to the connection.
type rawSocket struct {
	nonblock.Socket
	peek syscall.RawConn // what TLS is on top of, too
}

func (w *rawSocket) init(nc net.Conn) {
	w.Init(nc)
	if sc, ok := underneath(nc).(syscall.Conn); ok {
		w.peek, _ = sc.SyscallConn()
	}
}

// underneath is the connection that carries nc where it is one of TLS.
func underneath(nc net.Conn) net.Conn {
	if t, ok := nc.(*tls.Conn); ok {
		return t.NetConn()
	}
	return nc
}

// write writes what the socket takes at once. Only the writer calls it.
func (w *rawSocket) write(b []byte) (int, error) {
	if !w.Plain() {
		return 0, nil
	}
	return w.Write(b)
}

// stillOpen looks for the end of the stream, or for bytes that nobody asked
// for, without taking or awaiting anything.
func (w *rawSocket) stillOpen() bool {
	_, quiet := w.state()
	return quiet
}
