package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/proto/memcached"
	"github.com/ringside-cache/ringside/stampede"
)

// TestLeases holds the client's leases against what stampede.Store promises:
// on memcached, on memnode, and in envelopes on a node without meta commands.
func TestLeases(t *testing.T) {
	t.Run("memcached", func(t *testing.T) { leases(t, newClient(t, healthy(realserver.Memcached(t).Addr()))) })
	t.Run("memcached, every value is large", func(t *testing.T) {
		cfg := healthy(realserver.Memcached(t).Addr())
		cfg.LargeValue = 1
		leases(t, newClient(t, cfg))
	})
	t.Run("memnode", func(t *testing.T) { leases(t, newClient(t, healthy(newMemnode(t).Addr()))) })
	t.Run("envelopes", func(t *testing.T) {
		leases(t, newClient(t, healthy(oldServer(t, versionOf("1.4.39")))))
	})
}

// A leaser does single reads and writes of one key.
type leaser struct {
	t   *testing.T
	c   *client.Client
	key string
}

func (l leaser) read(r stampede.Read) stampede.Reply {
	l.t.Helper()
	r.Key = l.key
	reply := l.c.ReadLeased(l.t.Context(), []stampede.Read{r})[0]
	if reply.Err != nil {
		l.t.Fatal(reply.Err)
	}
	return reply
}

func (l leaser) write(w stampede.Write, want error) stampede.Result {
	l.t.Helper()
	r := l.c.WriteLeased(l.t.Context(), []stampede.Write{w})[0]
	if !errors.Is(r.Err, want) || want == nil && r.Err != nil {
		l.t.Errorf("kind %d under %+v gave %v, want %v", w.Kind, w.Lease, r.Err, want)
	}
	return r
}

// is compares what a reply says: the value, and the marks of W, Z and X.
func (l leaser) is(r stampede.Reply, value, marks string) stampede.Reply {
	l.t.Helper()
	got := ""
	for _, m := range []struct {
		on   bool
		mark string
	}{{r.Won, "W"}, {r.Taken, "Z"}, {r.Stale, "X"}, {!r.Found, "-"}} {
		if m.on {
			got += m.mark
		}
	}
	if string(r.Value) != value || got != marks {
		l.t.Errorf("value %.80q marks %q, want %q %q", r.Value, got, value, marks)
	}
	return r
}

const testFlags = 0x52534401

