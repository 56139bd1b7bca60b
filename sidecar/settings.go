package sidecar

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/ring"
	"github.com/ringside-cache/ringside/stampede"
)

// Settings are a Config and what the command has beside it, by the names that
// they have in a config file and as flags.
type Settings struct {
	Config
	// LogFormat is text or json, LogLevel debug, info, warn or error. Default
	// text and info.
	LogFormat, LogLevel string
	// ReloadEvery is how often the config file is read to see whether it has
	// changed. Default 5 s, at least 100 ms.
	ReloadEvery time.Duration
}

// A Setting is one of Settings.
type Setting struct {
	// Path is its name in a config file, as in "nodes.timeout".
	Path string
	// Flag is its name on the command line, as in "timeout".
	Flag string
	Help string
	// Reloads tells that it may change while the sidecar runs.
	Reloads bool

	value any    // points into Settings
	field string // what Validate calls it
}

// All lists the settings in the order of a config file.
func (s *Settings) All() []Setting {
	c := &s.Config
	n, h, l := &c.Client, &c.Client.Health, &c.Stampede
	const reloads = true
	return []Setting{
		{"servers", "servers", "LIST of servers: [name@]address[*weight]; or dns+host:port, dnssrv+name, file:path", reloads, &n.Servers, "Servers"},
		{"embedded", "embedded", "serve N in-process nodes instead of servers: nothing to install", !reloads, &c.Embedded, "Embedded"},
		{"embedded_bytes", "embedded-bytes", "memory of each embedded node", !reloads, &c.EmbeddedBytes, "EmbeddedBytes"},
		{"dialect", "dialect", "way that keys are placed, NAME[:KEYHASH]; see 'ringside ring dialects'", !reloads, &n.Dialect, "Dialect"},

		{"nodes.timeout", "timeout", "bound of one operation", !reloads, &n.Timeout, "Timeout"},
		{"nodes.dial_timeout", "dial-timeout", "bound of one attempt to connect", !reloads, &n.DialTimeout, "DialTimeout"},
		{"nodes.conns_per_node", "conns-per-node", "connections to each node", !reloads, &n.ConnsPerNode, "ConnsPerNode"},
		{"nodes.large_value", "large-value", "bytes from which values have a connection to their node of their own; -1 for none", !reloads, &n.LargeValue, "LargeValue"},
		{"nodes.max_in_flight", "max-in-flight", "most requests that wait for one node", !reloads, &n.MaxInFlight, "MaxInFlight"},
		{"nodes.max_in_flight_bytes", "max-in-flight-bytes", "most bytes of those requests", !reloads, &n.MaxInFlightBytes, "MaxInFlightBytes"},
		{"nodes.failover", "failover", "what happens to an ejected node's keys: next (a stand-in answers) or none (an error)", !reloads, &n.Failover, "Failover"},
		{"nodes.stand_in_ttl", "stand-in-ttl", "longest that a value written to a stand-in lives", !reloads, &n.StandInTTL, "StandInTTL"},
		{"nodes.discover_every", "discover-every", "time between two look-ups of servers", !reloads, &n.DiscoverEvery, "DiscoverEvery"},
		{"nodes.username", "node-username", "user that every connection authenticates as", !reloads, &n.Username, "Username"},
		{"nodes.password_file", "node-password-file", "FILE with that user's password", !reloads, &c.PasswordFile, "PasswordFile"},
		{"nodes.tls.enabled", "node-tls", "speak TLS to the nodes", !reloads, &c.NodeTLS.Enabled, "NodeTLS.Enabled"},
		{"nodes.tls.ca_file", "node-tls-ca", "FILE of the CAs that the nodes' certificates are from (default the system's)", !reloads, &c.NodeTLS.CAFile, "NodeTLS.CAFile"},
		{"nodes.tls.cert_file", "node-tls-cert", "FILE of the certificate shown to the nodes", !reloads, &c.NodeTLS.CertFile, "NodeTLS.CertFile"},
		{"nodes.tls.key_file", "node-tls-key", "FILE of that certificate's key", !reloads, &c.NodeTLS.KeyFile, "NodeTLS.KeyFile"},
		{"nodes.tls.server_name", "node-tls-server-name", "name in the nodes' certificates (default the host dialled)", !reloads, &c.NodeTLS.ServerName, "NodeTLS.ServerName"},

		{"health.failure_limit", "failure-limit", "failures in a row that eject a node", !reloads, &h.FailureLimit, "FailureLimit"},
		{"health.retry_timeout", "retry-timeout", "time from an ejection to the first probe", !reloads, &h.RetryTimeout, "RetryTimeout"},
		{"health.max_retry_timeout", "max-retry-timeout", "longest time between two probes", !reloads, &h.MaxRetryTimeout, "MaxRetryTimeout"},
		{"health.grow_after", "grow-after", "how long a node is out before its probes become rarer", !reloads, &h.GrowAfter, "GrowAfter"},
		{"health.max_ejected_share", "max-ejected-share", "largest share of the nodes that may be out at a time", !reloads, &h.MaxEjectedShare, "MaxEjectedShare"},
		{"health.flap_window", "flap-window", "how soon after a rejoin an ejection counts as flapping", !reloads, &h.FlapWindow, "FlapWindow"},

		{"listen.memcached", "memcached", "ADDR of the memcached protocol", !reloads, &c.Memcached, "Memcached"},
		{"listen.grpc", "grpc", "ADDR of gRPC", !reloads, &c.GRPC, "GRPC"},
		{"listen.admin", "admin", "ADDR of the admin HTTP", !reloads, &c.Admin, "Admin"},
		{"listen.socket_mode", "socket-mode", "mode of the unix sockets, in octal: 0660 lets in the sidecar's group, 0666 every user", !reloads, &c.SocketMode, "SocketMode"},
		{"listen.allow_remote", "allow-remote", "let the listeners be reached from other hosts; needs TLS", !reloads, &c.AllowRemote, "AllowRemote"},
		{"listen.tls.cert_file", "tls-cert", "FILE of the listeners' certificate: they speak TLS, but for unix sockets", !reloads, &c.TLS.CertFile, "TLS.CertFile"},
		{"listen.tls.key_file", "tls-key", "FILE of its key", !reloads, &c.TLS.KeyFile, "TLS.KeyFile"},
		{"listen.tls.client_ca_file", "tls-client-ca", "FILE of the authorities whose clients are let in (mutual TLS)", !reloads, &c.TLS.ClientCAFile, "TLS.ClientCAFile"},
		{"listen.tls.min_version", "tls-min-version", "lowest version of TLS, 1.2 or 1.3", !reloads, &c.TLS.MinVersion, "TLS.MinVersion"},
		{"listen.tls.plain_loopback", "tls-plain-loopback", "listeners on loopback stay without TLS", !reloads, &c.TLS.PlainLoopback, "TLS.PlainLoopback"},

		{"limits.max_value_bytes", "max-value-bytes", "largest value that is taken", !reloads, &c.MaxValueBytes, "MaxValueBytes"},
		{"limits.max_conns", "max-conns", "most connections of the memcached and gRPC listeners together", reloads, &c.MaxConns, "MaxConns"},
		{"limits.max_requests", "max-requests", "most gRPC requests under way", reloads, &c.MaxRequests, "MaxRequests"},
		{"limits.idle_timeout", "idle-timeout", "end a memcached connection that has sent nothing for so long, 0s for never", reloads, &c.IdleTimeout, "IdleTimeout"},
		{"limits.write_timeout", "write-timeout", "how long a client may leave its replies unread", reloads, &c.WriteTimeout, "WriteTimeout"},
		{"limits.request_timeout", "request-timeout", "how long a request that has come in part may wait for its rest", reloads, &c.RequestTimeout, "RequestTimeout"},

		{"collapse_gets", "collapse-gets", "concurrent gets of one key share a request to its node", !reloads, &c.CollapseGets, "CollapseGets"},

		{"lease.ttl", "lease-ttl", "how long a value is fresh where its fill does not say", !reloads, &l.TTL, "TTL"},
		{"lease.grace", "lease-grace", "how long after that it may be served stale where a request does not say; none for not at all", !reloads, (*orNone)(&l.Grace), "Grace"},
		{"lease.lease", "lease", "how long a caller may take to fill where its request does not say", !reloads, &l.Lease, "Lease"},
		{"lease.max_lent", "lease-max-lent", "most leases that callers of this sidecar have at a time", !reloads, &l.MaxLoads, "MaxLoads"},
		{"lease.jitter", "lease-jitter", "share of the TTL by which a fill is shortened at random", !reloads, &l.Jitter, "Jitter"},
		{"lease.early_refresh", "lease-early-refresh", "how early values are refreshed, below 0 for never", !reloads, &l.EarlyRefresh, "EarlyRefresh"},
		{"lease.not_found_ttl", "lease-not-found-ttl", "how long others are told that the origin has no such key; none for not at all", !reloads, (*orNone)(&l.NotFoundTTL), "NotFoundTTL"},
		{"lease.error_ttl", "lease-error-ttl", "how long others are told of a failed load; none for not at all", !reloads, (*orNone)(&l.ErrorTTL), "ErrorTTL"},

		{"drain_timeout", "drain-timeout", "bound of the drain", reloads, &c.DrainTimeout, "DrainTimeout"},
		{"reload_every", "reload-every", "how often the config file is read again", !reloads, &s.ReloadEvery, "ReloadEvery"},
		{"tracing", "tracing", "env (OpenTelemetry's OTEL_ variables, if they are set) or off", !reloads, &c.Tracing, "Tracing"},
		{"log.format", "log-format", "text or json", !reloads, &s.LogFormat, "LogFormat"},
		{"log.level", "log-level", "debug, info, warn or error", reloads, &s.LogLevel, "LogLevel"},
	}
}

