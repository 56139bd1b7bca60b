package client

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/ringside-cache/ringside/proto/memcached"
	"github.com/ringside-cache/ringside/ring"
)

// Failover is what happens to the keys of an ejected node.
type Failover int

const (
	// FailoverNext: the stand-in answers, the next node on the ring. What is
	// written there lives at most Config.StandInTTL, because the owner comes
	// back with its old values.
	FailoverNext Failover = iota
	// FailoverNone: the operation fails at once with ErrNodeDown. For those
	// who prefer a miss to a stale read.
	FailoverNone
)

// Config says where the nodes are and how to treat them. The zero value of
// each field is the production default.
type Config struct {
	// Servers are the nodes, each "[name@]address[*weight]" as ring.ParseNode
	// reads it. One at least. An entry may stand for many, which are looked up
	// again every DiscoverEvery: "dns+host:port" for all addresses of a host,
	// "dnssrv+name" for the targets of SRV records, "file:path" for a file with a
	// server a line, "#" for comments, and the same one twice once. A look-up
	// that fails, finds nothing, or finds what makes no ring keeps its last
	// answer, and only New returns an error. After New a look-up changes at most
	// a third of the ring, by weight, and one node at least: nodes that leave,
	// join, or get another address or weight. The rest follows with the next
	// ones, so a fleet grows by half every DiscoverEvery.
	Servers []string
	// DiscoverEvery is the time between two look-ups, less up to a fifth.
	// Default 30 s, at least 10 ms.
	DiscoverEvery time.Duration
	// Resolver looks up dns+ and dnssrv+. Default net.DefaultResolver.
	Resolver Resolver
	// Dialect is the way that keys are placed. Default ring.Ketama.
	Dialect ring.Dialect
	// Timeout bounds a whole operation: waiting for a connection, sending,
	// and the answer. Default 500 ms, at most 10 minutes. A caller's context may end it earlier.
	// A connection whose oldest request has waited so long is closed. A Batch
	// of more than 1,024 operations for a connection has it for each 1,024.
	Timeout time.Duration
	// DialTimeout bounds one attempt to connect. Default Timeout, at most 10
	// minutes.
	DialTimeout time.Duration
	// ConnsPerNode is the number of connections to each node, 1 to 16.
	// Default 1. A key always uses the same one, unless its value is large.
	ConnsPerNode int
	// LargeValue is the size in bytes from which values have another connection
	// to their node, made when the first one passes, so that small requests do not
	// wait behind them. Default 64 KiB; -1 for none.
	LargeValue int
	// ShareWrites has a caller that finds others under way to its node let
	// those join its write that are ready to run, even if they are few: fewer
	// system calls for some microseconds of latency. It is for a process that
	// asks on behalf of many others, as the sidecar does; without it callers
	// do so where more than a handful are under way. Nor does it look for
	// replies some times before it sleeps, as the others have work for the
	// processor meanwhile.
	ShareWrites bool
	// MaxInFlight bounds the requests that wait for one node, over it
	// operations fail with ErrOverloaded. Default 16384.
	MaxInFlight int
	// MaxInFlightBytes bounds the bytes of those requests. Default 64 MiB. A
	// single larger request is let through when nothing else is in flight.
	MaxInFlightBytes int64
	// Failover is what happens to an ejected node's keys. Default
	// FailoverNext.
	Failover Failover
	// StandInTTL is the longest that a value written to a stand-in lives.
	// Default 10 s, from 1 s to 30 days; it is rounded up to whole seconds.
	StandInTTL time.Duration
	// TLS, if set, is used on every connection but those to unix sockets. The
	// server's certificate is verified against the name or address that is
	// dialled unless the config says otherwise. It is copied.
	TLS *tls.Config
	// Username and Password authenticate every connection, as memcached -Y
	// asks for. Without TLS they go over the wire in clear.
	Username, Password string
	// Health says when a node is ejected and probed.
	Health ring.HealthConfig
	// Hooks are called when something happens to a node. They must return
	// quickly and may be called from several goroutines at once.
	Hooks Hooks
}

const (
	maxConnsPerNode = 16
	// maxTimeout is far above what is of use, and far below where sums of it
	// and the time since the client was made overflow.
	maxTimeout = 10 * time.Minute
)

