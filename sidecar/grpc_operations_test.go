package sidecar_test

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringside-cache/ringside/internal/realserver"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
	"github.com/ringside-cache/ringside/sidecar"

	"github.com/ringside-cache/ringside/client"
)

// onMemcached runs a sidecar in front of a real memcached.
func onMemcached(t *testing.T, cfg sidecar.Config) (*running, *realserver.Server) {
	t.Helper()
	server := realserver.Memcached(t)
	cfg.Client.Servers = []string{"node@" + server.Addr()}
	return start(t, cfg), server
}

// TestGRPCOperations has every single operation, on a real memcached.
func TestGRPCOperations(t *testing.T) {
	t.Parallel()
	s, _ := onMemcached(t, sidecar.Config{GRPC: "on", Memcached: "on"})
	c, ctx, p := cacheOf(t, s), within(t), dial(t, s.addr("memcached"))
	is := func(value string) {
		t.Helper()
		resp, err := c.Get(ctx, &ringsidev1.GetRequest{Key: key})
		got := "nothing"
		if resp.GetFound() {
			got = string(resp.GetValue().GetValue())
		}
		if err != nil || got != value {
			t.Errorf("there is %q, %v, want %q", got, err, value)
		}
	}
	stored := func(want bool) func(*ringsidev1.StoreResponse, error) {
		t.Helper()
		return func(resp *ringsidev1.StoreResponse, err error) {
			t.Helper()
			if err != nil || resp.GetStored() != want {
				t.Errorf("stored %v, %v, want %v", resp.GetStored(), err, want)
			}
		}
	}
	stored(false)(c.Replace(ctx, &ringsidev1.ReplaceRequest{Key: key, Value: []byte("r")}))
	stored(false)(c.Append(ctx, &ringsidev1.AppendRequest{Key: key, Value: []byte("r")}))
	stored(false)(c.Prepend(ctx, &ringsidev1.PrependRequest{Key: key, Value: []byte("r")}))
	is("nothing")
	stored(true)(c.Add(ctx, &ringsidev1.AddRequest{Key: key, Value: []byte("a"), Flags: 9, TtlSeconds: 500}))
	p.wantTTL("key", 500)
	p.want("get key\r\n", "VALUE key 9 1\r\na\r\nEND\r\n")
	stored(false)(c.Add(ctx, &ringsidev1.AddRequest{Key: key, Value: []byte("b")}))
	stored(true)(c.Append(ctx, &ringsidev1.AppendRequest{Key: key, Value: []byte(">")}))
	stored(true)(c.Prepend(ctx, &ringsidev1.PrependRequest{Key: key, Value: []byte("<")}))
	is("<a>")
	stored(true)(c.Replace(ctx, &ringsidev1.ReplaceRequest{Key: key, Value: []byte("r"), Flags: 3, TtlSeconds: 400}))
	p.want("get key\r\n", "VALUE key 3 1\r\nr\r\nEND\r\n")
	p.wantTTL("key", 400)

	if resp, err := c.Touch(ctx, &ringsidev1.TouchRequest{Key: key, TtlSeconds: 300}); err != nil || !resp.GetFound() {
		t.Errorf("touch: %v, %v", resp, err)
	}
	p.wantTTL("key", 300)
	if resp, err := c.Touch(ctx, &ringsidev1.TouchRequest{Key: []byte("none"), TtlSeconds: 300}); err != nil || resp.GetFound() {
		t.Errorf("touch of nothing: %v, %v", resp, err)
	}
	resp, err := c.GetAndTouch(ctx, &ringsidev1.GetAndTouchRequest{Key: key, TtlSeconds: 200})
	if err != nil || string(resp.GetValue().GetValue()) != "r" || resp.GetValue().GetFlags() != 3 {
		t.Errorf("get and touch: %v, %v", resp, err)
	}
	p.wantTTL("key", 200)

	count := func(want uint64, found bool) func(*ringsidev1.CountResponse, error) {
		return func(resp *ringsidev1.CountResponse, err error) {
			t.Helper()
			if err != nil || resp.GetNumber() != want || resp.GetFound() != found {
				t.Errorf("%v, %v, want %d %v", resp, err, want, found)
			}
		}
	}
	count(0, false)(c.Increment(ctx, &ringsidev1.IncrementRequest{Key: []byte("n"), Delta: 1}))
	p.want("set n 0 0 2\r\n10\r\n", "STORED\r\n")
	count(15, true)(c.Increment(ctx, &ringsidev1.IncrementRequest{Key: []byte("n"), Delta: 5}))
	count(0, true)(c.Decrement(ctx, &ringsidev1.DecrementRequest{Key: []byte("n"), Delta: 500}))
	if _, err := c.Increment(ctx, &ringsidev1.IncrementRequest{Key: key, Delta: 1}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("increment of no number: %v", err)
	}

	if _, err := c.FlushAll(ctx, &ringsidev1.FlushAllRequest{}); err != nil {
		t.Error(err)
	}
	is("nothing")
}

