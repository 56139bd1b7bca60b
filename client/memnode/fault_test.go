package memnode_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/proto/memcached"
)

// silence is how long a test waits to see that nothing comes. Too short a time
// makes the test weaker and not wrong.
const silence = 30 * time.Millisecond

func (p *peer) say(t testing.TB, text string) {
	t.Helper()
	if _, err := io.WriteString(p.nc, text); err != nil {
		t.Fatal(err)
	}
}

func (p *peer) want(t testing.TB, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if n, err := io.ReadFull(p.r, got); string(got[:n]) != text {
		t.Fatalf("got %q, %v, want %q", got[:n], err, text)
	}
}

// wantEnd wants the connection to end with this error and no more bytes.
func (p *peer) wantEnd(t testing.TB, end error) {
	t.Helper()
	if b, err := p.r.ReadByte(); !errors.Is(err, end) {
		t.Fatalf("got the byte %q and the error %v, want %v", b, err, end)
	}
}

func (p *peer) wantSilence(t testing.TB) {
	t.Helper()
	if err := p.nc.SetReadDeadline(time.Now().Add(silence)); err != nil {
		t.Fatal(err)
	}
	b, err := p.r.ReadByte()
	if ne := net.Error(nil); !errors.As(err, &ne) || !ne.Timeout() {
		t.Fatalf("got the byte %q and the error %v, want silence", b, err)
	}
	if err := p.nc.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
}

func TestFaults(t *testing.T) {
	// Three requests go in one write, and the middle one is struck.
	const requests = "set a 0 0 1\r\nx\r\nget a\r\ndelete a\r\n"
	const first, second, third = "STORED\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n", "DELETED\r\n"
	for _, tt := range []struct {
		name  string
		fault memnode.Fault
		then  func(t *testing.T, p *peer, in *memnode.Injection)
	}{
		{"stall", memnode.Stall(), func(t *testing.T, p *peer, in *memnode.Injection) {
			p.want(t, first)
			p.wantSilence(t)
			in.Release()
			p.want(t, second+third)
		}},
		{"slow", memnode.Slow(50 * time.Millisecond), func(t *testing.T, p *peer, _ *memnode.Injection) {
			p.want(t, first)
			struck := time.Now()
			p.want(t, second+third)
			if d := time.Since(struck); d < 40*time.Millisecond {
				t.Errorf("the reply came after %v", d)
			}
		}},
		{"slow, and released", memnode.Slow(time.Hour), func(t *testing.T, p *peer, in *memnode.Injection) {
			p.want(t, first)
			in.Release()
			p.want(t, second+third)
		}},
		{"half, then stall", memnode.Half(memnode.Stall()), func(t *testing.T, p *peer, in *memnode.Injection) {
			p.want(t, first+second[:len(second)/2])
			p.wantSilence(t)
			in.Release()
			p.want(t, second[len(second)/2:]+third)
		}},
		{"half, then reset", memnode.Half(memnode.Reset()), func(t *testing.T, p *peer, _ *memnode.Injection) {
			// What was sent before a RST may be lost with it.
			_, err := io.ReadAll(p.r)
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, want a reset", err)
			}
		}},
		{"half, then hang up", memnode.Half(memnode.HangUp()), func(t *testing.T, p *peer, _ *memnode.Injection) {
			p.want(t, first+second[:len(second)/2])
			p.wantEnd(t, io.EOF)
		}},
		{"half, then swap", memnode.Half(memnode.Swap()), func(t *testing.T, p *peer, _ *memnode.Injection) {
			p.want(t, first+second[:len(second)/2]+third+second[len(second)/2:])
		}},
		{"half, then drop", memnode.Half(memnode.Drop()), func(t *testing.T, p *peer, _ *memnode.Injection) {
			p.want(t, first+second[:len(second)/2]+third)
		}},
		{"reset", memnode.Reset(), func(t *testing.T, p *peer, _ *memnode.Injection) {
			_, err := io.ReadAll(p.r)
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, want a reset", err)
			}
		}},
		{"hang up", memnode.HangUp(), func(t *testing.T, p *peer, _ *memnode.Injection) {
			p.want(t, first)
			p.wantEnd(t, io.EOF)
		}},
		{"garbage", memnode.Garbage("HTTP/1.1 200 OK\r\n"), func(t *testing.T, p *peer, _ *memnode.Injection) {
			p.want(t, first+"HTTP/1.1 200 OK\r\n"+third)
		}},
		{"swap", memnode.Swap(), func(t *testing.T, p *peer, _ *memnode.Injection) {
			p.want(t, first+third+second)
		}},
		{"duplicate", memnode.Duplicate(), func(t *testing.T, p *peer, _ *memnode.Injection) {
			p.want(t, first+second+second+third)
		}},
		{"drop", memnode.Drop(), func(t *testing.T, p *peer, _ *memnode.Injection) {
			p.want(t, first+third)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node := start(t, memnode.Config{})
			in := node.Inject(tt.fault, memnode.On(memcached.Get))
			p := dial(t, node.Addr())
			p.say(t, requests)
			<-in.Hit()
			tt.then(t, p, in)
			if in.Struck() != 1 {
				t.Errorf("it struck %d times", in.Struck())
			}
			// Nobody else is struck.
			other := dial(t, node.Addr())
			other.say(t, "get a\r\n")
			if _, err := other.r.ReadString('\n'); err != nil {
				t.Error(err)
			}
		})
	}
}

