package sidecar_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/sidecar"
)

const (
	badFormat = "CLIENT_ERROR bad command line format\r\n"
	tooLarge  = "SERVER_ERROR object too large for cache\r\n"
)

// TestBadRequests says what is wrong, loses nothing and does nothing by half.
// The transcripts in testdata have more of them.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	s, node := onNode(t, sidecar.Config{MaxValueBytes: 2 << 20})
	good := dial(t, s.addr("memcached"))
	good.want("set a 0 0 4\r\nkeep\r\n", "STORED\r\n")
	long := strings.Repeat("k", 251)
	for _, tt := range []struct{ name, send, want string }{
		{"empty key of get", "get \r\n", "ERROR\r\n"},
		{"empty key of set", "set  0 0 1\r\nx\r\n", "ERROR\r\n" + closed},
		{"empty key of delete", "delete \r\n", "ERROR\r\n"},
		{"empty key of mg", "mg \r\n", "ERROR\r\n"},
		{"empty key of ms", "ms  1\r\nx\r\n", badFormat + closed},
		{"empty key in base64", "mg ==== b\r\n", "CLIENT_ERROR error decoding key\r\n"},
		{"key of 251 bytes", "get " + long + "\r\n", badFormat},
		{"key of 251 bytes among others", "get a " + long + "\r\n", badFormat},
		{"set of a key of 251 bytes", "set " + long + " 0 0 1\r\nx\r\n", badFormat},
		{"key with a space", "set a b 0 0 1\r\nx\r\n", badFormat + "ERROR\r\n"},
		{"key with a control byte", "set a\x01b 0 0 1\r\nx\r\n", badFormat},
		{"key with a tab", "get a\tb\r\n", badFormat},
		{"key with a zero byte", "delete a\x00b\r\n", badFormat},
		{"key with DEL", "incr a\x7f 1\r\n", badFormat},
		{"key with CR", "get a\rb\r\n", badFormat},
		{"key with CRLF", "delete x\r\ny\r\n", "NOT_FOUND\r\nERROR\r\n"},
		{"key in base64 with CRLF", "mg DQo= b v\r\n", "EN\r\n"},
		{"value over the node's item size", "set a 0 0 1048577\r\n" + strings.Repeat("x", 1<<20+1) + "\r\n", tooLarge},
		{"value over the listener's size", "set a 0 0 3000000\r\n" + strings.Repeat("x", 3000000) + "\r\n", tooLarge},
		{"ms over the listener's size", "ms a 3000000\r\n" + strings.Repeat("x", 3000000) + "\r\n", tooLarge},
		{"value shorter than announced", "set a 0 0 10\r\nx\r\n\r\n\r\n\r\n\r\nxxx", "CLIENT_ERROR bad data chunk\r\n" + closed},
		{"negative length", "set a 0 0 -1\r\n", badFormat + closed},
		{"length of 2 GiB", "set a 0 0 2147483648\r\n", badFormat + closed},
		{"length of no number", "set a 0 0 1e3\r\n", badFormat + closed},
		{"client flags over 32 bits", "set a 4294967296 0 1\r\nx\r\n", badFormat},
		{"exptime over 64 bits", "set a 0 9223372036854775808 1\r\nx\r\n", badFormat},
		{"touch with an exptime over 64 bits", "touch a 9223372036854775808\r\n", "CLIENT_ERROR invalid exptime argument\r\n"},
		{"gat with an exptime over 64 bits", "gat -9223372036854775809 a\r\n", "CLIENT_ERROR invalid exptime argument\r\n"},
		{"more meta flags than a node takes", "mg a" + strings.Repeat(" P", 40) + "\r\n", badFormat},
		{"a line without an end", strings.Repeat("x", 70<<10), "CLIENT_ERROR line too long\r\n" + closed},
		{"a get of many keys", "get" + strings.Repeat(" k", 40<<10) + "\r\n", "END\r\n"},
		{"a get of too many keys", "get" + strings.Repeat(" k", 600<<10) + "\r\n", "CLIENT_ERROR line too long\r\n" + closed},
		{"the binary protocol", "\x80\x00\x00\x01\x00\x00\x00\x00", "CLIENT_ERROR the binary protocol is not spoken here\r\n" + closed},
		{"a browser", "GET /get HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", closed},
		{"a browser that sends commands", "POST / HTTP/1.1\r\nContent-Length: 12\r\n\r\ndelete a\r\n\r\n", closed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := dial(t, s.addr("memcached"))
			p.want(tt.send, tt.want)
			p = dial(t, s.addr("memcached"))
			p.want("get a\r\n", "VALUE a 0 4\r\nkeep\r\nEND\r\n")
			if n := node.Items(); n != 1 {
				t.Errorf("the node has %d items, want 1", n)
			}
		})
	}
	good.want("get a\r\n", "VALUE a 0 4\r\nkeep\r\nEND\r\n")
	wantUnbroken(t, s)
}

