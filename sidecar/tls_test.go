package sidecar_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	ringsidev1 "github.com/ringside-cache/ringside/proto/ringside/v1"
	"github.com/ringside-cache/ringside/sidecar"
)

// An authority issues certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, pool: x509.NewCertPool()}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// issue gives a certificate for 127.0.0.1, or for a client, and its key.
func (a *authority) issue(serial int64) (certPEM, keyPEM []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "sidecar"}, NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// pair is a certificate to show.
func (a *authority) pair(serial int64) []tls.Certificate {
	a.t.Helper()
	certPEM, keyPEM := a.issue(serial)
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		a.t.Fatal(err)
	}
	return []tls.Certificate{cert}
}

func write(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// install writes what a.issue gives to a directory as Kubernetes does: the
// names are links into a directory behind a link, which is swapped.
func (a *authority) install(dir string, serial int64) sidecar.TLS {
	a.t.Helper()
	certPEM, keyPEM := a.issue(serial)
	version := filepath.Join(dir, fmt.Sprintf("..%d", serial))
	check := func(err error) {
		a.t.Helper()
		if err != nil {
			a.t.Fatal(err)
		}
	}
	check(os.Mkdir(version, 0o700))
	write(a.t, filepath.Join(version, "tls.crt"), certPEM)
	write(a.t, filepath.Join(version, "tls.key"), keyPEM)
	check(os.Symlink(filepath.Base(version), filepath.Join(dir, "..new")))
	check(os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")))
	for _, name := range []string{"tls.crt", "tls.key"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			check(os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)))
		}
	}
	return sidecar.TLS{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")}
}

// dialTLS gives the error of the handshake. In TLS 1.3 that of a server which
// misses a certificate comes with the first read.
func dialTLS(t testing.TB, addr string, cfg *tls.Config) (*peer, error) {
	t.Helper()
	nc, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", addr, cfg)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	p := &peer{t: t, nc: nc, r: bufio.NewReader(nc)}
	p.send("mn\r\n")
	if _, err := p.r.ReadString('\n'); err != nil {
		return nil, err
	}
	return p, nil
}

func cacheTLS(t testing.TB, s *running, cfg *tls.Config) (ringsidev1.CacheClient, *grpc.ClientConn) {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+s.addr("grpc"), grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return ringsidev1.NewCacheClient(cc), cc
}

func fetchTLS(t testing.TB, s *running, path string, cfg *tls.Config) (code int, body string, err error) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: cfg}, Timeout: patience}
	resp, err := c.Get("https://" + s.addr("admin") + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	s, _ := onNode(t, sidecar.Config{GRPC: "on", Admin: "on", TLS: ca.install(t.TempDir(), 10)})
	ctx := within(t)
	trusting := &tls.Config{RootCAs: ca.pool}

	p, err := dialTLS(t, s.addr("memcached"), trusting)
	if err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 900_000)
	p.want("set a 0 0 900000\r\n"+large+"\r\n", "STORED\r\n")
	p.want("get a\r\nget a\r\n", strings.Repeat("VALUE a 0 900000\r\n"+large+"\r\nEND\r\n", 2))
	p.want("set a 0 0 -1\r\n", badFormat+closed)
	c, cc := cacheTLS(t, s, trusting)
	if resp, err := c.Get(ctx, &ringsidev1.GetRequest{Key: []byte("a")}); err != nil || string(resp.GetValue().GetValue()) != large {
		t.Errorf("Get over TLS: %v", err)
	}
	if code, body, err := fetchTLS(t, s, "/readyz", trusting); code != 200 || body != "ready\n" {
		t.Errorf("/readyz over TLS: %d %q, %v", code, body, err)
	}
	for name := range s.Addresses() {
		if !s.Secured(name) {
			t.Errorf("%s is not secured", name)
		}
	}
	// A loopback address has reflection with TLS too.
	stream, err := reflectionv1.NewServerReflectionClient(cc).ServerReflectionInfo(ctx)
	if err == nil {
		err = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	}
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Errorf("reflection: %v", err)
	}

	// Who trusts another authority does not talk to it.
	wrong := &tls.Config{RootCAs: other.pool}
	if _, err := dialTLS(t, s.addr("memcached"), wrong); err == nil {
		t.Error("a certificate of an unknown authority is taken (memcached)")
	}
	c, _ = cacheTLS(t, s, wrong)
	if _, err := c.Get(ctx, &ringsidev1.GetRequest{Key: []byte("a")}); status.Code(err) != codes.Unavailable {
		t.Errorf("a certificate of an unknown authority is taken: %v", err)
	}
	if _, _, err := fetchTLS(t, s, "/readyz", wrong); err == nil {
		t.Error("a certificate of an unknown authority is taken (admin)")
	}
	// TLS 1.2 only on demand, and no listener answers in the clear.
	if _, err := dialTLS(t, s.addr("memcached"), &tls.Config{RootCAs: ca.pool, MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 is spoken by default")
	}
	plain := dial(t, s.addr("memcached"))
	plain.send("get a\r\n")
	if got := plain.until("never"); strings.Contains(got, "END") || !strings.HasSuffix(got, closed) {
		t.Errorf("without TLS the answer is %q", got)
	}
	if _, err := cacheOf(t, s).Get(ctx, &ringsidev1.GetRequest{Key: []byte("a")}); status.Code(err) != codes.Unavailable {
		t.Errorf("without TLS Get = %v", err)
	}
	if code, _ := fetch(t, s, "GET", "/readyz"); code != 400 {
		t.Errorf("without TLS /readyz is answered %d", code)
	}
	_, body, err := fetchTLS(t, s, "/metrics", trusting)
	for _, listener := range []string{"memcached", "grpc", "admin"} {
		if name := `ringside_tls_handshake_errors_total{listener="` + listener + `"} `; !strings.Contains(body, name) || strings.Contains(body, name+"0") {
			t.Errorf("the failed handshakes of %s are not counted: %v", listener, err)
		}
	}
}