func leases(t *testing.T, c *client.Client) {
	// Times are so long that a starved machine does not let them pass.
	ask := stampede.Read{Lease: 30 * time.Second, Grace: 10 * time.Second}
	at := func(t *testing.T) leaser { return leaser{t, c, "lease:" + t.Name()} }
	fill := func(l stampede.Lease, value string) stampede.Write {
		return stampede.Write{Kind: stampede.Fill, Lease: l, Value: []byte(value), Flags: testFlags, TTL: time.Minute, Grace: 10 * time.Second}
	}
	filled := func(t *testing.T, value string) leaser {
		l := at(t)
		l.write(fill(l.is(l.read(ask), "", "W").Lease, value), nil)
		return l
	}
	t.Run("missing, filled, fresh", func(t *testing.T) {
		l := at(t)
		won := l.is(l.read(ask), "", "W")
		if won.Left < 20*time.Second || won.Left > 30*time.Second || won.Lease.CAS == 0 || won.Lease.Key != l.key {
			t.Errorf("the stub: %+v", won)
		}
		if taken := l.is(l.read(ask), "", "Z"); taken.Lease != won.Lease {
			t.Errorf("the lease has two names: %+v and %+v", won.Lease, taken.Lease)
		}
		l.write(fill(won.Lease, "v"), nil)
		r := l.is(l.read(ask), "v", "")
		if r.Flags != testFlags || r.Left < 60*time.Second || r.Left > 70*time.Second {
			t.Errorf("%+v", r)
		}
		l.write(fill(won.Lease, "late"), stampede.ErrChanged)
		l.is(l.read(ask), "v", "")
	})
	t.Run("empty values", func(t *testing.T) {
		l := filled(t, "")
		r := l.is(l.read(ask), "", "")
		if !r.Found || r.Flags != testFlags {
			t.Errorf("%+v", r)
		}
	})
	t.Run("without a lease asked for", func(t *testing.T) {
		l := at(t)
		l.is(l.read(stampede.Read{}), "", "-")
		l.is(l.read(ask), "", "W")
	})
	t.Run("due", func(t *testing.T) {
		l := filled(t, "v")
		ask := ask
		ask.Early = 2 * time.Minute
		won := l.is(l.read(ask), "v", "W")
		l.is(l.read(ask), "v", "Z")
		l.write(fill(won.Lease, "w"), nil)
		l.is(l.read(stampede.Read{}), "w", "")
	})
	t.Run("invalidated", func(t *testing.T) {
		l := filled(t, "v")
		l.write(stampede.Write{Kind: stampede.Invalidate, Key: l.key, TTL: 40 * time.Second}, nil)
		won := l.is(l.read(ask), "v", "WX")
		if won.Left < 31*time.Second || won.Left > 40*time.Second {
			t.Errorf("left %v", won.Left)
		}
		l.is(l.read(ask), "v", "ZX")
		// Once more: the lease of before is void.
		l.write(stampede.Write{Kind: stampede.Invalidate, Key: l.key, TTL: 40 * time.Second}, nil)
		l.write(fill(won.Lease, "late"), stampede.ErrChanged)
		won = l.is(l.read(ask), "v", "WX")
		l.write(fill(won.Lease, "w"), nil)
		l.is(l.read(ask), "w", "")
		l.write(stampede.Write{Kind: stampede.Invalidate, Key: l.key + "no", TTL: time.Minute}, nil)
	})
	t.Run("invalidated while loading", func(t *testing.T) {
		l := at(t)
		won := l.read(ask)
		l.write(stampede.Write{Kind: stampede.Invalidate, Key: l.key, TTL: 40 * time.Second}, nil)
		l.write(fill(won.Lease, "late"), stampede.ErrChanged)
		if r := l.read(ask); len(r.Value) != 0 || !r.Won || r.Flags != 0 {
			t.Errorf("%+v, want no value and the lease", r)
		}
	})
	t.Run("deleted while loading", func(t *testing.T) {
		l := at(t)
		won := l.read(ask)
		l.write(stampede.Write{Kind: stampede.Delete, Key: l.key}, nil)
		l.write(stampede.Write{Kind: stampede.Delete, Key: l.key}, nil)
		l.write(fill(won.Lease, "late"), stampede.ErrGone)
		l.is(l.read(stampede.Read{}), "", "-")
	})
	t.Run("given up", func(t *testing.T) {
		l := at(t)
		won := l.read(ask)
		l.write(stampede.Write{Kind: stampede.Remove, Lease: won.Lease}, nil)
		l.write(fill(won.Lease, "late"), stampede.ErrGone)
		l = filled(t, "v")
		ask := ask
		ask.Early = 2 * time.Minute
		won = l.is(l.read(ask), "v", "W")
		l.write(stampede.Write{Kind: stampede.Reopen, Lease: won.Lease}, nil)
		l.is(l.read(ask), "v", "WX")
		l.write(fill(won.Lease, "late"), stampede.ErrChanged)
	})
	t.Run("taken over", func(t *testing.T) {
		for _, value := range []string{"", "v"} {
			l := leaser{t, c, "lease:over:" + value}
			marks, again := "W", "WX"
			if value != "" {
				l.write(fill(l.read(ask).Lease, value), nil)
				l.write(stampede.Write{Kind: stampede.Invalidate, Key: l.key, TTL: time.Minute}, nil)
				marks = "WX"
			} else if r := c.Stats().Nodes[0]; r.Legacy {
				again = "W" // a stub there is never stale
			}
			dead := l.is(l.read(ask), value, marks).Lease
			over := ask
			over.Reopen = dead
			if value == "" {
				over.ReopenStub = 50 * time.Second
			}
			won := l.is(l.read(over), value, again)
			if value == "" && (won.Left < 20*time.Second || won.Left > 50*time.Second) {
				t.Errorf("the stub is left %v", won.Left)
			}
			// A second who thinks the same is late.
			l.read(over)
			l.write(fill(dead, "late"), stampede.ErrChanged)
			l.write(fill(won.Lease, "w"), nil)
			l.is(l.read(ask), "w", "")
		}
	})
	t.Run("add", func(t *testing.T) {
		l := at(t)
		add := stampede.Write{Kind: stampede.Add, Key: l.key, Value: []byte("v"), TTL: time.Minute}
		added := l.write(add, nil)
		l.write(add, stampede.ErrChanged)
		if item, err := c.Get(t.Context(), l.key); err != nil || string(item.Value) != "v" || item.Flags != 0 {
			t.Errorf("a plain get: %v, %v", item, err)
		}
		if r := l.is(l.read(stampede.Read{}), "v", ""); r.Lease != added.Lease {
			t.Errorf("added as %+v, read as %+v", added.Lease, r.Lease)
		}
		l.write(stampede.Write{Kind: stampede.Remove, Lease: added.Lease}, nil)
		l.is(l.read(stampede.Read{}), "", "-")
	})
	t.Run("many", func(t *testing.T) {
		var reads []stampede.Read
		for i := range 100 {
			r := ask
			r.Key = fmt.Sprint("many:", i)
			reads = append(reads, r)
		}
		reads[7].Key = "not a key"
		var writes []stampede.Write
		for i, r := range c.ReadLeased(t.Context(), reads) {
			if i == 7 {
				if !errors.Is(r.Err, stampede.ErrBadKey) {
					t.Errorf("%v", r.Err)
				}
				continue
			}
			if r.Err != nil || !r.Won {
				t.Fatalf("%d: %+v", i, r)
			}
			writes = append(writes, fill(r.Lease, reads[i].Key))
		}
		for _, r := range c.WriteLeased(t.Context(), writes) {
			if r.Err != nil {
				t.Error(r.Err)
			}
		}
		for i, r := range c.ReadLeased(t.Context(), reads) {
			if i != 7 && string(r.Value) != reads[i].Key {
				t.Errorf("%d: %+v", i, r)
			}
		}
	})
}

