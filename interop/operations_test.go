//go:build interop && unix

package interop

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ringside-cache/ringside/internal/realserver"
)

// startFleet starts n memcacheds, and gives their addresses.
func startFleet(t *testing.T, n int, args ...string) []string {
	t.Helper()
	addrs := make([]string, n)
	for i := range addrs {
		addrs[i] = realserver.Memcached(t, args...).Addr()
	}
	return addrs
}

// Every operation that a library offers, as its users know it.
func TestOperations(t *testing.T) {
	some := []library{pymemcache, gomemcache, grpcPython, command}
	fleets := []struct {
		name      string
		start     func(t *testing.T) []string
		libraries []library
		// lacks lists the operations that the nodes do not offer.
		lacks []string
	}{
		{"memcached", func(t *testing.T) []string { return startFleet(t, 3) }, throughSidecar, nil},
		// These two know no meta commands, and no gat.
		{"yrmcds", func(t *testing.T) []string { return []string{realserver.Yrmcds(t).Addr()} }, some, []string{"gat"}},
		{"nutcracker", func(t *testing.T) []string {
			return []string{realserver.Nutcracker(t, realserver.Pool{Servers: startFleet(t, 3)}).Addr()}
		}, some, []string{"gat"}},
	}
	for _, fleet := range fleets {
		t.Run(fleet.name, func(t *testing.T) {
			s := startSidecar(t, "--servers", strings.Join(fleet.start(t), ","))
			// The group ends before the sidecar does.
			t.Run("through the sidecar", func(t *testing.T) {
				for _, l := range fleet.libraries {
					l.lacks = slices.Concat(l.lacks, fleet.lacks)
					t.Run(l.name, func(t *testing.T) {
						t.Parallel()
						useEverything(&user{t: t, library: l, driver: l.through(t, s), prefix: l.name + ":"})
					})
				}
			})
		})
	}
}

// A user carries out requests under a prefix, and checks the replies.
type user struct {
	t       *testing.T
	library library
	driver  driver
	prefix  string
	wrong   int // replies so far
}

// offers tells whether the library has the operation.
func (u *user) offers(op string) bool { return !slices.Contains(u.library.lacks, op) }

func (u *user) do(r request) reply {
	u.t.Helper()
	r.Key = u.prefix + r.Key
	r.Keys = slices.Clone(r.Keys)
	for i, key := range r.Keys {
		r.Keys[i] = u.prefix + key
	}
	got := u.driver.do(u.t, r)[0]
	if got.Lacking {
		u.t.Fatalf("the script has no %s, and the test does not know", r.Op)
	}
	return got
}

// want carries out a request and compares the reply. What the library does not offer is passed over.
func (u *user) want(r request, want reply) {
	u.t.Helper()
	if !u.offers(r.Op) {
		return
	}
	if u.wrong > 5 {
		u.t.Fatal("and so on")
	}
	got := u.do(r)
	if got.OK != want.OK || (got.Error != "") != (want.Error != "") || got.Number != want.Number || !bytes.Equal(got.Value, want.Value) {
		u.t.Errorf("%s %.40q: got %s, want %s", r.Op, u.prefix+r.Key, show(got), show(want))
		u.wrong++
	}
	if u.library.readsFlags && want.OK && got.Flags != want.Flags {
		u.t.Errorf("%s %.40q: got flags %#x, want %#x", r.Op, u.prefix+r.Key, got.Flags, want.Flags)
	}
}

func show(r reply) string {
	return fmt.Sprintf("{OK:%v Value:%.40q (%d bytes) Number:%d Error:%q}", r.OK, r.Value, len(r.Value), r.Number, r.Error)
}

// What replies can be.
var (
	done    = reply{OK: true}
	refused = reply{}
	failed  = reply{Error: "any"}
)

func found(value []byte) reply { return reply{OK: true, item: item{Value: value}} }
func number(n uint64) reply    { return reply{OK: true, Number: n} }

// Values that a careless implementation would trip over.
var (
	text     = []byte("hello world")
	everyBit = func() []byte {
		b := []byte("END\r\nVALUE x 0 1\r\n\r\n")
		for i := range 256 {
			b = append(b, byte(i))
		}
		return b
	}()
	// Nearly memcached's largest, which is 1 MiB with the key and the item's header.
	large = bytes.Repeat([]byte("0123456789abcdef"), (1<<20)/16-64)
)

