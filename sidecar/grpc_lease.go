package sidecar

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/internal/nonblock"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
	"github.com/ringside-cache/ringside/stampede"
)

// A leasingListener tells the broker when a connection ends, so that the
// leases which were lent over it are released.
type leasingListener struct {
	net.Listener
	gone func(*stampede.Holder)

	// mu guards open, and silent: the connections that have sent nothing yet,
	// for which GracefulStop would wait.
	mu           sync.Mutex
	silent, open map[*leasingConn]struct{}
}

func newLeasingListener(l net.Listener, gone func(*stampede.Holder)) *leasingListener {
	return &leasingListener{Listener: l, gone: gone, silent: make(map[*leasingConn]struct{}), open: make(map[*leasingConn]struct{})}
}

func (l *leasingListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.newConn(nc, new(client.Cork)), nil
}

func (l *leasingListener) newConn(nc net.Conn, cork *client.Cork) *leasingConn {
	c := &leasingConn{Conn: nc, l: l, addr: leasingAddr{nc.RemoteAddr(), new(stampede.Holder), new(atomic.Int64), cork, new(atomic.Bool)}}
	c.raw.Init(nc)
	l.mu.Lock()
	l.silent[c], l.open[c] = struct{}{}, struct{}{}
	l.mu.Unlock()
	return c
}

// endSilent closes the connections that have sent nothing.
func (l *leasingListener) endSilent() {
	l.end(func(c *leasingConn) bool { _, silent := l.silent[c]; return silent })
}

// endStuck closes the connections with a Stream that was given up: its status is
// behind replies that nobody reads, and GracefulStop would wait for it.
func (l *leasingListener) endStuck() {
	l.end(func(c *leasingConn) bool { return c.addr.stuck.Load() })
}

// endAll closes every connection. Stop and GracefulStop wait for a handshake
// that does not go on, without closing anything.
func (l *leasingListener) endAll() { l.end(func(*leasingConn) bool { return true }) }

// end closes those of the open connections; their readers do the rest. Without a
// listener there are none.
func (l *leasingListener) end(those func(*leasingConn) bool) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		if those(c) {
			c.Conn.Close()
		}
	}
}

func (l *leasingListener) heard(c *leasingConn) {
	l.mu.Lock()
	delete(l.silent, c)
	l.mu.Unlock()
}

type leasingConn struct {
	net.Conn
	l    *leasingListener
	addr leasingAddr
	// raw saves what a net.Conn tells the scheduler, see nonblock.
	raw nonblock.Socket
	// What only its reader uses: whether it has read anything, and whether
	// the cork holds.
	spoken, holds bool
	ended         sync.Once
}

// manyCalls is the size of a read that has several calls in it.
const manyCalls = 200

// Read is called when what was read before has gone to its handlers. Those that
// are ready to run submit their requests, and then all of them are written. Where
// gRPC waits for something before it reads on, the cork lets go by itself.
func (c *leasingConn) Read(b []byte) (int, error) {
	if c.holds {
		c.holds = false
		runtime.Gosched()
		c.addr.cork.Release()
	}
	n, err := c.read(b)
	if n >= manyCalls && n < len(b) { // a full read is part of something large
		c.holds = true
		c.addr.cork.Hold()
	}
	if n > 0 && !c.spoken {
		c.spoken = true
		c.l.heard(c)
	}
	return n, err
}

func (c *leasingConn) read(b []byte) (int, error) {
	if c.raw.Plain() && len(b) > 0 {
		return c.raw.Await(b)
	}
	return c.Conn.Read(b)
}

// Write is called by one goroutine at a time: gRPC has one that writes, and TLS
// a lock.
func (c *leasingConn) Write(b []byte) (n int, err error) {
	if c.raw.Plain() {
		if n, err = c.raw.Write(b); err != nil || n == len(b) {
			return n, err
		}
	}
	more, err := c.Conn.Write(b[n:])
	return n + more, err
}

// A leasingAddr is how a handler finds the holder of its connection: gRPC
// gives it the address that the connection says it has.
type leasingAddr struct {
	net.Addr
	holder *stampede.Holder
	// waiting counts the connection's calls of Lease that may wait.
	waiting *atomic.Int64
	// cork holds the requests of the calls that are read together.
	cork *client.Cork
	// stuck is set when a Stream was given up whose replies are not read.
	stuck *atomic.Bool
}

