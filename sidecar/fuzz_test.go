package sidecar_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/sidecar"
)

// FuzzListener feeds bytes to the memcached listener over a real connection,
// in two parts. It must not panic, it must end the connection once the client
// has, it must not break the connections to the node that all share, and a
// fresh connection works.
func FuzzListener(f *testing.F) {
	for _, seed := range []string{
		"get a\r\nset a 0 0 1\r\nx\r\nget a b c\r\ngets a\r\n",
		"gat 10 a\r\ngats -1 a b\r\ntouch a 0\r\n",
		"set a 1 2 3 noreply\r\nabc\r\nadd b 0 0 0\r\n\r\nreplace a 0 0 1\r\nx\r\nappend a 0 0 1\r\ny\r\nprepend a 0 0 1\r\nz\r\n",
		"cas a 0 0 1 5\r\nx\r\ndelete a\r\ndelete a noreply\r\nincr a 1\r\ndecr a 18446744073709551615\r\n",
		"mg a v t c f s k O1 q\r\nms a 1 T0 F5\r\nx\r\nmd a I T30\r\nma a N0 J5 v\r\nmn\r\nme a\r\n",
		"mg Zm9v b k v\r\nms Zm9v 1 b q\r\nx\r\nmd Zm9 b\r\n",
		"mg a N30 R30 v\r\nget a\r\nms a 1 C1 I\r\nx\r\n",
		"flush_all\r\nflush_all 10\r\nversion\r\nverbosity 1\r\nstats\r\nstats settings\r\nquit\r\nget a\r\n",
		"set a 0 0 -1\r\nset a 0 0 2147483645\r\nset a 0 0\r\nget\r\n\r\n",
		"set " + strings.Repeat("k", 251) + " 0 0 3\r\nabc\r\nget " + strings.Repeat("k", 250) + "\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\n\r\nflush_all\r\n",
		"get" + strings.Repeat(" a", 1000) + "\r\n",
		"\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00a",
		"set a 0 0 5\nab\r\nc\r\nget a\n",
	} {
		f.Add([]byte(seed), 0)
		f.Add([]byte(seed), 7)
	}
	// A unix socket, as so many connections use up all TCP ports.
	s, _ := onNode(f, sidecar.Config{Memcached: "unix:" + shortDir(f) + "/s", MaxValueBytes: 64 << 10})
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		cut = max(0, min(cut, len(data)))
		fuzzed := dial(t, s.addr("memcached")).nc
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			fuzzed.Write(data[:cut])
			fuzzed.Write(data[cut:])
			fuzzed.(*net.UnixConn).CloseWrite()
		}()
		if _, err := io.Copy(io.Discard, fuzzed); isTimeout(err) {
			t.Fatal("the connection does not end")
		}
		fuzzed.Close()
		<-wrote
		wantUnbroken(t, s)
		p := dial(t, s.addr("memcached"))
		p.want("set probe 0 0 2\r\nok\r\n", "STORED\r\n")
		// The value itself may be gone: a flush_all may have come with a delay.
		p.want("mg missing O1\r\n", "EN O1\r\n")
		p.nc.Close()
	})
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// FuzzConnection is the life of a connection: bytes in parts of any size, one
// byte of cuts for each, and an end before, in, or behind the replies. The
// sidecar goes on, and the connection is no more there afterwards.
func FuzzConnection(f *testing.F) {
	const session = "set a 0 0 5\r\nhello\r\nget a b\r\nmg a v k q\r\nmn\r\nincr a 1\r\nms b 2 T0\r\nhi\r\nget __ringside__.explain(a)\r\nstats\r\n"
	for _, end := range []byte{0, 1, 2} {
		f.Add([]byte(session), []byte{1, 2, 3, 5, 8, 13, 21}, end)
		f.Add([]byte(session+"quit\r\n"+session), []byte{1}, end)
	}
	f.Add([]byte("set a 0 0 2147483645\r\nxxxxxxxxxxxxxxxxxx"), []byte{22, 1}, byte(1))
	f.Add([]byte("set a 0 0 60000\r\n"+strings.Repeat("x", 60000)+"\r\nget a a a a a a a a\r\n"), []byte{255, 1}, byte(0))
	f.Add([]byte(strings.Repeat("get a a a a\r\n", 300)), []byte{12, 14}, byte(0))
	f.Add([]byte("\x00\xff\r\n\r\n\n\n"+strings.Repeat("y", 3000)), []byte{0, 200}, byte(2))
	s, _ := onNode(f, sidecar.Config{
		Memcached: "unix:" + shortDir(f) + "/s", MaxValueBytes: 64 << 10,
		RequestTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
	})
	watch := dial(f, s.addr("memcached"))
	f.Fuzz(func(t *testing.T, data, cuts []byte, end byte) {
		nc := dial(t, s.addr("memcached")).nc
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			for i := 0; len(data) > 0; i++ {
				n := len(data)
				if len(cuts) > 0 && i < 1000 {
					n = min(n, int(cuts[i%len(cuts)])+1)
				}
				if _, err := nc.Write(data[:n]); err != nil {
					return
				}
				data = data[n:]
			}
			if end%3 != 2 {
				nc.(*net.UnixConn).CloseWrite()
			}
		}()
		switch end % 3 {
		case 0: // reads to the end
			if _, err := io.Copy(io.Discard, nc); isTimeout(err) {
				t.Fatal("the connection does not end")
			}
		case 1: // reads a little
			io.ReadFull(nc, make([]byte, 5))
		}
		if end%3 == 2 {
			<-wrote
		}
		nc.Close()
		<-wrote
		watch.t = t
		watch.nc.SetDeadline(time.Now().Add(patience))
		watch.want("mg missing O1\r\n", "EN O1\r\n")
		eventually(t, "the connection is no more there", func() bool {
			return strings.Contains(watch.ask("stats\r\n"), "STAT curr_connections 1\r\n")
		})
		wantUnbroken(t, s)
	})
}
