package sidecar_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/sidecar"
)

// TestMain proves that no test leaves a goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests; none of them is meant to use it.
const patience = 20 * time.Second

// running is a sidecar that runs until the test's end.
type running struct {
	*sidecar.Sidecar
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // of Run, once ended is closed
}

// free makes listeners that were not asked for off, and the others take a
// free port.
func free(cfg sidecar.Config) sidecar.Config {
	for _, addr := range []*string{&cfg.Memcached, &cfg.GRPC, &cfg.Admin} {
		switch *addr {
		case "":
			*addr = sidecar.Off
		case "on":
			*addr = "127.0.0.1:0"
		}
	}
	return cfg
}

// start runs a sidecar. Listeners are off unless the config says otherwise,
// with "on" for a free port. Its end must be without an error.
func start(t testing.TB, cfg sidecar.Config) *running {
	t.Helper()
	if cfg.Client.Timeout == 0 {
		cfg.Client.Timeout = 3 * time.Second // a busy machine is no hung node
	}
	s, err := sidecar.Start(free(cfg))
	if err != nil {
		t.Fatal(err)
	}
	return run(t, s)
}

// run runs a sidecar until the test's end, which must be without an error.
func run(t testing.TB, s *sidecar.Sidecar) *running {
	t.Helper()
	r := &running{Sidecar: s, ended: make(chan struct{})}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(r.ended)
		r.err = s.Run(ctx)
	}()
	t.Cleanup(func() { r.stop(t) })
	return r
}

// stop drains the sidecar as SIGTERM does, and waits for its end.
func (r *running) stop(t testing.TB) {
	t.Helper()
	r.cancel()
	select {
	case <-r.ended:
	case <-time.After(patience):
		t.Fatal("the sidecar did not end")
	}
	if r.err != nil {
		t.Errorf("Run = %v", r.err)
	}
}

// addr gives a listener's address.
func (r *running) addr(name string) string { return r.Addresses()[name] }

// newNode starts a memnode that the test's end closes.
func newNode(t testing.TB) *memnode.Node {
	t.Helper()
	n, err := memnode.Start(memnode.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// onNode runs a memcached listener in front of a memnode.
func onNode(t testing.TB, cfg sidecar.Config) (*running, *memnode.Node) {
	t.Helper()
	n := newNode(t)
	cfg.Client.Servers = []string{n.Addr()}
	if cfg.Client.Timeout == 0 {
		cfg.Client.Timeout = patience / 2
	}
	if cfg.Memcached == "" {
		cfg.Memcached = "on"
	}
	return start(t, cfg), n
}

// shortDir gives a directory whose paths fit into a socket's address.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ringside")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// peer is one raw connection.
type peer struct {
	t  testing.TB
	nc net.Conn
	r  *bufio.Reader
}

func dial(t testing.TB, addr string) *peer {
	t.Helper()
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	nc, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return &peer{t: t, nc: nc, r: bufio.NewReader(nc)}
}

// send writes text. The peer may have closed before it has read everything,
// so a failure shows in what it answers.
func (p *peer) send(text string) { io.WriteString(p.nc, text) }

// closed stands for the end of the connection in what a peer answers.
const closed = "(closed)"

// until gives what comes before a line, or before the end of the connection.
func (p *peer) until(end string) string {
	p.t.Helper()
	var got bytes.Buffer
	for {
		line, err := p.r.ReadBytes('\n')
		if string(line) == end {
			return got.String()
		}
		got.Write(line)
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			return got.String() + closed
		default:
			p.t.Fatalf("no %q after %q: %v", end, shorten(got.String()), err)
		}
	}
}

// ask sends text and an mn, and gives the answer to text.
func (p *peer) ask(text string) string {
	p.t.Helper()
	p.send(text + "mn\r\n")
	return p.until("MN\r\n")
}

// want asks and compares.
func (p *peer) want(text, want string) {
	p.t.Helper()
	if got := p.ask(text); got != want {
		p.t.Errorf("%q is answered %q, want %q", shorten(text), shorten(got), shorten(want))
	}
}

// wantTTL checks the seconds that are left to a key which has just got so many.
func (p *peer) wantTTL(key string, seconds int) {
	p.t.Helper()
	got := p.ask("mg " + key + " t\r\n")
	var left int
	if _, err := fmt.Sscanf(got, "HD t%d\r\n", &left); err != nil || left > seconds || left < seconds-int(patience/time.Second) {
		p.t.Errorf("the time to live of %s is answered %q, want %d s", key, got, seconds)
	}
}

func shorten(s string) string {
	if len(s) > 300 {
		return fmt.Sprintf("%s… %d bytes", s[:300], len(s))
	}
	return s
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %v: %s", patience, what)
		case <-tick.C:
		}
	}
}

// nodes is a client config with a timeout that a busy machine keeps.
func nodes(servers ...string) client.Config {
	return client.Config{Servers: servers, Timeout: patience / 2}
}