// The request of a reply that does not come was carried out.
func TestFaultsStrikeTheReply(t *testing.T) {
	node := start(t, memnode.Config{})
	in := node.Inject(memnode.HangUp(), memnode.On(memcached.Incr))
	p := dial(t, node.Addr())
	p.say(t, "set n 0 0 1\r\n1\r\nincr n 1\r\n")
	p.want(t, "STORED\r\n")
	p.wantEnd(t, io.EOF)
	<-in.Hit()
	p = dial(t, node.Addr())
	p.say(t, "get n\r\n")
	p.want(t, "VALUE n 0 1\r\n2\r\nEND\r\n")
}

// A reply that was swapped waits for the next one, however late that comes.
func TestSwapAcrossBatches(t *testing.T) {
	node := start(t, memnode.Config{})
	node.Inject(memnode.Swap())
	p := dial(t, node.Addr())
	p.say(t, "get a\r\n")
	p.wantSilence(t)
	p.say(t, "version\r\nmn\r\n")
	p.want(t, "VERSION 1.6.18\r\nEND\r\nMN\r\n")

	node.Inject(memnode.Swap())
	p.say(t, "get a\r\nfoo\r\n")
	p.want(t, "ERROR\r\nEND\r\n")

	node.Inject(memnode.Swap(), memnode.Times(2))
	p.say(t, "get a\r\nmn\r\nversion\r\n")
	p.want(t, "END\r\nVERSION 1.6.18\r\nMN\r\n")
}

func TestWhichRequestsAreStruck(t *testing.T) {
	const requests = "get a\r\nmg a\r\nget b\r\nmg b\r\nget a b\r\nmd a\r\n"
	for _, tt := range []struct {
		name string
		when []memnode.When
		want string // the replies, with ! for a struck one
	}{
		{"the next", nil, "! EN END EN END NF"},
		{"the third", []memnode.When{memnode.Nth(3)}, "END EN ! EN END NF"},
		{"two", []memnode.When{memnode.Times(2)}, "! ! END EN END NF"},
		{"two from the second on", []memnode.When{memnode.Nth(2), memnode.Times(2)}, "END ! ! EN END NF"},
		{"all", []memnode.When{memnode.Always()}, "! ! ! ! ! !"},
		{"a command", []memnode.When{memnode.On(memcached.MetaGet)}, "END ! END EN END NF"},
		{"commands", []memnode.When{memnode.On(memcached.MetaGet, memcached.MetaDelete), memnode.Always()}, "END ! END ! END !"},
		{"a key", []memnode.When{memnode.Key("b"), memnode.Always()}, "END EN ! ! ! NF"},
		{"a key's second", []memnode.When{memnode.Key("b"), memnode.Nth(2)}, "END EN END ! END NF"},
		{"a command on a key", []memnode.When{memnode.Key("b"), memnode.On(memcached.Get)}, "END EN ! EN END NF"},
		{"none", []memnode.When{memnode.Key("c")}, "END EN END EN END NF"},
		{"matching", []memnode.When{memnode.Matching(func(r *memcached.Request) bool { return len(r.Keys) == 2 })}, "END EN END EN ! NF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node := start(t, memnode.Config{})
			in := node.Inject(memnode.Garbage("!\r\n"), tt.when...)
			p := dial(t, node.Addr())
			p.say(t, requests)
			p.want(t, strings.ReplaceAll(tt.want, " ", "\r\n")+"\r\n")
			if struck := strings.Count(tt.want, "!"); in.Struck() != struck {
				t.Errorf("it struck %d times, want %d", in.Struck(), struck)
			}
		})
	}
}

func TestSeveralInjections(t *testing.T) {
	node := start(t, memnode.Config{})
	p := dial(t, node.Addr())
	all := node.Inject(memnode.Garbage("1\r\n"), memnode.Always())
	node.Inject(memnode.Garbage("2\r\n"))
	p.say(t, "mn\r\nmn\r\n")
	p.want(t, "1\r\n1\r\n")
	all.Remove()
	p.say(t, "mn\r\nmn\r\n")
	p.want(t, "2\r\nMN\r\n")
	if all.Struck() != 2 {
		t.Errorf("it struck %d times, want 2", all.Struck())
	}
}

// A stall holds one connection, and ends with the node.
func TestStallEnds(t *testing.T) {
	for name, end := range map[string]func(*memnode.Node, *memnode.Injection){
		"Release": func(_ *memnode.Node, in *memnode.Injection) { in.Release() },
		"Remove":  func(_ *memnode.Node, in *memnode.Injection) { in.Remove() },
		"Kill":    func(n *memnode.Node, _ *memnode.Injection) { n.Kill() },
		"Close":   func(n *memnode.Node, _ *memnode.Injection) { n.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			node := start(t, memnode.Config{})
			in := node.Inject(memnode.Stall(), memnode.Key("a"), memnode.Always())
			p, other := dial(t, node.Addr()), dial(t, node.Addr())
			p.say(t, "get a\r\n")
			<-in.Hit()
			other.say(t, "get b\r\n")
			other.want(t, "END\r\n")
			end(node, in)
			switch name {
			case "Release", "Remove":
				p.want(t, "END\r\n")
				p.say(t, "get a\r\n")
				p.want(t, "END\r\n")
			default:
				p.wantEnd(t, io.EOF)
			}
		})
	}
}