// wantUnbroken checks that nobody broke the connections that all share.
func wantUnbroken(t testing.TB, s *running) {
	t.Helper()
	for _, n := range s.Client().Stats().Nodes {
		if n.ConnectionsLost != 0 || n.FailuresTotal != 0 {
			t.Errorf("node %s: %d connections lost, %d failures; want none", n.Name, n.ConnectionsLost, n.FailuresTotal)
		}
	}
}

// TestGarbage: whatever bytes come, the others notice nothing.
func TestGarbage(t *testing.T) {
	t.Parallel()
	s, _ := onNode(t, sidecar.Config{RequestTimeout: 50 * time.Millisecond})
	good := dial(t, s.addr("memcached"))
	good.want("set a 0 0 4\r\nkeep\r\n", "STORED\r\n")
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 30 {
		garbage := make([]byte, 1+r.IntN(4<<10))
		for j := range garbage {
			garbage[j] = byte(r.Uint32())
			if r.IntN(20) == 0 {
				garbage[j] = "\r\n "[r.IntN(3)]
			}
		}
		p := dial(t, s.addr("memcached"))
		p.send(string(garbage))
		// What is left of it is half a request, which ends by its timeout.
		if tcp, ok := p.nc.(*net.TCPConn); ok && i%2 == 0 {
			tcp.CloseWrite()
		} else {
			p.send("get unfinished")
		}
		if _, err := io.Copy(io.Discard, p.nc); err != nil && os.IsTimeout(err) {
			t.Fatalf("garbage %q: the connection stays: %v", garbage, err)
		}
	}
	good.want("get a\r\n", "VALUE a 0 4\r\nkeep\r\nEND\r\n")
	wantUnbroken(t, s)
}

// TestHalfRequest: a request may not stay half sent, a connection may be idle.
func TestHalfRequest(t *testing.T) {
	t.Parallel()
	const timeout = 50 * time.Millisecond
	s, node := onNode(t, sidecar.Config{RequestTimeout: timeout})
	idle := dial(t, s.addr("memcached"))
	idle.want("set a 0 0 4\r\nkeep\r\n", "STORED\r\n")
	for _, tt := range []struct{ name, send, want string }{
		{"half a word", "se", closed},
		{"half a line", "set a 0 0", closed},
		{"a line without its value", "set a 0 0 10\r\n", closed},
		{"half a value", "set a 0 0 10\r\n01234", closed},
		{"a value without its end", "set a 0 0 10\r\n0123456789\r", closed},
		{"half a request behind a whole one", "get a\r\nget", "VALUE a 0 4\r\nkeep\r\nEND\r\n" + closed},
		{"a refused value that does not come", "set a 0 0 2147483645\r\nx", tooLarge + closed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := dial(t, s.addr("memcached"))
			p.send(tt.send)
			if got := p.until("never"); got != tt.want {
				t.Errorf("%q is answered %q, want %q", tt.send, got, tt.want)
			}
			if n := node.Items(); n != 1 {
				t.Errorf("the node has %d items, want 1", n)
			}
		})
	}
	// By now this one was idle for longer than a request may take.
	idle.want("get a\r\n", "VALUE a 0 4\r\nkeep\r\nEND\r\n")
}

