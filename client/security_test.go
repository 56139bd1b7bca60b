package client_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/ring"
)

// testCA makes a CA, and a certificate of it for the host, in PEM files.
func testCA(t *testing.T, host string) (pool *x509.CertPool, certFile, keyFile string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(err)
		return k
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	caKey := key()
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	check(err)
	ca, err = x509.ParseCertificate(caDER)
	check(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "memcached"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		leaf.IPAddresses = []net.IP{ip}
	} else {
		leaf.DNSNames = []string{host}
	}
	leafKey := key()
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &leafKey.PublicKey, caKey)
	check(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	check(err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	check(os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER}), 0o600))
	check(os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	pool = x509.NewCertPool()
	pool.AddCert(ca)
	return pool, certFile, keyFile
}

func TestTLS(t *testing.T) {
	pool, certFile, keyFile := testCA(t, "127.0.0.1")
	s := realserver.Memcached(t, "-Z", "-o", "ssl_chain_cert="+certFile+",ssl_key="+keyFile)
	ctx := t.Context()

	t.Run("verified", func(t *testing.T) {
		c := newClient(t, client.Config{Servers: []string{s.Addr()}, TLS: &tls.Config{RootCAs: pool}, Timeout: 5 * time.Second})
		large := strings.Repeat("x", 900_000)
		if err := c.Set(ctx, &client.Item{Key: "large", Value: []byte(large)}); err != nil {
			t.Fatal(err)
		}
		// The replies are many times what the sockets hold, so the client has
		// to read while it writes.
		var b client.Batch
		for range 200 {
			b.Get("large")
		}
		if err := c.Do(ctx, &b); err != nil {
			t.Fatal(err)
		}
		for i := range b.Len() {
			if item, err := b.Item(i); err != nil || string(item.Value) != large {
				t.Fatalf("get %d: %v", i, err)
			}
		}
		var wg sync.WaitGroup
		for w := range 32 {
			wg.Go(func() {
				key := fmt.Sprint("key:", w)
				for i := range 50 {
					if err := c.Set(ctx, &client.Item{Key: key, Value: fmt.Append(nil, i)}); err != nil {
						t.Error(err)
					}
					if item, err := c.Get(ctx, key); err != nil || string(item.Value) != fmt.Sprint(i) {
						t.Errorf("%v, %v", item, err)
					}
				}
			})
		}
		wg.Wait()
	})

	t.Run("unknown authority", func(t *testing.T) {
		c := newClient(t, client.Config{Servers: []string{s.Addr()}, TLS: &tls.Config{}, Timeout: 10 * time.Second})
		_, err := c.Get(ctx, "a")
		var unknown x509.UnknownAuthorityError
		if !errors.Is(err, client.ErrDial) || !errors.As(err, &unknown) {
			t.Errorf("%v, want an x509.UnknownAuthorityError", err)
		}
	})

	t.Run("another name", func(t *testing.T) {
		other, certFile, keyFile := testCA(t, "cache.example.net")
		s := realserver.Memcached(t, "-Z", "-o", "ssl_chain_cert="+certFile+",ssl_key="+keyFile)
		c := newClient(t, client.Config{Servers: []string{s.Addr()}, TLS: &tls.Config{RootCAs: other}, Timeout: 10 * time.Second})
		_, err := c.Get(ctx, "a")
		var name x509.HostnameError
		if !errors.As(err, &name) {
			t.Errorf("%v, want an x509.HostnameError", err)
		}
		c = newClient(t, client.Config{Servers: []string{s.Addr()}, TLS: &tls.Config{RootCAs: other, ServerName: "cache.example.net"}, Timeout: 10 * time.Second})
		if err := c.Set(ctx, &client.Item{Key: "a"}); err != nil {
			t.Errorf("with the name given: %v", err)
		}
	})

	t.Run("plain to a TLS server", func(t *testing.T) {
		c := newClient(t, client.Config{Servers: []string{s.Addr()}})
		if _, err := c.Get(ctx, "a"); !errors.Is(err, client.ErrDial) && !errors.Is(err, client.ErrTimeout) {
			t.Errorf("%v", err)
		}
	})
}

func TestAuthentication(t *testing.T) {
	file := filepath.Join(t.TempDir(), "auth")
	if err := os.WriteFile(file, []byte("ringside:s3cret\nother:word\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := realserver.Memcached(t, "-Y", file)
	ctx := t.Context()
	c := newClient(t, client.Config{Servers: []string{s.Addr()}, Username: "ringside", Password: "s3cret", Timeout: 5 * time.Second})
	if err := c.Set(ctx, &client.Item{Key: "a", Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "a set on a new connection", func() bool {
		return c.Set(ctx, &client.Item{Key: "a", Value: []byte("x")}) == nil
	})

	wrong := newClient(t, client.Config{Servers: []string{s.Addr()}, Username: "ringside", Password: "wrong", Timeout: 5 * time.Second})
	_, err := wrong.Get(ctx, "a")
	if !errors.Is(err, client.ErrDial) || !strings.Contains(err.Error(), "authentication") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("a wrong password: %v", err)
	}
	none := newClient(t, client.Config{Servers: []string{s.Addr()}})
	if _, err := none.Get(ctx, "a"); !errors.Is(err, client.ErrDial) {
		t.Errorf("no password: %v", err)
	}
	for _, cfg := range []client.Config{
		{Username: "ringside"}, {Password: "x"}, {Username: "a b", Password: "x"}, {Username: "a", Password: "x\r\nflush_all"},
	} {
		cfg.Servers = []string{s.Addr()}
		if c, err := client.New(cfg); err == nil {
			c.Close()
			t.Errorf("%q, %q were taken", cfg.Username, cfg.Password)
		}
	}
}

// TestValueOfOpaques: no value can pass for one that swallowed another reply.
// This one has a number near to each that an opaque could once be, so that
// every read of it broke the connection and the third ejected the node.
func TestValueOfOpaques(t *testing.T) {
	onBoth(t, func(t *testing.T, addr string) {
		c := newClient(t, client.Config{Servers: []string{addr}, Timeout: 5 * time.Second})
		var value []byte
		for n := uint64(1_000_000_000); n < math.MaxUint32+131_000; n += 131_000 {
			value = fmt.Appendf(value, " O%d", n)
		}
		if err := c.Set(t.Context(), &client.Item{Key: "a", Value: value}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			item, err := c.Get(t.Context(), "a")
			if err != nil || !bytes.Equal(item.Value, value) {
				t.Fatalf("a value of %d bytes was read as: %v", len(value), err)
			}
		}
		if s := c.Stats().Nodes[0]; s.State != ring.Up || s.ConnectionsLost != 0 {
			t.Errorf("the node is %v, %d connections lost", s.State, s.ConnectionsLost)
		}
	})
}