var key = []byte("key")

func TestGRPCCompareAndSwap(t *testing.T) {
	t.Parallel()
	s, server := onMemcached(t, sidecar.Config{GRPC: "on"})
	c, ctx := cacheOf(t, s), within(t)
	set := func(value string) {
		t.Helper()
		if _, err := c.Set(ctx, &ringsidev1.SetRequest{Key: key, Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	version := func(c ringsidev1.CacheClient) []byte {
		t.Helper()
		resp, err := c.Get(ctx, &ringsidev1.GetRequest{Key: key})
		if err != nil || !resp.GetFound() {
			t.Fatal(resp, err)
		}
		return resp.GetValue().GetVersion()
	}
	cas := func(c ringsidev1.CacheClient, v []byte, want ringsidev1.CompareAndSwapResponse_Outcome) {
		t.Helper()
		resp, err := c.CompareAndSwap(ctx, &ringsidev1.CompareAndSwapRequest{Key: key, Value: []byte("swapped"), Version: v})
		if err != nil || resp.GetOutcome() != want {
			t.Errorf("%v, %v, want %v", resp.GetOutcome(), err, want)
		}
	}
	set("1")
	v := version(c)
	cas(c, v, ringsidev1.CompareAndSwapResponse_OUTCOME_STORED)
	cas(c, v, ringsidev1.CompareAndSwapResponse_OUTCOME_CONFLICT)
	v = version(c)
	if _, err := c.Delete(ctx, &ringsidev1.DeleteRequest{Key: key}); err != nil {
		t.Fatal(err)
	}
	cas(c, v, ringsidev1.CompareAndSwapResponse_OUTCOME_NOT_FOUND)
	for _, bad := range [][]byte{nil, {1, 2}, make([]byte, 100)} {
		if _, err := c.CompareAndSwap(ctx, &ringsidev1.CompareAndSwapRequest{Key: key, Version: bad}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("version of %d bytes: %v", len(bad), err)
		}
	}

	// Another sidecar's connections have the same numbers.
	set("2")
	v = version(c)
	other := start(t, sidecar.Config{GRPC: "on", Client: client.Config{Servers: []string{"node@" + server.Addr()}}})
	oc := cacheOf(t, other)
	version(oc)
	cas(oc, v, ringsidev1.CompareAndSwapResponse_OUTCOME_CONFLICT)

	// And CAS ids begin again when the node does.
	server.Kill()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node is back", func() bool {
		_, err := c.Set(ctx, &ringsidev1.SetRequest{Key: key, Value: []byte("newer")})
		return err == nil
	})
	cas(c, v, ringsidev1.CompareAndSwapResponse_OUTCOME_CONFLICT)
}

// A status names the node and says whether the request may be sent again.
func TestGRPCErrorDetail(t *testing.T) {
	t.Parallel()
	s, server := onMemcached(t, sidecar.Config{GRPC: "on", Client: client.Config{Health: never}})
	c, ctx := cacheOf(t, s), within(t)
	server.Kill()
	detail := func(err error) *ringsidev1.ErrorDetail {
		t.Helper()
		for _, d := range status.Convert(err).Details() {
			if d, ok := d.(*ringsidev1.ErrorDetail); ok {
				return d
			}
		}
		t.Fatalf("%v has no detail", err)
		return nil
	}
	_, err := c.Get(ctx, &ringsidev1.GetRequest{Key: key})
	if d := detail(err); d.GetNode() != "node" || !d.GetSafeToRetry() {
		t.Errorf("%v: %v", err, d)
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node is back", func() bool {
		_, err := c.Get(ctx, &ringsidev1.GetRequest{Key: key})
		return err == nil
	})
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	_, err = c.Get(ctx, &ringsidev1.GetRequest{Key: key})
	if d := detail(err); d.GetNode() != "node" || d.GetSafeToRetry() || status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v: %v", err, d)
	}
}

// The requests of all connections together are bounded.
func TestGRPCMaxRequests(t *testing.T) {
	t.Parallel()
	s, server := onMemcached(t, sidecar.Config{GRPC: "on", MaxRequests: 1, Client: client.Config{Health: never, Timeout: patience}})
	c, ctx := cacheOf(t, s), within(t)
	if _, err := c.Get(ctx, &ringsidev1.GetRequest{Key: key}); err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	hung, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := c.Get(hung, &ringsidev1.GetRequest{Key: key})
		done <- err
	}()
	eventually(t, "one is under way", func() bool { return s.Client().Stats().Nodes[0].InFlight > 0 })
	if _, err := c.Get(ctx, &ringsidev1.GetRequest{Key: key}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the next: %v", err)
	}
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Error(err)
	}
}
