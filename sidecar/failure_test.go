package sidecar_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/proto/memcached"
	"github.com/ringside-cache/ringside/ring"
	"github.com/ringside-cache/ringside/sidecar"
)

// secret is in every key of these tests, and must be nowhere else.
const secret = "s3cret"

// syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// pair is a sidecar on two nodes, "dead", which is about to fail, and "live".
type pair struct {
	*running
	dead, live *memnode.Node
	log        *syncBuffer
}

func startPair(t *testing.T, cfg sidecar.Config) *pair {
	t.Helper()
	p := &pair{dead: newNode(t), live: newNode(t), log: &syncBuffer{}}
	cfg.Client.Servers = []string{"dead@" + p.dead.Addr(), "live@" + p.live.Addr()}
	if cfg.Client.Timeout == 0 {
		cfg.Client.Timeout = patience / 2
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	p.running = start(t, cfg)
	return p
}

// key gives the nth key of a node.
func (p *pair) key(t testing.TB, node string, n int) string {
	t.Helper()
	for i := 0; ; i++ {
		key := fmt.Sprintf("%s:%d", secret, i)
		e, err := p.Client().Explain(key)
		if err != nil {
			t.Fatal(err)
		}
		if e.Owner != node {
			continue
		}
		if n == 0 {
			return key
		}
		n--
	}
}

// never ejects no node.
var never = ring.HealthConfig{FailureLimit: 1 << 30}

// TestDeadNode: a node that fails is an error and never a miss, what the others
// have is there, and no text has a key in it.
func TestDeadNode(t *testing.T) {
	// inject lets a fault strike whatever is about a key.
	inject := func(f memnode.Fault) func(*testing.T, *pair) {
		return func(_ *testing.T, p *pair) {
			p.dead.Inject(f, memnode.Always(), memnode.Matching(func(r *memcached.Request) bool { return len(r.Key) > 0 }))
		}
	}
	for _, tt := range []struct {
		name   string
		cfg    client.Config
		fail   func(t *testing.T, p *pair)
		causes []string // one of them is named
	}{
		{"killed", client.Config{Health: never}, func(_ *testing.T, p *pair) { p.dead.Kill() }, []string{"connection lost", "can not connect"}},
		{"hanging", client.Config{Health: never, Timeout: time.Second}, func(_ *testing.T, p *pair) { p.dead.Stop() }, []string{"no answer within", "can not connect"}},
		{"resetting", client.Config{Health: never}, inject(memnode.Reset()), []string{"connection lost"}},
		{"out of step", client.Config{Health: never}, inject(memnode.Garbage("HD O1 k" + secret + "\r\n")), []string{"out of step"}},
		{"failing", client.Config{Health: never}, inject(memnode.Garbage("SERVER_ERROR out of memory on dead\r\n")), []string{"out of memory"}},
		{
			"ejected, nobody stands in",
			client.Config{Health: ring.HealthConfig{FailureLimit: 1, RetryTimeout: time.Hour}, Failover: client.FailoverNone},
			eject,
			[]string{"the node is ejected"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := startPair(t, sidecar.Config{Client: tt.cfg, Memcached: "on"})
			p := dial(t, s.addr("memcached"))
			dead, live1, live2 := s.key(t, "dead", 0), s.key(t, "live", 0), s.key(t, "live", 1)
			for _, key := range []string{dead, live1, live2} {
				p.want("set "+key+" 5 0 3\r\nabc\r\n", "STORED\r\n")
			}
			tt.fail(t, s)
			failed := func(send, before string) {
				t.Helper()
				got := p.ask(send)
				text, ok := strings.CutPrefix(got, before+"SERVER_ERROR ")
				if !ok || strings.Count(text, "\r\n") != 1 || !strings.HasSuffix(text, "\r\n") {
					t.Errorf("%q is answered %q, want %q and then one SERVER_ERROR", send, got, before)
					return
				}
				if !strings.Contains(text, "dead") || !slices.ContainsFunc(tt.causes, func(c string) bool { return strings.Contains(text, c) }) {
					t.Errorf("%q is answered %q, want the node and one of %q in it", send, got, tt.causes)
				}
				if strings.Contains(text, secret) {
					t.Errorf("%q is answered %q, with a key in it", send, got)
				}
			}
			value := func(key string) string { return "VALUE " + key + " 5 3\r\nabc\r\n" }
			failed("get "+dead+"\r\n", "")
			failed("gets "+dead+"\r\n", "")
			failed("gat 10 "+dead+"\r\n", "")
			failed("get "+live1+" "+dead+" "+live2+"\r\n", value(live1)+value(live2))
			failed("get "+dead+" "+live1+" missing\r\n", value(live1))
			failed("set "+dead+" 0 0 1\r\nx\r\n", "")
			failed("add "+dead+" 0 0 1\r\nx\r\n", "")
			failed("append "+dead+" 0 0 1\r\nx\r\n", "")
			failed("cas "+dead+" 0 0 1 1\r\nx\r\n", "")
			failed("incr "+dead+" 1\r\n", "")
			failed("delete "+dead+"\r\n", "")
			failed("touch "+dead+" 10\r\n", "")
			failed("mg "+dead+" v k\r\n", "")
			failed("mg "+dead+" v k q\r\n", "")
			failed("ms "+dead+" 1\r\nx\r\n", "")
			failed("ms "+dead+" 1 q\r\nx\r\n", "")
			failed("md "+dead+" q\r\n", "")
			failed("ma "+dead+"\r\n", "")

			// Silence stays silence, and the live node's keys are as before.
			p.want("set "+dead+" 0 0 1 noreply\r\nx\r\nincr "+dead+" 1 noreply\r\nget "+live1+" "+live2+"\r\n", value(live1)+value(live2)+"END\r\n")
			p.want("set "+live1+" 5 0 3\r\nabc\r\nmg "+live2+" v\r\n", "STORED\r\nVA 3\r\nabc\r\n")
			if log := s.log.String(); strings.Contains(log, secret) {
				t.Errorf("the log has a key in it:\n%s", log)
			}
		})
	}
}

// eject kills the node, and waits until it is out.
func eject(t *testing.T, p *pair) {
	p.dead.Kill()
	peer := dial(t, p.addr("memcached"))
	eventually(t, "the dead node is ejected", func() bool {
		peer.ask("get " + p.key(t, "dead", 0) + "\r\n")
		return p.Client().Stats().Nodes[0].State == ring.Ejected
	})
}

// TestStandIn: with FailoverNext the stand-in serves an ejected node's keys,
// for StandInTTL at most.
func TestStandIn(t *testing.T) {
	t.Parallel()
	s := startPair(t, sidecar.Config{
		Client:    client.Config{Health: ring.HealthConfig{FailureLimit: 1, RetryTimeout: time.Hour}, StandInTTL: 30 * time.Second},
		Memcached: "on",
	})
	key := s.key(t, "dead", 0)
	eject(t, s)
	p := dial(t, s.addr("memcached"))
	p.want("get "+key+"\r\n", "END\r\n")
	p.want("set "+key+" 0 0 1\r\nx\r\n", "STORED\r\n")
	p.want("get "+key+"\r\n", "VALUE "+key+" 0 1\r\nx\r\nEND\r\n")
	p.wantTTL(key, 30)
	if n := s.live.Items(); n != 1 {
		t.Errorf("the live node has %d items, want 1", n)
	}
}

// TestFlushAllOnDeadNode names the node that could not be told.
func TestFlushAllOnDeadNode(t *testing.T) {
	t.Parallel()
	s := startPair(t, sidecar.Config{Client: client.Config{Health: never}, Memcached: "on"})
	p := dial(t, s.addr("memcached"))
	p.want("set "+s.key(t, "live", 0)+" 0 0 1\r\nx\r\n", "STORED\r\n")
	s.dead.Kill()
	got := p.ask("flush_all\r\n")
	if !strings.HasPrefix(got, "SERVER_ERROR ") || !strings.Contains(got, "dead") || strings.Contains(got, "live") || strings.Count(got, "\r\n") != 1 {
		t.Errorf("flush_all is answered %q, want an error about the dead node", got)
	}
	p.want("get "+s.key(t, "live", 0)+"\r\n", "END\r\n")
}

// TestStats: the sums over the fleet, the nodes' states, and what is served
// when a node does not answer.
func TestStats(t *testing.T) {
	t.Parallel()
	s := startPair(t, sidecar.Config{Client: client.Config{Health: never}, Memcached: "on", MaxValueBytes: 1 << 20, MaxConns: 123})
	p := dial(t, s.addr("memcached"))
	for i := range 10 {
		p.want("set "+s.key(t, "dead", i)+" 0 0 1\r\nx\r\nset "+s.key(t, "live", i)+" 0 0 1\r\nx\r\n", "STORED\r\nSTORED\r\n")
	}
	stat := func(name string) string {
		t.Helper()
		got := p.ask("stats\r\n")
		if !strings.HasSuffix(got, "\r\nEND\r\n") || strings.Contains(got, secret) {
			t.Errorf("stats are %q", got)
		}
		for line := range strings.SplitSeq(got, "\r\n") {
			if value, ok := strings.CutPrefix(line, "STAT "+name+" "); ok {
				return value
			}
		}
		return ""
	}
	for name, want := range map[string]string{
		"curr_items": "20", "cmd_set": "20", "curr_connections": "1", "version": "1.6.18-ringside-" + sidecar.Version,
		"ringside_nodes": "2", "ringside_node:dead:state": "up", "ringside_node:live:state": "up",
	} {
		if got := stat(name); got != want {
			t.Errorf("stat %s is %q, want %q", name, got, want)
		}
	}
	p.want("stats settings\r\n", "STAT item_size_max 1048576\r\nSTAT maxconns 123\r\nEND\r\n")
	p.want("stats items\r\nstats slabs\r\n", "END\r\nEND\r\n")
	s.dead.Kill()
	if got := stat("curr_items"); got != "10" {
		t.Errorf("with one node down curr_items is %q, want 10", got)
	}
}