// WithDefaults gives the config with every zero field set to its default.
func (c Config) WithDefaults() Config { return c.withDefaults() }

func (c Config) withDefaults() Config {
	if c.Timeout == 0 {
		c.Timeout = 500 * time.Millisecond
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = c.Timeout
	}
	if c.ConnsPerNode == 0 {
		c.ConnsPerNode = 1
	}
	if c.LargeValue == 0 {
		c.LargeValue = 64 << 10
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 16384
	}
	if c.MaxInFlightBytes == 0 {
		c.MaxInFlightBytes = 64 << 20
	}
	if c.DiscoverEvery == 0 {
		c.DiscoverEvery = 30 * time.Second
	}
	if c.StandInTTL == 0 {
		c.StandInTTL = 10 * time.Second
	}
	c.Health = c.Health.WithDefaults()
	return c
}

// Validate reports every problem of the config at once. It looks nothing up.
func (c Config) Validate() error {
	static, sources, err := c.splitSources()
	err = ofServers(err)
	if len(static) > 0 || len(sources) == 0 {
		_, ringErr := c.ring(static)
		err = errors.Join(err, ringErr)
	} else {
		err = errors.Join(err, c.Dialect.Validate())
	}
	return errors.Join(err, c.validateFields())
}

// ring builds the ring of the servers.
func (c Config) ring(servers []string) (*ring.Ring, error) {
	if len(servers) == 0 {
		return nil, fmt.Errorf("field Servers: the list is empty: %w", ErrNoServers)
	}
	nodes, err := ring.ParseNodes(servers)
	if err != nil {
		return nil, errors.Join(ofServers(err), c.Dialect.Validate())
	}
	return ring.New(nodes, c.Dialect)
}

// ofServers says of each of joined errors which field it is about.
func ofServers(err error) error {
	if err == nil {
		return nil
	}
	list := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // itself and not what it wraps
		list = joined.Unwrap()
	}
	for i := range list {
		list[i] = fmt.Errorf("Servers: %w", list[i])
	}
	return errors.Join(list...)
}

func (c Config) validateFields() error {
	c = c.withDefaults()
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Timeout < 0 || c.Timeout > maxTimeout {
		bad("Timeout is %v, it must be above 0 and at most %v", c.Timeout, maxTimeout)
	}
	if c.DialTimeout < 0 || c.DialTimeout > maxTimeout {
		bad("DialTimeout is %v, it must be above 0 and at most %v", c.DialTimeout, maxTimeout)
	}
	if c.ConnsPerNode < 1 || c.ConnsPerNode > maxConnsPerNode {
		bad("ConnsPerNode is %d, it must be between 1 and %d", c.ConnsPerNode, maxConnsPerNode)
	}
	if c.LargeValue < -1 {
		bad("LargeValue is %d, it must be above 0, or -1 for none", c.LargeValue)
	}
	if c.MaxInFlight < 1 {
		bad("MaxInFlight is %d, it must be above 0", c.MaxInFlight)
	}
	if c.MaxInFlightBytes < 1 {
		bad("MaxInFlightBytes is %d, it must be above 0", c.MaxInFlightBytes)
	}
	if c.Failover != FailoverNext && c.Failover != FailoverNone {
		bad("Failover is %d, it must be FailoverNext or FailoverNone", c.Failover)
	}
	if (c.Username == "") != (c.Password == "") {
		bad("Username and Password must be given together")
	}
	for field, text := range map[string]string{"Username": c.Username, "Password": c.Password} {
		for i := range len(text) {
			if b := text[i]; b <= ' ' || b == 0x7f {
				bad("%s has the byte 0x%02x at place %d, spaces and control bytes are not allowed", field, b, i)
				break
			}
		}
	}
	if c.DiscoverEvery < 10*time.Millisecond {
		bad("DiscoverEvery is %v, it must be at least 10ms", c.DiscoverEvery)
	}
	if c.StandInTTL < time.Second || c.StandInTTL > memcached.MaxRelative*time.Second {
		bad("StandInTTL is %v, it must be between 1s and 30 days", c.StandInTTL)
	}
	if err := c.Health.Validate(); err != nil {
		problems = append(problems, fmt.Errorf("field Health: %w", err))
	}
	return errors.Join(problems...)
}
