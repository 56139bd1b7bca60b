package memcached

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const testMaxValue = 1 << 20

func flags(words ...string) []MetaFlag {
	var fs []MetaFlag
	for _, w := range words {
		fs = append(fs, MetaFlag{Letter: w[0], Arg: []byte(w[1:])})
	}
	return fs
}

func keys(words ...string) (ks [][]byte) {
	for _, w := range words {
		ks = append(ks, []byte(w))
	}
	return ks
}

var requests = []struct {
	wire string
	req  Request
}{
	{"mg foo v t O123\r\n", Request{Command: MetaGet, Key: []byte("foo"), Meta: flags("v", "t", "O123")}},
	{"mg foo\r\n", Request{Command: MetaGet, Key: []byte("foo")}},
	{"ms foo 3 T0 F5\r\nbar\r\n", Request{Command: MetaSet, Key: []byte("foo"), Value: []byte("bar"), Meta: flags("T0", "F5")}},
	{"ms foo 0\r\n\r\n", Request{Command: MetaSet, Key: []byte("foo"), Value: []byte{}}},
	{"md foo I T30\r\n", Request{Command: MetaDelete, Key: []byte("foo"), Meta: flags("I", "T30")}},
	{"ma foo D5 MD\r\n", Request{Command: MetaArithmetic, Key: []byte("foo"), Meta: flags("D5", "MD")}},
	{"mn\r\n", Request{Command: MetaNoop}},
	{"me foo\r\n", Request{Command: MetaDebug, Key: []byte("foo")}},
	{"get a\r\n", Request{Command: Get, Keys: keys("a")}},
	{"gets a bb ccc\r\n", Request{Command: Gets, Keys: keys("a", "bb", "ccc")}},
	{"gat -1 a b\r\n", Request{Command: Gat, Exptime: -1, Keys: keys("a", "b")}},
	{"gats 60 a\r\n", Request{Command: Gats, Exptime: 60, Keys: keys("a")}},
	{"set a 1 2 3\r\nx\r\n\r\n", Request{Command: Set, Key: []byte("a"), Flags: 1, Exptime: 2, Value: []byte("x\r\n")}},
	{"add a 4294967295 -1 1 noreply\r\nx\r\n", Request{Command: Add, Key: []byte("a"), Flags: math.MaxUint32, Exptime: -1, NoReply: true, Value: []byte("x")}},
	{"replace a 0 0 0\r\n\r\n", Request{Command: Replace, Key: []byte("a"), Value: []byte{}}},
	{"append a 0 0 1\r\nx\r\n", Request{Command: Append, Key: []byte("a"), Value: []byte("x")}},
	{"prepend a 0 0 1\r\nx\r\n", Request{Command: Prepend, Key: []byte("a"), Value: []byte("x")}},
	{"cas a 0 0 1 18446744073709551615\r\nx\r\n", Request{Command: CompareAndSwap, Key: []byte("a"), CAS: math.MaxUint64, Value: []byte("x")}},
	{"delete a\r\n", Request{Command: Delete, Key: []byte("a")}},
	{"delete a noreply\r\n", Request{Command: Delete, Key: []byte("a"), NoReply: true}},
	{"incr a 18446744073709551615\r\n", Request{Command: Incr, Key: []byte("a"), Delta: math.MaxUint64}},
	{"decr a 1 noreply\r\n", Request{Command: Decr, Key: []byte("a"), Delta: 1, NoReply: true}},
	{"touch a 10\r\n", Request{Command: Touch, Key: []byte("a"), Exptime: 10}},
	{"flush_all\r\n", Request{Command: FlushAll}},
	{"flush_all 10 noreply\r\n", Request{Command: FlushAll, Exptime: 10, NoReply: true}},
	{"version\r\n", Request{Command: Version}},
	{"verbosity 1\r\n", Request{Command: Verbosity, Arg: []byte("1")}},
	{"verbosity 1 noreply\r\n", Request{Command: Verbosity, Arg: []byte("1"), NoReply: true}},
	{"stats\r\n", Request{Command: Stats}},
	{"stats items 1\r\n", Request{Command: Stats, Arg: []byte("items 1")}},
	{"quit\r\n", Request{Command: Quit}},
}

