package sidecar

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/proto/memcached"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
)

// errArgument is a field of a request that is not what it may be.
var errArgument = errors.New("invalid argument")

func argument(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errArgument, fmt.Sprintf(format, args...))
}

func newNonce() uint64 {
	var b [8]byte
	rand.Read(b[:]) //nolint:errcheck // it never fails
	return binary.LittleEndian.Uint64(b[:])
}

// versionBytes is the length of a version: the nonce, the connection's number,
// and memcached's CAS id.
const versionBytes = 3 * 8

func (g *cacheServer) version(v client.Version) []byte {
	b := make([]byte, versionBytes)
	binary.LittleEndian.PutUint64(b, g.nonce)
	binary.LittleEndian.PutUint64(b[8:], v.Generation)
	binary.LittleEndian.PutUint64(b[16:], v.CasID)
	return b
}

// parseVersion reads what version made. current is false for one of another
// sidecar or of the process before this one.
func (g *cacheServer) parseVersion(b []byte) (v client.Version, current bool, err error) {
	if len(b) != versionBytes {
		return v, false, argument("version has %d bytes, it must be that of a Value", len(b))
	}
	v = client.Version{Generation: binary.LittleEndian.Uint64(b[8:]), CasID: binary.LittleEndian.Uint64(b[16:])}
	return v, binary.LittleEndian.Uint64(b) == g.nonce && v.Generation != 0, nil
}

func (g *cacheServer) value(key []byte, item *client.Item) *ringsidev1.Value {
	return &ringsidev1.Value{Key: key, Value: item.Value, Flags: item.Flags, Version: g.version(item.Version())}
}

// A stored is a request that stores.
type stored interface {
	GetKey() []byte
	GetValue() []byte
}

// A timed is a request with a time to live.
type timed interface{ GetTtlSeconds() uint32 }

// item makes an Item of a request that stores, and checks what the client does
// not.
func (g *cacheServer) item(req stored) (*client.Item, error) {
	if n := len(req.GetValue()); n > g.s.cfg.MaxValueBytes {
		return nil, argument("the value has %d bytes, at most %d are allowed", n, g.s.cfg.MaxValueBytes)
	}
	item := &client.Item{Key: string(req.GetKey()), Value: req.GetValue()}
	if f, ok := req.(interface{ GetFlags() uint32 }); ok {
		item.Flags = f.GetFlags()
	}
	if t, ok := req.(timed); ok {
		var err error
		if item.Expiration, err = expiration(t); err != nil {
			return nil, err
		}
	}
	return item, nil
}

// expiration checks a time to live. Above 30 days memcached takes it for a
// date.
func expiration(req timed) (int32, error) {
	ttl := req.GetTtlSeconds()
	if ttl > memcached.MaxRelative {
		return 0, argument("ttl_seconds is %d, at most 30 days (%d) are allowed", ttl, memcached.MaxRelative)
	}
	return int32(ttl), nil
}

// An operation is one request in a Batch: how it gets there, and what its
// reply is. Single calls and Streams share it.
type operation struct {
	add   func(b *client.Batch) int
	reply func(b *client.Batch, i int) (any, error)
}

// one runs a single call.
func one[T any](ctx context.Context, g *cacheServer, req any) (*T, error) {
	op, err := g.operation(req)
	if err != nil {
		return nil, statusOf(err)
	}
	var b client.Batch
	i := op.add(&b)
	g.s.client.Do(ctx, &b) //nolint:errcheck // reply has it
	reply, err := op.reply(&b, i)
	if err != nil {
		return nil, statusOf(err)
	}
	return reply.(*T), nil
}

