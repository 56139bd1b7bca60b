package sidecar_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/proto/memcached"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
	"github.com/ringside-cache/ringside/ring"
	"github.com/ringside-cache/ringside/sidecar"
)

// dialGRPC connects to the gRPC listener until the test's end.
func dialGRPC(t testing.TB, s *running) *grpc.ClientConn {
	t.Helper()
	target := s.addr("grpc")
	if !strings.HasPrefix(target, "unix:") {
		target = "passthrough:///" + target
	}
	cc, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

func cacheOf(t testing.TB, s *running) ringsidev1.CacheClient {
	return ringsidev1.NewCacheClient(dialGRPC(t, s))
}

// within bounds a test's calls.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	s, _ := onNode(t, sidecar.Config{GRPC: "unix:" + shortDir(t) + "/grpc"})
	c, ctx := cacheOf(t, s), within(t)
	get := func(key, want string) {
		t.Helper()
		resp, err := c.Get(ctx, &ringsidev1.GetRequest{Key: []byte(key)})
		if err != nil {
			t.Fatal(err)
		}
		got := "nothing"
		if v := resp.GetValue(); resp.GetFound() {
			got = fmt.Sprintf("%s=%s flags %d", v.GetKey(), v.GetValue(), v.GetFlags())
		} else if v != nil {
			t.Errorf("Get of a missing key has the value %v", v)
		}
		if got != want {
			t.Errorf("Get %s = %s, want %s", key, got, want)
		}
	}
	set := func(req *ringsidev1.SetRequest) {
		t.Helper()
		if _, err := c.Set(ctx, req); err != nil {
			t.Fatal(err)
		}
	}
	del := func(key string, found bool) {
		t.Helper()
		resp, err := c.Delete(ctx, &ringsidev1.DeleteRequest{Key: []byte(key)})
		if err != nil || resp.GetFound() != found {
			t.Errorf("Delete %s = %v, %v, want found %v", key, resp, err, found)
		}
	}
	get("a", "nothing")
	set(&ringsidev1.SetRequest{Key: []byte("a"), Value: []byte("1"), Flags: 7})
	get("a", "a=1 flags 7")
	set(&ringsidev1.SetRequest{Key: []byte("a"), Value: []byte("2")})
	get("a", "a=2 flags 0")
	set(&ringsidev1.SetRequest{Key: []byte("empty")})
	get("empty", "empty= flags 0")
	set(&ringsidev1.SetRequest{Key: []byte("\xff\xfe"), Value: []byte("\x00\r\n")})
	get("\xff\xfe", "\xff\xfe=\x00\r\n flags 0")
	del("a", true)
	del("a", false)
	get("a", "nothing")

	p := dial(t, s.addr("memcached"))
	set(&ringsidev1.SetRequest{Key: []byte("ttl"), Value: []byte("x"), TtlSeconds: 1000})
	p.wantTTL("ttl", 1000)
	p.want("mg empty t\r\n", "HD t-1\r\n")
	set(&ringsidev1.SetRequest{Key: []byte("ttl"), Value: []byte("x"), TtlSeconds: 30 * 24 * 60 * 60})
	p.wantTTL("ttl", 30*24*60*60)
}