func TestRequests(t *testing.T) {
	for _, tt := range requests {
		t.Run(strings.Fields(tt.wire)[0], func(t *testing.T) {
			b, err := AppendRequest(nil, &tt.req)
			if err != nil || string(b) != tt.wire {
				t.Errorf("AppendRequest = %q, %v, want %q", b, err, tt.wire)
			}
			var got Request
			// Every cut of the bytes but the whole needs more of them.
			for cut := range len(tt.wire) {
				if n, err := ParseRequest([]byte(tt.wire[:cut]), &got, testMaxValue); err != nil || n <= cut || n > len(tt.wire) {
					t.Fatalf("ParseRequest of the first %d bytes = %d, %v", cut, n, err)
				}
			}
			n, err := ParseRequest([]byte(tt.wire+"get next\r\n"), &got, testMaxValue)
			if err != nil || n != len(tt.wire) {
				t.Fatalf("ParseRequest = %d, %v, want %d", n, err, len(tt.wire))
			}
			if diff := cmp.Diff(tt.req, got, equalEmpty); diff != "" {
				t.Errorf("ParseRequest (-want +got):\n%s", diff)
			}
		})
	}
}

// equalEmpty makes no difference between nil and empty slices: what matters
// is what went over the wire.
var equalEmpty = cmp.FilterValues(func(a, b any) bool { return true }, cmp.Options{
	cmp.Transformer("bytes", func(b []byte) string { return string(b) }),
	cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Meta" || p.String() == "Keys" }, cmp.Transformer("list", func(v any) string {
		var b strings.Builder
		switch v := v.(type) {
		case []MetaFlag:
			b.Write(appendFlags(nil, v))
		case [][]byte:
			b.Write(bytes.Join(v, []byte(" ")))
		}
		return b.String()
	})),
})

// A time is signed and has 32 bits, also where a client writes it without its sign; tried on 1.6.18.
func TestParseRequestExptime(t *testing.T) {
	for word, want := range map[string]int64{
		"2147483647": math.MaxInt32, "2147483648": math.MinInt32, "4294967295": -1, "-1": -1, "4294967296": 1 << 32,
	} {
		for _, wire := range []string{"set a 0 " + word + " 1\r\nx\r\n", "touch a " + word + "\r\n", "gat " + word + " a\r\n", "flush_all " + word + "\r\n"} {
			var req Request
			if n, err := ParseRequest([]byte(wire), &req, testMaxValue); err != nil || n != len(wire) || req.Exptime != want {
				t.Errorf("ParseRequest(%q) = %d, %v, with exptime %d, want %d", wire, n, err, req.Exptime, want)
			}
		}
	}
}

var badRequests = []struct {
	name, wire, reply string
	size              int
	close             bool
}{
	{name: "empty line", wire: "\r\n", reply: "ERROR"},
	{name: "unknown", wire: "foo bar\r\n", reply: "ERROR"},
	{name: "get without key", wire: "get\r\n", reply: "ERROR"},
	{name: "mg without key", wire: "mg\r\n", reply: "ERROR"},
	{name: "long key", wire: "get " + strings.Repeat("k", 251) + "\r\n", reply: replyBadFormat},
	{name: "meta long key", wire: "mg " + strings.Repeat("k", 251) + " v\r\n", reply: replyBadFormat},
	{name: "control byte", wire: "get a\x01b\r\n", reply: replyBadFormat},
	{name: "set long key passes over the value", wire: "set " + strings.Repeat("k", 251) + " 0 0 3\r\nbar\r\n", reply: replyBadFormat},
	{name: "set bad flags passes over the value", wire: "set a x 0 3\r\nbar\r\n", reply: replyBadFormat},
	{name: "set negative length", wire: "set a 0 0 -1\r\n", reply: replyBadFormat, close: true},
	{name: "set without length", wire: "set a\r\n", reply: "ERROR", close: true},
	{name: "2 GiB", wire: "set a 0 0 2147483648\r\n", reply: replyBadFormat, close: true},
	{name: "nearly 2 GiB", wire: "set a 0 0 2147483645\r\n", reply: replyTooLarge, size: len("set a 0 0 2147483645\r\n") + 2147483645 + 2},
	{name: "ms nearly 2 GiB", wire: "ms a 2147483645\r\n", reply: replyTooLarge, size: len("ms a 2147483645\r\n") + 2147483645 + 2},
	{name: "bad chunk", wire: "set a 0 0 1\r\nabc\r\n", reply: replyBadChunk, size: len("set a 0 0 1\r\nabc"), close: true},
	{name: "cas without id", wire: "cas a 0 0 1\r\nx\r\n", reply: replyBadFormat},
	{name: "junk behind set", wire: "set a 0 0 1 foo\r\nx\r\n", reply: replyBadFormat},
	{name: "stats without a reply", wire: "stats noreply\r\n", reply: "ERROR"},
	{name: "incr without delta", wire: "incr a\r\n", reply: "ERROR"},
	{name: "incr bad delta", wire: "incr a -1\r\n", reply: "CLIENT_ERROR invalid numeric delta argument"},
	{name: "incr delta over 64 bits", wire: "incr a 18446744073709551616\r\n", reply: "CLIENT_ERROR invalid numeric delta argument"},
	{name: "touch bad exptime", wire: "touch a x\r\n", reply: "CLIENT_ERROR invalid exptime argument"},
	{name: "delete with a time", wire: "delete a 1\r\n", reply: replyBadFormat + ".  Usage: delete <key> [noreply]"},
	{name: "me without key", wire: "me\r\n", reply: replyBadFormat},
	{name: "verbosity without level", wire: "verbosity\r\n", reply: "ERROR"},
	{name: "flush_all bad delay", wire: "flush_all x\r\n", reply: "CLIENT_ERROR invalid exptime argument"},
	{name: "too many words", wire: "incr a 1 noreply x\r\n", reply: "ERROR"},
	{name: "too many words for delete", wire: "delete a b c d\r\n", reply: "ERROR"},
	{name: "too many words for set", wire: "set a 0 0 1 noreply x\r\nx\r\n", reply: "ERROR"},
	{name: "endless get", wire: "get " + strings.Repeat("x", MaxRetrieval), reply: "CLIENT_ERROR line too long", close: true},
	{name: "binary protocol", wire: "\x80\x00\x00\x01", reply: "CLIENT_ERROR the binary protocol is not spoken here", close: true},
	{name: "endless line", wire: strings.Repeat("x", MaxLine+1), reply: "CLIENT_ERROR line too long", close: true},
}

