package sidecar

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/ringside-cache/ringside/client"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
)

const (
	// maxMultiKeys bounds a GetMulti.
	maxMultiKeys = 10000
	// multiChunk is how many of them are read at a time, and maxMultiBytes how
	// many bytes of values may have been found before the next of them are.
	multiChunk    = 1000
	maxMultiBytes = 64 << 20
)

func (g *cacheServer) GetMulti(ctx context.Context, req *ringsidev1.GetMultiRequest) (*ringsidev1.GetMultiResponse, error) {
	if n := len(req.GetKeys()); n > maxMultiKeys {
		return nil, statusOf(argument("%d keys, at most %d are allowed", n, maxMultiKeys))
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
			resp.Values = append(resp.Values, g.value([]byte(key), item))
			size += len(item.Value)
		case !errors.Is(err, client.ErrCacheMiss):
			resp.Failures = append(resp.Failures, &ringsidev1.Failure{
				Key: []byte(key), Code: int32(codeOf(err)), Message: err.Error(), Node: detailOf(err).GetNode(),
			})
		}
	}
	return size
}
