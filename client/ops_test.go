package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/google/go-cmp/cmp"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/proto/memcached"
)

func TestOperations(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		c := newClient(t, client.Config{Servers: []string{addr}})
		ctx := t.Context()
		want := func(what string, err, target error) {
			t.Helper()
			if !errors.Is(err, target) || target == nil && err != nil {
				t.Errorf("%s: error %v, want %v", what, err, target)
			}
		}
		item := func(key, value string) *client.Item { return &client.Item{Key: key, Value: []byte(value)} }
		value := func(key, text string, flags uint32) {
			t.Helper()
			got, err := c.Get(ctx, key)
			if err != nil || string(got.Value) != text || got.Flags != flags || got.Key != key {
				t.Errorf("get %s: %+v, %v; want %q with flags %d", key, got, err, text, flags)
			}
		}

		_, err := c.Get(ctx, "a")
		want("get of a missing key", err, client.ErrCacheMiss)
		want("get of a missing key, for gomemcache's users", err, memcache.ErrCacheMiss)
		want("replace of a missing key", c.Replace(ctx, item("a", "x")), client.ErrNotStored)
		want("append to a missing key", c.Append(ctx, item("a", "x")), client.ErrNotStored)
		want("touch of a missing key", c.Touch(ctx, "a", 10), client.ErrCacheMiss)
		want("delete of a missing key", c.Delete(ctx, "a"), client.ErrCacheMiss)
		_, err = c.Increment(ctx, "a", 1)
		want("increment of a missing key", err, client.ErrCacheMiss)

		want("set", c.Set(ctx, &client.Item{Key: "a", Value: []byte("1"), Flags: 0xdeadbeef}), nil)
		value("a", "1", 0xdeadbeef)
		want("add to a present key", c.Add(ctx, item("a", "x")), client.ErrNotStored)
		want("append", c.Append(ctx, item("a", "0")), nil)
		want("prepend", c.Prepend(ctx, item("a", "2")), nil)
		value("a", "210", 0xdeadbeef)
		if n, err := c.Increment(ctx, "a", 5); n != 215 || err != nil {
			t.Errorf("increment: %d, %v", n, err)
		}
		if n, err := c.Decrement(ctx, "a", 1000); n != 0 || err != nil {
			t.Errorf("decrement below 0: %d, %v", n, err)
		}
		want("set", c.Set(ctx, item("n", "18446744073709551615")), nil)
		if n, err := c.Increment(ctx, "n", 2); n != 1 || err != nil {
			t.Errorf("increment past 64 bits: %d, %v", n, err)
		}
		want("replace", c.Replace(ctx, item("a", "word")), nil)
		_, err = c.Increment(ctx, "a", 1)
		want("increment of a word", err, client.ErrClientError)
		value("a", "word", 0)

		want("set of nothing", c.Set(ctx, item("empty", "")), nil)
		value("empty", "", 0)
		want("set of CRLF", c.Set(ctx, item("crlf", "END\r\nVA 1\r\n")), nil)
		value("crlf", "END\r\nVA 1\r\n", 0)
		longKey := strings.Repeat("k", 250)
		want("set of the longest key", c.Set(ctx, item(longKey, "v")), nil)
		value(longKey, "v", 0)
		want("set of a key in UTF-8", c.Set(ctx, item("schlüssel-鍵", "v")), nil)
		value("schlüssel-鍵", "v", 0)
		large := strings.Repeat("0123456789abcdef", 50_000)
		want("set of a large value", c.Set(ctx, item("large", large)), nil)
		value("large", large, 0)
		if buf, _, err := c.GetInto(ctx, "large", []byte("before ")); err != nil || string(buf) != "before "+large {
			t.Errorf("GetInto of a large value: %d bytes, %v", len(buf), err)
		}
		if buf, flags, err := c.GetInto(ctx, "gone", []byte("as it was")); !errors.Is(err, client.ErrCacheMiss) || string(buf) != "as it was" || flags != 0 {
			t.Errorf("GetInto of a missing key: %q, %v", buf, err)
		}

		read, err := c.Get(ctx, "a")
		want("get", err, nil)
		read.Value = []byte("swapped")
		want("cas", c.CompareAndSwap(ctx, read), nil)
		want("cas with the id of before", c.CompareAndSwap(ctx, read), client.ErrCASConflict)
		value("a", "swapped", 0)
		read, err = c.Get(ctx, "a")
		want("get", err, nil)
		want("delete", c.Delete(ctx, "a"), nil)
		want("cas of a deleted key", c.CompareAndSwap(ctx, read), client.ErrCacheMiss)

		want("set that is gone at once", c.Set(ctx, &client.Item{Key: "gone", Value: []byte("x"), Expiration: -1}), nil)
		_, err = c.Get(ctx, "gone")
		want("get after a negative expiration", err, client.ErrCacheMiss)
		want("set", c.Set(ctx, item("t", "x")), nil)
		want("touch", c.Touch(ctx, "t", 100), nil)
		if got, err := c.GetAndTouch(ctx, "t", -1); err != nil || string(got.Value) != "x" {
			t.Errorf("get and touch: %+v, %v", got, err)
		}
		_, err = c.Get(ctx, "t")
		want("get after a touch to the past", err, client.ErrCacheMiss)

		want("ping", c.Ping(ctx), nil)
		stats, err := c.ServerStats(ctx, "")
		if err != nil || len(stats) != 1 {
			t.Errorf("server stats: %v, %v", stats, err)
		}
		want("flush", c.FlushAll(ctx), nil)
		_, err = c.Get(ctx, "large")
		want("get after a flush", err, client.ErrCacheMiss)
	})
}