func TestGRPCGetMulti(t *testing.T) {
	t.Parallel()
	s, _ := onNode(t, sidecar.Config{GRPC: "on"})
	c, ctx := cacheOf(t, s), within(t)
	multi := func(keys ...string) *ringsidev1.GetMultiResponse {
		t.Helper()
		req := &ringsidev1.GetMultiRequest{}
		for _, key := range keys {
			req.Keys = append(req.Keys, []byte(key))
		}
		resp, err := c.GetMulti(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	for _, key := range []string{"a", "b"} {
		if _, err := c.Set(ctx, &ringsidev1.SetRequest{Key: []byte(key), Value: []byte("of " + key), Flags: 3}); err != nil {
			t.Fatal(err)
		}
	}
	a := &ringsidev1.Value{Key: []byte("a"), Value: []byte("of a"), Flags: 3}
	b := &ringsidev1.Value{Key: []byte("b"), Value: []byte("of b"), Flags: 3}
	for _, tt := range []struct {
		name string
		keys []string
		want *ringsidev1.GetMultiResponse
	}{
		{"no keys", nil, &ringsidev1.GetMultiResponse{}},
		{"in the order asked", []string{"b", "missing", "a"}, &ringsidev1.GetMultiResponse{Values: []*ringsidev1.Value{b, a}}},
		{"a key twice", []string{"a", "b", "a", "a"}, &ringsidev1.GetMultiResponse{Values: []*ringsidev1.Value{a, b}}},
		{"a malformed key beside others", []string{"a", "not ok", "b"}, &ringsidev1.GetMultiResponse{
			Values:   []*ringsidev1.Value{a, b},
			Failures: []*ringsidev1.Failure{{Key: []byte("not ok"), Code: int32(codes.InvalidArgument)}},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := multi(tt.keys...)
			for _, f := range got.GetFailures() {
				if f.GetMessage() == "" || strings.Contains(f.GetMessage(), string(f.GetKey())) {
					t.Errorf("the message of a failure is %q", f.GetMessage())
				}
				f.Message = ""
			}
			if diff := cmp.Diff(tt.want, got, protocmp.Transform(), protocmp.IgnoreFields(&ringsidev1.Value{}, "version")); diff != "" {
				t.Errorf("GetMulti (-want +got):\n%s", diff)
			}
		})
	}

	// 10,000 keys are taken, and one more is not.
	keys := make([]string, 10000)
	for i := range keys {
		keys[i] = fmt.Sprintf("%s.%d", strings.Repeat("k", 240), i)
	}
	if _, err := c.Set(ctx, &ringsidev1.SetRequest{Key: []byte(keys[9999]), Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if got := multi(keys...); len(got.GetValues()) != 1 || len(got.GetFailures()) != 0 {
		t.Errorf("GetMulti of 10,000 keys has %d values and %d failures, want 1 and 0", len(got.GetValues()), len(got.GetFailures()))
	}
	req := &ringsidev1.GetMultiRequest{}
	for _, key := range append(keys, "a") {
		req.Keys = append(req.Keys, []byte(key))
	}
	_, err := c.GetMulti(ctx, req)
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "keys: more than 10000") {
		t.Errorf("GetMulti of 10,001 keys = %v, want InvalidArgument that tells the limit", err)
	}
}

// TestGRPCPartialFailure: what was found is there, and what failed has its
// code and its node.
func TestGRPCPartialFailure(t *testing.T) {
	t.Parallel()
	s := startPair(t, sidecar.Config{Client: client.Config{Health: never}, Memcached: "on", GRPC: "on"})
	c, ctx := cacheOf(t, s.running), within(t)
	p := dial(t, s.addr("memcached"))
	req, want := &ringsidev1.GetMultiRequest{}, &ringsidev1.GetMultiResponse{}
	for i := range 5 {
		dead, live := s.key(t, "dead", i), s.key(t, "live", i)
		for _, key := range []string{dead, live} {
			p.want("set "+key+" 0 0 1\r\nx\r\n", "STORED\r\n")
			req.Keys = append(req.Keys, []byte(key))
		}
		want.Values = append(want.Values, &ringsidev1.Value{Key: []byte(live), Value: []byte("x")})
		want.Failures = append(want.Failures, &ringsidev1.Failure{Key: []byte(dead), Node: "dead", Code: int32(codes.Unavailable)})
	}
	s.dead.Kill()
	got, err := c.GetMulti(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range got.GetFailures() {
		if f.GetMessage() == "" || strings.Contains(f.GetMessage(), secret) {
			t.Errorf("the message of a failure is %q", f.GetMessage())
		}
		f.Message = ""
	}
	if diff := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(&ringsidev1.Value{}, "version")); diff != "" {
		t.Errorf("GetMulti (-want +got):\n%s", diff)
	}
}

// TestGRPCCodes has every status code that the proto file promises.
func TestGRPCCodes(t *testing.T) {
	t.Parallel()
	type call = func(ctx context.Context, c ringsidev1.CacheClient) error
	get := func(key string) call {
		return func(ctx context.Context, c ringsidev1.CacheClient) error {
			_, err := c.Get(ctx, &ringsidev1.GetRequest{Key: []byte(key)})
			return err
		}
	}
	set := func(key, value string, ttl uint32) call {
		return func(ctx context.Context, c ringsidev1.CacheClient) error {
			_, err := c.Set(ctx, &ringsidev1.SetRequest{Key: []byte(key), Value: []byte(value), TtlSeconds: ttl})
			return err
		}
	}
	del := func(key string) call {
		return func(ctx context.Context, c ringsidev1.CacheClient) error {
			_, err := c.Delete(ctx, &ringsidev1.DeleteRequest{Key: []byte(key)})
			return err
		}
	}
	all := func(key string) []call { return []call{get(key), set(key, "x", 0), del(key)} }
	inject := func(f memnode.Fault) func(*testing.T, *pair) {
		return func(_ *testing.T, p *pair) {
			p.dead.Inject(f, memnode.Always(), memnode.Matching(func(r *memcached.Request) bool { return len(r.Key) > 0 }))
		}
	}
	// key stands for one of the failing node.
	const key = "\x00dead"
	long := strings.Repeat("k", 251)
	out := client.Config{Health: ring.HealthConfig{FailureLimit: 1, RetryTimeout: time.Hour}, Failover: client.FailoverNone}
	short := client.Config{Health: never, Timeout: 500 * time.Millisecond}
	for _, tt := range []struct {
		name     string
		cfg      client.Config
		fail     func(*testing.T, *pair)
		deadline time.Duration
		calls    []call
		want     codes.Code
		text     string
	}{
		{name: "empty key", calls: all(""), want: codes.InvalidArgument, text: "empty"},
		{name: "251 bytes", calls: all(long), want: codes.InvalidArgument, text: "251 bytes"},
		{name: "space", calls: all("a b"), want: codes.InvalidArgument, text: "0x20 at place 1"},
		{name: "control byte", calls: all("ab\n"), want: codes.InvalidArgument, text: "0x0a at place 2"},
		{name: "DEL", calls: all("\x7f"), want: codes.InvalidArgument, text: "0x7f at place 0"},
		{name: "value over the node's size", calls: []call{set("a", strings.Repeat("x", 1<<20), 0)}, want: codes.InvalidArgument, text: "larger than the node takes"},
		{name: "value over the listener's size", calls: []call{set("a", strings.Repeat("x", 1<<20+1), 0)}, want: codes.InvalidArgument, text: "1048577 bytes, at most 1048576"},
		{name: "TTL over 30 days", calls: []call{set("a", "x", 30*24*60*60+1)}, want: codes.InvalidArgument, text: "2592001"},
		{name: "killed", cfg: client.Config{Health: never}, fail: func(_ *testing.T, p *pair) { p.dead.Kill() }, calls: all(key), want: codes.Unavailable, text: "dead"},
		{name: "connection lost", cfg: client.Config{Health: never}, fail: inject(memnode.Reset()), calls: all(key), want: codes.Unavailable, text: "connection lost"},
		{name: "ejected", cfg: out, fail: eject, calls: all(key), want: codes.Unavailable, text: "the node is ejected"},
		{name: "no answer in time", cfg: short, fail: inject(memnode.Stall()), calls: []call{get(key)}, want: codes.DeadlineExceeded, text: "no answer within"},
		{name: "the caller's deadline", cfg: client.Config{Health: never, Timeout: 10 * time.Minute}, fail: inject(memnode.Stall()), deadline: 50 * time.Millisecond, calls: all(key), want: codes.DeadlineExceeded},
		{name: "SERVER_ERROR", fail: inject(memnode.Garbage("SERVER_ERROR out of memory\r\n")), calls: all(key), want: codes.Internal, text: "out of memory"},
		{name: "out of step", cfg: client.Config{Health: never}, fail: inject(memnode.Garbage("what?\r\n")), calls: all(key), want: codes.Internal, text: "out of step"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := startPair(t, sidecar.Config{Client: tt.cfg, Memcached: "on", GRPC: "on"})
			// The dead node's key is not known before there are addresses.
			c := &keyed{cacheOf(t, s.running), []byte(s.key(t, "dead", 0))}
			if _, err := c.Get(within(t), &ringsidev1.GetRequest{Key: c.key}); err != nil {
				t.Fatal(err)
			}
			if tt.fail != nil {
				tt.fail(t, s)
			}
			for i, call := range tt.calls {
				ctx := within(t)
				if tt.deadline != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.deadline)
					defer cancel()
				}
				err := call(ctx, c)
				if status.Code(err) != tt.want || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("call %d = %v, want %v with %q in it", i, err, tt.want, tt.text)
				}
				if strings.Contains(fmt.Sprint(err), secret) {
					t.Errorf("call %d = %v, with a key in it", i, err)
				}
			}
		})
	}
}

