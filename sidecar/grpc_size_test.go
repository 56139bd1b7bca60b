package sidecar

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/ringside-cache/ringside/client"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
)

// TestGetMultiIsBounded: the values of one call stay within a bound; what was
// not read is listed as such, and is no miss.
func TestGetMultiIsBounded(t *testing.T) {
	s, err := Start(Config{Client: client.Config{Timeout: 30 * time.Second}, Embedded: 1, EmbeddedBytes: 512 << 20, Memcached: Off, GRPC: Off, Admin: Off})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	const n, size = 2500, 70_000
	req := &ringsidev1.GetMultiRequest{}
	for i := range n {
		key := fmt.Sprint("key:", i)
		req.Keys = append(req.Keys, []byte(key))
		if err := s.client.Set(t.Context(), &client.Item{Key: key, Value: make([]byte, size)}); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := (&cacheServer{s: s}).GetMulti(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Values)+len(resp.Failures) != n || len(resp.Values) < maxMultiBytes/size || len(resp.Values) > (maxMultiBytes+2*chunkBytes)/size {
		t.Fatalf("%d values, %d failures of %d keys", len(resp.Values), len(resp.Failures), n)
	}
	for _, f := range resp.Failures {
		if codes.Code(f.Code) != codes.ResourceExhausted {
			t.Fatalf("%v", f)
		}
	}
}
