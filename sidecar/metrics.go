package sidecar

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/ring"
	"github.com/ringside-cache/ringside/stampede"
)

// Label values. No label ever has a key in it.
const (
	protocolMemcached = "memcached"
	protocolGRPC      = "grpc"

	resultOK        = "ok"
	resultHit       = "hit"
	resultMiss      = "miss"
	resultNotStored = "not_stored"
	resultConflict  = "conflict"
	resultRefused   = "refused"
	resultError     = "error"
)

type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	// conns are by listener.
	conns       map[string]connMetrics
	badRequests prometheus.Counter
	collapsed   prometheus.Counter
	// certLoads counts by result, handshakeErrors by listener.
	certLoads, handshakeErrors *prometheus.CounterVec
	reloads                    *prometheus.CounterVec
	reloadGood                 prometheus.Gauge
	reloadTime                 prometheus.Gauge
}

func newMetrics(c *client.Client, b *stampede.Broker) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ringside_requests_total", Help: "Requests by protocol, operation and result.",
		}, []string{"protocol", "operation", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "ringside_exchange_seconds",
			Help:    "Time that a gRPC call, or the requests of a memcached connection that came together, took with the nodes.",
			Buckets: prometheus.ExponentialBuckets(0.00005, 2, 16),
		}, []string{"protocol"}),
		badRequests: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ringside_memcached_bad_requests_total", Help: "Requests that could not be parsed.",
		}),
	}
	m.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ringside_config_reloads_total", Help: "Times that the config file was read and applied, at the start too, or refused.",
	}, []string{"result"})
	m.reloadGood = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "ringside_config_last_reload_successful", Help: "1 when the config file as it is now is in use, 0 when it was refused.",
	})
	m.reloadTime = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "ringside_config_last_reload_success_timestamp_seconds", Help: "When a config file was last applied, as Unix time; 0 without a file.",
	})
	for _, result := range []string{"applied", "refused"} {
		m.reloads.WithLabelValues(result) // or an alert would have nothing to compare with
	}
	m.collapsed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "ringside_memcached_collapsed_gets_total", Help: "Exchanges that were answered by another connection's request for the same key.",
	})
	m.conns = make(map[string]connMetrics)
	for _, listener := range []string{listenerMemcached, listenerGRPC, listenerAdmin} {
		m.conns[listener] = newConnMetrics(m.registry, listener)
	}
	m.certLoads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ringside_tls_reloads_total", Help: "Times that the TLS files had changed, by whether they could be used.",
	}, []string{"result"})
	m.handshakeErrors = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ringside_tls_handshake_errors_total", Help: "TLS handshakes with clients that failed.",
	}, []string{"listener"})
	// An alert on an increase needs the 0 before it.
	for _, result := range []string{resultOK, resultError} {
		m.certLoads.WithLabelValues(result)
	}
	for _, listener := range []string{listenerMemcached, listenerGRPC, listenerAdmin} {
		m.handshakeErrors.WithLabelValues(listener)
	}
	m.registry.MustRegister(m.reloads, m.reloadGood, m.reloadTime, m.collapsed, m.certLoads, m.handshakeErrors, m.requests, m.seconds, m.badRequests,
		nodeCollector{c}, leaseCollector{b}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// watchConns shows the limit that open connections are to be compared with.
func (m *metrics) watchConns(q *quota) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ringside_connections_max", Help: "Most connections that the memcached and grpc listeners may have together.",
	}, func() float64 { return float64(q.most.Load()) }))
}

// watchCertificate shows when the certificate ends. Being scraped it also sees
// a change of the files that no connection has come for.
func (m *metrics) watchCertificate(k *keeper) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ringside_tls_certificate_not_after_seconds", Help: "Unix time at which the certificate that is served ends; only with TLS.",
	}, func() float64 { return float64(k.identity().leaf.NotAfter.Unix()) }))
}

func (m *metrics) request(protocol, operation, result string) {
	m.requests.WithLabelValues(protocol, operation, result).Inc()
}

// A tally counts requests as they come, and those of a kind together: looking
// for a counter by its labels takes longer than much of what is counted.
type tally struct {
	m                 *metrics
	protocol          string
	operation, result string
	n                 int
}

func (t *tally) add(operation, result string) {
	if operation != t.operation || result != t.result {
		t.flush()
		t.operation, t.result = operation, result
	}
	t.n++
}

