package sidecar

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
)

// TLS is how clients reach the listeners. With a certificate each listener
// that has a host and port speaks TLS and nothing else; a unix socket never
// does, as its file's mode says who may use it.
//
// The files are read again within about a second of a change, when the next
// connection comes: by their content, so that it does not matter how they were
// replaced. New connections get what is new, those that are open stay. Files
// that can not be used are logged and counted, and what was loaded before goes
// on being served.
type TLS struct {
	// CertFile has the certificate and those between it and its authority,
	// KeyFile its key; both in PEM. Both or none.
	CertFile, KeyFile string
	// ClientCAFile, if set, has the authorities, in PEM, that clients'
	// certificates are from: a client without one is refused (mutual TLS).
	// Of the admin listener /healthz and /readyz are answered all the same,
	// as kubelets and load balancers have no certificate to show.
	ClientCAFile string
	// MinVersion is "1.2" or "1.3". Default 1.3.
	MinVersion string
	// PlainLoopback leaves out the listeners whose address is loopback: for
	// one that is remote beside others that clients on this host use without
	// TLS.
	PlainLoopback bool
}

func (t TLS) enabled() bool { return t.CertFile != "" || t.KeyFile != "" }

// covers tells whether a listener's address is served with TLS.
func (t TLS) covers(addr string) bool {
	return t.enabled() && addr != Off && !isUnix(addr) && !(t.PlainLoopback && isLocal(addr))
}

var tlsVersions = map[string]uint16{"": tls.VersionTLS13, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// problems is what is wrong with the fields, the files unread.
func (t TLS) problems() (problems []error) {
	if (t.CertFile == "") != (t.KeyFile == "") {
		problems = append(problems, errors.New("TLS.CertFile and TLS.KeyFile must be given together"))
	}
	if t.ClientCAFile != "" && !t.enabled() {
		problems = append(problems, errors.New("TLS.ClientCAFile is given without TLS.CertFile"))
	}
	if _, known := tlsVersions[t.MinVersion]; !known {
		problems = append(problems, fmt.Errorf("TLS.MinVersion is %q, it must be 1.2 or 1.3", t.MinVersion))
	}
	return problems
}

// Check reads the files and says whether they can be used, as Start does.
func (t TLS) Check() error {
	if !t.enabled() {
		return nil
	}
	_, err := t.load()
	return err
}

// identity is what the files had at one time.
type identity struct {
	sum     [sha256.Size]byte // of their content
	leaf    *x509.Certificate
	configs map[string]*tls.Config // by listener
}

// load reads the files. With an error the identity has nothing but the sum, by
// which the same failure is told from the next one.
func (t TLS) load() (*identity, error) {
	id := &identity{}
	hash := sha256.New()
	read := func(field, name string) ([]byte, error) {
		b, err := os.ReadFile(name)
		if err != nil {
			err = fmt.Errorf("%s: %w", field, err)
			fmt.Fprintf(hash, "%s\n", err)
		}
		fmt.Fprintf(hash, "%d\n%s", len(b), b)
		return b, err
	}
	certPEM, certErr := read("TLS.CertFile", t.CertFile)
	keyPEM, keyErr := read("TLS.KeyFile", t.KeyFile)
	var caPEM []byte
	var caErr error
	if t.ClientCAFile != "" {
		caPEM, caErr = read("TLS.ClientCAFile", t.ClientCAFile)
	}
	hash.Sum(id.sum[:0])
	if err := errors.Join(certErr, keyErr, caErr); err != nil {
		return id, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return id, fmt.Errorf("TLS.CertFile %s with TLS.KeyFile %s: %w", t.CertFile, t.KeyFile, err)
	}
	id.leaf = cert.Leaf
	cfg := &tls.Config{
		MinVersion:   tlsVersions[t.MinVersion],
		Certificates: []tls.Certificate{cert},
		// A session that is resumed is not asked for its certificate again,
		// and connections of caches live for long anyway.
		SessionTicketsDisabled: true,
	}
	if t.ClientCAFile != "" {
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(caPEM) {
			return id, fmt.Errorf("TLS.ClientCAFile: %s has no certificate in PEM", t.ClientCAFile)
		}
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	id.configs = make(map[string]*tls.Config)
	id.configs[listenerMemcached] = cfg
	id.configs[listenerGRPC] = cfg.Clone()
	id.configs[listenerGRPC].NextProtos = []string{"h2"}
	admin := cfg.Clone()
	admin.NextProtos = []string{"http/1.1"}
	if t.ClientCAFile != "" {
		admin.ClientAuth = tls.VerifyClientCertIfGiven // see withCertificate
	}
	id.configs[listenerAdmin] = admin
	return id, nil
}

// A keeper has the identity that connections are served with, and looks for a
// new one.
type keeper struct {
	files   TLS
	log     *slog.Logger
	metrics *metrics
	current atomic.Pointer[identity]

	// mu is held while the files are read, and guards what follows.
	mu     sync.Mutex
	looked time.Time
	sum    [sha256.Size]byte // of the files when they were read last, good or bad
}

// lookEvery is how often the files are read at most.
const lookEvery = time.Second

func newKeeper(files TLS, log *slog.Logger, m *metrics) (*keeper, error) {
	id, err := files.load()
	if err != nil {
		return nil, err
	}
	k := &keeper{files: files, log: log, metrics: m, looked: time.Now(), sum: id.sum}
	k.take(id)
	return k, nil
}

func (k *keeper) take(id *identity) {
	k.current.Store(id)
	log := k.log.Info
	if now := time.Now(); now.Before(id.leaf.NotBefore) || now.After(id.leaf.NotAfter) {
		log = k.log.Warn
	}
	log("certificate loaded", "file", k.files.CertFile, "subject", id.leaf.Subject.String(),
		"serial", id.leaf.SerialNumber.Text(16), "not_before", id.leaf.NotBefore, "not_after", id.leaf.NotAfter)
}

// identity gives what to serve with, having looked for a change if that is
// due. Who comes while somebody looks does not wait for a slow file system.
func (k *keeper) identity() *identity {
	if k.mu.TryLock() {
		defer k.mu.Unlock()
		if now := time.Now(); now.Sub(k.looked) >= lookEvery {
			k.looked = now
			k.look()
		}
	}
	return k.current.Load()
}

// look reads the files. A certificate that was replaced while its key was not
// yet is one of the failures here; it is over when the key is there.
func (k *keeper) look() {
	id, err := k.files.load()
	if id.sum == k.sum {
		return
	}
	k.sum = id.sum
	switch {
	case err != nil:
		k.metrics.certLoads.WithLabelValues(resultError).Inc()
		k.log.Error("the TLS files have changed and can not be used, what was loaded before is still served", "err", err)
	case id.sum == k.current.Load().sum: // a failure has been put right
	default:
		k.metrics.certLoads.WithLabelValues(resultOK).Inc()
		k.take(id)
	}
}

// config is that of a listener; each handshake asks for the newest.
func (k *keeper) config(listener string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: k.current.Load().configs[listener].NextProtos,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return k.identity().configs[listener], nil
		},
	}
}

