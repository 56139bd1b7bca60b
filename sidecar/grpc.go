package sidecar

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/proto/memcached"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
	"github.com/ringside-cache/ringside/stampede"
)

const (
	// grpcOverhead is what a message may have beside one value.
	grpcOverhead = 64 << 10
	// maxCalls bounds the calls that a connection has open.
	maxCalls = 1024
	// callWorkers is how many goroutines wait for calls. A new one for each
	// call spent its time on growing its stack; with 16 or 256 of them the
	// throughput at 64 callers was not higher. Further calls get new ones.
	callWorkers = 64
	// grpcProbe and grpcPatience end connections whose other side is gone
	// without a word, and with them the leases that it holds.
	grpcProbe    = 30 * time.Second
	grpcPatience = 10 * time.Second
)

// cacheServer is ringside.v1.Cache. Its single operations are in
// grpc_operations.go, the others in grpc_multi.go, grpc_stream.go and
// grpc_lease.go.
type cacheServer struct {
	ringsidev1.UnimplementedCacheServer
	s *Sidecar
	// life ends when a drain begins.
	life context.Context
	// underWay counts requests, those of streams too.
	underWay atomic.Int64
	// waiting counts the calls of Lease that may wait, which are not under way.
	waiting atomic.Int64
	// nonce tells this process' versions from those of the one before, whose
	// connections had the same numbers.
	nonce uint64
}

func (s *Sidecar) newGRPC() *grpc.Server {
	var life context.Context
	life, s.endStreams = context.WithCancel(context.Background())
	cache := &cacheServer{s: s, life: life, nonce: newNonce()}
	s.cache = cache
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(max(s.cfg.MaxValueBytes, maxMultiKeys*(memcached.MaxKey+4)) + grpcOverhead),
		grpc.ForceServerCodecV2(newBoundedCodec()),
		// A GetMulti's answer has many values.
		grpc.MaxSendMsgSize(1 << 30),
		grpc.MaxConcurrentStreams(maxCalls),
		grpc.NumStreamWorkers(callWorkers),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: grpcProbe, Timeout: grpcPatience}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(cache.measure),
		grpc.StreamInterceptor(untilDrain(life)),
		grpc.ConnectionTimeout(handshakeTimeout),
	}
	if s.Secured(listenerGRPC) {
		options = append(options, grpc.Creds(grpcCredentials{credentials.NewTLS(s.certs.config(listenerGRPC)), s, life}))
	}
	g := grpc.NewServer(options...)
	ringsidev1.RegisterCacheServer(g, cache)
	s.health = health.NewServer()
	s.health.SetServingStatus(ringsidev1.Cache_ServiceDesc.ServiceName, healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(g, s.health)
	if isLocal(s.cfg.GRPC) {
		// What can be called is no secret on this host.
		reflection.Register(g)
	}
	return g
}

// untilDrain ends the context of streams when a drain begins. A watch of the
// health service lasts as long as its client, and would hold up every drain
// until DrainTimeout.
func untilDrain(life context.Context) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if _, ours := srv.(*cacheServer); ours {
			return handler(srv, stream) // which answers what it has taken first
		}
		ctx, cancel := context.WithCancel(stream.Context())
		defer cancel()
		defer context.AfterFunc(life, cancel)()
		return handler(srv, &endingStream{stream, ctx})
	}
}

type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *endingStream) Context() context.Context { return s.ctx }

// measure bounds the requests under way, and counts and times them.
func (g *cacheServer) measure(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if info.Server != any(g) { // health and reflection are always answered
		return handler(ctx, req)
	}
	operation := path.Base(info.FullMethod)
	if g.admit(1) == 0 && !g.endsLease(req) {
		g.s.metrics.request(protocolGRPC, operation, resultRefused)
		return nil, statusOf(g.tooMany())
	}
	defer g.underWay.Add(-1)
	start := time.Now()
	span := g.s.tracer.call(ctx, info.FullMethod)
	resp, err := handler(corked(ctx), req)
	g.s.tracer.endCall(span, g.s.client, req, err)
	g.s.metrics.took(protocolGRPC, time.Since(start))
	g.s.metrics.request(protocolGRPC, operation, resultOf(resp, err))
	return resp, err
}

