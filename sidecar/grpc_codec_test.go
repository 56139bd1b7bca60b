package sidecar

import (
	"bytes"
	"runtime"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
)

// field gives a field of a message n times.
func field(num protowire.Number, held []byte, n int) []byte {
	return bytes.Repeat(protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), held), n)
}

func unmarshal(data []byte, into any) error {
	return newBoundedCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, into)
}

// What is refused anyway takes no memory that it did not bring with it.
func TestFullMessages(t *testing.T) {
	const size = 2 << 20
	deep := []byte{}
	for range 1000 {
		deep = field(alsoField, deep, 1)
	}
	for name, data := range map[string][]byte{
		"requests":                field(alsoField, nil, size/2),
		"requests in one":         field(alsoField, field(alsoField, nil, size/2), 1),
		"requests in many":        field(alsoField, field(alsoField, nil, size/2000), 1000),
		"requests in one in one":  field(alsoField, field(alsoField, field(alsoField, nil, size/2), 1), 1),
		"requests that are nests": field(alsoField, deep, size/len(deep)),
	} {
		t.Run(name, func(t *testing.T) {
			var req ringsidev1.StreamRequest
			isBounded(t, len(data), func() error { return unmarshal(data, &req) })
			if len(req.GetAlso()) < streamRequests {
				t.Errorf("it has %d requests, fewer than are refused", len(req.GetAlso()))
			}
		})
	}
	t.Run("keys", func(t *testing.T) {
		var req ringsidev1.GetMultiRequest
		data := field(keysField, nil, size/2)
		isBounded(t, len(data), func() error { return unmarshal(data, &req) })
		if len(req.GetKeys()) <= maxMultiKeys {
			t.Errorf("it has %d keys, as many as are allowed", len(req.GetKeys()))
		}
	})
}

// isBounded checks that f takes no more memory than size.
func isBounded(t *testing.T, size int, f func() error) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := f()
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > uint64(size) {
		t.Errorf("a message of %d bytes took %d", size, took)
	}
}

// FuzzBoundedCodec: it reads what gRPC's own codec does, unless there is too much.
func FuzzBoundedCodec(f *testing.F) {
	some := &ringsidev1.StreamRequest{Id: 7, Request: &ringsidev1.StreamRequest_Get{Get: &ringsidev1.GetRequest{Key: []byte("k")}}}
	also, _ := proto.Marshal(&ringsidev1.StreamRequest{Id: 1, Also: []*ringsidev1.StreamRequest{some, some, {Also: []*ringsidev1.StreamRequest{some}}}})
	f.Add(also)
	keys, _ := proto.Marshal(&ringsidev1.GetMultiRequest{Keys: [][]byte{[]byte("a"), nil, []byte("b")}})
	f.Add(keys)
	f.Add(field(alsoField, nil, streamRequests))
	f.Add(field(alsoField, nil, streamRequests-1))
	f.Add(field(keysField, nil, maxMultiKeys))
	f.Add(field(keysField, nil, maxMultiKeys+1))
	f.Add(field(alsoField, field(alsoField, field(alsoField, nil, 1), 1), 1))
	f.Add(also[:len(also)-1])
	codec := newBoundedCodec()
	codec.from = 0
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, m := range []struct{ got, want proto.Message }{
			{new(ringsidev1.StreamRequest), new(ringsidev1.StreamRequest)},
			{new(ringsidev1.GetMultiRequest), new(ringsidev1.GetMultiRequest)},
		} {
			err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, m.got)
			switch got := m.got.(type) {
			case *ringsidev1.StreamRequest:
				if err == nil && len(got.GetAlso()) >= streamRequests {
					continue // refused
				}
			case *ringsidev1.GetMultiRequest:
				if err == nil && len(got.GetKeys()) > maxMultiKeys {
					continue
				}
			}
			wantErr := proto.Unmarshal(data, m.want)
			if (err == nil) != (wantErr == nil) {
				t.Fatalf("%q gives %v, and by itself %v", data, err, wantErr)
			}
			if err == nil && !proto.Equal(m.got, m.want) {
				t.Fatalf("%q gives %v, and by itself %v", data, m.got, m.want)
			}
		}
	})
}