// handshakeTimeout bounds a handshake.
const handshakeTimeout = 10 * time.Second

// handshake makes the TLS handshake of a connection, if it has one to make.
// It is left to the connection's own goroutine, so that a slow one holds up
// nobody.
func (m *memcachedServer) handshake(nc net.Conn) bool {
	tc, ok := nc.(*tls.Conn)
	if !ok {
		return true
	}
	ctx, cancel := context.WithTimeout(m.life, handshakeTimeout)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		m.s.handshakeFailed(listenerMemcached, nc.RemoteAddr(), err)
		return false
	}
	return true
}

func (s *Sidecar) handshakeFailed(listener string, from net.Addr, err error) {
	s.metrics.handshakeErrors.WithLabelValues(listener).Inc()
	s.log.Debug("TLS handshake", "listener", listener, "from", fmt.Sprint(from), "err", err)
}

// grpcCredentials count the handshakes that fail, and end those that a drain
// would have to wait for.
type grpcCredentials struct {
	credentials.TransportCredentials
	s    *Sidecar
	life context.Context // ends when a drain begins
}

func (c grpcCredentials) ServerHandshake(nc net.Conn) (net.Conn, credentials.AuthInfo, error) {
	stop := context.AfterFunc(c.life, func() { nc.SetDeadline(time.Now().Add(drainGrace)) })
	defer stop()
	secured, info, err := c.TransportCredentials.ServerHandshake(nc)
	if err != nil {
		c.s.handshakeFailed(listenerGRPC, nc.RemoteAddr(), err)
	}
	return secured, info, err
}

func (c grpcCredentials) Clone() credentials.TransportCredentials {
	return grpcCredentials{c.TransportCredentials.Clone(), c.s, c.life}
}