// orNone is a time for which "none" can be said.
type orNone time.Duration

// WithDefaults gives the settings with every zero one set to its default.
func (s Settings) WithDefaults() Settings {
	s.Config = s.Config.withDefaults()
	s.Config.Client = s.Config.Client.WithDefaults()
	s.Config.Stampede = s.Config.Stampede.WithDefaults()
	if s.Embedded > 0 && s.EmbeddedBytes == 0 {
		s.EmbeddedBytes = 64 << 20
	}
	if s.Client.Dialect == "" {
		s.Client.Dialect = ring.Ketama
	}
	if s.TLS.MinVersion == "" {
		s.TLS.MinVersion = "1.3"
	}
	if s.Tracing == "" {
		s.Tracing = TracingEnv
	}
	if s.LogFormat == "" {
		s.LogFormat = "text"
	}
	if s.LogLevel == "" {
		s.LogLevel = "info"
	}
	if s.ReloadEvery == 0 {
		s.ReloadEvery = 5 * time.Second
	}
	return s
}

const minReload = 100 * time.Millisecond

// Validate reports every problem at once, by the names of the Config.
func (s Settings) Validate() error {
	s = s.WithDefaults()
	problems := []error{s.Config.Validate()}
	if s.LogFormat != "text" && s.LogFormat != "json" {
		problems = append(problems, fmt.Errorf("LogFormat is %q, it must be text or json", s.LogFormat))
	}
	if _, err := s.level(); err != nil {
		problems = append(problems, err)
	}
	if s.ReloadEvery < minReload {
		problems = append(problems, fmt.Errorf("ReloadEvery is %v, it must be at least %v", s.ReloadEvery, minReload))
	}
	return errors.Join(problems...)
}