// What is too large is refused, and the lease stands: another may have less to
// say.
func TestLeaseTooLarge(t *testing.T) {
	for name, addr := range map[string]string{
		"memcached": realserver.Memcached(t).Addr(), "envelopes": oldServer(t, versionOf("1.4.39")),
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, healthy(addr))
			l := leaser{t, c, "k"}
			ask := stampede.Read{Lease: 30 * time.Second}
			w := stampede.Write{Lease: l.read(ask).Lease, Value: []byte("v"), Flags: testFlags, TTL: time.Minute}
			l.write(w, nil)
			l.write(stampede.Write{Kind: stampede.Invalidate, Key: l.key, TTL: time.Minute}, nil)
			w.Lease, w.Value = l.read(ask).Lease, bytes.Repeat([]byte("x"), 2<<20)
			l.write(w, stampede.ErrTooLarge)
			l.is(l.read(ask), "v", "ZX")
		})
	}
}

// Times are rounded up to whole seconds, never to 0, which would be for ever,
// and bounded where memcached misbehaves.
func TestLeaseTimes(t *testing.T) {
	n := newMemnode(t)
	var line atomic.Pointer[string]
	in := n.Inject(memnode.Slow(0), memnode.Always(), memnode.Matching(func(r *memcached.Request) bool {
		text := ""
		for _, f := range r.Meta {
			if f.Letter == 'N' || f.Letter == 'R' || f.Letter == 'T' {
				text += fmt.Sprintf(" %c%s", f.Letter, f.Arg)
			}
		}
		line.Store(&text)
		return false
	}))
	defer in.Remove()
	c := newClient(t, healthy(n.Addr()))
	day := 24 * time.Hour
	for _, tt := range []struct {
		read  stampede.Read
		write stampede.Write
		want  string
	}{
		{read: stampede.Read{Lease: 5 * time.Second, Grace: time.Minute}, want: " N5 R60"},
		{read: stampede.Read{Lease: 1, Grace: 1}, want: " N1 R1"},
		{read: stampede.Read{Lease: 1100 * time.Millisecond, Grace: time.Second, Early: time.Second}, want: " N2 R2"},
		{read: stampede.Read{}, want: ""},
		{read: stampede.Read{Lease: 60 * day, Grace: 60 * day}, want: " N2592000 R2592000"},
		{write: stampede.Write{Kind: stampede.Add, TTL: time.Millisecond}, want: " T1"},
		{write: stampede.Write{Kind: stampede.Add, TTL: 1500 * time.Millisecond, Grace: time.Second}, want: " T3"},
		{write: stampede.Write{Kind: stampede.Add, TTL: 30 * day}, want: " T2592000"},
		{write: stampede.Write{Kind: stampede.Invalidate, TTL: time.Millisecond}, want: " T1"},
		{write: stampede.Write{Kind: stampede.Invalidate, TTL: 0}, want: " T1"},
	} {
		if tt.write.Kind == stampede.Fill {
			tt.read.Key = "k"
			c.ReadLeased(t.Context(), []stampede.Read{tt.read})
		} else {
			tt.write.Key = "k"
			c.WriteLeased(t.Context(), []stampede.Write{tt.write})
		}
		if got := *line.Load(); got != tt.want {
			t.Errorf("%+v %+v went out with%s, want%s", tt.read, tt.write, got, tt.want)
		}
	}
	before := time.Now().Unix()
	c.WriteLeased(t.Context(), []stampede.Write{{Kind: stampede.Add, Key: "k", TTL: 31 * day}})
	var at int64
	if _, err := fmt.Sscanf(*line.Load(), " T%d", &at); err != nil || at < before+31*86400 || at > time.Now().Unix()+31*86400 {
		t.Errorf("31 days went out as%s, %v", *line.Load(), err)
	}
}

