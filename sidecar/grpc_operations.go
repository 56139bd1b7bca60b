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

func (g *cacheServer) version(b *[versionBytes]byte, v client.Version) []byte {
	binary.LittleEndian.PutUint64(b[:], g.nonce)
	binary.LittleEndian.PutUint64(b[8:], v.Generation)
	binary.LittleEndian.PutUint64(b[16:], v.CasID)
	return b[:]
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
	return &ringsidev1.Value{Key: key, Value: item.Value, Flags: item.Flags, Version: g.version(new([versionBytes]byte), item.Version())}
}

// hit has all of a response in one piece of memory.
func (g *cacheServer) hit(key []byte, item *client.Item) *ringsidev1.GetResponse {
	h := new(struct {
		resp    ringsidev1.GetResponse
		value   ringsidev1.Value
		version [versionBytes]byte
	})
	h.value.Key, h.value.Value, h.value.Flags = key, item.Value, item.Flags
	h.value.Version = g.version(&h.version, item.Version())
	h.resp.Found, h.resp.Value = true, &h.value
	return &h.resp
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
// reply is. Single calls and Streams share it. Most are a request under another
// name, so that a Stream allocates nothing for them.
type operation interface {
	// add puts the request into a batch and gives its place there.
	add(g *cacheServer, b *client.Batch) (int, error)
	// reply gives the message for what is at that place.
	reply(g *cacheServer, b *client.Batch, i int) (any, error)
}

// one runs a single call.
func one[T any](ctx context.Context, g *cacheServer, req any) (*T, error) {
	op, err := operationOf(req)
	if err != nil {
		return nil, statusOf(err)
	}
	var b client.Batch
	i, err := op.add(g, &b)
	if err != nil {
		return nil, statusOf(err)
	}
	g.s.client.Do(ctx, &b) //nolint:errcheck // reply has it
	reply, err := op.reply(g, &b, i)
	if err != nil {
		return nil, statusOf(err)
	}
	return reply.(*T), nil
}

// operationOf makes an operation of a request of the service.
func operationOf(req any) (operation, error) {
	switch r := req.(type) {
	case *ringsidev1.GetRequest:
		return get{r}, nil
	case *ringsidev1.GetAndTouchRequest:
		return getAndTouch{r}, nil
	case *ringsidev1.SetRequest:
		return set{r}, nil
	case *ringsidev1.AddRequest:
		return store{r, (*client.Batch).Add}, nil
	case *ringsidev1.ReplaceRequest:
		return store{r, (*client.Batch).Replace}, nil
	case *ringsidev1.AppendRequest:
		return store{r, (*client.Batch).Append}, nil
	case *ringsidev1.PrependRequest:
		return store{r, (*client.Batch).Prepend}, nil
	case *ringsidev1.CompareAndSwapRequest:
		return &compareAndSwap{CompareAndSwapRequest: r}, nil
	case *ringsidev1.DeleteRequest:
		return remove{r}, nil
	case *ringsidev1.TouchRequest:
		return touch{r}, nil
	case *ringsidev1.IncrementRequest:
		return increment{r}, nil
	case *ringsidev1.DecrementRequest:
		return decrement{r}, nil
	}
	return nil, argument("there is no request in the message, or one that this version does not know")
}

type get struct{ *ringsidev1.GetRequest }

func (r get) add(_ *cacheServer, b *client.Batch) (int, error) { return b.Get(string(r.GetKey())), nil }

func (r get) reply(g *cacheServer, b *client.Batch, i int) (any, error) {
	return g.found(r.GetKey(), b, i)
}

type getAndTouch struct{ *ringsidev1.GetAndTouchRequest }

func (r getAndTouch) add(_ *cacheServer, b *client.Batch) (int, error) {
	ttl, err := expiration(r)
	if err != nil {
		return 0, err
	}
	return b.GetAndTouch(string(r.GetKey()), ttl), nil
}

func (r getAndTouch) reply(g *cacheServer, b *client.Batch, i int) (any, error) {
	return g.found(r.GetKey(), b, i)
}

// found gives a GetResponse.
func (g *cacheServer) found(key []byte, b *client.Batch, i int) (any, error) {
	item, err := b.Item(i)
	if errors.Is(err, client.ErrCacheMiss) {
		return &ringsidev1.GetResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	return g.hit(key, item), nil
}

type set struct{ *ringsidev1.SetRequest }

func (r set) add(g *cacheServer, b *client.Batch) (int, error) {
	item, err := g.item(r)
	if err != nil {
		return 0, err
	}
	return b.Set(item), nil
}

func (r set) reply(_ *cacheServer, b *client.Batch, i int) (any, error) {
	return &ringsidev1.SetResponse{}, b.Err(i)
}

// store is Add, Replace, Append and Prepend.
type store struct {
	stored
	to func(*client.Batch, *client.Item) int
}

func (r store) add(g *cacheServer, b *client.Batch) (int, error) {
	item, err := g.item(r.stored)
	if err != nil {
		return 0, err
	}
	return r.to(b, item), nil
}

func (r store) reply(_ *cacheServer, b *client.Batch, i int) (any, error) {
	err := b.Err(i)
	if errors.Is(err, client.ErrNotStored) {
		return &ringsidev1.StoreResponse{}, nil
	}
	return &ringsidev1.StoreResponse{Stored: true}, err
}

type compareAndSwap struct {
	*ringsidev1.CompareAndSwapRequest
	// other tells that the version is of another process.
	other bool
}

func (r *compareAndSwap) add(g *cacheServer, b *client.Batch) (int, error) {
	item, err := g.item(r)
	if err != nil {
		return 0, err
	}
	v, current, err := g.parseVersion(r.GetVersion())
	if err != nil {
		return 0, err
	}
	if r.other = !current; r.other {
		return b.Get(item.Key), nil // for its own errors: nothing is compared
	}
	item.SetVersion(v)
	return b.CompareAndSwap(item), nil
}

func (r *compareAndSwap) reply(_ *cacheServer, b *client.Batch, i int) (any, error) {
	resp := &ringsidev1.CompareAndSwapResponse{Outcome: ringsidev1.CompareAndSwapResponse_OUTCOME_STORED}
	switch err := b.Err(i); {
	case errors.Is(err, client.ErrCacheMiss):
		resp.Outcome = ringsidev1.CompareAndSwapResponse_OUTCOME_NOT_FOUND
	case errors.Is(err, client.ErrCASConflict), err == nil && r.other:
		resp.Outcome = ringsidev1.CompareAndSwapResponse_OUTCOME_CONFLICT
	case err != nil:
		return nil, err
	}
	return resp, nil
}

type remove struct{ *ringsidev1.DeleteRequest }

func (r remove) add(_ *cacheServer, b *client.Batch) (int, error) {
	return b.Delete(string(r.GetKey())), nil
}

func (r remove) reply(_ *cacheServer, b *client.Batch, i int) (any, error) {
	found, err := unlessMissing(b.Err(i))
	return &ringsidev1.DeleteResponse{Found: found}, err
}

type touch struct{ *ringsidev1.TouchRequest }

func (r touch) add(_ *cacheServer, b *client.Batch) (int, error) {
	ttl, err := expiration(r)
	if err != nil {
		return 0, err
	}
	return b.Touch(string(r.GetKey()), ttl), nil
}

func (r touch) reply(_ *cacheServer, b *client.Batch, i int) (any, error) {
	found, err := unlessMissing(b.Err(i))
	return &ringsidev1.TouchResponse{Found: found}, err
}

type increment struct{ *ringsidev1.IncrementRequest }

func (r increment) add(_ *cacheServer, b *client.Batch) (int, error) {
	return b.Increment(string(r.GetKey()), r.GetDelta()), nil
}

func (r increment) reply(_ *cacheServer, b *client.Batch, i int) (any, error) { return counted(b, i) }

type decrement struct{ *ringsidev1.DecrementRequest }

func (r decrement) add(_ *cacheServer, b *client.Batch) (int, error) {
	return b.Decrement(string(r.GetKey()), r.GetDelta()), nil
}

func (r decrement) reply(_ *cacheServer, b *client.Batch, i int) (any, error) { return counted(b, i) }

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
	return g.hit(req.GetKey(), item), nil
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
