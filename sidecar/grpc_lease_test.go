package sidecar_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringside-cache/ringside/client"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
	"github.com/ringside-cache/ringside/sidecar"
	"github.com/ringside-cache/ringside/stampede"
)

const (
	fresh    = ringsidev1.LeaseResponse_STATE_FRESH
	stale    = ringsidev1.LeaseResponse_STATE_STALE
	won      = ringsidev1.LeaseResponse_STATE_WON
	wait     = ringsidev1.LeaseResponse_STATE_WAIT
	notFound = ringsidev1.LeaseResponse_STATE_NOT_FOUND
	failed   = ringsidev1.LeaseResponse_STATE_FAILED
)

// A lessee is a caller of the lease API.
type lessee struct {
	t   *testing.T
	c   ringsidev1.CacheClient
	ctx context.Context
}

func (l lessee) lease(req *ringsidev1.LeaseRequest, state ringsidev1.LeaseResponse_State, value string) *ringsidev1.LeaseResponse {
	l.t.Helper()
	if req.Key == nil {
		req.Key = key
	}
	resp, err := l.c.Lease(l.ctx, req)
	if err != nil {
		l.t.Fatal(err)
	}
	l.is(resp, state, value)
	return resp
}

func (l lessee) is(resp *ringsidev1.LeaseResponse, state ringsidev1.LeaseResponse_State, value string) {
	l.t.Helper()
	if resp.GetState() != state || string(resp.GetValue()) != value || (len(resp.GetToken()) > 0) != (state == won) {
		l.t.Fatalf("%v, want %v %q", resp, state, value)
	}
}

func (l lessee) fill(token []byte, value string, want ringsidev1.FillResponse_Outcome) {
	l.t.Helper()
	resp, err := l.c.Fill(l.ctx, &ringsidev1.FillRequest{Token: token, Value: []byte(value)})
	if err != nil || resp.GetOutcome() != want {
		l.t.Errorf("fill: %v, %v, want %v", resp.GetOutcome(), err, want)
	}
}

func (l lessee) release(req *ringsidev1.ReleaseRequest) {
	l.t.Helper()
	if _, err := l.c.Release(l.ctx, req); err != nil {
		l.t.Error(err)
	}
}

func (l lessee) invalidate(req *ringsidev1.InvalidateRequest) *ringsidev1.InvalidateResponse {
	l.t.Helper()
	req.Key = key
	resp, err := l.c.Invalidate(l.ctx, req)
	if err != nil || resp.GetOwnerDown() {
		l.t.Fatal(resp, err)
	}
	return resp
}

// TestGRPCLease has every state of the lease API, on a real memcached.
func TestGRPCLease(t *testing.T) {
	t.Parallel()
	s, _ := onMemcached(t, sidecar.Config{GRPC: "on"})
	l := lessee{t, cacheOf(t, s), within(t)}
	first := l.lease(&ringsidev1.LeaseRequest{}, won, "")
	l.lease(&ringsidev1.LeaseRequest{}, wait, "")
	l.fill(first.GetToken(), "1", ringsidev1.FillResponse_OUTCOME_STORED)
	l.fill(first.GetToken(), "1", ringsidev1.FillResponse_OUTCOME_UNBOUND)
	l.release(&ringsidev1.ReleaseRequest{Token: first.GetToken()}) // is safe to repeat
	l.lease(&ringsidev1.LeaseRequest{}, fresh, "1")

	// Fill on invalidate: others are served the old value meanwhile.
	writer := l.invalidate(&ringsidev1.InvalidateRequest{WantLease: true}).GetLease()
	l.is(writer, won, "1")
	l.lease(&ringsidev1.LeaseRequest{}, stale, "1")
	// A change that comes in between voids it.
	if got := l.invalidate(&ringsidev1.InvalidateRequest{}).GetLease(); got != nil {
		t.Errorf("a lease that was not asked for: %v", got)
	}
	l.fill(writer.GetToken(), "2", ringsidev1.FillResponse_OUTCOME_CHANGED)
	reader := l.lease(&ringsidev1.LeaseRequest{}, won, "1")
	// And a writer takes it from a reader.
	writer = l.invalidate(&ringsidev1.InvalidateRequest{WantLease: true}).GetLease()
	l.is(writer, won, "1")
	l.fill(reader.GetToken(), "of before", ringsidev1.FillResponse_OUTCOME_CHANGED)
	l.fill(writer.GetToken(), "3", ringsidev1.FillResponse_OUTCOME_STORED)
	l.lease(&ringsidev1.LeaseRequest{}, fresh, "3")

	zero := uint32(0)
	l.invalidate(&ringsidev1.InvalidateRequest{GraceSeconds: &zero})
	gone := l.lease(&ringsidev1.LeaseRequest{}, won, "")
	if _, err := l.c.Delete(l.ctx, &ringsidev1.DeleteRequest{Key: key}); err != nil {
		t.Fatal(err)
	}
	l.fill(gone.GetToken(), "late", ringsidev1.FillResponse_OUTCOME_GONE)

	none := l.lease(&ringsidev1.LeaseRequest{}, won, "")
	l.release(&ringsidev1.ReleaseRequest{Token: none.GetToken(), Outcome: ringsidev1.ReleaseRequest_OUTCOME_NOT_FOUND, TtlSeconds: 60})
	l.lease(&ringsidev1.LeaseRequest{}, notFound, "")
	l.invalidate(&ringsidev1.InvalidateRequest{})
	bad := l.lease(&ringsidev1.LeaseRequest{}, won, "")
	l.release(&ringsidev1.ReleaseRequest{Token: bad.GetToken(), Outcome: ringsidev1.ReleaseRequest_OUTCOME_FAILED, TtlSeconds: 60, Message: "no database"})
	if got := l.lease(&ringsidev1.LeaseRequest{}, failed, "").GetMessage(); got != "stampede: the load failed elsewhere: no database" {
		t.Errorf("the message is %q", got)
	}
}

