package sidecar

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
)

// A boundedCodec is gRPC's own, but counts what is repeated in a large message
// before there is memory for it: two bytes are an empty request of a Stream, of
// which one that was read takes a hundred. Of a message with too much it makes one
// that the handler refuses.
type boundedCodec struct {
	encoding.CodecV2
	from int // the size from which messages are counted
}

func newBoundedCodec() boundedCodec {
	// One that is smaller takes less than 2 MiB, whatever is in it.
	return boundedCodec{encoding.GetCodecV2(proto.Name), 16 << 10}
}

var (
	alsoField = (*ringsidev1.StreamRequest)(nil).ProtoReflect().Descriptor().Fields().ByName("also").Number()
	keysField = (*ringsidev1.GetMultiRequest)(nil).ProtoReflect().Descriptor().Fields().ByName("keys").Number()
)

func (c boundedCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if data.Len() >= c.from {
		switch m := v.(type) {
		case *ringsidev1.StreamRequest:
			if countAlso(data) >= streamRequests {
				m.Also = make([]*ringsidev1.StreamRequest, streamRequests)
				return nil
			}
		case *ringsidev1.GetMultiRequest:
			if countKeys(data) > maxMultiKeys {
				m.Keys = make([][]byte, maxMultiKeys+1)
				return nil
			}
		}
	}
	return c.CodecV2.Unmarshal(data, v)
}

func countKeys(data mem.BufferSlice) (n int) {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	eachField(buf.ReadOnlyData(), keysField, func([]byte) { n++ })
	return n
}

// countAlso counts the requests in a message of a Stream, and those within them,
// which each have an error for an answer. What is still deeper is too much.
func countAlso(data mem.BufferSlice) (n int) {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	eachField(buf.ReadOnlyData(), alsoField, func(request []byte) {
		n++
		eachField(request, alsoField, func(within []byte) {
			n++
			eachField(within, alsoField, func([]byte) { n += streamRequests })
		})
	})
	return n
}

// eachField calls f with what a field holds, each time that it is in a message. It
// ends at what is no message, where Unmarshal has an error.
func eachField(b []byte, field protoreflect.FieldNumber, f func(held []byte)) {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return
		}
		b = b[n:]
		if num == field && kind == protowire.BytesType {
			if held, n := protowire.ConsumeBytes(b); n >= 0 {
				f(held)
			}
		}
		if n = protowire.ConsumeFieldValue(num, kind, b); n < 0 {
			return
		}
		b = b[n:]
	}
}