// A lease does not outlive its connection: CAS ids begin again when a server
// restarts, and a late fill would match another item by chance.
func TestLeaseAfterRestart(t *testing.T) {
	for _, args := range [][]string{nil, {"-e"}} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			if args != nil {
				args = append(args, t.TempDir()+"/memory")
			}
			server := realserver.Memcached(t, args...)
			c := newClient(t, healthy(server.Addr()))
			l := leaser{t, c, "k"}
			ask := stampede.Read{Lease: 30 * time.Second}
			won := l.read(ask)
			server.Kill()
			if err := server.Restart(); err != nil {
				t.Fatal(err)
			}
			var again stampede.Reply
			eventually(t, 10*time.Second, "the node answers", func() bool {
				again = c.ReadLeased(t.Context(), []stampede.Read{{Key: "k", Lease: 30 * time.Second}})[0]
				return again.Err == nil
			})
			l.write(stampede.Write{Lease: won.Lease, Value: []byte("late"), TTL: time.Minute}, stampede.ErrUnbound)
			l.write(stampede.Write{Kind: stampede.Remove, Lease: won.Lease}, stampede.ErrUnbound)
			if r := l.read(ask); len(r.Value) != 0 {
				t.Errorf("a late fill landed: %+v", r)
			}
		})
	}
}

