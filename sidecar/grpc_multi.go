package sidecar

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/ringside-cache/ringside/client"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
)

const (
	// maxMultiKeys bounds a GetMulti.
	maxMultiKeys = 10000
	// maxMultiBytes is how many bytes of values may have been found before the
	// next of them are read.
	maxMultiBytes = 64 << 20

	// maxChunk and chunkBytes bound the keys that are read at a time and, as
	// far as the values before let it be known, their bytes.
	firstChunk = 64
	maxChunk   = 1000
	chunkBytes = 4 << 20
)

// A chunkLimit is how many keys to read at a time. How large their values are
// shows only when they are there.
type chunkLimit struct{ n int }

func (c *chunkLimit) keys() int {
	if c.n == 0 {
		c.n = firstChunk
	}
	return c.n
}

// saw fits it to keys that had size bytes.
func (c *chunkLimit) saw(keys, size int) {
	if size > chunkBytes {
		c.n = max(1, min(c.keys(), keys*chunkBytes/size))
	} else {
		c.n = min(2*c.keys(), maxChunk)
	}
}

func (g *cacheServer) GetMulti(ctx context.Context, req *ringsidev1.GetMultiRequest) (*ringsidev1.GetMultiResponse, error) {
	if len(req.GetKeys()) > maxMultiKeys {
		return nil, statusOf(argument("keys: more than %d", maxMultiKeys))
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
	var limit chunkLimit
	for len(keys) > 0 {
		chunk := keys[:min(len(keys), limit.keys())]
		keys = keys[len(chunk):]
		if size > maxMultiBytes {
			for _, key := range chunk {
				resp.Failures = append(resp.Failures, &ringsidev1.Failure{
					Key: []byte(key), Code: int32(codes.ResourceExhausted),
					Message: fmt.Sprintf("the values before have more than %d bytes: ask for this key in another call", maxMultiBytes),
				})
			}
			continue
		}
		found := g.appendChunk(ctx, chunk, resp)
		limit.saw(len(chunk), found)
		size += found
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
				Key: []byte(key), Code: int32(codeOf(err)), Message: publicError(err), Node: detailOf(err).GetNode(),
			})
		}
	}
	return size
}