// SetLogger gives the Config a logger that writes to w as the settings say, and
// that Apply can change the level of.
func (s *Settings) SetLogger(w io.Writer) error {
	full := s.WithDefaults()
	level, err := full.level()
	if err != nil {
		return err
	}
	s.Config.Level = new(slog.LevelVar)
	s.Config.Level.Set(level)
	opts := &slog.HandlerOptions{Level: s.Config.Level}
	if full.LogFormat == "json" {
		s.Logger = slog.New(slog.NewJSONHandler(w, opts))
	} else {
		s.Logger = slog.New(slog.NewTextHandler(w, opts))
	}
	return nil
}

func (s *Settings) level() (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(s.LogLevel)); err != nil {
		return l, fmt.Errorf("LogLevel is %q, it must be debug, info, warn or error", s.LogLevel)
	}
	return l, nil
}

// Set gives a setting a value in the form of the command line, where a list is
// comma-separated.
func (s *Settings) Set(path, text string) error {
	for _, one := range s.All() {
		if one.Path == path {
			return one.parse([]string{text}, true)
		}
	}
	return fmt.Errorf("there is no setting %q", path)
}

// parse reads the value of a setting. From the command line a list is one
// text with commas.
func (s *Setting) parse(texts []string, commas bool) error {
	if list, ok := s.value.(*[]string); ok {
		if commas {
			texts = strings.Split(texts[0], ",")
		}
		*list = nil
		for _, text := range texts {
			if text = strings.TrimSpace(text); text != "" {
				*list = append(*list, text)
			}
		}
		return nil
	}
	if len(texts) != 1 {
		return errors.New("is one value and not a list")
	}
	text := texts[0]
	var err error
	switch v := s.value.(type) {
	case *string:
		*v = text
	case *ring.Dialect:
		*v = ring.Dialect(text)
	case *bool:
		if *v, err = strconv.ParseBool(text); err != nil {
			return fmt.Errorf("is %q, it must be true or false", text)
		}
	case *int:
		if *v, err = strconv.Atoi(text); err != nil {
			return fmt.Errorf("is %q, it must be a whole number", text)
		}
	case *int64:
		if *v, err = strconv.ParseInt(text, 10, 64); err != nil {
			return fmt.Errorf("is %q, it must be a whole number", text)
		}
	case *float64:
		if *v, err = strconv.ParseFloat(text, 64); err != nil {
			return fmt.Errorf("is %q, it must be a number", text)
		}
	case *time.Duration:
		if *v, err = time.ParseDuration(text); err != nil {
			return fmt.Errorf("is %q, it must be a time with its unit, as in 500ms or 10s", text)
		}
	case *orNone:
		if text == "none" {
			*v = orNone(stampede.None)
			return nil
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("is %q, it must be a time with its unit, as in 500ms or 10s, or none", text)
		}
		*v = orNone(d)
	case *client.Failover:
		switch text {
		case "next":
			*v = client.FailoverNext
		case "none":
			*v = client.FailoverNone
		default:
			return fmt.Errorf("is %q, it must be next or none", text)
		}
	}
	return nil
}