// A lease belongs to its node: while that is out a fill is dropped and not
// sent to the stand-in, and one from a stand-in does not go to the owner.
func TestLeaseOfAnEjectedNode(t *testing.T) {
	a, b := newMemnode(t), newMemnode(t)
	c := newClient(t, client.Config{Servers: []string{"a@" + a.Addr(), "b@" + b.Addr()}, Timeout: 300 * time.Millisecond})
	key := ownedBy(t, c, "a")
	l := leaser{t, c, key}
	ask := stampede.Read{Lease: 30 * time.Second, Grace: time.Hour}
	won := l.read(ask)
	if won.StandIn {
		t.Error("the owner is a stand-in")
	}
	a.Kill()
	eventually(t, 10*time.Second, "the node is ejected", func() bool {
		c.Get(t.Context(), key)
		return c.Stats().Nodes[0].Ejections == 1
	})
	l.write(stampede.Write{Lease: won.Lease, Value: []byte("late"), TTL: time.Minute}, stampede.ErrUnbound)
	standIn := l.is(l.read(ask), "", "W")
	if !standIn.StandIn {
		t.Error("not known as a stand-in")
	}
	l.write(stampede.Write{Lease: standIn.Lease, Value: []byte("v"), Flags: testFlags, TTL: time.Minute, Grace: time.Hour}, nil)
	if r := l.is(l.read(ask), "v", ""); r.Left > 10*time.Second {
		t.Errorf("left %v on a stand-in", r.Left)
	}
	l.write(stampede.Write{Kind: stampede.Invalidate, Key: key, TTL: time.Hour}, stampede.ErrOwnerDown)
	l.write(stampede.Write{Kind: stampede.Delete, Key: key}, stampede.ErrOwnerDown)
	standIn = l.read(ask)
	if err := a.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the owner is back", func() bool { return c.ReadLeased(t.Context(), []stampede.Read{{Key: key}})[0].StandIn == false })
	l.write(stampede.Write{Lease: standIn.Lease, Value: []byte("late"), TTL: time.Minute}, stampede.ErrUnbound)
}

func ownedBy(t *testing.T, c *client.Client, node string) string {
	t.Helper()
	for i := range 1000 {
		key := fmt.Sprint("key:", i)
		if e, err := c.Explain(key); err == nil && e.Owner == node {
			return key
		}
	}
	t.Fatalf("%s owns nothing", node)
	return ""
}

// A lease that is won when its caller has left is given up by the connection.
func TestLeaseOfACallerThatLeft(t *testing.T) {
	for _, stale := range []bool{false, true} {
		t.Run(fmt.Sprintf("stale=%v", stale), func(t *testing.T) {
			n := newMemnode(t)
			c := newClient(t, healthy(n.Addr()))
			l := leaser{t, c, "k"}
			ask := stampede.Read{Key: "k", Lease: time.Hour, Grace: time.Minute}
			if stale {
				l.write(stampede.Write{Lease: l.read(ask).Lease, Value: []byte("v"), Flags: testFlags, TTL: time.Minute}, nil)
				l.write(stampede.Write{Kind: stampede.Invalidate, Key: "k", TTL: time.Hour}, nil)
			}
			in := n.Inject(memnode.Stall(), memnode.On(memcached.MetaGet))
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-in.Hit()
				cancel()
			}()
			if r := c.ReadLeased(ctx, []stampede.Read{ask})[0]; !errors.Is(r.Err, context.Canceled) || r.Won {
				t.Errorf("%+v", r)
			}
			in.Release()
			eventually(t, 10*time.Second, "the lease is to be had", func() bool {
				return c.ReadLeased(t.Context(), []stampede.Read{ask})[0].Won
			})
		})
	}
}

// The same for a node without meta commands, where nothing else ends it before
// its deadline.
func TestLeaseInAnEnvelopeOfACallerThatLeft(t *testing.T) {
	for _, tt := range []struct {
		name      string
		meanwhile func(c *client.Client)
	}{
		{"in one epoch", func(*client.Client) {}},
		{"an epoch begins meanwhile", func(c *client.Client) { c.RenewEpoch(0) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var hold atomic.Bool
			held, release := make(chan struct{}), make(chan struct{})
			real := realserver.Memcached(t).Addr()
			addr := makeOld(t, real, versionOf("1.4.39"), func(line string) {
				if strings.HasPrefix(line, "get") && hold.CompareAndSwap(true, false) {
					close(held)
					<-release
				}
			})
			c := newClient(t, client.Config{Servers: []string{addr}, Timeout: 5 * time.Second})
			ask := stampede.Read{Key: "k", Lease: time.Hour}
			c.ReadLeased(t.Context(), []stampede.Read{{Key: "other"}}) // connects
			hold.Store(true)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-held
				cancel()
			}()
			if r := c.ReadLeased(ctx, []stampede.Read{ask})[0]; !errors.Is(r.Err, context.Canceled) {
				t.Fatalf("%+v", r)
			}
			tt.meanwhile(c)
			close(release)
			eventually(t, 10*time.Second, "the lease was taken", func() bool {
				_, err := memcache.New(real).Get("k")
				return err == nil
			})
			eventually(t, 10*time.Second, "the lease is to be had", func() bool {
				return c.ReadLeased(t.Context(), []stampede.Read{ask})[0].Won
			})
		})
	}
}