// operation makes an operation of a request of the service.
func (g *cacheServer) operation(req any) (operation, error) {
	switch r := req.(type) {
	case *ringsidev1.GetRequest:
		return operation{
			func(b *client.Batch) int { return b.Get(string(r.GetKey())) },
			func(b *client.Batch, i int) (any, error) { return g.found(r.GetKey(), b, i) },
		}, nil
	case *ringsidev1.GetAndTouchRequest:
		ttl, err := expiration(r)
		return operation{
			func(b *client.Batch) int { return b.GetAndTouch(string(r.GetKey()), ttl) },
			func(b *client.Batch, i int) (any, error) { return g.found(r.GetKey(), b, i) },
		}, err
	case *ringsidev1.SetRequest:
		item, err := g.item(r)
		return operation{
			func(b *client.Batch) int { return b.Set(item) },
			func(b *client.Batch, i int) (any, error) { return &ringsidev1.SetResponse{}, b.Err(i) },
		}, err
	case *ringsidev1.AddRequest:
		return g.store(r, (*client.Batch).Add)
	case *ringsidev1.ReplaceRequest:
		return g.store(r, (*client.Batch).Replace)
	case *ringsidev1.AppendRequest:
		return g.store(r, (*client.Batch).Append)
	case *ringsidev1.PrependRequest:
		return g.store(r, (*client.Batch).Prepend)
	case *ringsidev1.CompareAndSwapRequest:
		return g.compareAndSwap(r)
	case *ringsidev1.DeleteRequest:
		return operation{
			func(b *client.Batch) int { return b.Delete(string(r.GetKey())) },
			func(b *client.Batch, i int) (any, error) {
				found, err := unlessMissing(b.Err(i))
				return &ringsidev1.DeleteResponse{Found: found}, err
			},
		}, nil
	case *ringsidev1.TouchRequest:
		ttl, err := expiration(r)
		return operation{
			func(b *client.Batch) int { return b.Touch(string(r.GetKey()), ttl) },
			func(b *client.Batch, i int) (any, error) {
				found, err := unlessMissing(b.Err(i))
				return &ringsidev1.TouchResponse{Found: found}, err
			},
		}, err
	case *ringsidev1.IncrementRequest:
		return operation{func(b *client.Batch) int { return b.Increment(string(r.GetKey()), r.GetDelta()) }, counted}, nil
	case *ringsidev1.DecrementRequest:
		return operation{func(b *client.Batch) int { return b.Decrement(string(r.GetKey()), r.GetDelta()) }, counted}, nil
	}
	return operation{}, argument("there is no request in the message, or one that this version does not know")
}

// store is Add, Replace, Append and Prepend.
func (g *cacheServer) store(req stored, add func(*client.Batch, *client.Item) int) (operation, error) {
	item, err := g.item(req)
	return operation{
		func(b *client.Batch) int { return add(b, item) },
		func(b *client.Batch, i int) (any, error) {
			err := b.Err(i)
			if errors.Is(err, client.ErrNotStored) {
				return &ringsidev1.StoreResponse{}, nil
			}
			return &ringsidev1.StoreResponse{Stored: true}, err
		},
	}, err
}

func (g *cacheServer) compareAndSwap(req *ringsidev1.CompareAndSwapRequest) (operation, error) {
	item, err := g.item(req)
	if err != nil {
		return operation{}, err
	}
	v, current, err := g.parseVersion(req.GetVersion())
	if err != nil {
		return operation{}, err
	}
	item.SetVersion(v)
	return operation{
		func(b *client.Batch) int {
			if !current {
				return b.Get(item.Key) // for its own errors: nothing is compared
			}
			return b.CompareAndSwap(item)
		},
		func(b *client.Batch, i int) (any, error) {
			resp := &ringsidev1.CompareAndSwapResponse{Outcome: ringsidev1.CompareAndSwapResponse_OUTCOME_STORED}
			switch err := b.Err(i); {
			case errors.Is(err, client.ErrCacheMiss):
				resp.Outcome = ringsidev1.CompareAndSwapResponse_OUTCOME_NOT_FOUND
			case errors.Is(err, client.ErrCASConflict), err == nil && !current:
				resp.Outcome = ringsidev1.CompareAndSwapResponse_OUTCOME_CONFLICT
			case err != nil:
				return nil, err
			}
			return resp, nil
		},
	}, nil
}

