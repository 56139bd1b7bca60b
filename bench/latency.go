package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// maxLatency is the longest that a histogram tells apart. Every client here
// gives up long before.
const maxLatency = time.Minute

// latency is an HDR histogram that many callers fill, to three digits.
type latency struct {
	mu   sync.Mutex // guards hist
	hist *hdrhistogram.Histogram
}

func newLatency() *latency {
	return &latency{hist: hdrhistogram.New(1, int64(maxLatency), 3)}
}

// into adds the quantiles to a sample; none where nothing was recorded.
func (l *latency) into(s Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hist.TotalCount() == 0 {
		return
	}
	s[LatencyP50] = float64(l.hist.ValueAtQuantile(50))
	s[LatencyP99] = float64(l.hist.ValueAtQuantile(99))
	s[LatencyP999] = float64(l.hist.ValueAtQuantile(99.9))
}

// late adds the quantiles of how far past their deadlines callers returned.
func (l *latency) late(s Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hist.TotalCount() == 0 {
		return
	}
	s[LateP50] = float64(l.hist.ValueAtQuantile(50))
	s[LateP99] = float64(l.hist.ValueAtQuantile(99))
	s[LateP999] = float64(l.hist.ValueAtQuantile(99.9))
	s[LateMax] = float64(l.hist.Max())
}

// recorder is one caller's way into the histogram. It passes on many values
// at a time: a histogram for each of 256 callers would not fit the cache, and
// a lock for each value would be what is measured.
type recorder struct {
	to  *latency
	n   int
	buf [256]time.Duration
}

func (r *recorder) record(d time.Duration) {
	r.buf[r.n] = d
	if r.n++; r.n == len(r.buf) {
		r.flush()
	}
}

func (r *recorder) flush() {
	if r.n == 0 {
		return
	}
	r.to.mu.Lock()
	defer r.to.mu.Unlock()
	for _, d := range r.buf[:r.n] {
		r.to.hist.RecordValue(int64(min(max(d, 1), maxLatency))) //nolint:errcheck // it is within the bounds
	}
	r.n = 0
}