// TestSlowRequest: the time for a request starts anew with each of its bytes.
func TestSlowRequest(t *testing.T) {
	t.Parallel()
	const timeout = 500 * time.Millisecond
	s, _ := onNode(t, sidecar.Config{RequestTimeout: timeout})
	p := dial(t, s.addr("memcached"))
	tick := time.NewTicker(timeout / 15)
	defer tick.Stop()
	for _, b := range []byte("set a 0 0 5\r\nhello\r\n") {
		<-tick.C
		p.send(string(b))
	}
	p.want("", "STORED\r\n")
}

// heap gives the bytes in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestAnnouncedLengthTakesNoMemory: what a line promises is not there yet.
func TestAnnouncedLengthTakesNoMemory(t *testing.T) {
	s, _ := onNode(t, sidecar.Config{MaxValueBytes: 1 << 30})
	before := heap()
	peers := make([]*peer, 50)
	for i := range peers {
		peers[i] = dial(t, s.addr("memcached"))
		length := 1 << 30 // taken, in theory
		if i%2 == 0 {
			length = 2147483645 // refused, and passed over
		}
		peers[i].send(fmt.Sprintf("set k%d 0 0 %d\r\n%s", i, length, strings.Repeat("x", 3000)))
		if i%2 == 0 {
			if got, err := peers[i].r.ReadString('\n'); got != tooLarge {
				t.Fatalf("a length of 2 GiB is answered %q, %v, want %q", got, err, tooLarge)
			}
		}
	}
	// Another connection proves that the listener has read on meanwhile, and
	// bytes that are read are bytes of a value: nobody is answered.
	dial(t, s.addr("memcached")).want("get k0 k1\r\n", "END\r\n")
	for _, p := range peers {
		p.send("\r\nmn\r\n")
	}
	const most = 32 << 20 // 50 GiB were announced
	if grown := heap() - before; grown > most {
		t.Errorf("50 announced values of 1 and 2 GiB take %d bytes, want at most %d", grown, most)
	}
	for i, p := range peers {
		p.nc.SetReadDeadline(time.Now().Add(time.Millisecond))
		if b, err := p.r.ReadByte(); err == nil {
			t.Fatalf("connection %d: the value's bytes are answered with %q…", i, b)
		}
	}
}

// TestClientThatNeverReads: it holds a bounded part of its replies, ends by
// WriteTimeout, and harms nobody.
func TestClientThatNeverReads(t *testing.T) {
	const size = 128 << 10
	get := "get big\r\n"
	for _, tt := range []struct{ name, send string }{
		{"many gets in a write", strings.Repeat(get, 4000)},
		{"gets of many keys", "get" + strings.Repeat(" big", 100000) + "\r\n"},
		{"meta gets", strings.Repeat("mg big v k\r\n", 4000)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := onNode(t, sidecar.Config{WriteTimeout: 300 * time.Millisecond})
			good := dial(t, s.addr("memcached"))
			value := strings.Repeat("v", size)
			good.want(fmt.Sprintf("set big 0 0 %d\r\n%s\r\n", size, value), "STORED\r\n")
			before := heap()
			// Half a gigabyte is asked for by each. A connection begins with 64
			// keys at a time.
			const peers, most = 4, 4 * 64 * size
			for range peers {
				dial(t, s.addr("memcached")).send(tt.send)
			}
			eventually(t, "their first values are there", func() bool {
				return s.Client().Stats().Nodes[0].Requests >= 1+peers*64
			})
			if grown := heap() - before; grown > most+32<<20 {
				t.Errorf("%d clients that do not read take %d bytes, want at most %d", peers, grown, most)
			}
			good.want(get, fmt.Sprintf("VALUE big 0 %d\r\n", size)+value+"\r\nEND\r\n")
			eventually(t, "all those who do not read are cut off", func() bool {
				return strings.Contains(good.ask("stats\r\n"), "STAT curr_connections 1\r\n")
			})
			wantUnbroken(t, s)
		})
	}
}