// Those who wait are woken by the fill; a release hands the lease on.
func TestGRPCLeaseWaits(t *testing.T) {
	t.Parallel()
	s, _ := onMemcached(t, sidecar.Config{GRPC: "on", Admin: "on"})
	l := lessee{t, cacheOf(t, s), within(t)}
	first := l.lease(&ringsidev1.LeaseRequest{}, won, "")
	results := make(chan *ringsidev1.LeaseResponse, 10)
	for range cap(results) {
		go func() {
			resp, err := l.c.Lease(l.ctx, &ringsidev1.LeaseRequest{Key: key, WaitMillis: 20000})
			if err != nil {
				t.Error(err)
			}
			results <- resp
		}()
	}
	eventually(t, "all of them wait", func() bool { return s.metric(t, "ringside_lease_waiting") == float64(cap(results)) })
	l.release(&ringsidev1.ReleaseRequest{Token: first.GetToken()})
	second := <-results
	l.is(second, won, "")
	l.fill(second.GetToken(), "v", ringsidev1.FillResponse_OUTCOME_STORED)
	for range cap(results) - 1 {
		l.is(<-results, fresh, "v")
	}
	began := time.Now()
	l.lease(&ringsidev1.LeaseRequest{Key: []byte("other")}, won, "")
	l.lease(&ringsidev1.LeaseRequest{Key: []byte("other"), WaitMillis: 200}, wait, "")
	if d := time.Since(began); d < 200*time.Millisecond {
		t.Errorf("waited %v of 200 ms", d)
	}
}

// A lease is released when the connection of its caller ends.
func TestGRPCLeaseOfALostConnection(t *testing.T) {
	t.Parallel()
	s, _ := onMemcached(t, sidecar.Config{GRPC: "unix:" + shortDir(t) + "/grpc"})
	l := lessee{t, cacheOf(t, s), within(t)}
	cc := dialGRPC(t, s)
	dying := lessee{t, ringsidev1.NewCacheClient(cc), l.ctx}
	lost := dying.lease(&ringsidev1.LeaseRequest{}, won, "")
	l.lease(&ringsidev1.LeaseRequest{}, wait, "")
	cc.Close()
	next := l.lease(&ringsidev1.LeaseRequest{WaitMillis: 20000}, won, "")
	l.fill(lost.GetToken(), "late", ringsidev1.FillResponse_OUTCOME_UNBOUND)
	l.fill(next.GetToken(), "v", ringsidev1.FillResponse_OUTCOME_STORED)
}

