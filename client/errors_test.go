package client_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/proto/memcached"
	"github.com/ringside-cache/ringside/ring"
)

// TestErrorClasses: what a failure is, is told by one of our errors and no
// other, with the cause behind it, the node's name and never the key.
func TestErrorClasses(t *testing.T) {
	const key = "user:secret"
	classes := map[string]error{
		"ErrDial": client.ErrDial, "ErrConnLost": client.ErrConnLost, "ErrDesynchronised": client.ErrDesynchronised,
		"ErrOverloaded": client.ErrOverloaded, "ErrNodeDown": client.ErrNodeDown, "ErrTooLarge": client.ErrTooLarge,
		"ErrServerError": client.ErrServerError, "ErrClientError": client.ErrClientError, "ErrNoMeta": client.ErrNoMeta,
		"ErrClosed": client.ErrClosed, "ErrTimeout": client.ErrTimeout, "ErrMalformedKey": client.ErrMalformedKey,
	}
	get := func(ctx context.Context, c *client.Client) error {
		_, err := c.Get(ctx, key)
		return err
	}
	faulty := func(f memnode.Fault) func(t *testing.T) string {
		return func(t *testing.T) string {
			n := newMemnode(t)
			n.Inject(f, memnode.On(memcached.MetaGet, memcached.MetaSet, memcached.MetaArithmetic), memnode.Always())
			return n.Addr()
		}
	}
	// nobody gives an address at which nobody listens.
	nobody := func(t *testing.T) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	legacy := func(onGet func(net.Conn)) func(t *testing.T) string {
		return func(t *testing.T) string {
			s := newSlowServer(t, "1.4.39", 0, 0)
			s.onGet = onGet
			return s.addr()
		}
	}
	var isDNS *net.DNSError
	for _, tt := range []struct {
		name   string
		server func(t *testing.T) string
		cfg    client.Config
		do     func(ctx context.Context, c *client.Client) error
		class  string
		cause  error // for errors.Is
		as     any   // for errors.As
		nobody bool  // no node was asked
	}{
		{name: "refused", server: nobody, class: "ErrDial", cause: syscall.ECONNREFUSED},
		{name: "no such host", server: func(*testing.T) string { return "a..b:11211" }, class: "ErrDial", as: &isDNS},
		{name: "reset", server: faulty(memnode.Reset()), class: "ErrConnLost", cause: syscall.ECONNRESET},
		{name: "hung up", server: faulty(memnode.HangUp()), class: "ErrConnLost"},
		{name: "no answer", server: faulty(memnode.Stall()), class: "ErrTimeout", cause: context.DeadlineExceeded},
		{name: "garbage", server: faulty(memnode.Garbage("HUH\r\n")), class: "ErrDesynchronised"},
		{name: "a server error", server: faulty(memnode.Garbage("SERVER_ERROR out of memory\r\n")), class: "ErrServerError"},
		{
			name: "overload", server: faulty(memnode.Stall()), cfg: client.Config{MaxInFlight: 1}, class: "ErrOverloaded",
			do: func(ctx context.Context, c *client.Client) error {
				first := make(chan struct{})
				go func() { defer close(first); get(ctx, c) }() //nolint:errcheck // it times out
				defer func() { <-first }()
				for c.Stats().Nodes[0].InFlight == 0 {
					time.Sleep(time.Millisecond)
				}
				return get(ctx, c)
			},
		},
		{
			name: "ejected", server: nobody, cfg: client.Config{Failover: client.FailoverNone, Health: ring.HealthConfig{MaxEjectedShare: 1}}, class: "ErrNodeDown",
			do: func(ctx context.Context, c *client.Client) error { c.Eject(0); return get(ctx, c) },
		},
		{
			name: "too large", server: func(t *testing.T) string { return newMemnode(t).Addr() }, class: "ErrTooLarge",
			do: func(ctx context.Context, c *client.Client) error {
				return c.Set(ctx, &client.Item{Key: key, Value: make([]byte, 2<<20)})
			},
		},
		{
			name: "no number", server: func(t *testing.T) string { return newMemnode(t).Addr() }, class: "ErrClientError",
			do: func(ctx context.Context, c *client.Client) error {
				if err := c.Set(ctx, &client.Item{Key: key, Value: []byte("word")}); err != nil {
					return err
				}
				_, err := c.Increment(ctx, key, 1)
				return err
			},
		},
		{
			name: "a malformed key", server: nobody, class: "ErrMalformedKey", nobody: true,
			do: func(ctx context.Context, c *client.Client) error { _, err := c.Get(ctx, key+" "); return err },
		},
		{
			name: "closed", server: nobody, class: "ErrClosed",
			do: func(ctx context.Context, c *client.Client) error { c.Close(); return get(ctx, c) },
		},
		{
			name: "a caller that left", server: faulty(memnode.Stall()), cause: context.Canceled,
			do: func(ctx context.Context, c *client.Client) error {
				ctx, cancel := context.WithCancel(ctx)
				time.AfterFunc(20*time.Millisecond, cancel)
				return get(ctx, c)
			},
		},
		{
			name: "legacy, refused", class: "ErrDial", cause: syscall.ECONNREFUSED,
			server: func(t *testing.T) string {
				s := newSlowServer(t, "1.4.39", 0, 0)
				s.onGet = func(net.Conn) { s.listener.Close() }
				return s.addr()
			},
			do: func(ctx context.Context, c *client.Client) error {
				get(ctx, c) //nolint:errcheck // the last that is answered
				c.Disconnect(0)
				return get(ctx, c)
			},
		},
		{
			name: "legacy, reset", class: "ErrConnLost", cause: syscall.ECONNRESET,
			server: legacy(func(nc net.Conn) { nc.(*net.TCPConn).SetLinger(0); nc.Close() }),
		},
		{name: "legacy, hung up", server: legacy(func(nc net.Conn) { nc.Close() }), class: "ErrConnLost"},
		{name: "legacy, garbage", server: legacy(func(nc net.Conn) { nc.Write([]byte("HUH\r\n")) }), class: "ErrDesynchronised"},
		{
			name: "legacy, no answer", server: legacy(func(net.Conn) { time.Sleep(time.Second) }), class: "ErrTimeout",
			cfg: client.Config{Timeout: 300 * time.Millisecond}, cause: context.DeadlineExceeded,
		},
		{
			name: "legacy, a lease's flags", server: legacy(nil), class: "ErrNoMeta",
			do: func(ctx context.Context, c *client.Client) error {
				var b client.Batch
				b.Meta(key, &memcached.Request{Command: memcached.MetaGet, Key: []byte(key), Meta: metaFlags("v", "N30")})
				c.Do(ctx, &b) //nolint:errcheck // the same as the op's
				_, err := b.Reply(0)
				return err
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := tt.cfg
			cfg.Servers = []string{"cache1@" + tt.server(t)}
			if cfg.Timeout == 0 {
				cfg.Timeout = time.Second
			}
			c := newClient(t, cfg)
			do := tt.do
			if do == nil {
				do = get
			}
			err := do(t.Context(), c)
			var op *client.OpError
			if !errors.As(err, &op) {
				t.Fatalf("%v is no *OpError", err)
			}
			for name, class := range classes {
				if got := errors.Is(err, class); got != (name == tt.class) {
					t.Errorf("errors.Is(%q, %s) = %v", err, name, got)
				}
			}
			if tt.cause != nil && !errors.Is(err, tt.cause) {
				t.Errorf("%q (%T) does not lead to %v", err, op.Err, tt.cause)
			}
			if tt.as != nil && !errors.As(err, tt.as) {
				t.Errorf("%q does not lead to a %T", err, tt.as)
			}
			if want := "cache1"; !tt.nobody && (op.Node != want || !strings.Contains(err.Error(), want)) {
				t.Errorf("%q does not name %s", err, want)
			}
			if strings.Contains(err.Error(), "secret") || !strings.HasPrefix(op.Key, key) {
				t.Errorf("%q prints the key, or lost it: %q", err, op.Key)
			}
		})
	}
}
