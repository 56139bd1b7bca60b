package sidecar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ringside-cache/ringside/client"
)

// TracingEnv is the Config.Tracing that follows the environment.
const TracingEnv = "env"

// A tracer makes the spans: one for each gRPC call, one for each batch of a
// Stream and one for each exchange of the memcached listener. Its methods do
// nothing on nil, which is a sidecar that does not trace. No span has a key in
// it. There is none for a round trip to a node, as those of an exchange go on
// at the same time: the nodes are named in its one span.
type tracer struct {
	provider *sdktrace.TracerProvider
	exporter *loggingExporter
	tracer   trace.Tracer
}

// newTracer follows the standard variables. Without an exporter that they ask
// for it gives nil.
func newTracer(log *slog.Logger, m *metrics) (*tracer, error) {
	ctx := context.Background()
	exporter, err := exporterOfEnv(ctx)
	if exporter == nil || err != nil {
		return nil, err
	}
	failed := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "ringside_trace_exports_failed_total", Help: "Batches of spans that the collector did not take; only where traces are sent.",
	})
	m.registry.MustRegister(failed)
	res, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "ringside"), attribute.String("service.version", Version)),
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithFromEnv()) // the later ones win
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tracing: %w", err), exporter.Shutdown(ctx))
	}
	// The sampler, the limits and the batching have variables that the SDK
	// reads for itself.
	logging := &loggingExporter{SpanExporter: exporter, log: log, failed: failed, ended: make(chan struct{})}
	p := sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithBatcher(logging))
	return &tracer{provider: p, exporter: logging, tracer: p.Tracer("github.com/ringside-cache/ringside/sidecar", trace.WithInstrumentationVersion(Version))}, nil
}

func exporterOfEnv(ctx context.Context) (sdktrace.SpanExporter, error) {
	env := func(names ...string) string {
		var first string
		for _, name := range names {
			first = cmp.Or(first, os.Getenv(name))
		}
		return first
	}
	if strings.EqualFold(env("OTEL_SDK_DISABLED"), "true") {
		return nil, nil
	}
	switch exporter := env("OTEL_TRACES_EXPORTER"); exporter {
	case "otlp":
	case "none":
		return nil, nil
	case "":
		// The specification has otlp as the default. Here that needs to be
		// told where to: nothing is sent to a port that nobody has named.
		if env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
			return nil, nil
		}
	default:
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER is %q, it must be otlp or none", exporter)
	}
	switch protocol := env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); protocol {
	case "", "http/protobuf":
		return otlptracehttp.New(ctx)
	case "grpc":
		return otlptracegrpc.New(ctx)
	default:
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL is %q, it must be http/protobuf or grpc", protocol)
	}
}

// A loggingExporter keeps errors from the SDK, which would print them to
// stderr.
type loggingExporter struct {
	sdktrace.SpanExporter
	log    *slog.Logger
	failed prometheus.Counter
	ended  chan struct{} // closed by Shutdown, the last that the SDK calls
}

func (e *loggingExporter) Shutdown(ctx context.Context) error {
	defer close(e.ended)
	return e.SpanExporter.Shutdown(ctx)
}

func (e *loggingExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := e.SpanExporter.ExportSpans(ctx, spans); err != nil {
		e.failed.Inc()
		e.log.Warn("spans could not be sent", "spans", len(spans), "err", err)
	}
	return nil
}

// traceFlush bounds how long the last spans may take at the end.
const traceFlush = 3 * time.Second

func (t *tracer) close() error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), traceFlush)
	defer cancel()
	// That a collector is gone is no failure of the sidecar. Shutdown then
	// leaves an export behind, which ends with the exporter.
	if t.provider.Shutdown(ctx) != nil {
		_ = t.exporter.SpanExporter.Shutdown(ctx)
	}
	select {
	case <-t.exporter.ended:
	case <-time.After(traceFlush):
	}
	return nil
}

// incoming is the traceparent in the metadata of a call.
type incoming metadata.MD

func (md incoming) Get(key string) string {
	if v := metadata.MD(md).Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}
func (md incoming) Set(string, string) {}
func (md incoming) Keys() []string     { return nil }

// call begins the span of a gRPC call, as a child of the caller's.
func (t *tracer) call(ctx context.Context, fullMethod string) trace.Span {
	if t == nil {
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	ctx = propagation.TraceContext{}.Extract(ctx, incoming(md))
	service, method := path.Split(strings.TrimPrefix(fullMethod, "/"))
	_, span := t.tracer.Start(ctx, service+method, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("rpc.system", "grpc"), attribute.String("rpc.service", strings.TrimSuffix(service, "/")), attribute.String("rpc.method", method)))
	return span
}

// endCall ends it. Which node a key is on is asked only where somebody will
// read the answer.
func (t *tracer) endCall(span trace.Span, c *client.Client, req any, err error) {
	if span == nil {
		return
	}
	defer span.End()
	if !span.IsRecording() {
		return
	}
	keys := 0
	switch r := req.(type) {
	case interface{ GetKey() []byte }:
		keys = 1
		if e, err := c.Explain(string(r.GetKey())); err == nil {
			span.SetAttributes(attribute.StringSlice("ringside.nodes", []string{e.Asked}))
		}
	case interface{ GetKeys() [][]byte }:
		keys = len(r.GetKeys())
	}
	code := status.Code(err)
	span.SetAttributes(attribute.Int("ringside.keys", keys), attribute.Int("rpc.grpc.status_code", int(code)),
		attribute.String("ringside.result", resultOf(nil, err)))
	if resultOf(nil, err) == resultError {
		// Not the text of the error, which may be the caller's.
		span.SetStatus(otelcodes.Error, code.String())
	}
}

// exchange begins the span of an exchange of the memcached listener, whose
// protocol has no room for the caller's.
func (t *tracer) exchange() trace.Span {
	if t == nil {
		return nil
	}
	_, span := t.tracer.Start(context.Background(), "memcached exchange", trace.WithSpanKind(trace.SpanKindServer))
	return span
}

// endBatch ends the span of an exchange or of a batch of a Stream.
func (t *tracer) endBatch(span trace.Span, b *client.Batch, operations []string, failed int) {
	if span == nil {
		return
	}
	defer span.End()
	if !span.IsRecording() {
		return
	}
	requests := len(operations)
	slices.Sort(operations)
	var nodes []string
	for i := range b.Len() {
		if n := b.Node(i); n != "" && !slices.Contains(nodes, n) {
			nodes = append(nodes, n)
		}
	}
	slices.Sort(nodes)
	result := resultOK
	if failed > 0 {
		result = resultError
		span.SetStatus(otelcodes.Error, fmt.Sprintf("%d of %d requests failed", failed, requests))
	}
	span.SetAttributes(attribute.Int("ringside.requests", requests), attribute.Int("ringside.keys", b.Len()),
		attribute.StringSlice("ringside.operations", slices.Compact(operations)),
		attribute.StringSlice("ringside.nodes", nodes), attribute.String("ringside.result", result))
}