// A Go service with a stampede.Cache and a caller of the sidecar share keys.
func TestGRPCLeaseBesideACache(t *testing.T) {
	t.Parallel()
	s, server := onMemcached(t, sidecar.Config{GRPC: "on"})
	l := lessee{t, cacheOf(t, s), within(t)}
	c, err := client.New(client.Config{Servers: []string{"node@" + server.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cache, err := stampede.New(c, stampede.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	first := l.lease(&ringsidev1.LeaseRequest{}, won, "")
	fetched := make(chan string, 1)
	go func() {
		v, err := cache.Fetch(l.ctx, string(key), func(context.Context, string) ([]byte, error) { return []byte("loaded twice"), nil })
		if err != nil {
			t.Error(err)
		}
		fetched <- string(v)
	}()
	eventually(t, "the other asks", func() bool { return cache.Stats().Wins+cache.Stats().FreshHits == 0 })
	l.fill(first.GetToken(), "v", ringsidev1.FillResponse_OUTCOME_STORED)
	if v := <-fetched; v != "v" {
		t.Errorf("fetched %q", v)
	}
	if err := cache.Invalidate(l.ctx, string(key)); err != nil {
		t.Fatal(err)
	}
	l.lease(&ringsidev1.LeaseRequest{}, won, "v")
}

func TestGRPCLeaseBadInput(t *testing.T) {
	t.Parallel()
	s, _ := onMemcached(t, sidecar.Config{GRPC: "on", MaxValueBytes: 1000, Stampede: stampede.Config{MaxLoads: 1}})
	c, ctx := cacheOf(t, s), within(t)
	u := func(n uint32) *uint32 { return &n }
	lease := func(req *ringsidev1.LeaseRequest) error { _, err := c.Lease(ctx, req); return err }
	for name, err := range map[string]error{
		"empty key":   lease(&ringsidev1.LeaseRequest{}),
		"space":       lease(&ringsidev1.LeaseRequest{Key: []byte("a b")}),
		"no lease":    lease(&ringsidev1.LeaseRequest{Key: key, LeaseSeconds: u(0)}),
		"short lease": lease(&ringsidev1.LeaseRequest{Key: key, LeaseSeconds: u(1)}),
		"long grace":  lease(&ringsidev1.LeaseRequest{Key: key, GraceSeconds: u(31 * 86400)}),
		"long wait":   lease(&ringsidev1.LeaseRequest{Key: key, WaitMillis: 60001}),
		"no token": func() error {
			_, err := c.Fill(ctx, &ringsidev1.FillRequest{})
			return err
		}(),
		"large value": func() error {
			_, err := c.Fill(ctx, &ringsidev1.FillRequest{Token: []byte("t"), Value: make([]byte, 1001)})
			return err
		}(),
		"long ttl": func() error {
			_, err := c.Fill(ctx, &ringsidev1.FillRequest{Token: []byte("t"), TtlSeconds: 31 * 86400})
			return err
		}(),
		"unknown outcome": func() error {
			_, err := c.Release(ctx, &ringsidev1.ReleaseRequest{Token: []byte("t"), Outcome: 99})
			return err
		}(),
	} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := lease(&ringsidev1.LeaseRequest{Key: key}); err != nil {
		t.Fatal(err)
	}
	if err := lease(&ringsidev1.LeaseRequest{Key: []byte("second")}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("over MaxLoads: %v", err)
	}
}

// Those who wait do not keep out the one that they wait for.
func TestGRPCLeaseWaitersAreNoWork(t *testing.T) {
	t.Parallel()
	s, _ := onMemcached(t, sidecar.Config{GRPC: "on", Admin: "on", MaxRequests: 4})
	l := lessee{t, cacheOf(t, s), within(t)}
	first := l.lease(&ringsidev1.LeaseRequest{}, won, "")
	results := make(chan *ringsidev1.LeaseResponse, 4)
	for range cap(results) {
		go func() {
			resp, err := l.c.Lease(l.ctx, &ringsidev1.LeaseRequest{Key: key, WaitMillis: 20000})
			if err != nil {
				t.Error(err)
			}
			results <- resp
		}()
	}
	eventually(t, "all of them wait", func() bool { return s.metric(t, "ringside_lease_waiting") == float64(cap(results)) })
	l.lease(&ringsidev1.LeaseRequest{WaitMillis: 20000}, wait, "") // more do not
	l.fill(first.GetToken(), "v", ringsidev1.FillResponse_OUTCOME_STORED)
	for range cap(results) {
		l.is(<-results, fresh, "v")
	}
}

// A drain answers those who wait at once, and that is no error.
func TestGRPCLeaseDrain(t *testing.T) {
	t.Parallel()
	s, _ := onMemcached(t, sidecar.Config{GRPC: "on", Admin: "on", DrainTimeout: patience})
	l := lessee{t, cacheOf(t, s), within(t)}
	l.lease(&ringsidev1.LeaseRequest{}, won, "")
	done := make(chan error, 1)
	go func() {
		resp, err := l.c.Lease(l.ctx, &ringsidev1.LeaseRequest{Key: key, WaitMillis: 60000})
		if err == nil && resp.GetState() != wait {
			t.Errorf("%v", resp)
		}
		done <- err
	}()
	eventually(t, "it waits", func() bool { return s.metric(t, "ringside_lease_waiting") == 1 })
	s.cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.stop(t)
}

// Whatever bytes a marker has, what is answered is UTF-8.
func TestGRPCLeaseOfAnOddMarker(t *testing.T) {
	t.Parallel()
	s, _ := onMemcached(t, sidecar.Config{GRPC: "on", Memcached: "on"})
	l, p := lessee{t, cacheOf(t, s), within(t)}, dial(t, s.addr("memcached"))
	p.want("set key 1381188611 0 1\r\n\xff\r\n", "STORED\r\n") // the flags of a failed load
	none := uint32(0)
	if got := l.lease(&ringsidev1.LeaseRequest{GraceSeconds: &none}, failed, "").GetMessage(); got != "stampede: the load failed elsewhere: ?" {
		t.Errorf("%q", got)
	}
}
