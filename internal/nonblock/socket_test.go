//go:build unix

package nonblock_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/internal/nonblock"
)

// pair gives the two ends of a connection, that of a Socket first.
func pair(t *testing.T, network string) (nc net.Conn, s *nonblock.Socket, peer net.Conn) {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "nonblock")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		addr = dir + "/s"
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if peer, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	if nc, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	for _, c := range []net.Conn{nc, peer} {
		c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	s = new(nonblock.Socket)
	s.Init(nc)
	if !s.Plain() {
		t.Fatal("the socket is no plain one")
	}
	return nc, s, peer
}

func TestReadAndWrite(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			_, s, peer := pair(t, network)
			b := make([]byte, 100)
			if n, err := s.Read(b); n != 0 || err != nil {
				t.Errorf("Read of nothing = %d, %v", n, err)
			}
			go func() {
				time.Sleep(10 * time.Millisecond) // so that it waits
				peer.Write([]byte("abc"))
			}()
			if n, err := s.Await(b); string(b[:n]) != "abc" || err != nil {
				t.Errorf("Await = %q, %v", b[:n], err)
			}
			if n, err := s.Write([]byte("defg")); n != 4 || err != nil {
				t.Errorf("Write = %d, %v", n, err)
			}
			if n, err := io.ReadFull(peer, b[:4]); string(b[:n]) != "defg" || err != nil {
				t.Errorf("the peer reads %q, %v", b[:n], err)
			}
			// What does not fit is left, whatever the size.
			for _, size := range []int{1 << 10, 4 << 20} {
				full := false
				for range 1 << 20 {
					n, err := s.Write(make([]byte, size))
					if err != nil {
						t.Fatal(err)
					}
					if full = n < size; full {
						break
					}
				}
				if !full {
					t.Fatal("the socket never becomes full")
				}
			}
			peer.Close()
			if _, err := s.Await(b); err == nil {
				t.Error("Await behind the end of the stream succeeds")
			}
		})
	}
}

func TestEnd(t *testing.T) {
	nc, s, peer := pair(t, "tcp")
	b := make([]byte, 100)
	nc.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := s.Await(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Await = %v, want that the deadline was exceeded", err)
	}
	nc.SetReadDeadline(time.Now().Add(20 * time.Second))
	peer.Close()
	if n, err := s.Await(b); n != 0 || err != io.EOF {
		t.Errorf("Await = %d, %v, want EOF", n, err)
	}
	if n, err := s.Read(b); n != 0 || err != io.EOF {
		t.Errorf("Read = %d, %v, want EOF", n, err)
	}
	nc.Close()
	if _, err := s.Read(b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read = %v, want that it is closed", err)
	}
	if _, err := s.Write(b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write = %v, want that it is closed", err)
	}
}

// TestEach: every byte comes, in order, whatever its timing; a read in vain is
// not made where there was less than room for.
func TestEach(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			_, s, peer := pair(t, network)
			const rounds, last = 20000, 255
			sent := make(chan []byte, 1)
			answered := make(chan struct{}, 1)
			go func() {
				var all []byte
				for i := range rounds {
					text := bytes.Repeat([]byte{byte(i % last)}, 1+rand.IntN(40))
					all = append(all, text...)
					peer.Write(text)
					if i%3 == 0 { // the others may come together, or while it is busy
						<-answered
					}
				}
				peer.Write([]byte{last})
				sent <- append(all, last)
			}()
			var got []byte
			b := make([]byte, 64)
			err := s.Each(func() []byte { return b }, func(n int) bool {
				got = append(got, b[:n]...)
				select {
				case answered <- struct{}{}:
				default:
				}
				return b[n-1] != last
			})
			if err != nil {
				t.Fatal(err)
			}
			if want := <-sent; !bytes.Equal(got, want) {
				t.Errorf("%d bytes, other than the %d that were sent", len(got), len(want))
			}
		})
	}
}

func TestEachReadsNotInVain(t *testing.T) {
	nc, s, peer := pair(t, "tcp")
	peer.Write([]byte("abcde"))
	nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	var rooms, took []int
	b := make([]byte, 3)
	err := s.Each(func() []byte { rooms = append(rooms, len(b)); return b }, func(n int) bool { took = append(took, n); return true })
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Each = %v, want that the deadline was exceeded", err)
	}
	// The poller may still have the edge of the first bytes to report.
	if len(took) != 2 || took[0] != 3 || took[1] != 2 || len(rooms) > 3 {
		t.Errorf("it took %v in %d reads, want 3 and 2 in 2 or 3", took, len(rooms))
	}
}

// TestEachEnd: an end of the stream is told at once where it comes alone, and
// one that came with bytes to the read behind Each.
func TestEachEnd(t *testing.T) {
	nc, s, peer := pair(t, "tcp")
	b := make([]byte, 100)
	each := func(more bool) (n int, err error) {
		err = s.Each(func() []byte { return b }, func(took int) bool { n += took; return more })
		return n, err
	}
	peer.Write([]byte("abc"))
	if n, err := each(false); n != 3 || err != nil {
		t.Errorf("Each = %d, %v, want 3", n, err)
	}
	peer.Write([]byte("abc"))
	peer.Close()
	time.Sleep(10 * time.Millisecond) // on loopback both have come
	nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := each(true); n != 3 || err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Each = %d, %v, want 3 and the end or a deadline", n, err)
	}
	nc.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := s.Await(b); n != 0 || err != io.EOF {
		t.Errorf("Await = %d, %v, want EOF", n, err)
	}
	if n, err := each(true); n != 0 || err != io.EOF {
		t.Errorf("Each = %d, %v, want EOF", n, err)
	}
}

// TestPlain: what TLS gives is not read past it.
func TestPlain(t *testing.T) {
	nc, _, _ := pair(t, "tcp")
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	for _, c := range []net.Conn{tls.Client(nc, &tls.Config{}), a} {
		var s nonblock.Socket
		s.Init(c)
		if s.Plain() {
			t.Errorf("%T is taken for a plain socket", c)
		}
	}
}
