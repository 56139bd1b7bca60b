package sidecar

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/stampede"
)

// Config says what a sidecar serves and where. The zero value of each field
// but the servers is the production default.
type Config struct {
	// Client has the nodes and how they are treated. Its Hooks are called as
	// well as the sidecar's own.
	Client client.Config
	// PasswordFile, if set, has the password of Client.Username, without the
	// line end. It is read by Start.
	PasswordFile string
	// NodeTLS sets Client.TLS from files.
	NodeTLS NodeTLS
	// Embedded, if not 0, is a number of in-process nodes that are served in
	// place of Client.Servers. At most 64.
	Embedded int
	// EmbeddedBytes bounds the memory of each of them. Default 64 MiB.
	EmbeddedBytes int64
	// Stampede has the defaults of the lease API, which a caller may override
	// by request. Its MaxLoads bounds the leases that are lent at a time;
	// default 256. LoadTimeout, Shared and Hooks are not used.
	Stampede stampede.Config
	// Memcached, GRPC and Admin are the addresses of the listeners,
	// "host:port" or "unix:/path". Defaults 127.0.0.1:11311,
	// 127.0.0.1:11312 and 127.0.0.1:11313. "off" turns a listener off.
	Memcached, GRPC, Admin string
	// SocketMode is the mode of the unix sockets, in octal: "0660" lets in the
	// group that the sidecar runs as, "0666" every user of the host. Their
	// owner always may. Default "0600".
	SocketMode string
	// AllowRemote lets listeners have an address that is not loopback, which
	// other hosts can reach. Such a listener needs TLS as well.
	AllowRemote bool
	// TLS is how the listeners are encrypted, and who is let in. Default not
	// at all.
	TLS TLS
	// MaxValueBytes is the largest value that the memcached and gRPC
	// listeners take. Default 1 MiB, at most 1 GiB.
	MaxValueBytes int
	// MaxRequests bounds the gRPC requests under way, over it they fail with
	// RESOURCE_EXHAUSTED. Default 8192. A connection may have 1,024 calls open.
	MaxRequests int
	// MaxConns bounds the connections of the memcached and the gRPC listener
	// together. Default 10000; over it a new connection is closed, that of the
	// memcached listener with an error. The admin listener has 64 of its own,
	// so that one can look while all others are in use.
	//
	// With it memory is bounded: a connection of the memcached listener holds
	// the part that has come of one request (MaxValueBytes and 64 KiB, or the
	// 1 MiB of a long get) and the replies of one exchange, which is at most
	// 256 keys and at most 256 MiB by MaxValueBytes; idle it holds 16 KiB. One
	// of gRPC has at most 1,024 calls open, each with a message of
	// MaxValueBytes (2.6 MB where that is less), with the replies of a GetMulti,
	// or with the values of the 1,024 requests that a Stream may have under way;
	// requests under way are bounded by MaxRequests, and the leases that wait by
	// as many. Replies that are not read are held for WriteTimeout.
	MaxConns int
	// CollapseGets has concurrent gets of one key, of connections of the
	// memcached listener that ask for nothing else at the moment, share one
	// request to its node. A get never joins a request that was sent before it
	// came, so that it sees each write that had ended by then. It takes load
	// off the node of a hot key, for up to one more round trip. Default off.
	CollapseGets bool
	// IdleTimeout, if not 0, ends a connection of the memcached listener that
	// has sent nothing for so long. Default 0, not at all, as in memcached:
	// pools keep idle connections on purpose, and one that is closed just as
	// it is used again costs a request. Other sides that are gone without a
	// word are found by TCP keep-alive.
	IdleTimeout time.Duration
	// WriteTimeout is how long a client of the memcached listener may leave
	// its replies unread. Default 30 s.
	WriteTimeout time.Duration
	// RequestTimeout is how long a request that has come in part may wait for
	// its next bytes. Default 30 s.
	RequestTimeout time.Duration
	// DrainTimeout bounds how long Run waits for requests under way when it
	// ends. Default 10 s.
	DrainTimeout time.Duration
	// Level, if not nil, is set to the level that Apply is given. It is for
	// the Logger's handler.
	Level *slog.LevelVar
	// Tracing is "off" or "env". With "env" spans are sent over OTLP if the
	// standard variables of OpenTelemetry ask for it: OTEL_TRACES_EXPORTER is
	// otlp, or OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
	// is set; OTEL_EXPORTER_OTLP_PROTOCOL is http/protobuf, the default, or
	// grpc; OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and the others are obeyed.
	// Default "off": the environment is not read.
	Tracing string
	// Logger gets what happens to nodes and listeners, never a key. Default
	// discards it.
	Logger *slog.Logger
}