func TestMalformedKeys(t *testing.T) {
	addr := newMemnode(t).Addr()
	c := newClient(t, client.Config{Servers: []string{addr}})
	ctx := t.Context()
	for name, key := range map[string]string{
		"empty": "", "251 bytes": strings.Repeat("k", 251), "space": "a b", "control byte": "a\x01", "CRLF": "a\r\nflush_all", "DEL": "a\x7f",
	} {
		t.Run(name, func(t *testing.T) {
			check := func(op string, err error) {
				t.Helper()
				var keyErr *memcached.KeyError
				if !errors.Is(err, memcache.ErrMalformedKey) || !errors.As(err, &keyErr) {
					t.Errorf("%s: error %v, want ErrMalformedKey with a *KeyError", op, err)
				}
				if err != nil && len(key) > 2 && strings.Contains(err.Error(), key) {
					t.Errorf("%s: the error prints the key: %v", op, err)
				}
			}
			_, err := c.Get(ctx, key)
			check("get", err)
			check("set", c.Set(ctx, &client.Item{Key: key}))
			check("delete", c.Delete(ctx, key))
			_, err = c.Increment(ctx, key, 1)
			check("incr", err)
			_, err = c.Explain(key)
			check("explain", err)
			_, err = c.GetMulti(ctx, []string{"fine", key})
			check("get multi", err)
		})
	}
	if got := c.Stats().Nodes[0].Requests; got != 6 { // the six fine keys
		t.Errorf("%d requests were sent, want 6", got)
	}
}

// TestTooLarge: memcached deletes what is there before it refuses a value
// that is too large, so the client must not let it come to that.
func TestTooLarge(t *testing.T) {
	for _, args := range [][]string{nil, {"-I", "2m"}, {"-I", "512k"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			s := realserver.Memcached(t, args...)
			c := newClient(t, client.Config{Servers: []string{s.Addr()}, Timeout: 5 * time.Second})
			ctx := t.Context()
			limit := map[int]int{0: 1 << 20, 2: 2 << 20}[len(args)]
			if len(args) == 2 && args[1] == "512k" {
				limit = 512 << 10
			}
			if err := c.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			for _, flags := range []uint32{0, 7} {
				key := fmt.Sprintf("key-%d", flags)
				if err := c.Set(ctx, &client.Item{Key: key, Value: []byte("old")}); err != nil {
					t.Fatal(err)
				}
				largest := limit - 48 - 8 - len(key) - 1 - 2
				if flags != 0 {
					largest -= 4
				}
				err := c.Set(ctx, &client.Item{Key: key, Value: make([]byte, largest+1), Flags: flags})
				if !errors.Is(err, client.ErrTooLarge) || !strings.Contains(err.Error(), fmt.Sprint(limit)) {
					t.Errorf("one byte too many: error %v, want ErrTooLarge that names the limit", err)
				}
				if got, err := c.Get(ctx, key); err != nil || string(got.Value) != "old" {
					t.Errorf("what was there is lost: %v, %v", got, err)
				}
				// The largest that is let through is taken, so none is refused
				// that would fit.
				if err := c.Set(ctx, &client.Item{Key: key, Value: make([]byte, largest), Flags: flags}); err != nil {
					t.Errorf("the largest value: %v", err)
				}
				if got, err := c.Get(ctx, key); err != nil || len(got.Value) != largest {
					t.Errorf("the largest value is not there: %v", err)
				}
			}
			if n := c.Stats().Nodes[0]; n.FailuresTotal != 0 || n.ConnectionsLost != 0 {
				t.Errorf("a caller's large value cost the node %d failures, %d connections", n.FailuresTotal, n.ConnectionsLost)
			}
		})
	}
}

