package sidecar_test

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
	"github.com/ringside-cache/ringside/sidecar"
)

// A collector takes spans, over gRPC and over HTTP.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []*tracev1.ResourceSpans
	calls int
}

func (c *collector) Export(_ context.Context, req *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	c.spans = append(c.spans, req.GetResourceSpans()...)
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(body)
	}
	b, _ := io.ReadAll(body)
	var req collectorv1.ExportTraceServiceRequest
	if err := proto.Unmarshal(b, &req); err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(r.URL.Path, err), http.StatusBadRequest)
		return
	}
	c.Export(r.Context(), &req)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (c *collector) serveGRPC(t *testing.T) (endpoint string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(g, c)
	go g.Serve(l)
	t.Cleanup(g.Stop)
	return "http://" + l.Addr().String()
}

func (c *collector) serveHTTP(t *testing.T) (endpoint string) {
	h := httptest.NewServer(c)
	t.Cleanup(h.Close)
	return h.URL
}

func attributes(list []*commonv1.KeyValue) map[string]string {
	m := make(map[string]string)
	for _, kv := range list {
		switch v := kv.GetValue().GetValue().(type) {
		case *commonv1.AnyValue_StringValue:
			m[kv.GetKey()] = v.StringValue
		case *commonv1.AnyValue_IntValue:
			m[kv.GetKey()] = fmt.Sprint(v.IntValue)
		case *commonv1.AnyValue_ArrayValue:
			var words []string
			for _, e := range v.ArrayValue.GetValues() {
				words = append(words, e.GetStringValue())
			}
			m[kv.GetKey()] = strings.Join(words, " ")
		}
	}
	return m
}

func TestTraces(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			c := &collector{}
			endpoint := map[string]func(*testing.T) string{"grpc": c.serveGRPC, "http/protobuf": c.serveHTTP}[protocol](t)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
			t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
			t.Setenv("OTEL_SERVICE_NAME", "the-sidecar")
			s := start(t, sidecar.Config{Embedded: 1, Memcached: "on", GRPC: "on", Tracing: sidecar.TracingEnv})
			p := dial(t, s.addr("memcached"))
			p.send("set " + secret + " 0 0 1\r\nx\r\nget " + secret + " " + secret + "2\r\nmn\r\n")
			p.until("MN\r\n")
			const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
			ctx := metadata.AppendToOutgoingContext(within(t), "traceparent", "00-"+traceID+"-00f067aa0ba902b7-01")
			cache := cacheOf(t, s)
			if _, err := cache.Get(ctx, &ringsidev1.GetRequest{Key: []byte(secret)}); err != nil {
				t.Fatal(err)
			}
			cache.Get(ctx, &ringsidev1.GetRequest{Key: []byte(secret + " ")}) // is refused
			stream, err := cache.Stream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			stream.Send(&ringsidev1.StreamRequest{Id: 1, Request: &ringsidev1.StreamRequest_Get{Get: &ringsidev1.GetRequest{Key: []byte(secret)}}})
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
			stream.CloseSend()
			stream.Recv()
			s.stop(t) // which sends the last ones

			var got []string
			for _, rs := range c.spans {
				if name := attributes(rs.GetResource().GetAttributes())["service.name"]; name != "the-sidecar" {
					t.Errorf("service.name is %q", name)
				}
				for _, ss := range rs.GetScopeSpans() {
					for _, span := range ss.GetSpans() {
						a := attributes(span.GetAttributes())
						child := fmt.Sprintf("%x", span.GetTraceId()) == traceID && fmt.Sprintf("%x", span.GetParentSpanId()) == "00f067aa0ba902b7"
						got = append(got, fmt.Sprintf("%s child=%v keys=%s operations=%q nodes=%s result=%s", span.GetName(), child,
							a["ringside.keys"], a["ringside.operations"], a["ringside.nodes"], a["ringside.result"]))
						if strings.Contains(protojson.Format(span), secret) {
							t.Errorf("a key is in %v", span)
						}
					}
				}
			}
			slices.Sort(got)
			want := []string{
				`memcached exchange child=false keys=3 operations="get mn set" nodes=embedded-1 result=ok`,
				`ringside.v1.Cache/Get child=true keys=1 operations="" nodes= result=refused`,
				`ringside.v1.Cache/Get child=true keys=1 operations="" nodes=embedded-1 result=ok`,
				`ringside.v1.Cache/Stream child=true keys=1 operations="Get" nodes=embedded-1 result=ok`,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("spans (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNoTraces: nothing is sent and no goroutine runs unless it was asked for.
func TestNoTraces(t *testing.T) {
	for _, tt := range []struct {
		name    string
		tracing string
		env     map[string]string
	}{
		{"zero config", "", map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}},
		{"off", sidecar.Off, map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}},
		{"nothing set", sidecar.TracingEnv, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": ""}},
		{"none", sidecar.TracingEnv, map[string]string{"OTEL_TRACES_EXPORTER": "none"}},
		{"disabled", sidecar.TracingEnv, map[string]string{"OTEL_SDK_DISABLED": "true"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &collector{}
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.serveHTTP(t))
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			s := start(t, sidecar.Config{Embedded: 1, Memcached: "on", Tracing: tt.tracing})
			dial(t, s.addr("memcached")).want("get a\r\n", "END\r\n")
			var stacks strings.Builder
			pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			if strings.Contains(stacks.String(), "opentelemetry.io/otel") {
				t.Error("a goroutine of OpenTelemetry runs")
			}
			s.stop(t)
			if c.calls != 0 {
				t.Errorf("%d exports were made", c.calls)
			}
		})
	}
	for name, value := range map[string]string{"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
			t.Setenv(name, value)
			if s, err := sidecar.Start(free(sidecar.Config{Embedded: 1, Tracing: sidecar.TracingEnv})); err == nil || !strings.Contains(err.Error(), value) {
				t.Errorf("Start = %v, %v", s, err)
			}
		})
	}
}

// A collector that is gone holds up neither requests nor the end for long.
func TestTracesToNobody(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	s := start(t, sidecar.Config{Embedded: 1, Memcached: "on", Tracing: sidecar.TracingEnv})
	dial(t, s.addr("memcached")).want("get a\r\n", "END\r\n")
	s.stop(t)
}