func TestBadRequests(t *testing.T) {
	for _, tt := range badRequests {
		t.Run(tt.name, func(t *testing.T) {
			var r Request
			_, err := ParseRequest([]byte(tt.wire), &r, testMaxValue)
			var bad *RequestError
			if !errors.As(err, &bad) {
				t.Fatalf("error %v, want a *RequestError", err)
			}
			size := tt.size
			if size == 0 {
				size = len(tt.wire)
			}
			if bad.Reply != tt.reply || bad.Size != size || bad.Close != tt.close {
				t.Errorf("got %q, size %d, close %v; want %q, %d, %v", bad.Reply, bad.Size, bad.Close, tt.reply, size, tt.close)
			}
		})
	}
}

func TestParseRequestTakesOldForms(t *testing.T) {
	var r Request
	for _, wire := range []string{"delete a 0\r\n", "delete a 0 noreply\r\n", "get  a\n", "flush_all 0\r\n"} {
		if n, err := ParseRequest([]byte(wire), &r, testMaxValue); err != nil || n != len(wire) {
			t.Errorf("%q: %d, %v", wire, n, err)
		}
	}
}

// memcached says nothing to a noreply request, not even what is wrong with it.
func TestBadRequestsThatWantNoReply(t *testing.T) {
	for wire, want := range map[string]bool{
		"incr a x noreply\r\n":                        true,
		"decr a -1 noreply \r\n":                      true,
		"touch a x noreply\r\n":                       true,
		"flush_all x noreply\r\n":                     true,
		"verbosity x noreply\r\n":                     true,
		"delete a b noreply\r\n":                      true,
		"set a x 0 1 noreply\r\nx\r\n":                true,
		"set a 0 0 2000000 noreply\r\n":               true,
		"incr a x\r\n":                                false,
		"incr noreply\r\n":                            false, // ERROR
		"incr a 1 2 noreply\r\n":                      false, // ERROR
		"mg " + strings.Repeat("k", 251) + " noreply": false,
	} {
		var r Request
		_, err := ParseRequest([]byte(wire+"\r\n"), &r, testMaxValue)
		if err == nil || r.NoReply != want {
			t.Errorf("%q: NoReply is %v with error %v, want %v with an error", wire, r.NoReply, err, want)
		}
	}
}

// TestLongGet: existing clients put all keys of a multi-get on one line.
func TestLongGet(t *testing.T) {
	req := Request{Command: Get}
	for range 4000 {
		req.Keys = append(req.Keys, bytes.Repeat([]byte("k"), MaxKey))
	}
	wire, err := AppendRequest(nil, &req)
	if err != nil {
		t.Fatal(err)
	}
	var got Request
	if n, err := ParseRequest(wire[:len(wire)-1], &got, testMaxValue); n != len(wire) || err != nil {
		t.Fatalf("all but the last byte: %d, %v", n, err)
	}
	if n, err := ParseRequest(wire, &got, testMaxValue); n != len(wire) || err != nil || len(got.Keys) != 4000 {
		t.Fatalf("%d, %v, %d keys", n, err, len(got.Keys))
	}
}