// TestLeaseAcrossReconnect: the server stays up, and still a lease does not
// outlive its connection, since the client can not tell this from a restart. What
// it refuses changes nothing there, and a reader takes the lease over.
func TestLeaseAcrossReconnect(t *testing.T) {
	n := newMemnode(t)
	c := newClient(t, healthy(n.Addr()))
	ask := stampede.Read{Lease: 30 * time.Second, Grace: time.Minute}
	reconnect := func() {
		t.Helper()
		dials := c.Stats().Nodes[0].Dials
		n.Inject(memnode.HangUp(), memnode.Key("another"))
		if _, err := c.Get(t.Context(), "another"); !errors.Is(err, client.ErrConnLost) {
			t.Fatalf("the connection was to break: %v", err)
		}
		if _, err := c.Get(t.Context(), "another"); !errors.Is(err, client.ErrCacheMiss) {
			t.Fatal(err)
		}
		if now := c.Stats().Nodes[0].Dials; now != dials+1 {
			t.Fatalf("%d dials, want one more than %d", now, dials)
		}
	}
	for _, tt := range []struct {
		name  string
		write stampede.Write
	}{
		{"a fill", stampede.Write{Kind: stampede.Fill, Value: []byte("late"), Flags: testFlags, TTL: time.Minute}},
		{"a release", stampede.Write{Kind: stampede.Reopen}},
		{"a removal", stampede.Write{Kind: stampede.Remove}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := leaser{t, c, strings.ReplaceAll(tt.name, " ", "-")}
			tt.write.Key = l.key
			won := l.is(l.read(ask), "", "W")
			reconnect()
			tt.write.Lease = won.Lease
			l.write(tt.write, stampede.ErrUnbound)
			// The lease stands on the server as another's, with its own id, and
			// can be taken over there.
			taken := l.is(l.read(ask), "", "Z")
			if taken.Lease.CAS != won.Lease.CAS || taken.Lease.Generation == won.Lease.Generation {
				t.Errorf("the lease was %+v, and is %+v", won.Lease, taken.Lease)
			}
			again := ask
			again.Reopen, again.ReopenStub = taken.Lease, time.Minute
			over := l.is(l.read(again), "", "WX")
			l.write(tt.write, stampede.ErrUnbound)
			l.write(stampede.Write{Kind: stampede.Fill, Lease: over.Lease, Value: []byte("new"), Flags: testFlags, TTL: time.Minute}, nil)
			l.is(l.read(ask), "new", "")
		})
	}
	t.Run("a value that is due", func(t *testing.T) {
		l := leaser{t, c, "due"}
		won := l.is(l.read(ask), "", "W")
		l.write(stampede.Write{Lease: won.Lease, Value: []byte("old"), Flags: testFlags, TTL: time.Minute, Grace: time.Minute}, nil)
		l.write(stampede.Write{Kind: stampede.Invalidate, Key: l.key, TTL: time.Minute}, nil)
		won = l.is(l.read(ask), "old", "WX")
		reconnect()
		l.write(stampede.Write{Lease: won.Lease, Value: []byte("late"), Flags: testFlags, TTL: time.Minute}, stampede.ErrUnbound)
		l.is(l.read(ask), "old", "ZX")
	})
}