// TestManyKeys: a get of more keys than are read at a time is one reply.
func TestManyKeys(t *testing.T) {
	t.Parallel()
	s, node := onNode(t, sidecar.Config{})
	p := dial(t, s.addr("memcached"))
	const n = 1500
	var keys, want, wantCAS strings.Builder
	for i := range n {
		fmt.Fprintf(&keys, " k%d", i)
		if i%3 == 0 {
			continue
		}
		p.send(fmt.Sprintf("set k%d %d 0 4 noreply\r\n%04d\r\n", i, i, i))
		fmt.Fprintf(&want, "VALUE k%d %d 4\r\n%04d\r\n", i, i, i)
		fmt.Fprintf(&wantCAS, "VALUE k%d %d 4 %d\r\n%04d\r\n", i, i, i-i/3, i)
	}
	end := "END\r\n"
	p.want("get"+keys.String()+"\r\n", want.String()+end)
	p.want("gets"+keys.String()+"\r\n", wantCAS.String()+end)
	p.want("set a 0 0 1\r\nx\r\nget a"+keys.String()+"\r\nget a\r\n",
		"STORED\r\nVALUE a 0 1\r\nx\r\n"+want.String()+end+"VALUE a 0 1\r\nx\r\n"+end)
	p.want("gat 100"+keys.String()+"\r\n", want.String()+end)
	p.wantTTL("k1", 100)

	// A failure at one of the first keys stands at the end, in place of END.
	node.Inject(memnode.Garbage("SERVER_ERROR out of memory\r\n"), memnode.Key("k1"))
	got := p.ask("get" + keys.String() + "\r\nget k2\r\n")
	head, tail, _ := strings.Cut(got, "SERVER_ERROR")
	if head != strings.TrimPrefix(want.String(), "VALUE k1 1 4\r\n0001\r\n") {
		t.Errorf("the values beside a failed key are %q", shorten(head))
	}
	if !strings.HasSuffix(tail, "\r\nVALUE k2 2 4\r\n0002\r\nEND\r\n") || strings.Count(tail, "END\r\n") != 1 {
		t.Errorf("behind a failed key stands %q", shorten(tail))
	}
}

// TestTooManyConnections: one too many is told so; when one ends there is room.
func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	s, _ := onNode(t, sidecar.Config{MaxConns: 2, Admin: "on"})
	first, second := dial(t, s.addr("memcached")), dial(t, s.addr("memcached"))
	first.want("", "")
	second.want("version\r\n", "VERSION 1.6.18-ringside-"+sidecar.Version+"\r\n")
	third := dial(t, s.addr("memcached"))
	if got, want := third.until("never"), "SERVER_ERROR too many connections\r\n"+closed; got != want {
		t.Errorf("the third connection is told %q, want %q", got, want)
	}
	if _, body := fetch(t, s, "GET", "/metrics"); !strings.Contains(body, "ringside_memcached_connections_refused_total 1\n") {
		t.Error("the metrics do not count the refused connection")
	}
	second.nc.Close()
	eventually(t, "there is room again", func() bool {
		return dial(t, s.addr("memcached")).ask("get a\r\n") == "END\r\n"
	})
	first.want("get a\r\n", "END\r\n")
}

