//go:build !unix

package client

import (
	"errors"
	"net"
)

// A rawSocket on a system without Unix' calls leaves every write to a
// goroutine, which may block, and every read to the connection.
type rawSocket struct{}

func (w *rawSocket) init(net.Conn) {}

func (w *rawSocket) plain() bool { return false }

func (w *rawSocket) write([]byte) (int, error) { return 0, nil }

func (w *rawSocket) read([]byte) (int, error) { return 0, errors.ErrUnsupported }

func (w *rawSocket) stillOpen() bool { return true }

func (w *rawSocket) state() (ended, quiet bool) { return false, true }
