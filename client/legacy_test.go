package client_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/proto/memcached"
	"github.com/ringside-cache/ringside/ring"
)

// oldServer stands between a client and a real memcached and makes it an old
// one: it tells another version and answers ERROR to every meta command.
func oldServer(t *testing.T, version *atomic.Value, onLine ...func(line string)) (addr string) {
	t.Helper()
	return makeOld(t, realserver.Memcached(t).Addr(), version, onLine...)
}

func makeOld(t *testing.T, real string, version *atomic.Value, onLine ...func(line string)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				up, err := net.Dial("tcp", real)
				if err != nil {
					return
				}
				defer up.Close()
				go func() {
					defer nc.Close()
					bufio.NewReader(up).WriteTo(nc)
				}()
				r := bufio.NewReader(nc)
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					for _, f := range onLine {
						f(line)
					}
					switch {
					case line == "version\r\n":
						fmt.Fprintf(nc, "VERSION %s\r\n", version.Load())
					case strings.HasPrefix(line, "m") && !strings.HasPrefix(version.Load().(string), "1.6"):
						fmt.Fprint(nc, "ERROR\r\n")
					default:
						fmt.Fprint(up, line)
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

func versionOf(s string) *atomic.Value {
	var v atomic.Value
	v.Store(s)
	return &v
}

// TestLegacyNode: a node without meta commands has the same operations.
func TestLegacyNode(t *testing.T) {
	version := versionOf("1.4.39")
	c := newClient(t, client.Config{Servers: []string{oldServer(t, version)}})
	legacyOperations(t, c)
	if v := c.Stats().Nodes[0].Version; v != "1.4.39" {
		t.Errorf("the version is %q", v)
	}
	if _, err := c.GetAndTouch(t.Context(), "a", 10); err != nil {
		t.Errorf("get and touch: %v", err)
	}
	// An upgrade is found when a connection is made anew.
	version.Store("1.6.18")
	eventually(t, 10*time.Second, "the client speaks meta", func() bool {
		var b client.Batch
		for range 100 { // more than are idle, so that some dial
			b.Meta("a", &memcached.Request{Command: memcached.MetaGet, Key: []byte("a"), Meta: metaFlags("v", "t")})
		}
		if c.Do(t.Context(), &b) == nil {
			return true
		}
		done := make(chan struct{})
		for range 100 {
			go func() { c.Get(t.Context(), "a"); done <- struct{}{} }()
		}
		for range 100 {
			<-done
		}
		return false
	})
}

// TestVersions: memcached has the meta commands as we know them since 1.6.10,
// and sends the opaque with every miss since 1.6.18.
func TestVersions(t *testing.T) {
	for version, legacy := range map[string]bool{
		"1.4.39": true, "1.6.0-beta1": true, "1.6.6": true, "1.6.9_12_g0123abc": true,
		"1.6.10": false, "1.6.17": false, "1.6.18_3_g0123abc": false, "1.10.0": false, "2.0.0": false, "yrmcds": true,
	} {
		t.Run(version, func(t *testing.T) {
			c := newClient(t, client.Config{Servers: []string{oldServer(t, versionOf(version))}})
			if err := c.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := c.Stats().Nodes[0]; n.Legacy != legacy || n.Version != version {
				t.Errorf("legacy: %v, version %q", n.Legacy, n.Version)
			}
		})
	}
	p := newFaultProxy(t, 1, nil)
	p.over("1.6.17", nil)
	c := newClient(t, healthy(p.addr()))
	if _, err := c.Get(t.Context(), "gone"); !errors.Is(err, client.ErrCacheMiss) {
		t.Errorf("a miss without opaque: %v", err)
	}
	if n := c.Stats().Nodes[0]; n.Legacy || n.ConnectionsLost != 0 {
		t.Errorf("legacy: %v, %d connections lost", n.Legacy, n.ConnectionsLost)
	}
}

// TestHandshakeLost: a server that hangs up on stats each time is a proxy, and
// one that does so now and then has lost a connection.
func TestHandshakeLost(t *testing.T) {
	tests := []struct {
		name   string
		times  memnode.When
		legacy bool
	}{
		{"once", memnode.Times(1), false},
		{"twice", memnode.Times(2), false},
		{"always", memnode.Always(), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newMemnode(t)
			n.Inject(memnode.HangUp(), memnode.On(memcached.Stats), tt.times)
			c := newClient(t, healthy(n.Addr()))
			if err := c.Set(t.Context(), &client.Item{Key: "a", Value: []byte("x")}); err != nil {
				t.Fatal(err)
			}
			if got := c.Stats().Nodes[0].Legacy; got != tt.legacy {
				t.Errorf("legacy: %v, want %v", got, tt.legacy)
			}
		})
	}
	t.Run("after it answered", func(t *testing.T) {
		n := newMemnode(t)
		c := newClient(t, healthy(n.Addr()))
		if err := c.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.Inject(memnode.HangUp(), memnode.On(memcached.MetaGet))
		n.Inject(memnode.HangUp(), memnode.On(memcached.Stats), memnode.Always())
		if _, err := c.Get(t.Context(), "a"); !errors.Is(err, client.ErrConnLost) {
			t.Fatal(err)
		}
		if _, err := c.Get(t.Context(), "a"); !errors.Is(err, client.ErrDial) {
			t.Errorf("the first handshake that is lost: %v, want ErrDial", err)
		}
		if c.Stats().Nodes[0].Legacy {
			t.Error("a node that lost a handshake is taken for a proxy")
		}
		// But not for ever: there may be a proxy at this address now.
		eventually(t, 30*time.Second, "the proxy is found out", func() bool {
			c.Get(t.Context(), "a")
			return c.Stats().Nodes[0].Legacy
		})
	})
}

// TestLegacyEnds: Close ends the connections of nodes without meta commands
// too, and what nobody waits for any longer is not carried out.
func TestLegacyEnds(t *testing.T) {
	p := newFaultProxy(t, 1, []fault{faultStall})
	p.over("1.5.22", nil)
	c, err := client.New(healthy(p.addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Set(t.Context(), &client.Item{Key: "a", Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if p.connections() == 0 {
		t.Fatal("no connection is kept: this test shows nothing")
	}
	p.every.Store(1)
	var b client.Batch
	for range 100 {
		b.Set(&client.Item{Key: "a", Value: []byte("y")})
	}
	if err := c.Do(t.Context(), &b); !errors.Is(err, client.ErrTimeout) {
		t.Errorf("a batch to a hung node: %v", err)
	}
	before := p.accepted.Load()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if tries := p.accepted.Load() - before; tries > 5 {
		t.Errorf("Close waited for %d more tries", tries)
	}
	if _, err := c.Get(t.Context(), "a"); !errors.Is(err, client.ErrClosed) {
		t.Errorf("get after Close: %v, want ErrClosed", err)
	}
	eventually(t, 10*time.Second, "every connection is closed", func() bool { return p.connections() == 0 })
}

// legacyOperations runs what every memcached can do.
func legacyOperations(t *testing.T, c *client.Client) {
	t.Helper()
	ctx := t.Context()
	want := func(what string, err, target error) {
		t.Helper()
		if !errors.Is(err, target) || target == nil && err != nil {
			t.Errorf("%s: error %v, want %v", what, err, target)
		}
	}
	item := func(key, value string) *client.Item { return &client.Item{Key: key, Value: []byte(value)} }
	_, err := c.Get(ctx, "a")
	want("get of a missing key", err, client.ErrCacheMiss)
	want("delete of a missing key", c.Delete(ctx, "a"), client.ErrCacheMiss)
	want("touch of a missing key", c.Touch(ctx, "a", 10), client.ErrCacheMiss)
	want("replace of a missing key", c.Replace(ctx, item("a", "x")), client.ErrNotStored)
	want("set", c.Set(ctx, &client.Item{Key: "a", Value: []byte("5"), Flags: 7}), nil)
	want("add to a present key", c.Add(ctx, item("a", "x")), client.ErrNotStored)
	if n, err := c.Increment(ctx, "a", 6); n != 11 || err != nil {
		t.Errorf("increment: %d, %v", n, err)
	}
	if n, err := c.Decrement(ctx, "a", 1); n != 10 || err != nil {
		t.Errorf("decrement: %d, %v", n, err)
	}
	want("append", c.Append(ctx, item("a", "!")), nil)
	want("prepend", c.Prepend(ctx, item("a", "=")), nil)
	// Behind an error line gomemcache closes its connection, so an item of
	// before would be a conflict.
	_, err = c.Increment(ctx, "a", 1)
	want("increment of a word", err, client.ErrClientError)
	got, err := c.Get(ctx, "a")
	// Some servers pad a decremented number with a space.
	if err != nil {
		t.Fatal(err)
	}
	if strings.ReplaceAll(string(got.Value), " ", "") != "=10!" || got.Flags != 7 {
		t.Errorf("get: %+v", got)
	}
	got.Value = []byte("swapped")
	want("cas", c.CompareAndSwap(ctx, got), nil)
	want("cas again", c.CompareAndSwap(ctx, got), client.ErrCASConflict)
	want("touch", c.Touch(ctx, "a", 100), nil)
	if buf, flags, err := c.GetInto(ctx, "a", []byte(">")); err != nil || string(buf) != ">swapped" || flags != 7 {
		t.Errorf("GetInto: %q, %d, %v", buf, flags, err)
	}
	want("set of nothing", c.Set(ctx, item("empty", "")), nil)
	items, err := c.GetMulti(ctx, []string{"a", "empty", "gone"})
	if err != nil || len(items) != 2 || string(items["a"].Value) != "swapped" || len(items["empty"].Value) != 0 {
		t.Errorf("multi-get: %v, %v", items, err)
	}
	var b client.Batch
	b.Set(item("n", "1"))
	n := b.Increment("n", 1)
	read := b.Get("n")
	meta := b.Meta("n", &memcached.Request{Command: memcached.MetaGet, Key: []byte("n"), Meta: metaFlags("v", "N30")})
	var replies []int
	for _, req := range []*memcached.Request{
		{Command: memcached.MetaSet, Key: []byte("m"), Value: []byte("7"), Meta: metaFlags("F5", "T100", "Oa")},
		{Command: memcached.MetaGet, Key: []byte("m"), Meta: metaFlags("v", "f", "s", "k", "Ob")},
		{Command: memcached.MetaGet, Key: []byte("m")},
		{Command: memcached.MetaGet, Key: []byte("gone"), Meta: metaFlags("v", "Oc")},
		{Command: memcached.MetaGet, Key: []byte("m"), Meta: metaFlags("T50")},
		{Command: memcached.MetaSet, Key: []byte("m"), Value: []byte("8"), Meta: metaFlags("ME")},
		{Command: memcached.MetaArithmetic, Key: []byte("m"), Meta: metaFlags("D3", "v")},
		{Command: memcached.MetaArithmetic, Key: []byte("m"), Meta: metaFlags("MD")},
		{Command: memcached.MetaArithmetic, Key: []byte("a")},
		{Command: memcached.MetaDelete, Key: []byte("m"), Meta: metaFlags("k")},
		{Command: memcached.MetaDelete, Key: []byte("m")},
	} {
		replies = append(replies, b.Meta(string(req.Key), req))
	}
	err = c.Do(ctx, &b)
	want("a meta request", err, client.ErrNoMeta)
	if _, err := b.Reply(meta); !errors.Is(err, client.ErrNoMeta) || !client.SafeToRetry(err) {
		t.Errorf("a meta request: %v", err)
	}
	for j, want := range []string{
		"HD Oa", "VA 1 f5 s1 km Ob\r\n7", "HD", "EN Oc", "HD", "NS", "VA 2\r\n10", "HD",
		"CLIENT_ERROR cannot increment or decrement non-numeric value", "HD km", "NF",
	} {
		rep, err := b.Reply(replies[j])
		if err != nil {
			t.Errorf("meta request %d: %v", j, err)
		} else if got := string(memcached.AppendReply(nil, rep)); got != want+"\r\n" {
			t.Errorf("meta request %d: %q, want %q", j, got, want)
		}
	}
	if got, err := b.Number(n); got != 2 || err != nil {
		t.Errorf("increment in a batch: %d, %v", got, err)
	}
	if got, err := b.Item(read); err != nil || string(got.Value) != "2" {
		t.Errorf("get in a batch: %v, %v", got, err)
	}
	want("ping", c.Ping(ctx), nil)
	if s := c.Stats().Nodes[0]; s.InFlight != 0 || s.BytesInFlight != 0 || s.FailuresTotal != 0 {
		t.Errorf("%d in flight, %d bytes, %d failures", s.InFlight, s.BytesInFlight, s.FailuresTotal)
	}
}

// behindWhoLeft gives a client of an old server where a Set of "key" is under way,
// until release is closed, and its caller has left.
func behindWhoLeft(t *testing.T) (c *client.Client, release chan struct{}) {
	t.Helper()
	release = make(chan struct{})
	sent := make(chan struct{})
	addr := oldServer(t, versionOf("1.4.39"), func(line string) {
		if strings.HasPrefix(line, "set key 1 ") {
			close(sent)
			<-release
		}
	})
	c = newClient(t, client.Config{Servers: []string{addr}, Timeout: 20 * time.Second})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-sent
		cancel()
	}()
	if err := c.Set(ctx, &client.Item{Key: "key", Value: []byte("old"), Flags: 1}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	return c, release
}

// TestLegacyOrderBehindWhoLeft: a write that was given up does not end up on top of
// one that came after it, though each has a connection of its own.
func TestLegacyOrderBehindWhoLeft(t *testing.T) {
	c, release := behindWhoLeft(t)
	if err := c.Set(t.Context(), &client.Item{Key: "another", Value: []byte("x")}); err != nil {
		t.Errorf("another key: %v", err)
	}
	stored := make(chan error, 1)
	go func() { stored <- c.Set(t.Context(), &client.Item{Key: "key", Value: []byte("new"), Flags: 2}) }()
	select {
	case err := <-stored:
		t.Errorf("it was stored while the one before it was under way: %v", err)
		stored <- err
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if err := <-stored; err != nil {
		t.Fatal(err)
	}
	if item, err := c.Get(t.Context(), "key"); err != nil || string(item.Value) != "new" {
		t.Errorf("%v, %v", item, err)
	}
}

// TestLegacyBehindManyWhoLeft: who waits for a write that was given up waits for that
// one, and not for those that were given up behind it, nor for itself.
func TestLegacyBehindManyWhoLeft(t *testing.T) {
	c, release := behindWhoLeft(t)
	set := func(ctx context.Context, flags uint32) error {
		return c.Set(ctx, &client.Item{Key: "key", Value: fmt.Append(nil, flags), Flags: flags})
	}
	inFlight := func() int64 { return c.Stats().Nodes[0].InFlight }
	stays := make(chan error, 2)
	go func() { stays <- set(t.Context(), 2) }()
	eventually(t, 10*time.Second, "one waits for it", func() bool { return inFlight() == 2 })
	for range 3 {
		short, end := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := set(short, 3); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one that waits and leaves: %v", err)
		}
		end()
	}
	flushed := make(chan error, 1)
	go func() { flushed <- c.FlushAll(t.Context()) }()
	eventually(t, 10*time.Second, "a flush waits for all", func() bool { return inFlight() == 6 })
	if err := c.Ping(t.Context()); err != nil {
		t.Errorf("a ping beside it: %v", err)
	}
	select {
	case err := <-stays:
		t.Errorf("it was stored while the one before it was under way: %v", err)
	case err := <-flushed:
		t.Errorf("it was flushed while a set was under way: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(release)
	if err := <-stays; err != nil {
		t.Errorf("one that stays: %v", err)
	}
	if err := <-flushed; err != nil {
		t.Errorf("flush: %v", err)
	}
	eventually(t, 10*time.Second, "nothing is under way", func() bool { return inFlight() == 0 })
	if err := set(t.Context(), 4); err != nil {
		t.Errorf("one that comes after all: %v", err)
	}
	if item, err := c.Get(t.Context(), "key"); err != nil || item.Flags != 4 {
		t.Errorf("%v, %v", item, err)
	}
}

// TestGomemcacheOnTheRing: gomemcache gets ketama and auto-eject by one line.
func TestGomemcacheOnTheRing(t *testing.T) {
	servers := []*realserver.Server{realserver.Memcached(t), realserver.Memcached(t), realserver.Memcached(t)}
	var list []string
	for i, s := range servers {
		list = append(list, fmt.Sprintf("node%d@%s", i, s.Addr()))
	}
	c := newClient(t, client.Config{Servers: list, Health: ring.HealthConfig{RetryTimeout: 50 * time.Millisecond}})
	mc := c.Gomemcache()
	defer mc.Close()
	var keys []string
	for i := range 300 {
		key := fmt.Sprintf("key:%d", i)
		keys = append(keys, key)
		if err := mc.Set(&memcache.Item{Key: key, Value: []byte(key)}); err != nil {
			t.Fatal(err)
		}
		// Both find the key at the same node.
		if item, err := c.Get(t.Context(), key); err != nil || string(item.Value) != key {
			t.Fatalf("%s: %v, %v", key, item, err)
		}
	}
	if items, err := mc.GetMulti(keys); err != nil || len(items) != len(keys) {
		t.Errorf("multi-get: %d of %d, %v", len(items), len(keys), err)
	}
	servers[1].Kill()
	eventually(t, 10*time.Second, "the dead node is ejected", func() bool {
		for _, key := range keys {
			mc.Get(key)
		}
		return c.Stats().Nodes[1].State == ring.Ejected
	})
	for _, key := range keys {
		if _, err := mc.Get(key); err != nil && !errors.Is(err, memcache.ErrCacheMiss) {
			t.Errorf("after the ejection: %v", err)
		}
	}
	if err := servers[1].Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the node rejoins", func() bool { return c.Stats().Nodes[1].State == ring.Up })
}