// maxWaiting bounds the calls of a connection that wait, so that others of its
// maxCalls are left for Fill.
const maxWaiting = maxCalls / 2

func (c *leasingConn) RemoteAddr() net.Addr { return c.addr }

func (c *leasingConn) Close() error {
	err := c.Conn.Close()
	c.ended.Do(func() {
		c.l.heard(c)
		c.l.mu.Lock()
		delete(c.l.open, c)
		c.l.mu.Unlock()
		c.l.gone(c.addr.holder)
	})
	return err
}

// corked gives a context for what a call asks the nodes.
func corked(ctx context.Context) context.Context {
	if p, ok := peer.FromContext(ctx); ok {
		if addr, ok := p.Addr.(leasingAddr); ok {
			return client.WithCork(ctx, addr.cork)
		}
	}
	return ctx
}

func holderOf(ctx context.Context) *stampede.Holder {
	if p, ok := peer.FromContext(ctx); ok {
		if addr, ok := p.Addr.(leasingAddr); ok {
			return addr.holder
		}
	}
	return nil
}

// noteStuck notes that a Stream of the caller's connection was given up.
func noteStuck(ctx context.Context) {
	if p, ok := peer.FromContext(ctx); ok {
		if addr, ok := p.Addr.(leasingAddr); ok {
			addr.stuck.Store(true)
		}
	}
}

// waitingOf gives the count of the caller's connection.
func waitingOf(ctx context.Context) *atomic.Int64 {
	if p, ok := peer.FromContext(ctx); ok {
		if addr, ok := p.Addr.(leasingAddr); ok {
			return addr.waiting
		}
	}
	return new(atomic.Int64)
}

// ask makes the broker's Ask of what Lease and Invalidate have in common.
func ask(ctx context.Context, key []byte, grace, lease *uint32) stampede.Ask {
	a := stampede.Ask{Key: string(key), Holder: holderOf(ctx)}
	if grace != nil {
		a.Grace = time.Duration(*grace) * time.Second
		if *grace == 0 {
			a.Grace = stampede.None
		}
	}
	if lease != nil {
		// 0 is out of bounds here, where it is the default for an Ask.
		a.Lease = max(1, time.Duration(*lease)*time.Second)
	}
	return a
}

func (g *cacheServer) Lease(ctx context.Context, req *ringsidev1.LeaseRequest) (*ringsidev1.LeaseResponse, error) {
	a := ask(ctx, req.GetKey(), req.GraceSeconds, req.LeaseSeconds)
	a.Wait = time.Duration(req.GetWaitMillis()) * time.Millisecond
	a.Fresh = req.GetFresh()
	a.Until = g.life.Done() // a drain does not wait for those who wait
	if a.Wait > 0 {
		// Those who wait are not work, and must not keep the one out that they
		// wait for: not here, and not among the calls of their connection.
		waiting := waitingOf(ctx)
		all := g.waiting.Add(1)
		if waiting.Add(1) > maxWaiting || all > int64(g.s.limits().MaxRequests) {
			a.Wait = 0
		}
		defer waiting.Add(-1)
		defer g.waiting.Add(-1)
		g.underWay.Add(-1)
		defer g.underWay.Add(1)
	}
	answer, err := g.s.broker.Lease(ctx, a)
	if err != nil {
		return nil, statusOf(err)
	}
	return leaseResponse(answer), nil
}

var leaseStates = map[stampede.State]ringsidev1.LeaseResponse_State{
	stampede.StateFresh:    ringsidev1.LeaseResponse_STATE_FRESH,
	stampede.StateStale:    ringsidev1.LeaseResponse_STATE_STALE,
	stampede.StateWon:      ringsidev1.LeaseResponse_STATE_WON,
	stampede.StateWait:     ringsidev1.LeaseResponse_STATE_WAIT,
	stampede.StateNotFound: ringsidev1.LeaseResponse_STATE_NOT_FOUND,
	stampede.StateFailed:   ringsidev1.LeaseResponse_STATE_FAILED,
	stampede.StateNoLease:  ringsidev1.LeaseResponse_STATE_NO_LEASE,
}

