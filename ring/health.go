package ring

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// HealthConfig sets when a node is ejected and when it is probed. The zero
// value is the production default.
type HealthConfig struct {
	// FailureLimit is the number of failures in a row that eject a node.
	// Default 3, at least 1. With 1 a single lost connection ejects.
	FailureLimit int
	// RetryTimeout is the time from an ejection to the first probe, and
	// between probes until GrowAfter. Default 2 s.
	RetryTimeout time.Duration
	// MaxRetryTimeout bounds the time between probes once it grows. Default
	// 30 s, at least RetryTimeout.
	MaxRetryTimeout time.Duration
	// GrowAfter is how long a node must have been out before the time
	// between its probes starts to double. Default 30 s.
	GrowAfter time.Duration
	// MaxEjectedShare is the largest share of the nodes that may be out at a
	// time, above 0 to 1. Default 0.5. Past it a failing node keeps being
	// asked: when most nodes fail, it is more likely our own network. A
	// fleet of one node is never ejected below 1.
	MaxEjectedShare float64
	// FlapWindow is how soon after a rejoin an ejection counts as flapping.
	// Default 60 s. From the second such ejection in a row on, the node
	// starts at a doubled RetryTimeout, doubled again for each further one.
	FlapWindow time.Duration
}

// WithDefaults gives the config with every zero field set to its default.
func (c HealthConfig) WithDefaults() HealthConfig {
	if c.FailureLimit == 0 {
		c.FailureLimit = 3
	}
	if c.RetryTimeout == 0 {
		c.RetryTimeout = 2 * time.Second
	}
	if c.MaxRetryTimeout == 0 {
		c.MaxRetryTimeout = max(30*time.Second, c.RetryTimeout)
	}
	if c.GrowAfter == 0 {
		c.GrowAfter = 30 * time.Second
	}
	if c.MaxEjectedShare == 0 {
		c.MaxEjectedShare = 0.5
	}
	if c.FlapWindow == 0 {
		c.FlapWindow = time.Minute
	}
	return c
}

// Validate reports every field that is out of bounds.
func (c HealthConfig) Validate() error {
	c = c.WithDefaults()
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.FailureLimit < 1 {
		bad("FailureLimit is %d, it must be at least 1", c.FailureLimit)
	}
	if c.RetryTimeout < 0 {
		bad("RetryTimeout is %v, it must be above 0", c.RetryTimeout)
	}
	if c.MaxRetryTimeout < c.RetryTimeout {
		bad("MaxRetryTimeout is %v, it must be at least RetryTimeout (%v)", c.MaxRetryTimeout, c.RetryTimeout)
	}
	if c.GrowAfter < 0 {
		bad("GrowAfter is %v, it must be above 0", c.GrowAfter)
	}
	if !(c.MaxEjectedShare >= 0 && c.MaxEjectedShare <= 1) { // NaN is neither
		bad("MaxEjectedShare is %v, it must be above 0 and at most 1", c.MaxEjectedShare)
	}
	if c.FlapWindow < 0 {
		bad("FlapWindow is %v, it must be above 0", c.FlapWindow)
	}
	return errors.Join(problems...)
}

// NodeState is what Health thinks of a node.
type NodeState int

const (
	// Up: the node is asked.
	Up NodeState = iota
	// Failing: the node is asked, its last answers were failures. At
	// FailureLimit and more it is out but for MaxEjectedShare.
	Failing
	// Ejected: the node is not asked, only probed.
	Ejected
)

func (s NodeState) String() string {
	switch s {
	case Up:
		return "up"
	case Failing:
		return "failing"
	case Ejected:
		return "ejected"
	}
	return fmt.Sprintf("NodeState(%d)", int(s))
}

// Health is the auto-eject state machine of a fleet. It is told of failures,
// successes and probes, and decides who is out and when to probe. It has no
// clock and no goroutine, and is not safe for concurrent use.
//
// A failure is a lost connection, a failed dial or an overdue reply; an error
// reply or a cancelled caller is none. One lost connection is one failure
// however many requests waited on it.
type Health struct {
	cfg   HealthConfig
	rand  *rand.Rand
	nodes []nodeHealth
	out   int
}

type nodeHealth struct {
	failures   int
	ejected    bool
	ejectedAt  time.Time
	rejoinedAt time.Time
	nextProbe  time.Time
	interval   time.Duration
	flaps      int
	ejections  int
}

