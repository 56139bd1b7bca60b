package sidecar

import (
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ringside-cache/ringside/client"
)

// Status is what /api/status answers.
type Status struct {
	Version   string            `json:"version"`
	Ready     bool              `json:"ready"`
	Uptime    float64           `json:"uptime_seconds"`
	Dialect   string            `json:"dialect"`
	Listeners map[string]string `json:"listeners"`
	Nodes     []NodeStatus      `json:"nodes"`
}

// NodeStatus is one node of a Status. The last three fields are there while
// the node is ejected.
type NodeStatus struct {
	Name        string     `json:"name"`
	Address     string     `json:"address"`
	Weight      int        `json:"weight"`
	Version     string     `json:"version,omitempty"`
	State       string     `json:"state"`
	Failures    int        `json:"failures_in_a_row"`
	InFlight    int64      `json:"in_flight"`
	Connections int        `json:"connections"`
	Requests    uint64     `json:"requests"`
	Ejections   uint64     `json:"ejections"`
	EjectedAt   *time.Time `json:"ejected_at,omitempty"`
	NextProbe   *time.Time `json:"next_probe,omitempty"`
	Interval    float64    `json:"probe_interval_seconds,omitempty"`
}

// Status gives the sidecar's state.
func (s *Sidecar) Status() Status {
	dialect := s.cfg.Client.Dialect
	if dialect == "" {
		dialect = "ketama"
	}
	st := Status{
		Version: Version, Ready: s.ready.Load(), Uptime: time.Since(s.started).Seconds(),
		Dialect: string(dialect), Listeners: s.Addresses(),
	}
	for _, n := range s.client.Stats().Nodes {
		t := NodeStatus{
			Name: n.Name, Address: n.Address, Weight: n.Weight, Version: n.Version, State: n.State.String(),
			Failures: n.Failures, InFlight: n.InFlight, Connections: n.Connections, Requests: n.Requests, Ejections: n.Ejections,
		}
		if !n.EjectedAt.IsZero() {
			t.EjectedAt, t.NextProbe, t.Interval = &n.EjectedAt, &n.NextProbe, n.ProbeInterval.Seconds()
		}
		st.Nodes = append(st.Nodes, t)
	}
	return st
}

func (s *Sidecar) newAdmin() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("ok\n"))
	})
	// Ready does not depend on every node being up: a sidecar that fails over
	// is of more use than none.
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if !s.ready.Load() {
			http.Error(w, "draining", http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("ready\n"))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /api/status", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, s.Status())
	})
	mux.HandleFunc("GET /api/explain", s.explain)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return &http.Server{
		Handler: s.withCertificate(mux), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: log.New(adminLog{s}, "", 0),
	}
}

// withCertificate lets in who has shown a certificate, where ClientCAFile asks
// for one. Only the probes are for everybody, and have nothing in them.
func (s *Sidecar) withCertificate(next http.Handler) http.Handler {
	if s.cfg.TLS.ClientCAFile == "" || !s.Secured(listenerAdmin) {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		probe := r.URL.Path == "/healthz" || r.URL.Path == "/readyz"
		if !probe && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0) {
			http.Error(w, "a client certificate is needed", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// adminLog is what net/http has to say, which else goes to stderr.
type adminLog struct{ s *Sidecar }

func (l adminLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if strings.Contains(text, "TLS handshake error") {
		l.s.handshakeFailed(listenerAdmin, nil, errors.New(text))
	} else {
		l.s.log.Warn("admin", "err", text)
	}
	return len(line), nil
}

func (s *Sidecar) explain(w http.ResponseWriter, r *http.Request) {
	var e client.Explanation
	e, err := s.client.Explain(r.URL.Query().Get("key"))
	if err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, e)
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	// The only errors are a client that went away and a type that can not be
	// encoded, which a test would show.
	_ = enc.Encode(v)
}
