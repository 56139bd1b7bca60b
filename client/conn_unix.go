//go:build unix

package client

import "syscall"

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