// NewHealth starts with all nodes up. The seed drives the jitter.
func NewHealth(nodes int, cfg HealthConfig, seed uint64) (*Health, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Health{
		cfg:   cfg.WithDefaults(),
		rand:  rand.New(rand.NewPCG(seed, seed)),
		nodes: make([]nodeHealth, nodes),
	}, nil
}

// Move gives the state machine of a changed fleet: its node i is node from[i]
// of this one, with that one's state, or new and up where from[i] is negative.
// The cap on the ejected share applies to the next ejection; nobody is taken
// back for it.
func (h *Health) Move(from []int) *Health {
	moved := &Health{cfg: h.cfg, rand: h.rand, nodes: make([]nodeHealth, len(from))}
	for i, j := range from {
		if j < 0 {
			continue
		}
		moved.nodes[i] = h.nodes[j]
		if h.nodes[j].ejected {
			moved.out++
		}
	}
	return moved
}

// Failure counts a failure of a node and tells whether it ejected it. A
// failure of a node that is out already changes nothing.
func (h *Health) Failure(node int, now time.Time) (ejected bool) {
	n := &h.nodes[node]
	if n.ejected {
		return false
	}
	n.failures++
	if n.failures < h.cfg.FailureLimit || h.out+1 > h.mostOut() {
		return false
	}
	n.ejected = true
	n.ejections++
	h.out++
	if !n.rejoinedAt.IsZero() && now.Sub(n.rejoinedAt) < h.cfg.FlapWindow {
		n.flaps++
	} else {
		n.flaps = 0
	}
	n.ejectedAt = now
	n.interval = h.cfg.RetryTimeout
	for i := 1; i < n.flaps && n.interval < h.cfg.MaxRetryTimeout; i++ {
		n.interval = min(2*n.interval, h.cfg.MaxRetryTimeout)
	}
	n.nextProbe = now.Add(h.jitter(n.interval))
	return true
}

// Success ends a node's row of failures. A late success of a node that is out
// does not take it back; a probe does.
func (h *Health) Success(node int) {
	if n := &h.nodes[node]; !n.ejected {
		n.failures = 0
	}
}

// Probed takes the result of a probe that ended now, and tells whether the
// node rejoins.
func (h *Health) Probed(node int, ok bool, now time.Time) (rejoined bool) {
	n := &h.nodes[node]
	if !n.ejected {
		return false
	}
	if ok {
		n.ejected = false
		n.failures = 0
		n.rejoinedAt = now
		h.out--
		return true
	}
	if now.Sub(n.ejectedAt) >= h.cfg.GrowAfter {
		n.interval = min(2*n.interval, h.cfg.MaxRetryTimeout)
	}
	n.nextProbe = now.Add(h.jitter(n.interval))
	return false
}

// NextProbe gives the ejected node whose probe is due first, and when. There
// is none where no node is out.
func (h *Health) NextProbe() (node int, at time.Time, ok bool) {
	for i := range h.nodes {
		if n := &h.nodes[i]; n.ejected && (!ok || n.nextProbe.Before(at)) {
			node, at, ok = i, n.nextProbe, true
		}
	}
	return node, at, ok
}

// Postpone moves a node's probe while one is under way.
func (h *Health) Postpone(node int, until time.Time) { h.nodes[node].nextProbe = until }

// Ejected tells whether a node is out.
func (h *Health) Ejected(node int) bool { return h.nodes[node].ejected }

// NodeHealth is a picture of one node's state. The times are zero and the
// interval is 0 while the node is not ejected.
type NodeHealth struct {
	State     NodeState
	Failures  int
	Ejections int
	EjectedAt time.Time
	NextProbe time.Time
	Interval  time.Duration
}

// Node gives a picture of a node's state.
func (h *Health) Node(node int) NodeHealth {
	n := h.nodes[node]
	s := NodeHealth{Failures: n.failures, Ejections: n.ejections}
	switch {
	case n.ejected:
		s.State = Ejected
		s.EjectedAt, s.NextProbe, s.Interval = n.ejectedAt, n.nextProbe, n.interval
	case n.failures > 0:
		s.State = Failing
	}
	return s
}

// mostOut is the number of nodes that may be out at a time. What falls short of
// a whole one by rounding is one: 0.29*100 is 28.999999999999996.
func (h *Health) mostOut() int { return int(h.cfg.MaxEjectedShare*float64(len(h.nodes)) + 1e-9) }

// jitter shortens an interval by up to a fifth, so that a fleet of clients
// does not probe in step and still nobody probes later than the interval.
func (h *Health) jitter(d time.Duration) time.Duration {
	return d - time.Duration(h.rand.Int64N(int64(d)/5+1))
}