// raw sends lines to a server past the client and returns what comes back.
func raw(t *testing.T, addr, lines string) string {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := nc.Write([]byte(lines + "mn\r\n")); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	buf := make([]byte, 4096)
	for !strings.HasSuffix(got.String(), "MN\r\n") {
		n, err := nc.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got.Write(buf[:n])
	}
	return strings.TrimSuffix(got.String(), "MN\r\n")
}

// TestPlainReadsAndLeases: memcached hands the lease on a stale item to any
// reader. A plain read gives it back, so that it goes to somebody who refills,
// and takes a stub for the miss that it is.
func TestPlainReadsAndLeases(t *testing.T) {
	for _, kind := range []string{"memcached", "memnode"} {
		t.Run(kind, func(t *testing.T) {
			addr := ""
			if kind == "memcached" {
				addr = realserver.Memcached(t).Addr()
			} else {
				addr = newMemnode(t).Addr()
			}
			c := newClient(t, client.Config{Servers: []string{addr}})
			ctx := t.Context()

			reads := map[string]func(key string) error{
				"get":   func(key string) error { _, err := c.Get(ctx, key); return err },
				"into":  func(key string) error { _, _, err := c.GetInto(ctx, key, nil); return err },
				"gat":   func(key string) error { _, err := c.GetAndTouch(ctx, key, 100); return err },
				"touch": func(key string) error { return c.Touch(ctx, key, 100) },
				"multi": func(key string) error { _, err := c.GetMulti(ctx, []string{key}); return err },
			}
			for name, read := range reads {
				key := "stale-" + name
				raw(t, addr, "ms "+key+" 5 T100\r\nvalue\r\nmd "+key+" I T30\r\n")
				if err := read(key); err != nil {
					t.Errorf("%s of a stale item: %v", name, err)
				}
				// The give-back went out behind the read; a ping behind it on
				// the same connection proves that it has arrived.
				if err := c.Ping(ctx); err != nil {
					t.Fatal(err)
				}
				if got := raw(t, addr, "mg "+key+" v\r\n"); got != "VA 5 W X\r\nvalue\r\n" && got != "VA 5 X W\r\nvalue\r\n" {
					t.Errorf("%s kept the lease: the next reader is answered %q", name, got)
				}
			}

			if got := raw(t, addr, "mg stub N30 v\r\n"); got != "VA 0 W\r\n\r\n" {
				t.Fatalf("making a stub: %q", got)
			}
			if _, err := c.Get(ctx, "stub"); !errors.Is(err, client.ErrCacheMiss) {
				t.Errorf("get of a stub: %v, want a miss", err)
			}
			if items, err := c.GetMulti(ctx, []string{"stub"}); len(items) != 0 || err != nil {
				t.Errorf("multi-get of a stub: %v, %v", items, err)
			}
			if err := c.Add(ctx, &client.Item{Key: "stub", Value: []byte("x")}); !errors.Is(err, client.ErrNotStored) {
				t.Errorf("add on a stub: %v, want ErrNotStored: somebody is about to fill it", err)
			}
			if _, err := c.Increment(ctx, "stub", 1); !errors.Is(err, client.ErrClientError) {
				t.Errorf("increment of a stub: %v, want ErrClientError: an empty item is no number", err)
			}
			raw(t, addr, "md stub I T30\r\n")
			if _, err := c.Get(ctx, "stub"); !errors.Is(err, client.ErrCacheMiss) {
				t.Errorf("get of a stale stub: %v, want a miss", err)
			}
			eventually(t, 5*time.Second, "nothing in flight", func() bool {
				s := c.Stats().Nodes[0]
				return s.InFlight == 0 && s.BytesInFlight == 0
			})
		})
	}
}

