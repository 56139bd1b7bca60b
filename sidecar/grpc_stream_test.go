package sidecar_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ringside-cache/ringside/client"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
	"github.com/ringside-cache/ringside/sidecar"
)

// TestGRPCStream has every request that a Stream may carry, and each gets the
// reply of its own.
func TestGRPCStream(t *testing.T) {
	t.Parallel()
	s, _ := onMemcached(t, sidecar.Config{GRPC: "on"})
	stream, err := cacheOf(t, s).Stream(within(t))
	if err != nil {
		t.Fatal(err)
	}
	id := uint64(0)
	var version []byte
	for _, tt := range []struct {
		req  *ringsidev1.StreamRequest
		want string
	}{
		{&ringsidev1.StreamRequest{Request: &ringsidev1.StreamRequest_Get{Get: &ringsidev1.GetRequest{Key: key}}}, "get:{}"},
		{&ringsidev1.StreamRequest{Request: &ringsidev1.StreamRequest_Set{Set: &ringsidev1.SetRequest{Key: key, Value: []byte("1")}}}, "set:{}"},
		{&ringsidev1.StreamRequest{Request: &ringsidev1.StreamRequest_Add{Add: &ringsidev1.AddRequest{Key: key}}}, "store:{}"},
		{&ringsidev1.StreamRequest{Request: &ringsidev1.StreamRequest_Replace{Replace: &ringsidev1.ReplaceRequest{Key: key, Value: []byte("2")}}}, "store:{stored:true}"},
		{&ringsidev1.StreamRequest{Request: &ringsidev1.StreamRequest_Append{Append: &ringsidev1.AppendRequest{Key: key, Value: []byte("3")}}}, "store:{stored:true}"},
		{&ringsidev1.StreamRequest{Request: &ringsidev1.StreamRequest_Prepend{Prepend: &ringsidev1.PrependRequest{Key: key, Value: []byte("1")}}}, "store:{stored:true}"},
		{&ringsidev1.StreamRequest{Request: &ringsidev1.StreamRequest_GetAndTouch{GetAndTouch: &ringsidev1.GetAndTouchRequest{Key: key, TtlSeconds: 50}}}, `get:{found:true value:{key:"key" value:"123"`},
		{&ringsidev1.StreamRequest{Request: &ringsidev1.StreamRequest_Increment{Increment: &ringsidev1.IncrementRequest{Key: key, Delta: 7}}}, "count:{found:true number:130}"},
		{&ringsidev1.StreamRequest{Request: &ringsidev1.StreamRequest_Decrement{Decrement: &ringsidev1.DecrementRequest{Key: key, Delta: 30}}}, "count:{found:true number:100}"},
		{&ringsidev1.StreamRequest{Request: &ringsidev1.StreamRequest_Touch{Touch: &ringsidev1.TouchRequest{Key: key}}}, "touch:{found:true}"},
		{&ringsidev1.StreamRequest{Request: &ringsidev1.StreamRequest_CompareAndSwap{CompareAndSwap: &ringsidev1.CompareAndSwapRequest{Key: key, Value: []byte("4")}}}, "compare_and_swap:{outcome:OUTCOME_CONFLICT}"},
		{&ringsidev1.StreamRequest{Request: &ringsidev1.StreamRequest_Delete{Delete: &ringsidev1.DeleteRequest{Key: key}}}, "delete:{found:true}"},
		{&ringsidev1.StreamRequest{Request: &ringsidev1.StreamRequest_Get{Get: &ringsidev1.GetRequest{Key: []byte("a b")}}}, "error:{code:3"},
		{&ringsidev1.StreamRequest{}, "error:{code:3"},
	} {
		id += 1000
		tt.req.Id = id
		if r := tt.req.GetCompareAndSwap(); r != nil {
			r.Version = version // of before the arithmetic
		}
		if err := stream.Send(tt.req); err != nil {
			t.Fatal(err)
		}
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if v := resp.GetGet().GetValue(); v != nil {
			version = v.GetVersion()
		}
		// The text form has a space here and there, by chance.
		text := strings.ReplaceAll(resp.String(), "  ", " ")
		if resp.GetId() != id || !strings.Contains(text, tt.want) {
			t.Errorf("%v\nis answered with %s\nwant %s", tt.req, text, tt.want)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("the end is %v", err)
	}
}

// Many requests are under way at once, each reply has the id and the value of
// its own request, and all are answered although the caller has closed its side.
func TestGRPCStreamPipelines(t *testing.T) {
	t.Parallel()
	s, _ := onMemcached(t, sidecar.Config{GRPC: "on"})
	c, ctx := cacheOf(t, s), within(t)
	const n = 5000
	stream, err := c.Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	value := func(i uint64) string { return fmt.Sprintf("value of %d", i) }
	both := func(send func(i uint64) *ringsidev1.StreamRequest, check func(resp *ringsidev1.StreamResponse)) {
		go func() {
			for i := range uint64(n) {
				if stream.Send(send(i)) != nil {
					return // Recv tells why
				}
			}
		}()
		seen := make(map[uint64]bool, n)
		for range n {
			resp, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if seen[resp.GetId()] {
				t.Errorf("%d is answered twice", resp.GetId())
			}
			seen[resp.GetId()] = true
			if resp.GetAlso() != nil {
				t.Error("replies together, to a caller that may not know them")
			}
			check(resp)
		}
	}
	both(func(i uint64) *ringsidev1.StreamRequest {
		return &ringsidev1.StreamRequest{Id: i, Request: &ringsidev1.StreamRequest_Set{Set: &ringsidev1.SetRequest{Key: fmt.Append(nil, "k", i), Value: []byte(value(i))}}}
	}, func(resp *ringsidev1.StreamResponse) {
		if resp.GetSet() == nil {
			t.Errorf("%v", resp)
		}
	})
	both(func(i uint64) *ringsidev1.StreamRequest {
		return &ringsidev1.StreamRequest{Id: i, Request: &ringsidev1.StreamRequest_Get{Get: &ringsidev1.GetRequest{Key: fmt.Append(nil, "k", i)}}}
	}, func(resp *ringsidev1.StreamResponse) {
		if got := string(resp.GetGet().GetValue().GetValue()); got != value(resp.GetId()) {
			t.Errorf("%d has %q", resp.GetId(), got)
		}
	})
	for i := range uint64(100) {
		if err := stream.Send(&ringsidev1.StreamRequest{Id: i, Request: &ringsidev1.StreamRequest_Get{Get: &ringsidev1.GetRequest{Key: key}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	answered := 0
	for ; ; answered++ {
		if _, err := stream.Recv(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if answered != 100 {
		t.Errorf("%d of 100 were answered", answered)
	}
}

// A node that hangs holds up its own requests only, and a stream that is full
// is not read from.
func TestGRPCStreamBesideAHungNode(t *testing.T) {
	t.Parallel()
	s := startPair(t, sidecar.Config{GRPC: "on", Client: client.Config{Health: never, Timeout: 2 * time.Second}})
	dead, live := s.key(t, "dead", 0), s.key(t, "live", 0)
	c, ctx := cacheOf(t, s.running), within(t)
	for _, key := range []string{dead, live} {
		if _, err := c.Set(ctx, &ringsidev1.SetRequest{Key: []byte(key), Value: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := c.Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s.dead.Stop()
	get := func(id uint64, key string) {
		t.Helper()
		if err := stream.Send(&ringsidev1.StreamRequest{Id: id, Request: &ringsidev1.StreamRequest_Get{Get: &ringsidev1.GetRequest{Key: []byte(key)}}}); err != nil {
			t.Fatal(err)
		}
	}
	get(1, dead)
	eventually(t, "the first is under way", func() bool { return s.Client().Stats().Nodes[0].InFlight > 0 })
	get(2, live)
	resp, err := stream.Recv()
	if err != nil || resp.GetId() != 2 || !resp.GetGet().GetFound() {
		t.Errorf("%v, %v, want the second first", resp, err)
	}
	resp, err = stream.Recv()
	if e := resp.GetError(); err != nil || resp.GetId() != 1 || codes.Code(e.GetCode()) != codes.DeadlineExceeded || e.GetDetail().GetNode() != "dead" {
		t.Errorf("%v, %v, want a timeout that names the node", resp, err)
	}
}

// A drain answers what was sent before it, and ends streams that would last.
func TestGRPCStreamDrain(t *testing.T) {
	t.Parallel()
	s, _ := onMemcached(t, sidecar.Config{GRPC: "on", DrainTimeout: patience})
	stream, err := cacheOf(t, s).Stream(within(t))
	if err != nil {
		t.Fatal(err)
	}
	const n = 500
	for i := range uint64(n) {
		if err := stream.Send(&ringsidev1.StreamRequest{Id: i, Request: &ringsidev1.StreamRequest_Set{Set: &ringsidev1.SetRequest{Key: key}}}); err != nil {
			t.Fatal(err)
		}
	}
	s.cancel()
	for i := range n {
		if resp, err := stream.Recv(); err != nil || resp.GetSet() == nil {
			t.Fatalf("reply %d is %v, %v", i, resp, err)
		}
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the end is %v", err)
	}
	s.stop(t)
}

// A caller that does not read its replies is cut off, and takes nothing from
// the others meanwhile.
func TestGRPCStreamThatIsNotRead(t *testing.T) {
	t.Parallel()
	s, _ := onMemcached(t, sidecar.Config{GRPC: "on", MaxRequests: 500, WriteTimeout: 2 * time.Second, DrainTimeout: patience})
	c, ctx := cacheOf(t, s), within(t)
	if _, err := c.Set(ctx, &ringsidev1.SetRequest{Key: key, Value: make([]byte, 100_000)}); err != nil {
		t.Fatal(err)
	}
	var streams []ringsidev1.Cache_StreamClient
	for range 4 {
		stream, err := cacheOf(t, s).Stream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
		for i := range uint64(200) {
			if err := stream.Send(&ringsidev1.StreamRequest{Id: i, Request: &ringsidev1.StreamRequest_Get{Get: &ringsidev1.GetRequest{Key: key}}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	time.Sleep(3 * time.Second) // it is cut off after two
	eventually(t, "others are answered", func() bool {
		for range 20 {
			if _, err := c.Get(ctx, &ringsidev1.GetRequest{Key: []byte("small")}); err != nil {
				return false
			}
		}
		return true
	})
	for _, stream := range streams[1:] {
		var err error
		for err == nil { // what had been sent, then the end
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("the end is %v", err)
		}
	}
	// Nor does a drain wait for the one that is still not read.
	began := time.Now()
	s.stop(t)
	if took := time.Since(began); took > patience/2 {
		t.Errorf("the drain took %v", took)
	}
}

// Of a burst as many are carried out as there is room for.
func TestGRPCStreamOverTheLimit(t *testing.T) {
	t.Parallel()
	s, server := onMemcached(t, sidecar.Config{GRPC: "on", MaxRequests: 3, Client: client.Config{Health: never, Timeout: patience / 4}})
	c, ctx := cacheOf(t, s), within(t)
	if _, err := c.Get(ctx, &ringsidev1.GetRequest{Key: key}); err != nil {
		t.Fatal(err)
	}
	stream, err := c.Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil { // so that all are under way at once
		t.Fatal(err)
	}
	const n = 20
	for i := range uint64(n) {
		if err := stream.Send(&ringsidev1.StreamRequest{Id: i, Request: &ringsidev1.StreamRequest_Get{Get: &ringsidev1.GetRequest{Key: key}}}); err != nil {
			t.Fatal(err)
		}
	}
	count := map[codes.Code]int{}
	for range n {
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		e := resp.GetError()
		count[codes.Code(e.GetCode())]++
		if refused := codes.Code(e.GetCode()) == codes.ResourceExhausted; e.GetDetail().GetSafeToRetry() != refused {
			t.Errorf("%v", e)
		}
	}
	if count[codes.DeadlineExceeded] != 3 || count[codes.ResourceExhausted] != n-3 {
		t.Errorf("%v", count)
	}
}

// Requests that come in one message are as those that come alone, and their
// replies come together too.
func TestGRPCStreamTogether(t *testing.T) {
	t.Parallel()
	s, _ := onMemcached(t, sidecar.Config{GRPC: "on"})
	c, ctx := cacheOf(t, s), within(t)
	stream, err := c.Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	name := func(i uint64) []byte { return fmt.Append(nil, "k", i) }
	set := func(i uint64, size int) *ringsidev1.StreamRequest {
		return &ringsidev1.StreamRequest{Id: i, Request: &ringsidev1.StreamRequest_Set{Set: &ringsidev1.SetRequest{Key: name(i), Value: bytes.Repeat([]byte{byte(i)}, size)}}}
	}
	get := func(i uint64) *ringsidev1.StreamRequest {
		return &ringsidev1.StreamRequest{Id: i, Request: &ringsidev1.StreamRequest_Get{Get: &ringsidev1.GetRequest{Key: name(i)}}}
	}
	// together sends the requests in one message and gives the replies by id, and
	// the number of messages that they came in.
	together := func(first *ringsidev1.StreamRequest, also ...*ringsidev1.StreamRequest) (map[uint64]*ringsidev1.StreamResponse, int) {
		t.Helper()
		first.Also = also
		if err := stream.Send(first); err != nil {
			t.Fatal(err)
		}
		replies, messages := map[uint64]*ringsidev1.StreamResponse{}, 0
		for len(replies) < 1+len(also) {
			resp, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			messages++
			bytes := 0
			for _, r := range append([]*ringsidev1.StreamResponse{resp}, resp.GetAlso()...) {
				if replies[r.GetId()] != nil {
					t.Errorf("%d is answered twice", r.GetId())
				}
				replies[r.GetId()] = r
				bytes += len(r.GetGet().GetValue().GetValue())
			}
			if resp.GetAlso() != nil && bytes > 64<<10 {
				t.Errorf("%d bytes of values in a message", bytes)
			}
		}
		return replies, messages
	}
	const n = 1000
	var sets, gets []*ringsidev1.StreamRequest
	for i := range uint64(n) {
		sets, gets = append(sets, set(i, 20)), append(gets, get(i))
	}
	replies, messages := together(sets[0], sets[1:]...)
	for id, r := range replies {
		if r.GetSet() == nil {
			t.Errorf("%d: %v", id, r)
		}
	}
	if messages > n/10 {
		t.Errorf("%d replies came in %d messages", n, messages)
	}
	replies, _ = together(gets[0], gets[1:]...)
	for id, r := range replies {
		if got := r.GetGet().GetValue().GetValue(); !bytes.Equal(got, bytes.Repeat([]byte{byte(id)}, 20)) {
			t.Errorf("%d: %q", id, got)
		}
	}
	// Large values are spread over messages; one alone may be larger.
	const large = 20
	sets, gets = nil, nil
	for i := range uint64(large) {
		sets, gets = append(sets, set(i, 30<<10)), append(gets, get(i))
	}
	sets[7] = set(7, 500<<10)
	together(sets[0], sets[1:]...)
	replies, messages = together(gets[0], gets[1:]...)
	for id, r := range replies {
		if want := map[bool]int{false: 30 << 10, true: 500 << 10}[id == 7]; len(r.GetGet().GetValue().GetValue()) != want {
			t.Errorf("%d: %d bytes, want %d", id, len(r.GetGet().GetValue().GetValue()), want)
		}
	}
	if messages < large/2 {
		t.Errorf("%d messages", messages)
	}
	// What is within them has none itself; the others do not mind.
	nested := get(1)
	nested.Also = []*ringsidev1.StreamRequest{get(5)}
	replies, _ = together(get(0), nested, get(2))
	if e := replies[1].GetError(); codes.Code(e.GetCode()) != codes.InvalidArgument || replies[0].GetGet() == nil || replies[2].GetGet() == nil {
		t.Errorf("%v, %v, %v", e, replies[0].GetError(), replies[2].GetError())
	}
	// Nor are there too many.
	many := get(0)
	for i := range uint64(1024) {
		many.Also = append(many.Also, get(i))
	}
	if err := stream.Send(many); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	// Nor are they too large together.
	if stream, err = c.Stream(ctx); err != nil {
		t.Fatal(err)
	}
	large10 := get(0)
	for i := range uint64(10) {
		large10.Also = append(large10.Also, set(1+i, 300<<10))
	}
	if err := stream.Send(large10); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Error(err)
	}
}

// As many as a stream has room for, while others of it are under way.
func TestGRPCStreamTogetherFull(t *testing.T) {
	t.Parallel()
	s, server := onMemcached(t, sidecar.Config{GRPC: "on", Client: client.Config{Health: never, Timeout: patience / 2}})
	c, ctx := cacheOf(t, s), within(t)
	if _, err := c.Get(ctx, &ringsidev1.GetRequest{Key: key}); err != nil {
		t.Fatal(err)
	}
	stream, err := c.Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	const messages, each = 5, 1000
	for m := range uint64(messages) {
		var all []*ringsidev1.StreamRequest
		for i := range uint64(each) {
			all = append(all, &ringsidev1.StreamRequest{Id: m*each + i, Request: &ringsidev1.StreamRequest_Get{Get: &ringsidev1.GetRequest{Key: key}}})
		}
		all[0].Also = all[1:]
		if err := stream.Send(all[0]); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Continue(); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	answered := 0
	for {
		resp, err := stream.Recv()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		answered += 1 + len(resp.GetAlso())
	}
	if answered != messages*each {
		t.Errorf("%d of %d were answered", answered, messages*each)
	}
}

// TestGRPCStreamBehindAPause: whatever came before, the first requests behind a pause
// go to the nodes in a batch of no more than 64, as their values may be large; and who
// has the replies finds the requests counted.
func TestGRPCStreamBehindAPause(t *testing.T) {
	t.Parallel()
	s, _ := onMemcached(t, sidecar.Config{GRPC: "on", Admin: "on"})
	stream, err := cacheOf(t, s).Stream(within(t))
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	gets := func(n int) *ringsidev1.StreamRequest {
		all := make([]*ringsidev1.StreamRequest, n)
		for i := range all {
			all[i] = &ringsidev1.StreamRequest{Id: uint64(i), Request: &ringsidev1.StreamRequest_Get{Get: &ringsidev1.GetRequest{Key: key}}}
		}
		all[0].Also = all[1:]
		return all[0]
	}
	ask := func(n int) {
		t.Helper()
		if err := stream.Send(gets(n)); err != nil {
			t.Fatal(err)
		}
		for left := n; left > 0; {
			resp, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			left -= 1 + len(resp.GetAlso())
		}
		sent += n
		if got := s.metric(t, `ringside_requests_total{operation="Get",protocol="grpc",result="miss"}`); got != float64(sent) {
			t.Errorf("%v requests are counted when %d are answered", got, sent)
		}
	}
	batches := func() float64 { return s.metric(t, `ringside_exchange_seconds_count{protocol="grpc"}`) }
	for range 3 {
		for range 6 {
			ask(1) // after which the next batch may be larger
		}
		before := batches()
		ask(250)
		// 64, 128 and the rest; 128 and the rest where the goroutine did not get to its
		// pause in time.
		if got := batches() - before; got < 2 {
			t.Errorf("250 requests went out in %v batch, want 3", got)
		}
	}
}