// TestBadConfig: each error names its culprit, and nothing is left open.
func TestBadConfig(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := shortDir(t)
	file := dir + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ok := nodes("127.0.0.1:1")
	for _, tt := range []struct {
		name string
		cfg  sidecar.Config
		want []string
	}{
		{"no servers", sidecar.Config{}, []string{"Servers", "the list is empty"}},
		{"servers and embedded", sidecar.Config{Client: ok, Embedded: 1}, []string{"Embedded and Servers are both given"}},
		{"embedded negative", sidecar.Config{Embedded: -1}, []string{"Embedded is -1"}},
		{"embedded too many", sidecar.Config{Embedded: 65}, []string{"Embedded is 65"}},
		{"embedded bytes negative", sidecar.Config{Embedded: 1, EmbeddedBytes: -1}, []string{"EmbeddedBytes is -1"}},
		{"embedded bytes too few", sidecar.Config{Embedded: 1, EmbeddedBytes: 100}, []string{"EmbeddedBytes is 100"}},
		{"embedded with a bad dialect", sidecar.Config{Embedded: 1, Client: client.Config{Dialect: "nope"}}, []string{`"nope"`}},
		{"the same server twice", sidecar.Config{Client: nodes("a:1", "b:1", "a:1")}, []string{`"a:1"`, "twice"}},
		{"two nodes of one name", sidecar.Config{Client: nodes("n@a:1", "n@b:1")}, []string{`"n"`, "two nodes"}},
		{"weight 0", sidecar.Config{Client: nodes("a:1*0")}, []string{`"a:1*0"`, "weight 0"}},
		{"weight negative", sidecar.Config{Client: nodes("a:1*-3")}, []string{`"a:1*-3"`, "weight -3"}},
		{"weight huge", sidecar.Config{Client: nodes("a:1*99999999999999999999")}, []string{"weight 99999999999999999999"}},
		{"port in use", sidecar.Config{Client: ok, Admin: taken.Addr().String()}, []string{"admin", taken.Addr().String(), "address already in use"}},
		{"one port for two", sidecar.Config{Client: ok, Memcached: "unix:" + dir + "/s", GRPC: "unix:" + dir + "/s"}, []string{"GRPC", dir + "/s", "of the memcached listener"}},
		{"no port", sidecar.Config{Client: ok, Memcached: "127.0.0.1"}, []string{"Memcached", `"127.0.0.1"`}},
		{"port too large", sidecar.Config{Client: ok, Memcached: "127.0.0.1:70000"}, []string{"Memcached", "127.0.0.1:70000", "no port between"}},
		{"port that is none", sidecar.Config{Client: ok, Admin: "127.0.0.1:x"}, []string{"Admin", "127.0.0.1:x", "no port between"}},
		{"socket without a path", sidecar.Config{Client: ok, GRPC: "unix:"}, []string{"GRPC", "empty"}},
		{"socket in no directory", sidecar.Config{Client: ok, Memcached: "unix:" + dir + "/none/s"}, []string{"memcached", dir + "/none/s"}},
		{"socket where a file is", sidecar.Config{Client: ok, Memcached: "unix:" + file}, []string{"memcached", file, "in use"}},
		{"memcached for all", sidecar.Config{Client: ok, Memcached: "0.0.0.0:0"}, []string{"Memcached", "0.0.0.0:0", "AllowRemote"}},
		{"memcached for all, in short", sidecar.Config{Client: ok, Memcached: ":0"}, []string{"Memcached", "AllowRemote"}},
		{"admin for all", sidecar.Config{Client: ok, Admin: "[::]:0"}, []string{"Admin", "[::]:0", "AllowRemote"}},
		{"a name that is not localhost", sidecar.Config{Client: ok, Memcached: "example.com:1"}, []string{"Memcached", "example.com:1", "AllowRemote"}},
		{"gRPC for all, without TLS", sidecar.Config{Client: ok, GRPC: "0.0.0.0:0", AllowRemote: true}, []string{"GRPC", "0.0.0.0:0", "TLS"}},
		{"MaxValueBytes", sidecar.Config{Client: ok, MaxValueBytes: 2 << 30}, []string{"MaxValueBytes is 2147483648"}},
		{"MaxConns", sidecar.Config{Client: ok, MaxConns: -1}, []string{"MaxConns is -1"}},
		{"IdleTimeout", sidecar.Config{Client: ok, IdleTimeout: -1}, []string{"IdleTimeout is -1ns"}},
		{"Tracing", sidecar.Config{Client: ok, Tracing: "jaeger"}, []string{`Tracing is "jaeger"`}},
		{"timeouts", sidecar.Config{Client: ok, WriteTimeout: -1}, []string{"WriteTimeout"}},
		{
			"all at once",
			sidecar.Config{Client: client.Config{Servers: []string{"a:1*0"}, ConnsPerNode: 99}, Memcached: "x", Admin: "y", MaxConns: -1},
			[]string{"weight 0", "ConnsPerNode is 99", `"x"`, `"y"`, "MaxConns is -1"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := sidecar.Start(free(tt.cfg))
			if err == nil {
				t.Fatalf("Start = %v, want an error", s.Addresses())
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Start: %v\nwant %q in it", err, want)
				}
			}
		})
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("Start left %v behind", entries)
	}
}