func leaseResponse(a stampede.Answer) *ringsidev1.LeaseResponse {
	resp := &ringsidev1.LeaseResponse{State: leaseStates[a.State], Value: a.Value, HasValue: a.Value != nil}
	if a.Token != "" {
		resp.Token = []byte(a.Token)
	}
	if a.Err != nil {
		resp.Message = publicError(a.Err)
	}
	return resp
}

// maxToken is what the proto file says of a token.
const maxToken = 1024

func checkToken(token []byte) error {
	if n := len(token); n == 0 || n > maxToken {
		return argument("token has %d bytes, it must be that of a LeaseResponse", n)
	}
	return nil
}

func (g *cacheServer) Fill(ctx context.Context, req *ringsidev1.FillRequest) (*ringsidev1.FillResponse, error) {
	if err := checkToken(req.GetToken()); err != nil {
		return nil, statusOf(err)
	}
	if n := len(req.GetValue()); n > g.s.cfg.MaxValueBytes {
		return nil, statusOf(argument("the value has %d bytes, at most %d are allowed", n, g.s.cfg.MaxValueBytes))
	}
	err := g.s.broker.Fill(ctx, string(req.GetToken()), req.GetValue(), time.Duration(req.GetTtlSeconds())*time.Second)
	resp := &ringsidev1.FillResponse{Outcome: ringsidev1.FillResponse_OUTCOME_STORED}
	for _, refused := range []struct {
		by      error
		outcome ringsidev1.FillResponse_Outcome
	}{
		{stampede.ErrChanged, ringsidev1.FillResponse_OUTCOME_CHANGED},
		{stampede.ErrGone, ringsidev1.FillResponse_OUTCOME_GONE},
		{stampede.ErrUnbound, ringsidev1.FillResponse_OUTCOME_UNBOUND},
		{stampede.ErrTooLarge, ringsidev1.FillResponse_OUTCOME_TOO_LARGE},
	} {
		if errors.Is(err, refused.by) {
			resp.Outcome = refused.outcome
			return resp, nil
		}
	}
	if err != nil {
		return nil, statusOf(err)
	}
	return resp, nil
}

func (g *cacheServer) Release(ctx context.Context, req *ringsidev1.ReleaseRequest) (*ringsidev1.ReleaseResponse, error) {
	err := checkToken(req.GetToken())
	ttl := time.Duration(req.GetTtlSeconds()) * time.Second
	switch token := string(req.GetToken()); {
	case err != nil:
	case req.GetOutcome() == ringsidev1.ReleaseRequest_OUTCOME_UNSPECIFIED:
		err = g.s.broker.Release(ctx, token)
	case req.GetOutcome() == ringsidev1.ReleaseRequest_OUTCOME_NOT_FOUND:
		err = g.s.broker.Fail(ctx, token, stampede.ErrNotFound, ttl)
	case req.GetOutcome() == ringsidev1.ReleaseRequest_OUTCOME_FAILED:
		err = g.s.broker.Fail(ctx, token, errors.New(req.GetMessage()), ttl)
	default:
		err = argument("outcome is %d, which is not known", req.GetOutcome())
	}
	// That the lease has ended otherwise is what was wanted.
	for _, ended := range []error{stampede.ErrUnbound, stampede.ErrChanged, stampede.ErrGone} {
		if errors.Is(err, ended) {
			err = nil
		}
	}
	if err != nil {
		return nil, statusOf(err)
	}
	return &ringsidev1.ReleaseResponse{}, nil
}

func (g *cacheServer) Invalidate(ctx context.Context, req *ringsidev1.InvalidateRequest) (*ringsidev1.InvalidateResponse, error) {
	a := ask(ctx, req.GetKey(), req.GraceSeconds, req.LeaseSeconds)
	answer, err := g.s.broker.Invalidate(ctx, a, req.GetWantLease())
	resp := &ringsidev1.InvalidateResponse{}
	if errors.Is(err, stampede.ErrOwnerDown) {
		resp.OwnerDown, err = true, nil
	}
	if err != nil {
		return nil, statusOf(err)
	}
	if req.GetWantLease() && answer.State != 0 {
		resp.Lease = leaseResponse(answer)
	}
	return resp, nil
}