// TestCASAcrossARestart: CAS ids begin again after a restart, so one from
// before matches a new item by chance. The client must call it a conflict.
func TestCASAcrossARestart(t *testing.T) {
	s := realserver.Memcached(t)
	c := newClient(t, client.Config{Servers: []string{s.Addr()}})
	ctx := t.Context()
	if err := c.Set(ctx, &client.Item{Key: "a", Value: []byte("before")}); err != nil {
		t.Fatal(err)
	}
	old, err := c.Get(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "a set after the restart", func() bool {
		return c.Set(ctx, &client.Item{Key: "a", Value: []byte("after")}) == nil
	})
	now, err := c.Get(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	if now.CasID != old.CasID {
		t.Fatalf("the CAS ids %d and %d differ: this test shows nothing", old.CasID, now.CasID)
	}
	old.Value = []byte("overwritten")
	if err := c.CompareAndSwap(ctx, old); !errors.Is(err, client.ErrCASConflict) {
		t.Errorf("cas with an id from before the restart: %v, want ErrCASConflict", err)
	}
	var b client.Batch
	i := b.CompareAndSwap(old)
	if err := c.Do(ctx, &b); err != nil {
		t.Errorf("batch: %v", err)
	}
	if err := b.Err(i); !errors.Is(err, client.ErrCASConflict) {
		t.Errorf("cas in a batch: %v, want ErrCASConflict", err)
	}
	if got, err := c.Get(ctx, "a"); err != nil || string(got.Value) != "after" {
		t.Errorf("the item is now %v, %v", got, err)
	}
	// The same id by hand, without the item that it came with, is compared.
	if err := c.CompareAndSwap(ctx, &client.Item{Key: "a", Value: []byte("by hand"), CasID: now.CasID}); err != nil {
		t.Errorf("cas by hand: %v", err)
	}
}

func TestBatch(t *testing.T) {
	addrs := []string{newMemnode(t).Addr(), newMemnode(t).Addr(), realserver.Memcached(t).Addr()}
	c := newClient(t, client.Config{Servers: addrs, ConnsPerNode: 2})
	ctx := t.Context()
	var b client.Batch
	const keys = 5000 // more than one round for each connection
	for i := range keys {
		key := fmt.Sprintf("key:%d", i)
		// On one key the order holds.
		b.Set(&client.Item{Key: key, Value: []byte("0")})
		b.Increment(key, uint64(i))
		b.Get(key)
	}
	if err := c.Do(ctx, &b); err != nil {
		t.Fatal(err)
	}
	for i := range keys {
		if n, err := b.Number(3*i + 1); n != uint64(i) || err != nil {
			t.Fatalf("key %d: number %d, %v", i, n, err)
		}
		item, err := b.Item(3*i + 2)
		if err != nil || string(item.Value) != fmt.Sprint(i) || item.Key != b.Key(3*i+2) {
			t.Fatalf("key %d: item %v, %v", i, item, err)
		}
	}

	b.Reset()
	read, err := c.Get(ctx, "key:7")
	if err != nil {
		t.Fatal(err)
	}
	read.Value = []byte("swapped")
	ops := []struct {
		name string
		i    int
		want error
	}{
		{"cas", b.CompareAndSwap(read), nil},
		{"cas again", b.CompareAndSwap(read), client.ErrCASConflict},
		{"add", b.Add(&client.Item{Key: "key:7"}), client.ErrNotStored},
		{"replace", b.Replace(&client.Item{Key: "gone"}), client.ErrNotStored},
		{"append", b.Append(&client.Item{Key: "key:7", Value: []byte("!")}), nil},
		{"prepend", b.Prepend(&client.Item{Key: "key:7", Value: []byte("¡")}), nil},
		{"decrement", b.Decrement("key:9", 4), nil},
		{"touch", b.Touch("key:9", 100), nil},
		{"get and touch", b.GetAndTouch("key:7", 100), nil},
		{"delete", b.Delete("key:7"), nil},
		{"get", b.Get("key:7"), client.ErrCacheMiss},
		{"malformed", b.Get("a b"), client.ErrMalformedKey},
		{"increment of a word", b.Increment("word", 1), client.ErrClientError},
		{"meta", b.Meta("key:9", &memcached.Request{Command: memcached.MetaGet, Key: []byte("key:9"), Meta: metaFlags("v", "Oxyz", "k", "q")}), nil},
		{"meta miss", b.Meta("gone", &memcached.Request{Command: memcached.MetaGet, Key: []byte("gone"), Meta: metaFlags("v", "q")}), nil},
		{"meta bad flag", b.Meta("key:9", &memcached.Request{Command: memcached.MetaGet, Key: []byte("key:9"), Meta: metaFlags("Y")}), nil},
		{"meta bad set", b.Meta("key:9", &memcached.Request{Command: memcached.MetaSet, Key: []byte("key:9"), Value: []byte("hi"), Meta: metaFlags("MX")}), nil},
		{"meta debug", b.Meta("key:9", &memcached.Request{Command: memcached.MetaDebug, Key: []byte("key:9")}), nil},
		{"meta noop", b.Meta("key:9", &memcached.Request{Command: memcached.MetaNoop}), client.ErrClientError},
	}
	if err := c.Set(ctx, &client.Item{Key: "word", Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	err = c.Do(ctx, &b)
	var multi *client.MultiError
	if !errors.As(err, &multi) || len(multi.Errors) != 3 || multi.Total != len(ops) {
		t.Errorf("error %v, want a *MultiError with 3 of %d", err, len(ops))
	}
	for _, op := range ops {
		if err := b.Err(op.i); !errors.Is(err, op.want) || op.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", op.name, err, op.want)
		}
	}
	if item, err := b.Item(ops[8].i); err != nil || string(item.Value) != "¡swapped!" {
		t.Errorf("after the appends: %v, %v", item, err)
	}
	for i, want := range map[int]string{
		13: "VA 1 Oxyz kkey:9\r\n5\r\n", 14: "EN\r\n",
		15: "CLIENT_ERROR invalid flag\r\n", 16: "CLIENT_ERROR invalid mode for ms M token\r\n",
	} {
		rep, err := b.Reply(ops[i].i)
		if err != nil {
			t.Errorf("%s: %v", ops[i].name, err)
			continue
		}
		if diff := cmp.Diff(want, string(memcached.AppendReply(nil, rep))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", ops[i].name, diff)
		}
	}
	if rep, err := b.Reply(ops[17].i); err != nil || rep.Kind != memcached.MetaInfo || string(rep.Key) != "key:9" {
		t.Errorf("me: %+v, %v", rep, err)
	}
	for _, n := range c.Stats().Nodes {
		if n.ConnectionsLost != 0 || n.InFlight != 0 || n.BytesInFlight != 0 {
			t.Errorf("%s: %d connections lost, %d in flight, %d bytes", n.Name, n.ConnectionsLost, n.InFlight, n.BytesInFlight)
		}
	}
}

func metaFlags(words ...string) []memcached.MetaFlag {
	var fs []memcached.MetaFlag
	for _, w := range words {
		fs = append(fs, memcached.MetaFlag{Letter: w[0], Arg: []byte(w[1:])})
	}
	return fs
}

func TestConfigIsChecked(t *testing.T) {
	tests := []struct {
		name string
		cfg  client.Config
		want []string
	}{
		{"no servers", client.Config{}, []string{"Servers", "list is empty"}},
		{"the same server twice", client.Config{Servers: []string{"a:1", "a:1"}}, []string{"Servers", `"a:1" is listed twice`}},
		{"two nodes of one name", client.Config{Servers: []string{"x@a:1", "x@b:1"}}, []string{`two nodes have the name "x"`}},
		{"weight 0", client.Config{Servers: []string{"a:1*0"}}, []string{`"a:1*0"`, "weight 0"}},
		{"negative weight", client.Config{Servers: []string{"a:1*-2"}}, []string{"weight -2"}},
		{"huge weight", client.Config{Servers: []string{"a:1*1000000"}}, []string{"weight 1000000"}},
		{"unknown dialect", client.Config{Servers: []string{"a:1"}, Dialect: "kettle"}, []string{`unknown dialect "kettle"`}},
		{
			"fields",
			client.Config{Servers: []string{"a:1"}, Timeout: -1, ConnsPerNode: 99, MaxInFlight: -1, Failover: 7, StandInTTL: 1},
			[]string{"Timeout is -1ns", "ConnsPerNode is 99", "MaxInFlight is -1", "Failover is 7", "StandInTTL is 1ns"},
		},
		{
			"times that would overflow",
			client.Config{Servers: []string{"a:1"}, Timeout: math.MaxInt64, DialTimeout: 10*time.Minute + 1},
			[]string{"Timeout is 2562047h47m16.854775807s", "DialTimeout is 10m0.000000001s", "at most 10m0s"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := client.New(tt.cfg)
			if err == nil {
				c.Close()
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
	if _, err := client.New(client.Config{}); !errors.Is(err, memcache.ErrNoServers) {
		t.Errorf("an empty list: %v, want ErrNoServers", err)
	}
}

func TestExplain(t *testing.T) {
	addrs := []string{"a@" + newMemnode(t).Addr(), "b@" + newMemnode(t).Addr(), "c@" + newMemnode(t).Addr()}
	c := newClient(t, client.Config{Servers: addrs, Dialect: "libmemcached-weighted"})
	e, err := c.Explain("user:42")
	if err != nil {
		t.Fatal(err)
	}
	if e.Dialect != "libmemcached-weighted" || e.KeyHash != "md5" || e.Hash == 0 || e.OwnerState != "up" || e.Asked != e.Owner || len(e.StandIns) != 2 {
		t.Errorf("%+v", e)
	}
	if err := c.Set(t.Context(), &client.Item{Key: "user:42", Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Stats().Nodes {
		if (n.Requests == 1) != (n.Name == e.Owner) {
			t.Errorf("%s had %d requests, the owner is %s", n.Name, n.Requests, e.Owner)
		}
	}
}