func TestAppendRequestRefuses(t *testing.T) {
	tests := []struct {
		name string
		req  Request
		want string
	}{
		{"empty key", Request{Command: Get, Keys: keys("")}, "the key is empty"},
		{"no keys", Request{Command: Get}, "no keys"},
		{"long key", Request{Command: MetaGet, Key: bytes.Repeat([]byte("k"), 251)}, "251 bytes"},
		{"space", Request{Command: Set, Key: []byte("a b")}, "0x20 at place 1"},
		{"CRLF", Request{Command: Delete, Key: []byte("a\r\nflush_all")}, "0x0d at place 1"},
		{"flag", Request{Command: MetaGet, Key: []byte("a"), Meta: flags("O1 q")}, "meta flag"},
		{"argument", Request{Command: Stats, Arg: []byte("a\r\n")}, "control byte"},
		{"no command", Request{}, "is not a command"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := AppendRequest([]byte("before"), &tt.req)
			if err == nil || !strings.Contains(err.Error(), tt.want) || string(b) != "before" {
				t.Errorf("%q, %v; want nothing appended and an error that says %q", b, err, tt.want)
			}
		})
	}
}

var replies = []struct {
	wire string
	rep  Reply
}{
	{"VA 3 t60 O5\r\nbar\r\n", Reply{Kind: MetaValue, Value: []byte("bar"), Meta: flags("t60", "O5")}},
	{"VA 0 W\r\n\r\n", Reply{Kind: MetaValue, Value: []byte{}, Meta: flags("W")}},
	{"HD O5\r\n", Reply{Kind: MetaOK, Meta: flags("O5")}},
	{"EN\r\n", Reply{Kind: MetaMiss}},
	{"EN O1 kfoo\r\n", Reply{Kind: MetaMiss, Meta: flags("O1", "kfoo")}},
	{"NS\r\n", Reply{Kind: MetaNotStored}},
	{"EX O1\r\n", Reply{Kind: MetaExists, Meta: flags("O1")}},
	{"NF O1\r\n", Reply{Kind: MetaNotFound, Meta: flags("O1")}},
	{"MN\r\n", Reply{Kind: MetaNoopEnd}},
	{"ME foo exp=-1 la=2\r\n", Reply{Kind: MetaInfo, Key: []byte("foo"), Message: []byte("exp=-1 la=2")}},
	{"VALUE foo 7 2\r\n\r\n\r\n", Reply{Kind: Value, Key: []byte("foo"), Flags: 7, Value: []byte("\r\n")}},
	{"VALUE foo 7 2 99\r\nab\r\n", Reply{Kind: Value, Key: []byte("foo"), Flags: 7, CAS: 99, HasCAS: true, Value: []byte("ab")}},
	{"END\r\n", Reply{Kind: End}},
	{"STORED\r\n", Reply{Kind: Stored}},
	{"NOT_STORED\r\n", Reply{Kind: NotStored}},
	{"EXISTS\r\n", Reply{Kind: Exists}},
	{"NOT_FOUND\r\n", Reply{Kind: NotFound}},
	{"DELETED\r\n", Reply{Kind: Deleted}},
	{"TOUCHED\r\n", Reply{Kind: Touched}},
	{"OK\r\n", Reply{Kind: OK}},
	{"18446744073709551615\r\n", Reply{Kind: Number, Number: math.MaxUint64}},
	{"VERSION 1.6.18\r\n", Reply{Kind: VersionIs, Message: []byte("1.6.18")}},
	{"STAT pid 7\r\n", Reply{Kind: Stat, Key: []byte("pid"), Value: []byte("7")}},
	{"RESET\r\n", Reply{Kind: Reset}},
	{"ERROR\r\n", Reply{Kind: Error}},
	{"CLIENT_ERROR no\r\n", Reply{Kind: ClientError, Message: []byte("no")}},
	{"SERVER_ERROR out of memory\r\n", Reply{Kind: ServerError, Message: []byte("out of memory")}},
}

