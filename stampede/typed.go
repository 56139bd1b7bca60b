package stampede

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// A Codec turns values into bytes and back.
type Codec interface {
	Marshal(v any) ([]byte, error)
	// Unmarshal stores into v, a pointer to the type that Marshal was given.
	Unmarshal(data []byte, v any) error
}

// JSON is encoding/json as a Codec.
var JSON Codec = jsonCodec{}

type jsonCodec struct{}

func (jsonCodec) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// A TypedCache is a Cache whose values are of type T. It is a thin wrapper: any
// number of them may stand on one Cache.
type TypedCache[T any] struct {
	cache *Cache
	codec Codec
}

// Typed gives a Cache for values of type T. What is cached has to be readable
// by every process that shares the keys: put a version into them when T
// changes.
func Typed[T any](cache *Cache, codec Codec) TypedCache[T] { return TypedCache[T]{cache, codec} }

// Fetch is Cache.Fetch. ErrDecode tells that the cached bytes are no T.
func (t TypedCache[T]) Fetch(ctx context.Context, key string, load func(ctx context.Context, key string) (T, error), options ...Option) (T, error) {
	b, err := t.cache.Fetch(ctx, key, t.loader(load), options...)
	return t.decode(b, err)
}

// Refresh is Cache.Refresh.
func (t TypedCache[T]) Refresh(ctx context.Context, key string, load func(ctx context.Context, key string) (T, error), options ...Option) (T, error) {
	b, err := t.cache.Refresh(ctx, key, t.loader(load), options...)
	return t.decode(b, err)
}

// FetchMulti is Cache.FetchMulti. Keys whose bytes are no T are in the
// *MultiError with ErrDecode.
func (t TypedCache[T]) FetchMulti(ctx context.Context, keys []string, load func(ctx context.Context, keys []string) (map[string]T, error), options ...Option) (map[string]T, error) {
	m := t.cache.fetchMulti(ctx, keys, func(ctx context.Context, keys []string) (map[string][]byte, error) {
		loaded, loadErr := load(ctx, keys)
		encoded := make(map[string][]byte, len(loaded))
		for key, v := range loaded {
			b, err := t.codec.Marshal(v)
			if err != nil {
				loadErr = errors.Join(loadErr, fmt.Errorf("stampede: encode: %w", err))
				continue
			}
			encoded[key] = b
		}
		return encoded, loadErr
	}, options)
	values := make(map[string]T, len(m.values))
	for key, b := range m.values {
		v, err := t.decode(b, nil)
		if err != nil {
			m.fail(key, err)
			continue
		}
		values[key] = v
	}
	return values, m.err()
}

func (t TypedCache[T]) loader(load func(ctx context.Context, key string) (T, error)) Loader {
	return func(ctx context.Context, key string) ([]byte, error) {
		v, err := load(ctx, key)
		if err != nil {
			return nil, err
		}
		b, err := t.codec.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("stampede: encode: %w", err)
		}
		return b, nil
	}
}

// decode decodes what came with err, which may be ErrOwnerDown beside a value.
func (t TypedCache[T]) decode(b []byte, err error) (v T, _ error) {
	if b == nil || err != nil && !errors.Is(err, ErrOwnerDown) {
		return v, err
	}
	if decodeErr := t.codec.Unmarshal(b, &v); decodeErr != nil {
		var zero T
		return zero, fmt.Errorf("%w: %w", ErrDecode, decodeErr)
	}
	return v, err
}