func (t *tally) flush() {
	if t.n > 0 {
		t.m.requests.WithLabelValues(t.protocol, t.operation, t.result).Add(float64(t.n))
		t.n = 0
	}
}

// reloaded notes that the config file was applied or refused.
func (m *metrics) reloaded(ok bool) {
	if !ok {
		m.reloads.WithLabelValues("refused").Inc()
		m.reloadGood.Set(0)
		return
	}
	m.reloads.WithLabelValues("applied").Inc()
	m.reloadGood.Set(1)
	m.reloadTime.SetToCurrentTime()
}

func (m *metrics) took(protocol string, d time.Duration) {
	m.seconds.WithLabelValues(protocol).Observe(d.Seconds())
}

// nodeCollector reads the client's own counters when it is asked.
type nodeCollector struct{ c *client.Client }

type nodeMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	get  func(*client.NodeStats) float64
}

func nodeCounter(name, help string, get func(*client.NodeStats) uint64) nodeMetric {
	return nodeMetric{
		prometheus.NewDesc("ringside_node_"+name+"_total", help, []string{"node"}, nil), prometheus.CounterValue,
		func(n *client.NodeStats) float64 { return float64(get(n)) },
	}
}

func nodeGauge(name, help string, get func(*client.NodeStats) float64) nodeMetric {
	return nodeMetric{prometheus.NewDesc("ringside_node_"+name, help, []string{"node"}, nil), prometheus.GaugeValue, get}
}

var nodeMetrics = []nodeMetric{
	nodeGauge("up", "1 while the node is asked, 0 while it is ejected.", func(n *client.NodeStats) float64 {
		if n.State == ring.Ejected {
			return 0
		}
		return 1
	}),
	nodeGauge("in_flight", "Requests under way to the node.", func(n *client.NodeStats) float64 { return float64(n.InFlight) }),
	nodeGauge("in_flight_bytes", "Bytes of those requests.", func(n *client.NodeStats) float64 { return float64(n.BytesInFlight) }),
	nodeGauge("connections", "Open connections to the node.", func(n *client.NodeStats) float64 { return float64(n.Connections) }),
	nodeCounter("requests", "Requests sent to the node.", func(n *client.NodeStats) uint64 { return n.Requests }),
	nodeCounter("writes", "Writes that carried them; requests by writes is the batch size.", func(n *client.NodeStats) uint64 { return n.Writes }),
	nodeCounter("overloaded", "Requests refused because too much was in flight.", func(n *client.NodeStats) uint64 { return n.Overloaded }),
	nodeCounter("stand_in_requests", "Requests for keys of ejected nodes that this node stood in for.", func(n *client.NodeStats) uint64 { return n.StandIns }),
	nodeCounter("read_bytes", "Bytes read from the node.", func(n *client.NodeStats) uint64 { return n.BytesIn }),
	nodeCounter("written_bytes", "Bytes written to the node.", func(n *client.NodeStats) uint64 { return n.BytesOut }),
	nodeCounter("dials", "Attempts to connect.", func(n *client.NodeStats) uint64 { return n.Dials }),
	nodeCounter("dial_errors", "Attempts to connect that failed.", func(n *client.NodeStats) uint64 { return n.DialErrors }),
	nodeCounter("connections_lost", "Connections that broke.", func(n *client.NodeStats) uint64 { return n.ConnectionsLost }),
	nodeCounter("failures", "Failures that count against the node's health.", func(n *client.NodeStats) uint64 { return n.FailuresTotal }),
	nodeCounter("ejections", "Times that the node was ejected.", func(n *client.NodeStats) uint64 { return n.Ejections }),
	nodeCounter("probes", "Probes of the node while it was out.", func(n *client.NodeStats) uint64 { return n.Probes }),
}

var nodeLatency = prometheus.NewDesc("ringside_node_latency_seconds",
	"Time from queueing an operation to the node's answer.", []string{"node"}, nil)

func (nc nodeCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- nodeLatency
	for _, m := range nodeMetrics {
		ch <- m.desc
	}
}

func (nc nodeCollector) Collect(ch chan<- prometheus.Metric) {
	stats := nc.c.Stats()
	for i := range stats.Nodes {
		n := &stats.Nodes[i]
		for _, m := range nodeMetrics {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.get(n), n.Name)
		}
		ch <- histogram(nodeLatency, client.LatencyBuckets[:], n.Latency[:], n.LatencySum, n.Name)
	}
}