// With ClientCAFile nobody is let in without a certificate of it, but for the
// probes.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	cfg := ca.install(t.TempDir(), 10)
	cfg.ClientCAFile = filepath.Join(t.TempDir(), "ca.pem")
	cfg.MinVersion = "1.2"
	write(t, cfg.ClientCAFile, ca.pem())
	s, _ := onNode(t, sidecar.Config{GRPC: "on", Admin: "on", TLS: cfg})
	for _, tt := range []struct {
		name  string
		show  []tls.Certificate
		known bool
	}{
		{"its own", ca.pair(11), true}, {"none", nil, false}, {"another authority's", other.pair(12), false},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(tt.name+" "+tls.VersionName(version), func(t *testing.T) {
				// GetClientCertificate, as Certificates would not show what the
				// server does not want.
				mine := &tls.Config{RootCAs: ca.pool, MaxVersion: version}
				if tt.show != nil {
					mine.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tt.show[0], nil }
				}
				if _, err := dialTLS(t, s.addr("memcached"), mine); (err == nil) != tt.known {
					t.Errorf("memcached: %v", err)
				}
				c, _ := cacheTLS(t, s, mine)
				if _, err := c.Get(within(t), &ringsidev1.GetRequest{Key: []byte("a")}); (err == nil) != tt.known {
					t.Errorf("gRPC: %v", err)
				}
				code, body, err := fetchTLS(t, s, "/api/status", mine)
				if (code == 200) != tt.known || strings.Contains(body, "nodes") != tt.known {
					t.Errorf("/api/status: %d %q, %v", code, body, err)
				}
				if tt.name == "none" {
					if code, _, err := fetchTLS(t, s, "/healthz", mine); code != 200 {
						t.Errorf("/healthz: %d, %v", code, err)
					}
				}
			})
		}
	}
}

// A lease is released when the TLS connection of its caller ends.
func TestTLSLeaseOfALostConnection(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s, _ := onNode(t, sidecar.Config{GRPC: "on", TLS: ca.install(t.TempDir(), 10)})
	cfg := &tls.Config{RootCAs: ca.pool}
	c, _ := cacheTLS(t, s, cfg)
	mine, cc := cacheTLS(t, s, cfg)
	l, dying := lessee{t, c, within(t)}, lessee{t, mine, within(t)}
	lost := dying.lease(&ringsidev1.LeaseRequest{}, won, "")
	l.lease(&ringsidev1.LeaseRequest{}, wait, "")
	cc.Close()
	next := l.lease(&ringsidev1.LeaseRequest{WaitMillis: 15000}, won, "")
	l.fill(lost.GetToken(), "late", ringsidev1.FillResponse_OUTCOME_UNBOUND)
	l.fill(next.GetToken(), "v", ringsidev1.FillResponse_OUTCOME_STORED)
}

