package sidecar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
)

// local starts a sidecar of an embedded node that serves nothing.
func local(t *testing.T) *Sidecar {
	t.Helper()
	s, err := Start(Config{Embedded: 1, Memcached: "127.0.0.1:0", GRPC: "127.0.0.1:0", Admin: Off, Client: client.Config{Timeout: 20 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	t.Cleanup(func() { s.Run(ctx) })
	return s
}

// loopback gives two ends of a connection.
func loopback(t *testing.T) (here, there net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if there, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { there.Close() })
	if here, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close() })
	there.SetDeadline(time.Now().Add(20 * time.Second))
	return here, there
}

// A boundedConn counts how often its read deadline is set.
type boundedConn struct {
	*net.TCPConn
	bounds atomic.Int64
}

func (c *boundedConn) SetReadDeadline(t time.Time) error {
	c.bounds.Add(1)
	return c.TCPConn.SetReadDeadline(t)
}

// TestBusyIsServedSo: a connection on which one request follows the other is
// served as a busy one, which needs a read deadline, and one of a few requests
// is not.
func TestBusyIsServedSo(t *testing.T) {
	s := local(t)
	here, there := loopback(t)
	nc := &boundedConn{TCPConn: here.(*net.TCPConn)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		newMemcachedConn(s.memcached, nc).serve()
	}()
	ask := func() {
		t.Helper()
		b := make([]byte, 100)
		if _, err := there.Write([]byte("get a\r\n")); err != nil {
			t.Fatal(err)
		}
		if n, err := there.Read(b); string(b[:n]) != "END\r\n" {
			t.Fatalf("%q, %v", b[:n], err)
		}
	}
	for range busyExchanges {
		ask()
	}
	if n := nc.bounds.Load(); n != 0 {
		t.Errorf("the read deadline was set %d times for a few requests", n)
	}
	for range 20 * busyExchanges {
		ask()
	}
	if nc.bounds.Load() == 0 {
		t.Error("a busy connection was not served as one")
	}
	there.Close()
	<-served
}

// TestCallsOfOneRead: what the calls that a connection of gRPC read together ask
// a node is written when it reads on.
func TestCallsOfOneRead(t *testing.T) {
	node, err := memnode.Start(memnode.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	c, err := client.New(client.Config{Servers: []string{node.Addr()}, ShareWrites: true, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	here, there := loopback(t)
	nc := newLeasingListener(nil, nil).newConn(&limitedConn{Conn: here}, &client.Cork{Longest: time.Hour})
	if plain := nc.raw.Plain(); plain != (runtime.GOOS == "linux" || runtime.GOOS == "darwin") {
		t.Errorf("the connection is read as a plain socket: %t", plain)
	}
	ctx := corked(peer.NewContext(t.Context(), &peer.Peer{Addr: nc.RemoteAddr()}))

	for _, tt := range []struct {
		size, room int
		held       bool
	}{{manyCalls, 1000, true}, {manyCalls - 1, 1000, false}, {500, 500, false}} {
		t.Run(fmt.Sprint(tt.size, " bytes of ", tt.room), func(t *testing.T) {
			before := c.Stats().Nodes[0]
			if _, err := there.Write(make([]byte, tt.size)); err != nil {
				t.Fatal(err)
			}
			if n, err := nc.Read(make([]byte, tt.room)); n != tt.size || err != nil {
				t.Fatalf("Read = %d, %v", n, err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := c.Get(ctx, "a")
				done <- err
			}()
			if tt.held {
				for end := time.Now().Add(20 * time.Second); c.Stats().Nodes[0].InFlight == 0; time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						t.Fatal("nothing is under way")
					}
				}
				select {
				case err := <-done:
					t.Fatalf("Get = %v before the connection was read again", err)
				case <-time.After(20 * time.Millisecond):
				}
				if n := c.Stats().Nodes[0].Writes - before.Writes; n != 0 {
					t.Errorf("%d writes before the connection was read again", n)
				}
				there.Write([]byte("x"))
				nc.Read(make([]byte, 10))
			}
			if err := <-done; !errors.Is(err, client.ErrCacheMiss) {
				t.Errorf("Get = %v", err)
			}
		})
	}
}

// TestWriteMoreThanFits: what the socket does not take at once follows, in order,
// and the write deadline ends it where nobody reads.
func TestWriteMoreThanFits(t *testing.T) {
	here, there := loopback(t)
	nc := newLeasingListener(nil, nil).newConn(&limitedConn{Conn: here}, nil)
	all := make([]byte, 32<<20)
	for i := range all {
		all[i] = byte(i ^ i>>11)
	}
	written := make(chan error, 1)
	go func() {
		// Each is more than the socket takes at once.
		for rest := all; len(rest) > 0; {
			n, err := nc.Write(rest[:min(len(rest), 9<<20)])
			if err == nil && n < min(len(rest), 9<<20) {
				err = fmt.Errorf("%d bytes were written, and no error", n)
			}
			if err != nil {
				written <- err
				return
			}
			rest = rest[n:]
		}
		written <- nil
	}()
	got := make([]byte, len(all))
	if _, err := io.ReadFull(there, got); err != nil || !bytes.Equal(got, all) {
		t.Errorf("other bytes than were written, %v", err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	nc.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := nc.Write(all); n == 0 || n >= len(all) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write = %d, %v where nobody reads, want a part and that the deadline was exceeded", n, err)
	}
}
