package memnode

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// pipe serves one end of a net.Pipe, on which each Read gives what one Write
// has written. The connection is for a test to look at when serve has ended.
func pipe(t testing.TB, n *Node) (client net.Conn, c *conn, ended <-chan struct{}) {
	t.Helper()
	client, server := net.Pipe()
	c = newConn(n.life, server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.serve()
		server.Close()
	}()
	t.Cleanup(func() {
		client.Close()
		<-done
	})
	return client, c, done
}

func startNode(t testing.TB, cfg Config) *Node {
	t.Helper()
	n, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func say(t testing.TB, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

func wantRead(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(r, got)
	if string(got[:n]) != want {
		t.Fatalf("read %.300q, %v, want %.300q", got[:n], err, want)
	}
}

func TestRepliesGoInOneWrite(t *testing.T) {
	client, _, _ := pipe(t, startNode(t, Config{}))
	say(t, client, "set a 0 0 1\r\nx\r\nget a\r\nms b 1 q\r\ny\r\nmg b v\r\nfoo\r\nmn\r\n")
	b := make([]byte, 1000)
	n, err := client.Read(b)
	if want := "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\nVA 1\r\ny\r\nERROR\r\nMN\r\n"; string(b[:n]) != want || err != nil {
		t.Errorf("the first write is %q, %v, want %q", b[:n], err, want)
	}
}

// However the bytes are cut, the answers are the same.
func TestRequestsInPieces(t *testing.T) {
	requests := "set a 0 0 5\r\nhello\r\nget a\r\nset a 0 0 3000000\r\n" + strings.Repeat("x", 3000000) +
		"\r\nget a\r\nms b 100000\r\n" + strings.Repeat("y", 100000) + "\r\nmg b s\r\nfoo\r\nmn\r\n"
	want := "STORED\r\nVALUE a 0 5\r\nhello\r\nEND\r\nSERVER_ERROR object too large for cache\r\nEND\r\nHD\r\nHD s100000\r\nERROR\r\nMN\r\n"
	for name, r := range map[string]io.Reader{
		"whole":            strings.NewReader(requests),
		"halves":           iotest.HalfReader(strings.NewReader(requests)),
		"single bytes":     io.MultiReader(iotest.OneByteReader(strings.NewReader(requests[:100])), strings.NewReader(requests[100:])),
		"7 bytes":          pieces(requests, 7),
		"a prime of bytes": pieces(requests, 16381),
	} {
		t.Run(name, func(t *testing.T) {
			client, _, _ := pipe(t, startNode(t, Config{}))
			go func() { _, _ = io.CopyBuffer(struct{ io.Writer }{client}, struct{ io.Reader }{r}, make([]byte, 1<<20)) }()
			wantRead(t, client, want)
		})
	}
}

// pieces cuts the first and the last part of s.
func pieces(s string, n int) io.Reader {
	var rs []io.Reader
	for len(s) > 0 {
		cut := min(n, len(s))
		if len(rs) > 2000 {
			cut = len(s)
		}
		rs = append(rs, strings.NewReader(s[:cut]))
		s = s[cut:]
	}
	return io.MultiReader(rs...)
}

// What is announced costs nothing until it comes.
func TestAnnouncedValuesAreNotAllocated(t *testing.T) {
	for _, announced := range []string{"set a 0 0 1000000\r\n", "ms a 1000000\r\n", "set a 0 0 2147483645\r\n", "ms a 2147483645\r\n"} {
		client, c, ended := pipe(t, startNode(t, Config{}))
		if strings.Contains(announced, "2147483645") {
			say(t, client, announced)
			wantRead(t, client, tooLarge+"\r\n")
			say(t, client, strings.Repeat("x", 1<<20))
		} else {
			say(t, client, announced+strings.Repeat("x", 20000))
		}
		client.Close()
		<-ended
		if len(c.in) > 4*usualBuffer {
			t.Errorf("%q: a buffer of %d bytes", announced, len(c.in))
		}
	}
}

func TestAnEndlessLineEnds(t *testing.T) {
	for line, most := range map[string]int{
		strings.Repeat("x", 1<<20):             4 * memcached.MaxLine,
		strings.Repeat(" ", 1<<20):             4 * memcached.MaxLine,
		"get " + strings.Repeat("key ", 1<<18): 4 * memcached.MaxRetrieval,
	} {
		client, c, ended := pipe(t, startNode(t, Config{}))
		go func() { _, _ = io.WriteString(client, line) }()
		wantRead(t, client, "CLIENT_ERROR line too long\r\n")
		<-ended
		if len(c.in) > most {
			t.Errorf("%.20q: a buffer of %d bytes", line, len(c.in))
		}
	}
}

// A client can ask for more than there is memory.
func TestRepliesAreNotPiledUp(t *testing.T) {
	const size, times = 1_000_000, 40
	value := strings.Repeat("v", size)
	for _, request := range []string{
		"get" + strings.Repeat(" a", times) + "\r\n",
		strings.Repeat("get a\r\n", times),
		strings.Repeat("mg a v\r\n", times),
	} {
		client, c, ended := pipe(t, startNode(t, Config{}))
		say(t, client, fmt.Sprintf("set a 0 0 %d\r\n%s\r\n", size, value))
		wantRead(t, client, "STORED\r\n")
		go func() { _, _ = io.WriteString(client, request) }()
		if n, err := io.CopyN(io.Discard, client, size*times); n != size*times {
			t.Errorf("%.20q: %d bytes, %v", request, n, err)
		}
		client.Close()
		<-ended
		if cap(c.out) > 2*size {
			t.Errorf("%.20q: a buffer of %d bytes", request, cap(c.out))
		}
	}
}

func TestLargeBuffersAreGivenBack(t *testing.T) {
	n := startNode(t, Config{})
	value := strings.Repeat("v", 1_000_000)
	buffersAfter := func(small int) (in, out int) {
		client, c, ended := pipe(t, n)
		say(t, client, "set a 0 0 1000000\r\n"+value+"\r\n")
		wantRead(t, client, "STORED\r\n")
		say(t, client, "mg a v\r\n")
		wantRead(t, client, "VA 1000000\r\n"+value+"\r\n")
		for range small {
			say(t, client, "mn\r\n")
			wantRead(t, client, "MN\r\n")
		}
		client.Close()
		<-ended
		return len(c.in), cap(c.out)
	}
	if in, out := buffersAfter(0); in < 1_000_000 || out < 1_000_000 {
		t.Errorf("buffers of %d and %d bytes hold a value of 1000000", in, out)
	}
	if in, out := buffersAfter(shrinkAfter + 2); in != usualBuffer || out > 4*usualBuffer {
		t.Errorf("buffers of %d and %d bytes are kept", in, out)
	}
}

// The reply that ends a connection arrives, though the client still writes.
func TestTheLastReplyArrives(t *testing.T) {
	n := startNode(t, Config{})
	for range 20 {
		nc, err := net.Dial("tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = nc.Write(append([]byte("set a 0 0 x\r\n"), bytes.Repeat([]byte("x"), 500_000)...)) }()
		if got, err := io.ReadAll(nc); string(got) != badFormat+"\r\n" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		nc.Close()
	}
}

// No request allocates more than the item that it stores.
func TestAllocations(t *testing.T) {
	n := startNode(t, Config{})
	c := newConn(n.life, nil)
	do := func(text string) {
		c.in, c.start, c.end, c.out = []byte(text), 0, len(text), c.out[:0]
		for c.next() {
		}
	}
	do("set key 5 0 5\r\nhello\r\nset n 0 0 2\r\n50\r\nmg stale N30\r\n")
	for _, tt := range []struct {
		request, reply string
		most           float64
	}{
		{"get key\r\n", "VALUE key 5 5\r\nhello\r\nEND\r\n", 0},
		{"get missing key\r\n", "VALUE key 5 5\r\nhello\r\nEND\r\n", 0},
		{"mg key v f t k O123 s\r\n", "VA 5 f5 t-1 kkey O123 s5\r\nhello\r\n", 0},
		{"mg a2V5 b k\r\n", "HD kkey\r\n", 0},
		{"mg missing N\r\n", "CLIENT_ERROR bad token in command line format\r\n", 0},
		{"mg missing v\r\n", "EN\r\n", 0},
		{"mg stale N30 v\r\n", "VA 0 Z\r\n\r\n", 0},
		{"md missing q\r\n", "NF\r\n", 0},
		{"delete missing\r\n", "NOT_FOUND\r\n", 0},
		{"touch key 0\r\n", "TOUCHED\r\n", 0},
		{"incr n 0\r\n", "50\r\n", 0},
		{"ma n v D0\r\n", "VA 2\r\n50\r\n", 0},
		{"ms key 5 C1 F5\r\nHELLO\r\n", "EX\r\n", 0},
		{"mn\r\n", "MN\r\n", 0},
		// The item and its bytes.
		{"ms key 5 F5\r\nhello\r\n", "HD\r\n", 2},
		{"set key 5 0 5\r\nhello\r\n", "STORED\r\n", 2},
		{"append missing 0 0 1\r\nx\r\n", "NOT_STORED\r\n", 0},
	} {
		// Into the buffer that do reads, so that do itself allocates nothing.
		request := []byte(tt.request)
		allocs := testing.AllocsPerRun(100, func() {
			c.in, c.start, c.end, c.out = request, 0, len(request), c.out[:0]
			c.next()
		})
		if string(c.out) != tt.reply || allocs > tt.most {
			t.Errorf("%q: %q with %v allocations, want %q with %v", tt.request, c.out, allocs, tt.reply, tt.most)
		}
	}
}

// FuzzConn: no bytes make a node panic, and it still serves the next client.
func FuzzConn(f *testing.F) {
	for _, seed := range []string{
		"set a 0 0 1\r\nx\r\nget a\r\ngets a b\r\ndelete a\r\n",
		"ms a 1 T0 F1 c k O1\r\nx\r\nmg a v t f c s h l k q O1\r\nmd a I T30 C1\r\nmg a N30 R30 v\r\n",
		"ma n N0 J5 D2 MD v t c\r\nincr n 5\r\ndecr n 99999\r\nme n\r\n",
		"ms Zm9v 1 b\r\nx\r\nmg Zm9v b k\r\nms ==== 1 b\r\nx\r\nmg Zm9vZg==Zm9v b\r\n",
		"touch a 1\r\ngat 0 a\r\ncas a 0 0 1 1\r\nx\r\nappend a 0 0 1\r\nx\r\nprepend a 0 0 1\r\nx\r\n",
		"flush_all 1\r\nflush_all\r\nstats\r\nstats settings\r\nstats reset\r\nverbosity 1\r\nversion\r\nquit\r\n",
		"set a 0 0 1\r\nabc\r\n",
		"set a 0 0 2147483645\r\nx",
		"ms a 2000000 b\r\n",
		"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"\x00\xff\x80\r\n\n\n\r\r\n",
		"set a 0 0 3 noreply\r\n-5 \r\nincr a 1\r\n",
	} {
		f.Add([]byte(seed))
	}
	n := startNode(f, Config{MaxBytes: 256 << 10})
	f.Fuzz(func(t *testing.T, data []byte) {
		client, _, ended := pipe(t, n)
		go func() { _, _ = io.Copy(io.Discard, client) }()
		_, _ = client.Write(data)
		client.Close()
		<-ended

		next, _, _ := pipe(t, n)
		say(t, next, "ms next 1\r\nx\r\nmn\r\n")
		wantRead(t, next, "HD\r\nMN\r\n")
		if st := n.Stats(); st.Bytes > 256<<10 {
			t.Errorf("%d bytes, more than MaxBytes", st.Bytes)
		}
	})
}