// New connections get a certificate that was swapped, those that are open
// stay, and one that can not be used changes nothing.
func TestTLSReload(t *testing.T) {
	t.Parallel()
	ca, dir, log := newAuthority(t), t.TempDir(), &syncBuffer{}
	files := ca.install(dir, 10)
	s, _ := onNode(t, sidecar.Config{GRPC: "on", Admin: "on", TLS: files, Logger: slog.New(slog.NewJSONHandler(log, nil))})
	trusting := &tls.Config{RootCAs: ca.pool}
	serial := func(addr string) int64 {
		nc, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", addr, &tls.Config{RootCAs: ca.pool, NextProtos: []string{"h2", "http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		return nc.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	reloads := func(result string) bool {
		_, body, _ := fetchTLS(t, s, "/metrics", trusting)
		return strings.Contains(body, `ringside_tls_reloads_total{result="`+result+`"} 1`+"\n")
	}
	old, err := dialTLS(t, s.addr("memcached"), trusting)
	if err != nil {
		t.Fatal(err)
	}
	ca.install(dir, 20)
	for name, addr := range s.Addresses() {
		if name == "memcached" {
			continue // has no ALPN, see below
		}
		eventually(t, "the new certificate is served by "+name, func() bool { return serial(addr) == 20 })
	}
	if p, err := dialTLS(t, s.addr("memcached"), trusting); err != nil || p.nc.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64() != 20 {
		t.Errorf("the new certificate is not served by memcached: %v", err)
	}
	old.want("get a\r\n", "END\r\n")
	if !reloads("ok") || reloads("error") {
		t.Error("the reload is not counted")
	}

	for _, bad := range []struct {
		name string
		do   func()
	}{
		{"a key of another certificate", func() {
			_, key := ca.issue(30)
			write(t, filepath.Join(dir, "..data", "tls.key"), key)
		}},
		{"no certificate", func() { write(t, filepath.Join(dir, "..data", "tls.crt"), []byte("nonsense")) }},
		{"no files", func() { os.Remove(filepath.Join(dir, "..data")) }},
	} {
		errors := func() int { return strings.Count(log.String(), "can not be used") }
		before := errors()
		bad.do()
		eventually(t, bad.name+" is seen", func() bool {
			if got := serial(s.addr("grpc")); got != 20 {
				t.Fatalf("%s: serial %d is served, want 20", bad.name, got)
			}
			return errors() == before+1
		})
	}
	if _, body, _ := fetchTLS(t, s, "/metrics", trusting); !strings.Contains(body, `ringside_tls_reloads_total{result="error"} 3`) {
		t.Error("the failures are not counted, once each")
	}
	ca.install(dir, 40)
	eventually(t, "the next good certificate is served", func() bool { return serial(s.addr("grpc")) == 40 })
	old.want("get a\r\n", "END\r\n")
	if strings.Contains(log.String(), "PRIVATE") {
		t.Error("the log has the key in it")
	}
}

// A connection that does not get on with its handshake holds up nobody, also
// not a drain.
func TestTLSHandshakeThatHangs(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s, _ := onNode(t, sidecar.Config{GRPC: "on", Admin: "on", TLS: ca.install(t.TempDir(), 10), DrainTimeout: patience})
	for _, name := range []string{"memcached", "grpc", "admin"} {
		dial(t, s.addr(name)).send("\x16\x03\x01")
	}
	p, err := dialTLS(t, s.addr("memcached"), &tls.Config{RootCAs: ca.pool})
	if err != nil {
		t.Fatal(err)
	}
	p.want("get a\r\n", "END\r\n")
	began := time.Now()
	s.stop(t)
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("the drain took %v", d)
	}
}