// TestGRPCSilentNode: a node that takes connections and says nothing could not
// be reached, since nothing was sent to it.
func TestGRPCSilentNode(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes them
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s := start(t, sidecar.Config{
		Client: client.Config{Servers: []string{silent.Addr().String()}, Timeout: 50 * time.Millisecond}, GRPC: "on",
	})
	c := cacheOf(t, s)
	for range 3 {
		if _, err := c.Get(within(t), &ringsidev1.GetRequest{Key: []byte("a")}); status.Code(err) != codes.Unavailable {
			t.Errorf("Get = %v, want Unavailable", err)
		}
	}
}

// keyed puts a real key in the place of "\x00dead".
type keyed struct {
	ringsidev1.CacheClient
	key []byte
}

func (k *keyed) real(key []byte) []byte {
	if bytes.Equal(key, []byte("\x00dead")) {
		return k.key
	}
	return key
}

func (k *keyed) Get(ctx context.Context, r *ringsidev1.GetRequest, o ...grpc.CallOption) (*ringsidev1.GetResponse, error) {
	return k.CacheClient.Get(ctx, &ringsidev1.GetRequest{Key: k.real(r.GetKey())}, o...)
}

func (k *keyed) Set(ctx context.Context, r *ringsidev1.SetRequest, o ...grpc.CallOption) (*ringsidev1.SetResponse, error) {
	r.Key = k.real(r.GetKey())
	return k.CacheClient.Set(ctx, r, o...)
}

