package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
)

// grpcCallers is how many unary calls, or requests of a stream, are under way.
const grpcCallers = 64

// The contenders of the gRPC experiment, which share a connection.
const (
	nameUnary  = "unary Get"
	nameCheck  = "health Check"
	nameStream = "Get in a Stream"
)

func dialSidecar(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// calls compares Gets with a call that does nothing: what gRPC costs is not
// ours to cut, what is added to it is.
func (b *sidecarBench) calls() Experiment {
	e := Experiment{
		Name:     "grpc/64",
		About:    fmt.Sprintf("%d callers of gRPC on one connection, or %d requests of one stream under way", grpcCallers, grpcCallers),
		Baseline: nameCheck,
		Contenders: []Contender{
			{Name: nameUnary, Run: func(ctx context.Context, slot Slot) (Sample, error) { return b.unary(grpcCallers).Run(ctx, slot) }},
			{Name: nameStream, Run: func(ctx context.Context, slot Slot) (Sample, error) { return b.stream(ctx, slot, grpcCallers) }},
			{Name: nameCheck, Run: func(ctx context.Context, slot Slot) (Sample, error) { return b.checks(grpcCallers).Run(ctx, slot) }},
		},
	}
	return e
}

// grpcPatience is the deadline of each call, as a careful caller has one.
const grpcPatience = 5 * time.Second

func (b *sidecarBench) unary(callers int) Load {
	cache := ringsidev1.NewCacheClient(b.conn)
	return Load{Callers: callers, SampleEvery: 4, Process: b.sidecar.cpu, Caller: func(i int) func() (int, error) {
		pick := newPicker(i)
		return func() (int, error) {
			ctx, cancel := context.WithTimeout(context.Background(), grpcPatience)
			defer cancel()
			key := b.wire.keys[pick.intn(len(b.wire.keys))]
			resp, err := cache.Get(ctx, &ringsidev1.GetRequest{Key: []byte(key)})
			if err != nil {
				return 0, err
			}
			return 1, b.wire.corpus.check(key, resp.GetValue().GetValue())
		}
	}}
}

func (b *sidecarBench) checks(callers int) Load {
	health := healthv1.NewHealthClient(b.conn)
	return Load{Callers: callers, SampleEvery: 4, Process: b.sidecar.cpu, Caller: func(int) func() (int, error) {
		return func() (int, error) {
			ctx, cancel := context.WithTimeout(context.Background(), grpcPatience)
			defer cancel()
			resp, err := health.Check(ctx, &healthv1.HealthCheckRequest{})
			if err == nil && resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
				err = fmt.Errorf("the sidecar is %v", resp.GetStatus())
			}
			return 1, err
		}
	}}
}

// stream keeps requests of one stream under way: for each reply the next
// request goes out, on the same goroutine.
func (b *sidecarBench) stream(ctx context.Context, slot Slot, underWay int) (Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, slot.Warmup+slot.Measure+grpcPatience)
	defer cancel()
	s, err := ringsidev1.NewCacheClient(b.conn).Stream(ctx)
	if err != nil {
		return nil, err
	}
	pick := newPicker(0)
	keys := make([]string, underWay)
	send := func(id uint64) error {
		keys[id] = b.wire.keys[pick.intn(len(b.wire.keys))]
		return s.Send(&ringsidev1.StreamRequest{Id: id, Request: &ringsidev1.StreamRequest_Get{
			Get: &ringsidev1.GetRequest{Key: []byte(keys[id])},
		}})
	}
	for id := range underWay {
		if err := send(uint64(id)); err != nil {
			return nil, err
		}
	}
	return Load{Callers: 1, Process: b.sidecar.cpu, Caller: func(int) func() (int, error) {
		return func() (int, error) {
			resp, err := s.Recv()
			switch {
			case err != nil:
				return 0, err
			case resp.GetError() != nil:
				return 0, errors.New(resp.GetError().GetMessage())
			case resp.GetId() >= uint64(underWay):
				return 0, fmt.Errorf("a reply to request %d, which was not sent", resp.GetId())
			}
			if err := b.wire.corpus.check(keys[resp.GetId()], resp.GetGet().GetValue().GetValue()); err != nil {
				return 0, err
			}
			return 1, send(resp.GetId())
		}
	}}.Run(ctx, slot)
}
