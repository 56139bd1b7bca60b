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
	nameAlso   = "Get among others in a message of a Stream"
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
			{Name: nameStream, Run: func(ctx context.Context, slot Slot) (Sample, error) { return b.stream(ctx, slot, grpcCallers, false) }},
			{Name: nameAlso, Run: func(ctx context.Context, slot Slot) (Sample, error) { return b.stream(ctx, slot, grpcCallers, true) }},
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

// stream keeps requests of one stream under way: for each message with replies the
// next requests go out, on the same goroutine. A caller that sends requests
// together gets replies together; else each has a message of its own.
func (b *sidecarBench) stream(ctx context.Context, slot Slot, underWay int, together bool) (Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, slot.Warmup+slot.Measure+grpcPatience)
	defer cancel()
	s, err := ringsidev1.NewCacheClient(b.conn).Stream(ctx)
	if err != nil {
		return nil, err
	}
	pick := newPicker(0)
	keys := make([]string, underWay)
	request := func(id uint64) *ringsidev1.StreamRequest {
		keys[id] = b.wire.keys[pick.intn(len(b.wire.keys))]
		return &ringsidev1.StreamRequest{Id: id, Request: &ringsidev1.StreamRequest_Get{
			Get: &ringsidev1.GetRequest{Key: []byte(keys[id])},
		}}
	}
	message := request(0)
	for id := range uint64(underWay - 1) {
		if next := request(id + 1); together {
			message.Also = append(message.Also, next)
		} else if err := s.Send(next); err != nil {
			return nil, err
		}
	}
	if err := s.Send(message); err != nil {
		return nil, err
	}
	check := func(resp *ringsidev1.StreamResponse) error {
		switch {
		case resp.GetError() != nil:
			return errors.New(resp.GetError().GetMessage())
		case resp.GetId() >= uint64(underWay):
			return fmt.Errorf("a reply to request %d, which was not sent", resp.GetId())
		}
		return b.wire.corpus.check(keys[resp.GetId()], resp.GetGet().GetValue().GetValue())
	}
	return Load{Callers: 1, Process: b.sidecar.cpu, Caller: func(int) func() (int, error) {
		return func() (int, error) {
			resp, err := s.Recv()
			if err != nil {
				return 0, err
			}
			if err := check(resp); err != nil {
				return 0, err
			}
			message := request(resp.GetId())
			for _, r := range resp.GetAlso() {
				if err := check(r); err != nil {
					return 0, err
				}
				message.Also = append(message.Also, request(r.GetId()))
			}
			return 1 + len(message.Also), s.Send(message)
		}
	}}.Run(ctx, slot)
}