func (k *keyed) Delete(ctx context.Context, r *ringsidev1.DeleteRequest, o ...grpc.CallOption) (*ringsidev1.DeleteResponse, error) {
	return k.CacheClient.Delete(ctx, &ringsidev1.DeleteRequest{Key: k.real(r.GetKey())}, o...)
}

// TestGRPCOverload: what is too much in flight is refused at once.
func TestGRPCOverload(t *testing.T) {
	t.Parallel()
	s, node := onNode(t, sidecar.Config{Client: client.Config{MaxInFlight: 1}, GRPC: "on"})
	c, ctx := cacheOf(t, s), within(t)
	stall := node.Inject(memnode.Stall(), memnode.Key("slow"))
	first := make(chan error, 1)
	go func() {
		_, err := c.Get(ctx, &ringsidev1.GetRequest{Key: []byte("slow")})
		first <- err
	}()
	<-stall.Hit()
	if _, err := c.Get(ctx, &ringsidev1.GetRequest{Key: []byte("a")}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("Get over the limit = %v, want ResourceExhausted", err)
	}
	stall.Release()
	if err := <-first; err != nil {
		t.Errorf("the Get that was under way = %v", err)
	}
}

// TestGRPCCancel: a caller that leaves takes its request with it and nothing
// else.
func TestGRPCCancel(t *testing.T) {
	t.Parallel()
	s, node := onNode(t, sidecar.Config{GRPC: "on", Admin: "on"})
	c := cacheOf(t, s)
	stall := node.Inject(memnode.Stall(), memnode.Key("slow"))
	ctx, cancel := context.WithCancel(within(t))
	left := make(chan error, 1)
	go func() {
		_, err := c.Get(ctx, &ringsidev1.GetRequest{Key: []byte("slow")})
		left <- err
	}()
	<-stall.Hit()
	cancel()
	if err := <-left; status.Code(err) != codes.Canceled {
		t.Errorf("Get = %v, want Canceled", err)
	}
	eventually(t, "the sidecar has let go of the request", func() bool {
		_, body := fetch(t, s, "GET", "/metrics")
		return strings.Contains(body, `ringside_requests_total{operation="Get",protocol="grpc",result="error"} 1`)
	})
	stall.Release()
	if _, err := c.Get(within(t), &ringsidev1.GetRequest{Key: []byte("a")}); err != nil {
		t.Errorf("the next Get = %v", err)
	}
	wantUnbroken(t, s)
}

