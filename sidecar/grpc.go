package sidecar

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/proto/memcached"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
)

const (
	// maxMultiKeys bounds a GetMulti.
	maxMultiKeys = 10000
	// multiChunk is how many of them are read at a time, and maxMultiBytes how
	// many bytes of values may have been found before the next of them are.
	multiChunk    = 1000
	maxMultiBytes = 64 << 20
	// grpcOverhead is what a message may have beside one value.
	grpcOverhead = 64 << 10
)

// cacheServer is ringside.v1.Cache.
type cacheServer struct {
	ringsidev1.UnimplementedCacheServer
	s *Sidecar
}

func (s *Sidecar) newGRPC() *grpc.Server {
	var life context.Context
	life, s.endStreams = context.WithCancel(context.Background())
	g := grpc.NewServer(
		grpc.MaxRecvMsgSize(max(s.cfg.MaxValueBytes, maxMultiKeys*(memcached.MaxKey+4))+grpcOverhead),
		// A GetMulti's answer has many values.
		grpc.MaxSendMsgSize(1<<30),
		grpc.UnaryInterceptor(s.measure),
		grpc.StreamInterceptor(untilDrain(life)),
	)
	ringsidev1.RegisterCacheServer(g, &cacheServer{s: s})
	s.health = health.NewServer()
	s.health.SetServingStatus(ringsidev1.Cache_ServiceDesc.ServiceName, healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(g, s.health)
	// The listener is always local, so what can be called is no secret.
	reflection.Register(g)
	return g
}

// untilDrain ends the context of streams when a drain begins. A watch of the
// health service lasts as long as its client, and would hold up every drain
// until DrainTimeout.
func untilDrain(life context.Context) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
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

func (s *Sidecar) measure(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	resp, err := handler(ctx, req)
	s.metrics.took(protocolGRPC, time.Since(start))
	result := resultOK
	if err != nil {
		result = resultError
		if status.Code(err) == codes.InvalidArgument {
			result = resultRefused
		}
	}
	s.metrics.request(protocolGRPC, path.Base(info.FullMethod), result)
	return resp, err
}

func (g *cacheServer) Get(ctx context.Context, req *ringsidev1.GetRequest) (*ringsidev1.GetResponse, error) {
	item, err := g.s.client.Get(ctx, string(req.GetKey()))
	switch {
	case errors.Is(err, client.ErrCacheMiss):
		return &ringsidev1.GetResponse{}, nil
	case err != nil:
		return nil, statusOf(err)
	}
	return &ringsidev1.GetResponse{Found: true, Value: toValue(req.GetKey(), item)}, nil
}

func toValue(key []byte, item *client.Item) *ringsidev1.Value {
	return &ringsidev1.Value{Key: key, Value: item.Value, Flags: item.Flags, CasId: item.CasID}
}

func (g *cacheServer) GetMulti(ctx context.Context, req *ringsidev1.GetMultiRequest) (*ringsidev1.GetMultiResponse, error) {
	if n := len(req.GetKeys()); n > maxMultiKeys {
		return nil, status.Errorf(codes.InvalidArgument, "%d keys, at most %d are allowed", n, maxMultiKeys)
	}
	keys := make([]string, 0, len(req.GetKeys()))
	seen := make(map[string]bool, len(req.GetKeys()))
	for _, key := range req.GetKeys() {
		if k := string(key); !seen[k] {
			seen[k] = true
			keys = append(keys, k)
		}
	}
	resp := &ringsidev1.GetMultiResponse{}
	size := 0
	for chunk := range slices.Chunk(keys, multiChunk) {
		if size > maxMultiBytes {
			for _, key := range chunk {
				resp.Failures = append(resp.Failures, &ringsidev1.Failure{
					Key: []byte(key), Code: int32(codes.ResourceExhausted),
					Message: fmt.Sprintf("the values before have more than %d bytes: ask for this key in another call", maxMultiBytes),
				})
			}
			continue
		}
		size += g.appendChunk(ctx, chunk, resp)
	}
	return resp, nil
}

// appendChunk reads some keys of a GetMulti and gives the bytes of what it
// found.
func (g *cacheServer) appendChunk(ctx context.Context, keys []string, resp *ringsidev1.GetMultiResponse) (size int) {
	var b client.Batch
	for _, key := range keys {
		b.Get(key)
	}
	// Each failure is reported with its key.
	_ = g.s.client.Do(ctx, &b)
	for i, key := range keys {
		item, err := b.Item(i)
		switch {
		case err == nil:
			resp.Values = append(resp.Values, toValue([]byte(key), item))
			size += len(item.Value)
		case !errors.Is(err, client.ErrCacheMiss):
			f := &ringsidev1.Failure{Key: []byte(key), Code: int32(codeOf(err)), Message: err.Error()}
			var op *client.OpError
			if errors.As(err, &op) {
				f.Node = op.Node
			}
			resp.Failures = append(resp.Failures, f)
		}
	}
	return size
}

func (g *cacheServer) Set(ctx context.Context, req *ringsidev1.SetRequest) (*ringsidev1.SetResponse, error) {
	if ttl := req.GetTtlSeconds(); ttl > memcached.MaxRelative {
		return nil, status.Errorf(codes.InvalidArgument, "ttl_seconds is %d, at most 30 days (%d) are allowed", ttl, memcached.MaxRelative)
	}
	if n := len(req.GetValue()); n > g.s.cfg.MaxValueBytes {
		return nil, status.Errorf(codes.InvalidArgument, "the value has %d bytes, at most %d are allowed", n, g.s.cfg.MaxValueBytes)
	}
	err := g.s.client.Set(ctx, &client.Item{
		Key: string(req.GetKey()), Value: req.GetValue(), Flags: req.GetFlags(), Expiration: int32(req.GetTtlSeconds()),
	})
	if err != nil {
		return nil, statusOf(err)
	}
	return &ringsidev1.SetResponse{}, nil
}

func (g *cacheServer) Delete(ctx context.Context, req *ringsidev1.DeleteRequest) (*ringsidev1.DeleteResponse, error) {
	err := g.s.client.Delete(ctx, string(req.GetKey()))
	if err != nil && !errors.Is(err, client.ErrCacheMiss) {
		return nil, statusOf(err)
	}
	return &ringsidev1.DeleteResponse{Found: err == nil}, nil
}

func statusOf(err error) error { return status.Error(codeOf(err), err.Error()) }

// codeOf maps the client's errors as the proto file says.
func codeOf(err error) codes.Code {
	switch {
	case errors.Is(err, client.ErrMalformedKey), errors.Is(err, client.ErrTooLarge), errors.Is(err, client.ErrClientError):
		return codes.InvalidArgument
	case errors.Is(err, client.ErrOverloaded):
		return codes.ResourceExhausted
	// Before the timeout that it may have been: nothing was sent.
	case errors.Is(err, client.ErrDial), errors.Is(err, client.ErrTimeout) && client.SafeToRetry(err):
		return codes.Unavailable
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, client.ErrConnLost), errors.Is(err, client.ErrNodeDown), errors.Is(err, client.ErrClosed):
		return codes.Unavailable
	}
	return codes.Internal
}