func TestReplies(t *testing.T) {
	for _, tt := range replies {
		t.Run(strings.TrimSpace(tt.wire), func(t *testing.T) {
			if b := AppendReply(nil, &tt.rep); string(b) != tt.wire {
				t.Errorf("AppendReply = %q, want %q", b, tt.wire)
			}
			var got Reply
			for cut := range len(tt.wire) {
				if n, err := ParseReply([]byte(tt.wire[:cut]), &got); err != nil || n <= cut || n > len(tt.wire) {
					t.Fatalf("ParseReply of the first %d bytes = %d, %v", cut, n, err)
				}
			}
			n, err := ParseReply([]byte(tt.wire+"HD\r\n"), &got)
			if err != nil || n != len(tt.wire) {
				t.Fatalf("ParseReply = %d, %v, want %d", n, err, len(tt.wire))
			}
			if diff := cmp.Diff(tt.rep, got, equalEmpty); diff != "" {
				t.Errorf("ParseReply (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadReplies(t *testing.T) {
	for _, wire := range []string{
		"\r\n", "\n", "HD\n", "hd\r\n", "VA\r\n", "VA x\r\n", "VA -1\r\n\r\n", "VA 4294967296\r\n", "VA 1\r\nabc\r\n",
		"VALUE a\r\n", "VALUE a 0\r\n", "VALUE a 0 x\r\n", "VALUE a 0 1 x\r\na\r\n", "STORED x\r\n", "12x\r\n", "1 2\r\n",
		"ME\r\n", "STAT\r\n", "HTTP/1.1 200 OK\r\n", strings.Repeat("x", MaxLine+1),
	} {
		var r Reply
		if n, err := ParseReply([]byte(wire), &r); !errors.Is(err, ErrDesynchronised) {
			t.Errorf("%.40q: %d, %v, want ErrDesynchronised", wire, n, err)
		}
	}
}

func TestNothingIsAllocated(t *testing.T) {
	var req Request
	var rep Reply
	wire := []byte("mg user:42 v f c O123\r\n")
	answer := []byte("VA 5 f0 c77 O123\r\nhello\r\n")
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() {
		_, err := ParseRequest(wire, &req, testMaxValue)
		if err != nil {
			t.Fatal(err)
		}
		if buf, err = AppendRequest(buf[:0], &req); err != nil {
			t.Fatal(err)
		}
		if _, err = ParseReply(answer, &rep); err != nil {
			t.Fatal(err)
		}
		buf = AppendReply(buf[:0], &rep)
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// FuzzParseRequest: whatever parses can be appended and parses to the same
// again; what does not parse names a reply and a size.
func FuzzParseRequest(f *testing.F) {
	for _, tt := range requests {
		f.Add([]byte(tt.wire))
	}
	for _, tt := range badRequests {
		f.Add([]byte(tt.wire))
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		var a, b Request
		n, err := ParseRequest(wire, &a, testMaxValue)
		var bad *RequestError
		switch {
		case errors.As(err, &bad):
			if bad.Reply == "" || bad.Size <= 0 {
				t.Fatalf("%q: an error without reply or size: %+v", wire, bad)
			}
			return
		case err != nil:
			t.Fatalf("%q: %T, want a *RequestError", wire, err)
		case n <= 0:
			t.Fatalf("%q: size %d", wire, n)
		case n > len(wire):
			return
		}
		again, err := AppendRequest(nil, &a)
		if err != nil {
			t.Fatalf("%q parses to what can not be appended: %v", wire, err)
		}
		if n, err := ParseRequest(again, &b, testMaxValue); err != nil || n != len(again) {
			t.Fatalf("%q was appended as %q, which parses as %d, %v", wire, again, n, err)
		}
		if diff := cmp.Diff(a, b, equalEmpty); diff != "" {
			t.Fatalf("%q (-first +again):\n%s", wire, diff)
		}
	})
}

// FuzzParseReply: as FuzzParseRequest, for replies.
func FuzzParseReply(f *testing.F) {
	for _, tt := range replies {
		f.Add([]byte(tt.wire))
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		var a, b Reply
		n, err := ParseReply(wire, &a)
		if err != nil {
			if !errors.Is(err, ErrDesynchronised) {
				t.Fatalf("%q: %v", wire, err)
			}
			return
		}
		if n <= 0 {
			t.Fatalf("%q: size %d", wire, n)
		}
		if n > len(wire) {
			return
		}
		again := AppendReply(nil, &a)
		if n, err := ParseReply(again, &b); err != nil || n != len(again) {
			t.Fatalf("%q was appended as %q, which parses as %d, %v", wire, again, n, err)
		}
		if diff := cmp.Diff(a, b, equalEmpty); diff != "" {
			t.Fatalf("%q (-first +again):\n%s", wire, diff)
		}
	})
}

func BenchmarkParseReply(b *testing.B) {
	var rep Reply
	answer := append(append([]byte("VA 100 f0 c77 O123\r\n"), bytes.Repeat([]byte("x"), 100)...), "\r\n"...)
	for b.Loop() {
		if _, err := ParseReply(answer, &rep); err != nil {
			b.Fatal(err)
		}
	}
}