// TestGRPCBigValues goes past gRPC's own default of 4 MiB a message.
func TestGRPCBigValues(t *testing.T) {
	t.Parallel()
	const size = 5 << 20
	node, err := memnode.Start(memnode.Config{MaxItemSize: 8 << 20, MaxBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	s := start(t, sidecar.Config{Client: nodes(node.Addr()), GRPC: "on", MaxValueBytes: size})
	c, ctx := cacheOf(t, s), within(t)
	req := &ringsidev1.GetMultiRequest{}
	for i := range 2 {
		key := fmt.Appendf(nil, "big%d", i)
		if _, err := c.Set(ctx, &ringsidev1.SetRequest{Key: key, Value: bytes.Repeat([]byte{'a' + byte(i)}, size)}); err != nil {
			t.Fatal(err)
		}
		req.Keys = append(req.Keys, key)
	}
	resp, err := c.GetMulti(ctx, req)
	if err != nil || len(resp.GetValues()) != 2 {
		t.Fatalf("GetMulti = %d values, %v, want 2", len(resp.GetValues()), err)
	}
	for i, v := range resp.GetValues() {
		if !bytes.Equal(v.GetValue(), bytes.Repeat([]byte{'a' + byte(i)}, size)) {
			t.Errorf("value %d is not what was set", i)
		}
	}
}

func TestGRPCHealth(t *testing.T) {
	t.Parallel()
	s, _ := onNode(t, sidecar.Config{GRPC: "on"})
	h, ctx := healthv1.NewHealthClient(dialGRPC(t, s)), within(t)
	for _, service := range []string{"", "ringside.v1.Cache"} {
		resp, err := h.Check(ctx, &healthv1.HealthCheckRequest{Service: service})
		if err != nil || resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("Check %q = %v, %v, want SERVING", service, resp, err)
		}
	}
	if _, err := h.Check(ctx, &healthv1.HealthCheckRequest{Service: "other"}); status.Code(err) != codes.NotFound {
		t.Errorf("Check of another service = %v, want NotFound", err)
	}
}

func TestGRPCReflection(t *testing.T) {
	t.Parallel()
	s, _ := onNode(t, sidecar.Config{GRPC: "on"})
	stream, err := reflectionv1.NewServerReflectionClient(dialGRPC(t, s)).ServerReflectionInfo(within(t))
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, service := range resp.GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	if all := strings.Join(names, " "); !strings.Contains(all, "ringside.v1.Cache") || !strings.Contains(all, "grpc.health.v1.Health") {
		t.Errorf("reflection lists %q", all)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
}