// texts is the value of a setting in the form that parse reads.
func (s *Setting) texts() []string {
	switch v := s.value.(type) {
	case *[]string:
		return slices.Clone(*v)
	case *string:
		return []string{*v}
	case *ring.Dialect:
		return []string{string(*v)}
	case *bool:
		return []string{strconv.FormatBool(*v)}
	case *int:
		return []string{strconv.Itoa(*v)}
	case *int64:
		return []string{strconv.FormatInt(*v, 10)}
	case *float64:
		return []string{strconv.FormatFloat(*v, 'g', -1, 64)}
	case *time.Duration:
		return []string{shortDuration(*v)}
	case *orNone:
		if time.Duration(*v) == stampede.None {
			return []string{"none"}
		}
		return []string{shortDuration(time.Duration(*v))}
	case *client.Failover:
		if *v == client.FailoverNone {
			return []string{"none"}
		}
		return []string{"next"}
	}
	return nil
}

// Kind names what values a setting has: bool, int, float, duration, list or
// string.
func (s *Setting) Kind() string {
	switch s.value.(type) {
	case *bool:
		return "bool"
	case *int, *int64:
		return "int"
	case *float64:
		return "float"
	case *time.Duration, *orNone:
		return "duration"
	case *[]string:
		return "list"
	}
	return "string"
}

// Text is the value of a setting in the form of the command line.
func (s *Setting) Text() string { return strings.Join(s.texts(), ",") }

// shortDuration is 1h where a Duration says 1h0m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// changes lists the settings in which two differ.
func (s *Settings) changes(next *Settings) []Setting {
	var list []Setting
	theirs := next.All()
	for i, one := range s.All() {
		if !slices.Equal(one.texts(), theirs[i].texts()) {
			list = append(list, theirs[i])
		}
	}
	return list
}