// TestPlainLoopback: one listener for the world, one for this host.
func TestPlainLoopback(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	cfg := ca.install(t.TempDir(), 10)
	cfg.PlainLoopback = true
	s, _ := onNode(t, sidecar.Config{GRPC: "0.0.0.0:0", Admin: "unix:" + shortDir(t) + "/admin", AllowRemote: true, TLS: cfg})
	dial(t, s.addr("memcached")).want("get a\r\n", "END\r\n")
	if code, _ := fetch(t, s, "GET", "/readyz"); code != 200 {
		t.Errorf("a unix socket is answered %d", code)
	}
	_, port, _ := net.SplitHostPort(s.addr("grpc"))
	cc, err := grpc.NewClient("passthrough:///127.0.0.1:"+port, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: ca.pool})))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	if _, err := ringsidev1.NewCacheClient(cc).Get(within(t), &ringsidev1.GetRequest{Key: []byte("a")}); err != nil {
		t.Errorf("Get = %v", err)
	}
	// What can be called is not told to other hosts.
	stream, err := reflectionv1.NewServerReflectionClient(cc).ServerReflectionInfo(within(t))
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("reflection on a remote listener: %v", err)
	}
	if s.Secured("memcached") || s.Secured("admin") || !s.Secured("grpc") {
		t.Error("Secured is wrong")
	}
}

func TestTLSBadConfig(t *testing.T) {
	t.Parallel()
	ca, dir := newAuthority(t), t.TempDir()
	good := ca.install(dir, 10)
	nonsense := filepath.Join(dir, "nonsense")
	write(t, nonsense, []byte("nonsense"))
	with := func(change func(*sidecar.TLS)) sidecar.Config {
		cfg := sidecar.Config{Embedded: 1, TLS: good}
		change(&cfg.TLS)
		return cfg
	}
	for _, tt := range []struct {
		name string
		cfg  sidecar.Config
		want []string
	}{
		{"no key", with(func(c *sidecar.TLS) { c.KeyFile = "" }), []string{"TLS.CertFile", "TLS.KeyFile", "together"}},
		{"no certificate", with(func(c *sidecar.TLS) { c.CertFile = "" }), []string{"TLS.CertFile", "TLS.CertFile", "together"}},
		{"only a client CA", sidecar.Config{Embedded: 1, TLS: sidecar.TLS{ClientCAFile: nonsense}}, []string{"TLS.ClientCAFile is given"}},
		{"version", with(func(c *sidecar.TLS) { c.MinVersion = "1.1" }), []string{`TLS.MinVersion is "1.1"`}},
		{"missing file", with(func(c *sidecar.TLS) { c.CertFile = dir + "/none" }), []string{"TLS.CertFile", dir + "/none", "no such file"}},
		{"certificate that is none", with(func(c *sidecar.TLS) { c.CertFile = nonsense }), []string{"TLS.CertFile", nonsense}},
		{"client CA that is none", with(func(c *sidecar.TLS) { c.ClientCAFile = nonsense }), []string{"TLS.ClientCAFile", nonsense}},
		{"remote, without both", sidecar.Config{Embedded: 1, GRPC: "0.0.0.0:0"}, []string{"GRPC: ", "--allow-remote", "TLS.CertFile (--tls-cert)"}},
		{"remote, not meant", func() sidecar.Config {
			c := with(func(c *sidecar.TLS) { c.PlainLoopback = true })
			c.Memcached = ":0"
			return c
		}(), []string{"Memcached: ", "AllowRemote (--allow-remote)"}},
		{"remote, without TLS", sidecar.Config{Embedded: 1, Admin: "[::]:0", AllowRemote: true}, []string{"Admin: ", "it needs TLS.CertFile (--tls-cert)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if s, err := sidecar.Start(free(tt.cfg)); err == nil {
				t.Fatalf("Start = %v, want an error", s.Addresses())
			} else {
				for _, want := range tt.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("Start: %v\nwant %q in it", err, want)
					}
				}
			}
		})
	}
	if err := good.Check(); err != nil {
		t.Errorf("Check of good files: %v", err)
	}
	if err := (sidecar.TLS{CertFile: nonsense, KeyFile: nonsense}).Check(); err == nil {
		t.Error("Check of nonsense says nothing")
	}
}

// TestTLSDrain: what was sent before the drain, in many records, is answered.
func TestTLSDrain(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s, _ := onNode(t, sidecar.Config{TLS: ca.install(t.TempDir(), 10), DrainTimeout: patience})
	p, err := dialTLS(t, s.addr("memcached"), &tls.Config{RootCAs: ca.pool})
	if err != nil {
		t.Fatal(err)
	}
	const n = 200
	go func() {
		for range n {
			p.send("get " + strings.Repeat("k", 200) + "\r\n") // a record each
		}
		p.send("mn\r\n")
		s.cancel()
	}()
	if got := p.until("MN\r\n"); got != strings.Repeat("END\r\n", n) {
		t.Errorf("answered %q", shorten(got))
	}
	s.stop(t)
}
