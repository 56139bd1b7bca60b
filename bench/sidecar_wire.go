package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// A wireLoad is a closed loop of classic gets on raw connections: on each a
// batch goes out in one write, and the next when all its replies are there.
// One thread serves all connections, as the load shares the cores with what it
// measures: a goroutine for each connection took more CPU than the proxies.
type wireLoad struct {
	// addrs take turns with the connections.
	addrs []string
	wire  *classic
	conns int
	// batch is how many gets travel together.
	batch int
	// every is which share of a connection's batches has its latency taken.
	every int
	// cpu, if not nil, is the CPU time of the process that is measured.
	cpu func() (time.Duration, error)
}

// classic is a corpus as memcached's classic protocol carries it. All keys and
// values have the same size, and so have requests and replies.
type classic struct {
	corpus
	requests   []byte // one behind the other
	size       int    // of a request
	head, tail []byte // what is before the key of a reply, and behind it before the value
	reply      int    // size of a reply
}

const (
	classicHead = "VALUE "
	classicEnd  = "\r\nEND\r\n"
)

func newClassic(in corpus) *classic {
	c := &classic{corpus: in, head: []byte(classicHead), tail: fmt.Appendf(nil, " 0 %d\r\n", in.valueSize)}
	for _, key := range in.keys {
		c.requests = fmt.Appendf(c.requests, "get %s\r\n", key)
	}
	c.size = len(c.requests) / len(in.keys)
	c.reply = len(c.head) + len(in.keys[0]) + len(c.tail) + in.valueSize + len(classicEnd)
	return c
}

// request is the get of a key by its number.
func (c *classic) request(key int) []byte { return c.requests[key*c.size:][:c.size] }

// check looks at one whole reply. The value is looked at where thorough says
// so: the key in front of it is enough to see replies that are out of order.
func (c *classic) check(b []byte, key int, thorough bool) error {
	name := c.request(key)[len("get ") : c.size-len("\r\n")]
	at := len(c.head)
	if !bytes.HasPrefix(b, c.head) || !bytes.HasPrefix(b[at:], name) || !bytes.HasPrefix(b[at+len(name):], c.tail) {
		return fmt.Errorf("%w: %.60q in answer to a get of %s", errWrongValue, b, name)
	}
	if !thorough {
		return nil
	}
	value, end := b[at+len(name)+len(c.tail):c.reply-len(classicEnd)], b[c.reply-len(classicEnd):]
	if string(end) != classicEnd || !bytes.Equal(value, c.value(string(name))) {
		return fmt.Errorf("%w: %.160q", errWrongValue, b)
	}
	return nil
}

// checkEvery is which share of the replies has its value looked at.
const checkEvery = 64

// A wireConn is one connection of a wireLoad.
type wireConn struct {
	fd      int
	pick    *picker
	keys    []int // of the batch that is under way
	in      []byte
	got     int // bytes of in
	batches int
	sent    time.Time // zero where no latency is taken
}

func (l *wireLoad) newConn(i, fd int) *wireConn {
	// They begin at different counts: not all have their latency taken at once.
	return &wireConn{fd: fd, batches: i, pick: newPicker(i), keys: make([]int, l.batch), in: make([]byte, l.batch*l.wire.reply)}
}

// next chooses a batch and gives its requests, in out.
func (l *wireLoad) next(c *wireConn, out []byte) []byte {
	out = out[:0]
	for i := range c.keys {
		c.keys[i] = c.pick.intn(len(l.wire.keys))
		out = append(out, l.wire.request(c.keys[i])...)
	}
	c.got, c.sent = 0, time.Time{}
	if c.batches++; c.batches%l.every == 0 {
		c.sent = time.Now()
	}
	return out
}

// took notes n bytes that were read, and tells whether the batch is complete.
func (l *wireLoad) took(c *wireConn, n int) (complete bool, err error) {
	c.got += n
	if c.got < len(c.in) {
		// A reply that is shorter, as that of a miss, would be waited for in
		// vain.
		begun := c.in[c.got/l.wire.reply*l.wire.reply : c.got]
		if !bytes.HasPrefix(l.wire.head, begun[:min(len(begun), len(l.wire.head))]) {
			return false, fmt.Errorf("%w: %.60q", errWrongValue, begun)
		}
		return false, nil
	}
	for i, key := range c.keys {
		thorough := (c.batches*l.batch+i)%checkEvery == 0
		if err := l.wire.check(c.in[i*l.wire.reply:][:l.wire.reply], key, thorough); err != nil {
			return false, err
		}
	}
	return true, nil
}

// A wireRun is one slot of a wireLoad.
type wireRun struct {
	*wireLoad
	ctx            context.Context
	measureAt, end time.Time
	measuring      bool
	before         usage
	cpuBefore      time.Duration
	ops            int64
	latency        *latency
	recorder       recorder
	used           usage
	cpuUsed        time.Duration
}

// errNoReply is returned when nothing came for patience.
var errNoReply = errors.New("no reply")

const wirePatience = 5 * time.Second

// Run takes one turn, on new connections.
func (l *wireLoad) Run(ctx context.Context, slot Slot) (Sample, error) {
	r := &wireRun{wireLoad: l, ctx: ctx, latency: newLatency()}
	r.recorder.to = r.latency
	r.measureAt = time.Now().Add(slot.Warmup)
	r.end = r.measureAt.Add(slot.Measure)
	if err := r.run(); err != nil {
		return nil, err
	}
	if r.ops == 0 {
		return nil, errors.New("no batch ended within the window")
	}
	r.recorder.flush()
	s := r.used.sample(r.ops)
	// What this process allocates is none of the proxies' business.
	delete(s, AllocsPerOp)
	delete(s, BytesPerOp)
	r.latency.into(s)
	if l.cpu != nil {
		s[ProxyCPUPerOp] = float64(r.cpuUsed) / float64(r.ops)
	}
	return s, nil
}

// goesOn begins and ends the window.
func (r *wireRun) goesOn() (bool, error) {
	now := time.Now()
	switch {
	case r.ctx.Err() != nil:
		return false, r.ctx.Err()
	case !r.measuring && !now.Before(r.measureAt):
		r.measuring = true
		var err error
		r.before = readUsage()
		r.cpuBefore, err = r.readCPU()
		return true, err
	case r.measuring && !now.Before(r.end):
		cpu, err := r.readCPU()
		r.cpuUsed = cpu - r.cpuBefore
		r.used = readUsage().since(r.before)
		return false, err
	}
	return true, nil
}

func (r *wireRun) readCPU() (time.Duration, error) {
	if r.cpu == nil {
		return 0, nil
	}
	return r.cpu()
}

// answered counts a complete batch.
func (r *wireRun) answered(c *wireConn) {
	if !r.measuring {
		return
	}
	r.ops += int64(r.batch)
	if !c.sent.IsZero() {
		r.recorder.record(time.Since(c.sent))
	}
}

// mib is bytes in MiB.
func mib(bytes int64) float64 { return math.Max(0, float64(bytes)/(1<<20)) }