// idle tells whether nothing is asked for at the moment.
func (g *cacheServer) idle() bool { return g.underWay.Load() == 0 && g.waiting.Load() == 0 }

// endsLease tells whether a request is what others wait for: it is let through
// whatever is under way, and counted.
func (g *cacheServer) endsLease(req any) bool {
	switch req.(type) {
	case *ringsidev1.FillRequest, *ringsidev1.ReleaseRequest:
		g.underWay.Add(1)
		return true
	}
	return false
}

// admit counts up to n requests as under way, and tells how many there was room
// for. The caller takes them off again.
func (g *cacheServer) admit(n int64) int64 {
	over := min(n, max(0, g.underWay.Add(n)-int64(g.s.limits().MaxRequests)))
	g.underWay.Add(-over)
	return n - over
}

// errTooMany and errDraining are said before anything is sent.
var (
	errTooMany  = errors.New("too many requests are under way")
	errDraining = errors.New("the sidecar is draining")
)

func (g *cacheServer) tooMany() error {
	return fmt.Errorf("%w: at most %d at a time", errTooMany, g.s.limits().MaxRequests)
}

// resultOf is the result of a gRPC request for the metrics.
func resultOf(resp any, err error) string {
	switch status.Code(err) {
	case codes.OK:
		if get, ok := resp.(*ringsidev1.GetResponse); ok {
			if get.GetFound() {
				return resultHit
			}
			return resultMiss
		}
		return resultOK
	case codes.InvalidArgument, codes.FailedPrecondition, codes.ResourceExhausted:
		return resultRefused
	}
	return resultError
}

// statusOf makes a gRPC status of an error of the client or the broker.
func statusOf(err error) error {
	st := status.New(codeOf(err), publicError(err))
	with, detailErr := st.WithDetails(detailOf(err))
	if detailErr != nil {
		return st.Err() // a detail that can not be encoded is better left out
	}
	return with.Err()
}

func detailOf(err error) *ringsidev1.ErrorDetail {
	detail := &ringsidev1.ErrorDetail{SafeToRetry: client.SafeToRetry(err)}
	for _, unsent := range []error{errArgument, errTooMany, errDraining, stampede.ErrTerms, stampede.ErrOriginBusy, stampede.ErrClosed} {
		detail.SafeToRetry = detail.SafeToRetry || errors.Is(err, unsent)
	}
	if errors.Is(err, client.ErrTooLarge) {
		detail.SafeToRetry = !errors.Is(err, client.ErrServerError) // which the node itself has said
	}
	var op *client.OpError
	if errors.As(err, &op) {
		detail.Node = op.Node
	}
	return detail
}

// codeOf maps errors as the proto file says.
func codeOf(err error) codes.Code {
	switch {
	case errors.Is(err, client.ErrMalformedKey), errors.Is(err, client.ErrTooLarge),
		errors.Is(err, stampede.ErrBadKey), errors.Is(err, stampede.ErrTerms), errors.Is(err, errArgument):
		return codes.InvalidArgument
	case errors.Is(err, client.ErrClientError):
		return codes.FailedPrecondition
	case errors.Is(err, client.ErrOverloaded), errors.Is(err, stampede.ErrOriginBusy), errors.Is(err, errTooMany):
		return codes.ResourceExhausted
	case errors.Is(err, client.ErrNoMeta):
		return codes.Unimplemented
	// Before the timeout that it may have been: nothing was sent.
	case errors.Is(err, client.ErrDial), errors.Is(err, client.ErrTimeout) && client.SafeToRetry(err):
		return codes.Unavailable
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, client.ErrConnLost), errors.Is(err, client.ErrNodeDown), errors.Is(err, errDraining),
		errors.Is(err, client.ErrClosed), errors.Is(err, stampede.ErrClosed):
		return codes.Unavailable
	}
	return codes.Internal
}
