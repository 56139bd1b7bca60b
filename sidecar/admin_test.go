package sidecar_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ringside-cache/ringside/client"
	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
	"github.com/ringside-cache/ringside/ring"
	"github.com/ringside-cache/ringside/sidecar"
)

// fetch asks the admin listener, on a connection of its own.
func fetch(t testing.TB, s *running, method, path string) (code int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://admin"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			if path, ok := strings.CutPrefix(s.addr("admin"), "unix:"); ok {
				return d.DialContext(ctx, "unix", path)
			}
			return d.DialContext(ctx, "tcp", s.addr("admin"))
		},
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	s, _ := onNode(t, sidecar.Config{Admin: "unix:" + shortDir(t) + "/admin"})
	for _, tt := range []struct {
		path string
		code int
		want string
	}{
		{"/healthz", 200, "ok\n"},
		{"/readyz", 200, "ready\n"},
		{"/metrics", 200, "ringside_node_up{"},
		{"/api/status", 200, `"ready": true`},
		{"/api/explain?key=a", 200, `"owner": "`},
		{"/api/explain", 400, "the key is empty"},
		{"/api/explain?key=", 400, "the key is empty"},
		{"/api/explain?key=a+b", 400, "0x20 at place 1"},
		{"/api/explain?key=a%0d%0ab", 400, "0x0d at place 1"},
		{"/api/explain?key=" + strings.Repeat("k", 251), 400, "251 bytes"},
		{"/debug/pprof/", 200, "goroutine"},
		{"/debug/pprof/goroutine?debug=1", 200, "goroutine profile"},
		{"/debug/pprof/heap?debug=1", 200, "heap profile"},
		{"/debug/pprof/symbol", 200, "num_symbols"},
		// The command line may have secrets in it.
		{"/debug/pprof/cmdline", 404, ""},
		{"/", 404, ""},
		{"/api", 404, ""},
		{"/nothing", 404, ""},
	} {
		t.Run(tt.path, func(t *testing.T) {
			code, body := fetch(t, s, "GET", tt.path)
			if code != tt.code || !strings.Contains(body, tt.want) {
				t.Errorf("GET is answered %d %q, want %d with %q in it", code, shorten(body), tt.code, tt.want)
			}
			want := http.StatusMethodNotAllowed
			if tt.code == http.StatusNotFound && !strings.HasPrefix(tt.path, "/debug/pprof/") {
				want = http.StatusNotFound
			}
			for _, method := range []string{"POST", "PUT", "DELETE"} {
				if code, _ := fetch(t, s, method, tt.path); code != want {
					t.Errorf("%s is answered %d, want %d", method, code, want)
				}
			}
		})
	}
}

func TestAdminStatus(t *testing.T) {
	t.Parallel()
	s := startPair(t, sidecar.Config{
		Client: client.Config{
			Health: ring.HealthConfig{FailureLimit: 1, RetryTimeout: time.Hour}, Dialect: "libmemcached-weighted",
		},
		Memcached: "on", GRPC: "on", Admin: "on",
	})
	status := func() (st sidecar.Status) {
		t.Helper()
		code, body := fetch(t, s.running, "GET", "/api/status")
		dec := json.NewDecoder(strings.NewReader(body))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&st); err != nil || code != 200 {
			t.Fatalf("/api/status is answered %d %q: %v", code, body, err)
		}
		return st
	}
	dial(t, s.addr("memcached")).want("get "+s.key(t, "live", 0)+"\r\n", "END\r\n")
	want := sidecar.Status{
		Version: sidecar.Version, Ready: true, Dialect: "libmemcached-weighted", Listeners: s.Addresses(),
		Nodes: []sidecar.NodeStatus{
			{Name: "dead", Address: s.dead.Addr(), Weight: 1, State: "up"},
			{Name: "live", Address: s.live.Addr(), Weight: 1, State: "up", Version: "1.6.18", Connections: 1, Requests: 1},
		},
	}
	got := status()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(sidecar.Status{}, "Uptime")); diff != "" {
		t.Errorf("/api/status (-want +got):\n%s", diff)
	}
	if got.Uptime <= 0 {
		t.Errorf("the uptime is %v", got.Uptime)
	}

	eject(t, s)
	dead := status().Nodes[0]
	if dead.State != "ejected" || dead.Ejections != 1 || dead.EjectedAt == nil || dead.NextProbe == nil || dead.Interval <= 0 {
		t.Errorf("the ejected node is %+v", dead)
	}
	if code, body := fetch(t, s.running, "GET", "/readyz"); code != 200 {
		t.Errorf("with a node out /readyz is answered %d %q, want 200", code, body)
	}
	var e client.Explanation
	key := s.key(t, "dead", 0)
	if _, body := fetch(t, s.running, "GET", "/api/explain?key="+url.QueryEscape(key)); json.Unmarshal([]byte(body), &e) != nil ||
		e.Key != key || e.Owner != "dead" || e.OwnerState != "ejected" || e.Asked != "live" {
		t.Errorf("/api/explain of a key of the ejected node is %q", body)
	}
}

