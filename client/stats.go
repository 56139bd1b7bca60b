package client

import (
	"sync/atomic"
	"time"

	"github.com/ringside-cache/ringside/ring"
)

type nodeCounters struct {
	dials, dialErrors, connsLost   atomic.Uint64
	failures, ejections, probes    atomic.Uint64
	bytesIn, bytesOut, writes      atomic.Uint64
	requests, overloaded, standIns atomic.Uint64

	latency    [len(LatencyBuckets) + 1]atomic.Uint64
	latencySum atomic.Int64
}

// LatencyBuckets are the upper bounds of NodeStats.Latency; a further bucket
// has what took longer.
var LatencyBuckets = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second,
}

// took counts operations that were answered d after they were queued.
func (n *nodeCounters) took(d time.Duration, ops int) {
	t := times{node: n}
	t.add(d, ops)
	t.count()
}

// times are latencies of operations that were answered together. Most are in
// one bucket, which is counted once.
type times struct {
	node   *nodeCounters
	bucket int
	ops    uint64
	sum    time.Duration
}

func (t *times) add(d time.Duration, ops int) {
	i := 0
	for i < len(LatencyBuckets) && d > LatencyBuckets[i] {
		i++
	}
	if i != t.bucket {
		t.count()
		t.bucket = i
	}
	t.ops += uint64(ops)
	t.sum += d * time.Duration(ops)
}

func (t *times) count() {
	if t.ops > 0 {
		t.node.latency[t.bucket].Add(t.ops)
		t.node.latencySum.Add(int64(t.sum))
	}
	t.ops, t.sum = 0, 0
}

// Stats is a picture of a client at one moment.
type Stats struct {
	Nodes []NodeStats
}

// NodeStats is a picture of one node. Counts are since the client was made.
type NodeStats struct {
	Name    string
	Address string
	Weight  int
	// Version is what the node said it is, empty before the first connection.
	Version string
	// Legacy tells that the node has no meta commands.
	Legacy bool
	State  ring.NodeState
	// Failures in a row; see ring.Health.
	Failures int
	// EjectedAt, NextProbe and ProbeInterval are set while the node is out.
	EjectedAt     time.Time
	NextProbe     time.Time
	ProbeInterval time.Duration

	InFlight      int64
	BytesInFlight int64
	Connections   int

	// Requests were submitted, in Writes writes; Requests/Writes is how well
	// callers share them. Overloaded were refused by MaxInFlight.
	Requests, Writes, Overloaded uint64
	// StandIns are the requests for keys of other nodes that are out.
	StandIns          uint64
	BytesIn, BytesOut uint64
	Dials, DialErrors uint64
	ConnectionsLost   uint64
	FailuresTotal     uint64
	Ejections, Probes uint64
	// Latency counts the operations that were answered, by the time from when
	// they were queued; see LatencyBuckets. LatencySum is all of that time.
	Latency    [len(LatencyBuckets) + 1]uint64
	LatencySum time.Duration
}

// Stats gives the state and counters of every node, in configured order.
func (c *Client) Stats() Stats {
	f := c.fleet.Load()
	s := Stats{Nodes: make([]NodeStats, len(f.nodes))}
	c.healthMu.Lock()
	for i, n := range f.nodes {
		if n.index < 0 {
			continue // it has left since
		}
		h := c.health.Node(n.index)
		s.Nodes[i] = NodeStats{
			State: h.State, Failures: h.Failures,
			EjectedAt: h.EjectedAt, NextProbe: h.NextProbe, ProbeInterval: h.Interval,
		}
	}
	c.healthMu.Unlock()
	for i, n := range f.nodes {
		t := &s.Nodes[i]
		t.Name, t.Address, t.Weight = n.Name, n.Address, f.ring.Node(i).Weight
		if v := n.version.Load(); v != nil {
			t.Version = *v
		}
		t.Legacy = n.legacy.Load() != nil
		for j := range n.slots {
			if n.slots[j].conn.Load() != nil {
				t.Connections++
			}
		}
		t.InFlight, t.BytesInFlight = n.inFlight.Load(), n.bytesInFlight.Load()
		t.Requests, t.Writes, t.Overloaded = n.requests.Load(), n.writes.Load(), n.overloaded.Load()
		t.StandIns = n.standIns.Load()
		t.BytesIn, t.BytesOut = n.bytesIn.Load(), n.bytesOut.Load()
		t.Dials, t.DialErrors, t.ConnectionsLost = n.dials.Load(), n.dialErrors.Load(), n.connsLost.Load()
		t.FailuresTotal, t.Ejections, t.Probes = n.failures.Load(), n.ejections.Load(), n.probes.Load()
		for j := range n.latency {
			t.Latency[j] = n.latency[j].Load()
		}
		t.LatencySum = time.Duration(n.latencySum.Load())
	}
	return s
}

// Explanation tells where a key goes and why.
type Explanation struct {
	Key     string       `json:"key"`
	Dialect ring.Dialect `json:"dialect"`
	KeyHash string       `json:"key_hash"`
	// Hash is the key's place on the ring.
	Hash uint32 `json:"hash"`
	// Owner is the node that the key belongs to; OwnerState its health.
	Owner      string `json:"owner"`
	OwnerState string `json:"owner_state"`
	// Asked is the node that is asked now; empty where the owner is out and
	// Config.Failover is FailoverNone.
	Asked string `json:"asked"`
	// StandIns are the nodes that are asked one after the other when the
	// owner is out, at most three.
	StandIns []string `json:"stand_ins"`
}

// Explain tells where a key goes. The error is that of a malformed key.
func (c *Client) Explain(key string) (Explanation, error) {
	if err := checkKey(key); err != nil {
		return Explanation{}, &OpError{Op: "explain", Key: key, Err: err}
	}
	f := c.fleet.Load()
	owner := f.ring.Lookup(key)
	state := ring.Up
	c.healthMu.Lock()
	if i := f.nodes[owner].index; i >= 0 {
		state = c.health.Node(i).State
	}
	c.healthMu.Unlock()
	keyHash, _ := f.ring.Dialect().KeyHash() // New checked it
	e := Explanation{
		Key: key, Dialect: f.ring.Dialect(), KeyHash: keyHash, Hash: f.ring.Hash(key),
		Owner: f.nodes[owner].Name, OwnerState: state.String(),
	}
	if i, _, err := c.route(f, key); err == nil {
		e.Asked = f.nodes[i].Name
	}
	for i := range f.ring.Successors(key) {
		if len(e.StandIns) == 3 {
			break
		}
		e.StandIns = append(e.StandIns, f.nodes[i].Name)
	}
	return e, nil
}