// NodeTLS is how TLS is spoken to the nodes. The files are read by Start.
type NodeTLS struct {
	Enabled bool
	// CAFile has the CAs that the nodes' certificates are from. Default the
	// system's.
	CAFile string
	// CertFile and KeyFile are shown to nodes that ask for a certificate.
	CertFile, KeyFile string
	// ServerName is the name in the nodes' certificates. Default the host that
	// is dialled.
	ServerName string
}

// config reads the files.
func (t *NodeTLS) config() (*tls.Config, error) {
	cfg := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("NodeTLS.CAFile: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("NodeTLS.CAFile: %s has no certificate in PEM", t.CAFile)
		}
	}
	if t.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("NodeTLS.CertFile: %w", err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// credentials reads what the files of the config say about the nodes.
func (c *Config) credentials() error {
	if c.PasswordFile != "" {
		b, err := os.ReadFile(c.PasswordFile)
		if err != nil {
			return fmt.Errorf("PasswordFile: %w", err)
		}
		c.Client.Password = strings.TrimRight(string(b), "\r\n")
		if err := c.Client.Validate(); err != nil && c.Embedded == 0 {
			return fmt.Errorf("PasswordFile: %w", err)
		}
	}
	if c.NodeTLS.Enabled {
		cfg, err := c.NodeTLS.config()
		if err != nil {
			return err
		}
		c.Client.TLS = cfg
	}
	return nil
}

// Nodes gives the config of a client that reaches the nodes as the sidecar does.
// It reads the files with credentials. Embedded nodes can not be reached so.
func (c Config) Nodes() (client.Config, error) {
	if c.Embedded > 0 {
		return client.Config{}, errors.New("embedded: these nodes are in the process that serves them")
	}
	err := c.credentials()
	return c.Client, err
}

// Off is the address of a listener that is not wanted.
const Off = "off"

const (
	maxEmbedded = 64
	// maxWait bounds the times of the listeners.
	maxWait = 24 * time.Hour
)

func (c Config) withDefaults() Config {
	or := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	or(&c.Memcached, "127.0.0.1:11311")
	or(&c.GRPC, "127.0.0.1:11312")
	or(&c.Admin, "127.0.0.1:11313")
	or(&c.SocketMode, "0600")
	if c.MaxValueBytes == 0 {
		c.MaxValueBytes = 1 << 20
	}
	if c.MaxRequests == 0 {
		c.MaxRequests = 8192
	}
	if c.Stampede.MaxLoads == 0 {
		c.Stampede.MaxLoads = 256
	}
	if c.MaxConns == 0 {
		c.MaxConns = 10000
	}
	for _, d := range []struct {
		field *time.Duration
		v     time.Duration
	}{{&c.WriteTimeout, 30 * time.Second}, {&c.RequestTimeout, 30 * time.Second}, {&c.DrainTimeout, 10 * time.Second}} {
		if *d.field == 0 {
			*d.field = d.v
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate reports every problem of the config at once.
func (c Config) Validate() error {
	c = c.withDefaults()
	hasPassword := c.Client.Password != ""
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	switch {
	case c.Embedded < 0 || c.Embedded > maxEmbedded:
		bad("Embedded is %d, it must be between 1 and %d", c.Embedded, maxEmbedded)
	case c.Embedded > 0 && len(c.Client.Servers) > 0:
		bad("Embedded and Servers are both given, one of them is needed")
	default:
		if c.PasswordFile != "" && c.Client.Username != "" && c.Client.Password == "" {
			c.Client.Password = "read-later"
		}
		if c.Embedded > 0 {
			// Their addresses are not known yet, and nothing depends on them.
			c.Client.Servers = []string{"embedded"}
		}
		if err := c.Client.Validate(); err != nil {
			problems = append(problems, err)
		}
	}
	listeners := map[string]string{} // the field of an address
	for _, l := range []struct{ field, addr string }{{"Memcached", c.Memcached}, {"GRPC", c.GRPC}, {"Admin", c.Admin}} {
		if err := c.checkListen(l.field, l.addr); err != nil {
			problems = append(problems, err)
		} else if other := listeners[l.addr]; other != "" && !strings.HasSuffix(l.addr, ":0") && l.addr != Off {
			bad("%s is %q, which is the address of the %s listener", l.field, l.addr, strings.ToLower(other))
		}
		listeners[l.addr] = l.field
	}
	if mode := c.socketMode(); mode > 0o777 || mode&0o600 != 0o600 {
		bad("SocketMode is %q, it must be octal, at most 0777, and let the owner read and write, as 0600 and 0660 do", c.SocketMode)
	}
	switch {
	case c.PasswordFile != "" && hasPassword:
		bad("PasswordFile and Password are both given, one of them is needed")
	case c.PasswordFile != "" && c.Client.Username == "":
		bad("PasswordFile is given without Username")
	}
	if t := c.NodeTLS; (t.CertFile == "") != (t.KeyFile == "") {
		bad("NodeTLS.CertFile and NodeTLS.KeyFile must be given together")
	} else if !t.Enabled && t != (NodeTLS{}) {
		bad("NodeTLS.Enabled is false, but its other fields are given")
	}
	problems = append(problems, c.TLS.problems()...)
	if c.MaxValueBytes < 1 || c.MaxValueBytes > 1<<30 {
		bad("MaxValueBytes is %d, it must be between 1 and 1 GiB", c.MaxValueBytes)
	}
	if err := (memnode.Config{MaxBytes: c.EmbeddedBytes}).Validate(); err != nil {
		bad("EmbeddedBytes is %d, too little for a node: %w", c.EmbeddedBytes, err)
	}
	if c.MaxRequests < 1 {
		bad("MaxRequests is %d, it must be above 0", c.MaxRequests)
	}
	if err := c.Stampede.Validate(); err != nil {
		bad("Stampede: %w", err)
	}
	if c.Stampede.Shared {
		bad("Stampede: Shared is set, but the lease API has no such keys")
	}
	if c.MaxConns < 1 {
		bad("MaxConns is %d, it must be above 0", c.MaxConns)
	}
	for _, d := range []struct {
		field string
		v     time.Duration
	}{{"WriteTimeout", c.WriteTimeout}, {"RequestTimeout", c.RequestTimeout}, {"DrainTimeout", c.DrainTimeout}} {
		if d.v < 0 || d.v > maxWait {
			bad("%s is %v, it must be above 0 and at most %v", d.field, d.v, maxWait)
		}
	}
	if c.Tracing != "" && c.Tracing != Off && c.Tracing != TracingEnv {
		bad("Tracing is %q, it must be off or env", c.Tracing)
	}
	if c.IdleTimeout < 0 {
		bad("IdleTimeout is %v, it must not be below 0", c.IdleTimeout)
	}
	return errors.Join(problems...)
}

// socketMode is 0, which is no valid one, where the text is no number.
func (c *Config) socketMode() os.FileMode {
	mode, err := strconv.ParseUint(c.SocketMode, 8, 32)
	if err != nil {
		return 0
	}
	return os.FileMode(mode)
}

func (c Config) checkListen(field, addr string) error {
	if addr == Off {
		return nil
	}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if path == "" {
			return fmt.Errorf("%s: the socket path is empty", field)
		}
		return nil
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%s: %q is neither host:port nor unix:/path", field, addr)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("%s: %q has no port between 0 and 65535", field, addr)
	}
	if isLocal(addr) {
		return nil
	}
	var missing []string
	if !c.AllowRemote {
		missing = append(missing, "AllowRemote (--allow-remote), which says that this is meant")
	}
	if !c.TLS.enabled() {
		missing = append(missing, "TLS.CertFile (--tls-cert) and TLS.KeyFile (--tls-key)")
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s: %q is not a loopback address; anybody who reaches it can read and write the cache: it needs %s",
			field, addr, strings.Join(missing, ", and "))
	}
	return nil
}

// isLocal tells whether a listener's address can be reached from this host
// only.
func isLocal(addr string) bool {
	if isUnix(addr) || addr == Off {
		return true
	}
	host, _, err := net.SplitHostPort(addr)
	return err == nil && isLoopback(host)
}

func isUnix(addr string) bool { return strings.HasPrefix(addr, "unix:") }

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