func useEverything(u *user) {
	get := func(key string) request { return request{Op: "get", Key: key} }
	put := func(op, key, value string) request { return request{Op: op, Key: key, Value: []byte(value)} }
	keyed := func(op, key string) request { return request{Op: op, Key: key} }
	by := func(op, key string, delta uint64) request { return request{Op: op, Key: key, Delta: delta} }

	u.want(get("nothing"), refused)
	u.want(put("set", "k", "hello world"), done)
	u.want(get("k"), found(text))
	u.want(put("set", "k", ""), done)
	u.want(get("k"), found(nil))
	for name, value := range map[string][]byte{"binary": everyBit, "large": large} {
		if u.library.oneLine && name == "binary" {
			continue
		}
		u.want(request{Op: "set", Key: name, Value: value}, done)
		u.want(get(name), found(value))
	}
	keys := []string{strings.Repeat("k", 250-len(u.prefix))}
	if !u.library.asciiKeys {
		keys = append(keys, "größe-鍵-🔑")
	}
	for _, key := range keys {
		u.want(request{Op: "set", Key: key, Value: text}, done)
		u.want(get(key), found(text))
	}

	u.want(put("add", "k", "lost"), refused)
	u.want(put("add", "added", "new"), done)
	u.want(put("replace", "replaced", "lost"), refused)
	u.want(put("set", "replaced", "old"), done)
	u.want(put("replace", "replaced", "new"), done)
	if u.offers("replace") {
		u.want(get("replaced"), found([]byte("new")))
	}
	u.want(put("append", "nothing", "lost"), refused)
	u.want(put("prepend", "nothing", "lost"), refused)
	if u.offers("append") {
		u.want(put("set", "joined", "b"), done)
		u.want(put("append", "joined", "c"), done)
		u.want(put("prepend", "joined", "a"), done)
		u.want(get("joined"), found([]byte("abc")))
	}

	u.want(by("incr", "nothing", 1), refused)
	u.want(by("decr", "nothing", 1), refused)
	u.want(put("set", "n", "10"), done)
	u.want(by("incr", "n", 32), number(42))
	u.want(by("decr", "n", 2), number(40))
	u.want(by("decr", "n", 100), number(0))
	u.want(put("set", "word", "hello"), done)
	u.want(by("incr", "word", 1), failed)
	u.want(get("word"), found([]byte("hello"))) // the error left the connection in step

	if u.offers("cas") {
		u.want(put("set", "c", "1"), done)
		read := u.do(keyed("gets", "c"))
		if !read.OK || string(read.Value) != "1" || read.CAS == "" {
			u.t.Errorf("gets: got %s, CAS %q", show(read), read.CAS)
		}
		swap := request{Op: "cas", Key: "c", Value: []byte("2"), CAS: read.CAS}
		u.want(swap, done)
		u.want(swap, refused) // the item has changed since
		u.want(get("c"), found([]byte("2")))
		swap.Key = "nothing"
		u.want(swap, refused)
		u.want(keyed("gets", "nothing"), refused)
	}

	u.want(request{Op: "touch", Key: "nothing", TTL: 100}, refused)
	u.want(request{Op: "touch", Key: "k", TTL: 100}, done)
	u.want(request{Op: "gat", Key: "nothing", TTL: 100}, refused)
	u.want(request{Op: "gat", Key: "word", TTL: 100}, found([]byte("hello")))

	var many []string
	for i := range 300 {
		many = append(many, fmt.Sprintf("many-%d", i))
	}
	asked := many
	if u.library.name == command.name {
		many = many[:10] // a process for each
	}
	for _, key := range many {
		u.want(put("set", key, "of "+key), done)
	}
	got := u.do(request{Op: "mget", Keys: asked})
	if !got.OK || len(got.Items) != len(many) {
		u.t.Errorf("mget of %d keys: got %d items, %s", len(asked), len(got.Items), show(got))
	}
	for _, key := range many {
		if v := got.Items[u.prefix+key].Value; string(v) != "of "+key {
			u.t.Errorf("mget: %s has %.40q", key, v)
		}
	}

	u.want(keyed("delete", "k"), done)
	u.want(keyed("delete", "k"), refused)
	u.want(get("k"), refused)

	// Refused by the library or by the sidecar, with nothing lost behind it.
	u.want(request{Op: "set", Key: "oversize", Value: make([]byte, 1<<20+1)}, failed)
	u.want(get("oversize"), refused)
	if tooLong := u.do(get(strings.Repeat("k", 251))); tooLong.OK {
		u.t.Errorf("get of a key of over 250 bytes: got %s", show(tooLong))
	}
	u.want(get("word"), found([]byte("hello")))
}

// Without replies (pymemcache's default) nothing may be answered, whatever the outcome, or the next get
// reads an answer that is not its own.
func TestNoReply(t *testing.T) {
	t.Parallel()
	s := startSidecar(t, "--servers", strings.Join(startFleet(t, 3), ","))
	for _, tt := range []struct {
		library library
		options map[string]any
	}{
		{pymemcache, map[string]any{"noreply": true}},
		{php, map[string]any{"NOREPLY": true}},
	} {
		t.Run(tt.library.name, func(t *testing.T) {
			d := tt.library.start(t, []string{s.memcached}, tt.options)
			var requests []request
			for i := range 10 { // Nagle's algorithm holds up every get that follows a write without a reply
				key := fmt.Sprintf("%s-%d", tt.library.name, i)
				for _, op := range []string{"add", "add", "set", "replace", "append", "touch"} {
					requests = append(requests, request{Op: op, Key: key, Value: []byte(op), TTL: 100})
				}
				requests = append(requests,
					request{Op: "get", Key: key},
					request{Op: "delete", Key: key},
					request{Op: "delete", Key: key},
					request{Op: "replace", Key: key, Value: text},
					request{Op: "prepend", Key: key, Value: text},
					request{Op: "get", Key: key},
				)
			}
			gets := 0
			for i, got := range d.do(t, requests...) {
				if requests[i].Op != "get" {
					continue
				}
				if want := []string{"replaceappend", ""}[gets%2]; string(got.Value) != want || got.Error != "" || got.OK != (want != "") {
					t.Fatalf("get number %d: got %s, want %q", gets, show(got), want)
				}
				gets++
			}
		})
	}
}
