package stampede

import (
	"errors"
	"fmt"
	"time"
)

// None, in a field of Config or as an option, is no time at all where 0 would
// stand for the default.
const None time.Duration = -1

// Config says how long values live and how they are refilled. The zero value
// of each field is the production default. Times are kept in whole seconds by
// the caches behind a Store, rounded up.
type Config struct {
	// TTL is how long a value is fresh. Default 5 min, 1 s to 30 days. A
	// loader may set another with SetTTL, a call with the option TTL.
	TTL time.Duration
	// Grace is how long after that, or after an invalidation, a value may be
	// served stale while one caller refills it. Default 1 h, up to 30 days
	// less TTL. None: an expired value is gone, and Invalidate deletes. All
	// that use a key have to agree on it; see docs/stampede.md.
	Grace time.Duration
	// Lease is how long the caller that refills may take until others believe
	// it dead and one of them takes over. Default 10 s, 2 s to 1 h.
	Lease time.Duration
	// LoadTimeout bounds a loader. Default and at most Lease less 1 s, so that
	// a load has ended before it is taken over.
	LoadTimeout time.Duration
	// MaxLoads is the most loads of this Cache at a time. Default 64. Over it
	// callers are served stale or get ErrOriginBusy.
	MaxLoads int
	// Jitter is the share of the TTL by which each fill is randomly shortened,
	// so that what was filled together does not expire together. Default 0.1,
	// up to 0.5. Below 0: none.
	Jitter float64
	// EarlyRefresh scales how early before its expiry a value is refreshed:
	// the more, the longer recent loads took, at random, so that mostly a
	// single reader does it. Default 1, which is XFetch's optimum; at most a
	// quarter of the TTL early, or of the shortest that a loader has set of
	// late. Below 0: never.
	EarlyRefresh float64
	// NotFoundTTL is how long ErrNotFound from a loader is cached. Default
	// ErrorTTL, up to TTL, or ErrorTTL if that is more. None: it is not.
	NotFoundTTL time.Duration
	// ErrorTTL is how long after a failed load of a missing key other callers
	// get that error instead of loading one after the other. Default 1 s, up
	// to 1 min. None: they load one after the other.
	ErrorTTL time.Duration
	// Shared is for keys that classic memcached clients read too. It leaves
	// neither the stubs nor the values marked stale that those would take for
	// empty or fresh ones: Grace is None by default and has to be, Invalidate
	// deletes, errors are not cached, and a miss costs a second round trip to a key beside.
	Shared bool
	// Hooks are called when something happens.
	Hooks Hooks
}

const (
	maxTime  = 30 * 24 * time.Hour
	minLease = 2 * time.Second
	maxLease = time.Hour
)

// WithDefaults gives the config with every zero field set to its default.
func (c Config) WithDefaults() Config { return c.withDefaults() }

func (c Config) withDefaults() Config {
	setDefault(&c.TTL, 5*time.Minute)
	if c.Shared {
		setDefault(&c.Grace, None)
	}
	setDefault(&c.Grace, time.Hour)
	setDefault(&c.Lease, 10*time.Second)
	setDefault(&c.LoadTimeout, c.Lease-time.Second)
	setDefault(&c.MaxLoads, 64)
	setDefault(&c.Jitter, 0.1)
	setDefault(&c.EarlyRefresh, 1)
	setDefault(&c.ErrorTTL, time.Second)
	setDefault(&c.NotFoundTTL, c.ErrorTTL)
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports every problem of the config at once.
func (c Config) Validate() error {
	c = c.withDefaults()
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.TTL < time.Second || c.TTL > maxTime {
		bad("TTL is %v, it must be between 1s and 30 days", c.TTL)
	}
	if c.Grace != None && (c.Grace < 0 || c.Grace+c.TTL > maxTime) {
		bad("Grace is %v, it must be above 0, or None, and with TTL at most 30 days", c.Grace)
	}
	if c.Lease < minLease || c.Lease > maxLease {
		bad("Lease is %v, it must be between %v and %v", c.Lease, minLease, maxLease)
	}
	if c.Lease >= minLease && (c.LoadTimeout <= 0 || c.LoadTimeout > c.Lease-time.Second) {
		bad("LoadTimeout is %v, it must be above 0 and at most Lease less 1s, which is %v", c.LoadTimeout, c.Lease-time.Second)
	}
	if c.MaxLoads < 1 {
		bad("MaxLoads is %d, it must be above 0", c.MaxLoads)
	}
	if !(c.Jitter <= 0.5) {
		bad("Jitter is %v, it must be at most 0.5", c.Jitter)
	}
	if !(c.EarlyRefresh <= 1000) {
		bad("EarlyRefresh is %v, it must be at most 1000", c.EarlyRefresh)
	}
	if c.ErrorTTL != None && (c.ErrorTTL < 0 || c.ErrorTTL > time.Minute) {
		bad("ErrorTTL is %v, it must be between 0 and 1m, or None", c.ErrorTTL)
	}
	if c.NotFoundTTL != None && (c.NotFoundTTL < 0 || c.NotFoundTTL > max(c.TTL, c.ErrorTTL)) {
		bad("NotFoundTTL is %v, it must be between 0 and TTL, or None", c.NotFoundTTL)
	}
	if c.Shared && c.Grace != None {
		bad("Grace is %v, it must be None where Shared is set: classic clients take a value in its grace for fresh", c.Grace)
	}
	return errors.Join(problems...)
}

// stub is how long the stub of a lease stands.
func (c *Config) stub() time.Duration { return ceilSecond(c.Lease) + 2*time.Second }

func ceilSecond(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// An Option changes a setting for one call.
type Option func(*settings)

// settings are what a call works with.
type settings struct {
	ttl, grace time.Duration
	fresh      bool
}

// TTL sets how long the value of this call is fresh. It is held within 1 s and
// 30 days less Config.Grace.
func TTL(d time.Duration) Option { return func(s *settings) { s.ttl = d } }

// Fresh has Fetch and FetchMulti wait for a refill instead of serving a value
// that is due or invalidated. Where the refill fails, can not begin, or takes
// longer than LoadTimeout that value is served all the same.
func Fresh() Option { return func(s *settings) { s.fresh = true } }

func (c *Cache) settings(options []Option) settings {
	s := settings{ttl: c.cfg.TTL, grace: max(0, c.cfg.Grace)}
	for _, option := range options {
		option(&s)
	}
	s.ttl = min(max(s.ttl, time.Second), maxTime-s.grace)
	return s
}
