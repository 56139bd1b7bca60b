package deploy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/sidecar"
)

// A family is a metric as /metrics has it: its type, and the labels of its
// samples.
type family struct {
	kind, help string
	labels     []string
}

var (
	sampleLine = regexp.MustCompile(`^([a-z_]+)(?:\{(.*)\})? `)
	labelName  = regexp.MustCompile(`([a-z_]+)="`)
)

// served gives the metrics of a sidecar that has been used in both protocols,
// and has all that brings metrics with it: by their full names, so that a
// histogram is there three times, and by family.
func served(t *testing.T) (names, families map[string]*family) {
	t.Helper()
	t.Setenv("OTEL_TRACES_EXPORTER", "otlp")
	t.Setenv("OTEL_TRACES_SAMPLER", "always_off") // nobody is there to take them
	certFile, keyFile := certificate(t)
	s, err := sidecar.Start(sidecar.Config{
		Embedded: 1, Memcached: "127.0.0.1:0", GRPC: "127.0.0.1:0", Admin: "127.0.0.1:0", Tracing: sidecar.TracingEnv,
		TLS: sidecar.TLS{CertFile: certFile, KeyFile: keyFile, PlainLoopback: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	c, err := client.New(client.Config{Servers: []string{s.Addresses()["memcached"]}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Set(t.Context(), &client.Item{Key: "key"}); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + s.Addresses()["admin"] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	names, families = make(map[string]*family), make(map[string]*family)
	var last *family
	for line := range strings.Lines(string(body)) {
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, help, _ := strings.Cut(strings.TrimSpace(rest), " ")
			last = &family{help: help}
			families[name] = last
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			_, last.kind, _ = strings.Cut(strings.TrimSpace(rest), " ")
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("what is %q?", line)
		}
		names[m[1]] = last
		for _, l := range labelName.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(last.labels, l[1]) {
				last.labels = append(last.labels, l[1])
			}
		}
	}
	if len(families) < 50 {
		t.Fatalf("there are only %d metrics", len(families))
	}
	return names, families
}

// certificate writes one that is its own authority, and its key.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, leaf, leaf, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("tls.crt", "CERTIFICATE", cert), write("tls.key", "PRIVATE KEY", pkcs8)
}

var (
	quoted     = regexp.MustCompile(`"[^"]*"`)
	matchers   = regexp.MustCompile(`\{[^}]*\}`)
	ranges     = regexp.MustCompile(`\[[^\]]*\]`)
	grouping   = regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)`)
	identifier = regexp.MustCompile(`\b[a-zA-Z_:][a-zA-Z0-9_:]*\b\s*\(?`)
	words      = []string{"and", "or", "unless", "bool", "offset"}
)

// metricsOf gives the names of metrics in an expression of PromQL.
func metricsOf(expr string) []string {
	for _, part := range []*regexp.Regexp{quoted, matchers, ranges, grouping} {
		expr = part.ReplaceAllString(expr, " ")
	}
	var names []string
	for _, name := range identifier.FindAllString(expr, -1) {
		// What a parenthesis follows is a function.
		if name = strings.TrimSpace(name); !strings.HasSuffix(name, "(") && !slices.Contains(words, name) {
			names = append(names, name)
		}
	}
	return names
}

func TestMetricsOf(t *testing.T) {
	const expr = `histogram_quantile(0.99, sum by (le, node) (rate(a_bucket{x=~"b|c", y="d}"}[5m]))) / on (job) (b_total offset 5m > 1e3) or vector(0)`
	if got := fmt.Sprint(metricsOf(expr)); got != "[a_bucket b_total]" {
		t.Errorf("the metrics are %s", got)
	}
}

// groupLabels are the labels that an expression matches or groups by.
func groupLabels(expr string) []string {
	var names []string
	for _, m := range regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`).FindAllStringSubmatch(expr, -1) {
		names = append(names, m[1])
	}
	for _, m := range regexp.MustCompile(`\b(?:by|on)\s*\(([^)]*)\)`).FindAllStringSubmatch(expr, -1) {
		for name := range strings.SplitSeq(m[1], ",") {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return names
}

// checkExpr reports metrics that no sidecar serves, and labels that none of
// an expression's metrics have.
func checkExpr(t *testing.T, where, expr string, names map[string]*family) {
	t.Helper()
	metrics := metricsOf(expr)
	if len(metrics) == 0 {
		t.Errorf("%s: there is no metric in %s", where, expr)
	}
	labels := []string{"job", "instance", "le"} // Prometheus's own
	for _, name := range metrics {
		f, ok := names[name]
		if !ok {
			t.Errorf("%s: no sidecar serves %s", where, name)
			continue
		}
		labels = append(labels, f.labels...)
	}
	for _, name := range groupLabels(expr) {
		if !slices.Contains(labels, name) {
			t.Errorf("%s: no metric of %s has the label %s", where, expr, name)
		}
	}
}

// A panel is what a dashboard's queries are in.
type panel struct {
	ID      int
	Title   string
	Type    string
	GridPos struct{ X, Y, W, H int }
	Targets []struct{ Expr, LegendFormat string }
	Panels  []panel
}

// TestDashboard: each of its queries is of metrics and labels that there are.
func TestDashboard(t *testing.T) {
	names, _ := served(t)
	var d struct {
		Panels     []panel
		Templating struct {
			List []struct {
				Name  string
				Query any
			}
		}
	}
	if err := json.Unmarshal([]byte(read(t, "grafana/ringside.json")), &d); err != nil {
		t.Fatal(err)
	}
	ids := make(map[int]bool)
	queries := 0
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("%s has an id that is not its own", p.Title)
		}
		ids[p.ID] = true
		if p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W == 0 || len(p.Panels) > 0 {
			t.Errorf("%s stands at %+v", p.Title, p.GridPos)
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			queries++
			checkExpr(t, p.Title, target.Expr, names)
			for _, m := range regexp.MustCompile(`\{\{(.*?)\}\}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				if by := regexp.MustCompile(`\bby \(([^)]*)\)`).FindStringSubmatch(target.Expr); by != nil && !strings.Contains(by[1], m[1]) {
					t.Errorf("%s: the legend has %s, the query does not", p.Title, m[1])
				}
			}
		}
	}
	if queries < 40 {
		t.Errorf("there are only %d queries", queries)
	}
	for _, v := range d.Templating.List {
		text := fmt.Sprint(v.Query)
		if m := regexp.MustCompile(`label_values\(([^,{]*)`).FindStringSubmatch(text); m != nil && names[m[1]] == nil {
			t.Errorf("$%s is of %s, which no sidecar serves", v.Name, m[1])
		}
	}
}

// TestAlerts: the same of the alerts, and each has a runbook that is there.
func TestAlerts(t *testing.T) {
	names, _ := served(t)
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	d := yaml.NewDecoder(strings.NewReader(read(t, "prometheus/alerts.yaml")), yaml.Strict())
	if err := d.Decode(&file); err != nil {
		t.Fatal(err)
	}
	const page = "https://github.com/ringside-cache/ringside/blob/main/docs/operations.md#"
	known := anchors(read(t, operations))
	rules := file.Groups[0].Rules
	if len(file.Groups) != 1 || len(rules) < 7 {
		t.Fatalf("%+v", file)
	}
	doc := read(t, operations)
	for _, r := range rules {
		checkExpr(t, r.Alert, r.Expr, names)
		anchor, ok := strings.CutPrefix(r.Annotations["runbook_url"], page)
		if !ok || !slices.Contains(known, anchor) {
			t.Errorf("%s: there is no runbook %q", r.Alert, r.Annotations["runbook_url"])
		}
		if r.For == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
			t.Errorf("%s is not complete: %+v", r.Alert, r)
		}
		if !strings.Contains(doc, "`"+r.Alert+"`") {
			t.Errorf("%s does not speak of %s", operations, r.Alert)
		}
	}
}