func (g *cacheServer) found(key []byte, b *client.Batch, i int) (any, error) {
	item, err := b.Item(i)
	if errors.Is(err, client.ErrCacheMiss) {
		return &ringsidev1.GetResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	return &ringsidev1.GetResponse{Found: true, Value: g.value(key, item)}, nil
}

func counted(b *client.Batch, i int) (any, error) {
	n, err := b.Number(i)
	found, err := unlessMissing(err)
	return &ringsidev1.CountResponse{Found: found, Number: n}, err
}

// unlessMissing turns a miss into a field.
func unlessMissing(err error) (found bool, _ error) {
	if errors.Is(err, client.ErrCacheMiss) {
		return false, nil
	}
	return true, err
}

// Get does not go by way of a Batch: it is what most callers call.
func (g *cacheServer) Get(ctx context.Context, req *ringsidev1.GetRequest) (*ringsidev1.GetResponse, error) {
	item, err := g.s.client.Get(ctx, string(req.GetKey()))
	switch {
	case errors.Is(err, client.ErrCacheMiss):
		return &ringsidev1.GetResponse{}, nil
	case err != nil:
		return nil, statusOf(err)
	}
	return &ringsidev1.GetResponse{Found: true, Value: g.value(req.GetKey(), item)}, nil
}

func (g *cacheServer) GetAndTouch(ctx context.Context, req *ringsidev1.GetAndTouchRequest) (*ringsidev1.GetResponse, error) {
	return one[ringsidev1.GetResponse](ctx, g, req)
}

func (g *cacheServer) Set(ctx context.Context, req *ringsidev1.SetRequest) (*ringsidev1.SetResponse, error) {
	return one[ringsidev1.SetResponse](ctx, g, req)
}

func (g *cacheServer) Add(ctx context.Context, req *ringsidev1.AddRequest) (*ringsidev1.StoreResponse, error) {
	return one[ringsidev1.StoreResponse](ctx, g, req)
}

func (g *cacheServer) Replace(ctx context.Context, req *ringsidev1.ReplaceRequest) (*ringsidev1.StoreResponse, error) {
	return one[ringsidev1.StoreResponse](ctx, g, req)
}

func (g *cacheServer) Append(ctx context.Context, req *ringsidev1.AppendRequest) (*ringsidev1.StoreResponse, error) {
	return one[ringsidev1.StoreResponse](ctx, g, req)
}

func (g *cacheServer) Prepend(ctx context.Context, req *ringsidev1.PrependRequest) (*ringsidev1.StoreResponse, error) {
	return one[ringsidev1.StoreResponse](ctx, g, req)
}

func (g *cacheServer) CompareAndSwap(ctx context.Context, req *ringsidev1.CompareAndSwapRequest) (*ringsidev1.CompareAndSwapResponse, error) {
	return one[ringsidev1.CompareAndSwapResponse](ctx, g, req)
}

func (g *cacheServer) Delete(ctx context.Context, req *ringsidev1.DeleteRequest) (*ringsidev1.DeleteResponse, error) {
	return one[ringsidev1.DeleteResponse](ctx, g, req)
}

func (g *cacheServer) Touch(ctx context.Context, req *ringsidev1.TouchRequest) (*ringsidev1.TouchResponse, error) {
	return one[ringsidev1.TouchResponse](ctx, g, req)
}

func (g *cacheServer) Increment(ctx context.Context, req *ringsidev1.IncrementRequest) (*ringsidev1.CountResponse, error) {
	return one[ringsidev1.CountResponse](ctx, g, req)
}

func (g *cacheServer) Decrement(ctx context.Context, req *ringsidev1.DecrementRequest) (*ringsidev1.CountResponse, error) {
	return one[ringsidev1.CountResponse](ctx, g, req)
}

func (g *cacheServer) FlushAll(ctx context.Context, req *ringsidev1.FlushAllRequest) (*ringsidev1.FlushAllResponse, error) {
	delay := req.GetDelaySeconds()
	if delay > memcached.MaxRelative {
		return nil, statusOf(argument("delay_seconds is %d, at most 30 days (%d) are allowed", delay, memcached.MaxRelative))
	}
	if err := g.s.client.FlushAllAfter(ctx, int64(delay)); err != nil {
		return nil, statusOf(err)
	}
	return &ringsidev1.FlushAllResponse{}, nil
}