// TestMetrics: every metric is there, counts, and has no key in it.
func TestMetrics(t *testing.T) {
	t.Parallel()
	s := startPair(t, sidecar.Config{Client: client.Config{Health: ring.HealthConfig{FailureLimit: 1, RetryTimeout: time.Hour}}, Memcached: "on", GRPC: "on", Admin: "on"})
	p := dial(t, s.addr("memcached"))
	live, dead := s.key(t, "live", 0), s.key(t, "dead", 0)
	p.want("get "+live+"\r\n", "END\r\n")
	p.want("set "+live+" 0 0 1\r\n1\r\nadd "+live+" 0 0 1\r\n1\r\n", "STORED\r\nNOT_STORED\r\n")
	p.want("get "+live+"\r\nmg "+live+"\r\n", "VALUE "+live+" 0 1\r\n1\r\nEND\r\nHD\r\n")
	p.want("cas "+live+" 0 0 1 99\r\nx\r\n", "EXISTS\r\n")
	p.want("set "+secret+"\x01 0 0 1\r\n1\r\n"+secret+"\r\n", badFormat+"ERROR\r\n")
	c, ctx := cacheOf(t, s.running), within(t)
	if _, err := c.Get(ctx, &ringsidev1.GetRequest{Key: []byte(live)}); err != nil {
		t.Error(err)
	}
	if _, err := c.Get(ctx, &ringsidev1.GetRequest{Key: []byte(live + " ")}); err == nil {
		t.Error("a key with a space is taken")
	}
	eject(t, s)
	p.want("get "+dead+"\r\n", "END\r\n") // of the stand-in

	_, body := fetch(t, s.running, "GET", "/metrics")
	for _, want := range []string{
		`ringside_requests_total{operation="get",protocol="memcached",result="hit"} 1`,
		`ringside_requests_total{operation="set",protocol="memcached",result="ok"} 1`,
		`ringside_requests_total{operation="add",protocol="memcached",result="not_stored"} 1`,
		`ringside_requests_total{operation="cas",protocol="memcached",result="conflict"} 1`,
		`ringside_requests_total{operation="Get",protocol="grpc",result="hit"} 1`,
		`ringside_requests_total{operation="Get",protocol="grpc",result="refused"} 1`,
		`ringside_exchange_seconds_count{protocol="memcached"} `,
		`ringside_exchange_seconds_count{protocol="grpc"} 2`,
		`ringside_exchange_seconds_bucket{protocol="grpc",le="+Inf"} 2`,
		`ringside_memcached_connections `,
		`ringside_memcached_connections_refused_total 0`,
		`ringside_memcached_bad_requests_total 2`,
		`ringside_node_up{node="live"} 1`,
		`ringside_node_up{node="dead"} 0`,
		`ringside_node_in_flight{node="live"} 0`,
		`ringside_node_in_flight_bytes{node="live"} 0`,
		`ringside_node_connections{node="live"} 1`,
		`ringside_node_requests_total{node="live"} `,
		`ringside_node_writes_total{node="live"} `,
		`ringside_node_overloaded_total{node="live"} 0`,
		`ringside_node_stand_in_requests_total{node="live"} `,
		`ringside_node_read_bytes_total{node="live"} `,
		`ringside_node_written_bytes_total{node="live"} `,
		`ringside_node_dials_total{node="live"} 1`,
		`ringside_node_dial_errors_total{node="dead"} `,
		`ringside_node_connections_lost_total{node="live"} 0`,
		`ringside_node_failures_total{node="dead"} 1`,
		`ringside_node_ejections_total{node="dead"} 1`,
		`ringside_node_probes_total{node="dead"} 0`,
		`ringside_node_latency_seconds_count{node="live"} `,
		`ringside_node_latency_seconds_bucket{node="live",le="0.5"} `,
		"go_goroutines ",
		"process_open_fds ",
	} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("the metrics have no %q", want)
		}
	}
	if strings.Contains(body, secret) {
		t.Error("the metrics have a key in them")
	}
	for line := range strings.Lines(body) {
		// Every metric of ours says what it is.
		if name, ok := strings.CutPrefix(line, "# TYPE ringside_"); ok {
			name, _, _ = strings.Cut(name, " ")
			if !strings.Contains(body, "# HELP ringside_"+name+" ") {
				t.Errorf("ringside_%s has no help", name)
			}
		}
	}
}

// metric reads a metric that has one line, by the start of it.
func (r *running) metric(t testing.TB, name string) float64 {
	t.Helper()
	_, body := fetch(t, r, "GET", "/metrics")
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, name) && !strings.HasPrefix(line, "#") {
			v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
