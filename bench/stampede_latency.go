package bench

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A window is a stretch of time.
type window struct{ from, to time.Time }

// A timedRead is when a read was to start and how long after that it ended.
type timedRead struct {
	at   time.Time
	took time.Duration
}

// timedReads are the reads of a fleet's last drive, by when they were to start.
func (f *fleet) timedReads(ctx context.Context, hotOnly bool) ([]timedRead, error) {
	spec := collectSpec{HotOnly: hotOnly}
	answers, err := f.ask(ctx, func(int) request { return request{Collect: &spec} })
	if err != nil {
		return nil, err
	}
	var reads []timedRead
	for _, a := range answers {
		for i, at := range a.Collect.At {
			reads = append(reads, timedRead{time.UnixMicro(at), time.Duration(a.Collect.Took[i]) * time.Microsecond})
		}
	}
	slices.SortFunc(reads, func(a, b timedRead) int { return a.at.Compare(b.at) })
	return reads, nil
}

// within gives the reads that were to start in a window.
func within(reads []timedRead, w window) []timedRead {
	place := func(t time.Time) int {
		i, _ := slices.BinarySearchFunc(reads, t, func(r timedRead, t time.Time) int { return r.at.Compare(t) })
		return i
	}
	return reads[place(w.from):max(place(w.from), place(w.to))]
}

// split gives the reads in the windows, which are in order, and the others.
func split(reads []timedRead, windows []window) (during, between []timedRead) {
	for _, r := range reads {
		for len(windows) > 0 && !r.at.Before(windows[0].to) {
			windows = windows[1:]
		}
		if len(windows) > 0 && !r.at.Before(windows[0].from) {
			during = append(during, r)
		} else {
			between = append(between, r)
		}
	}
	return during, between
}

// slow counts the reads that waited for a load: for half of one or longer.
func slow(reads []timedRead) float64 {
	n := 0.0
	for _, r := range reads {
		if r.took >= originDelay/2 {
			n++
		}
	}
	return n
}

// latencies notes the quantiles of reads. What has no reads has none.
func (r *EventRun) latencies(part string, reads []timedRead) {
	r.figure("reads_"+part, float64(len(reads)))
	if len(reads) == 0 {
		return
	}
	h := hdrhistogram.New(1, int64(maxLatency), 3)
	for _, read := range reads {
		h.RecordValue(int64(min(max(read.took, 1), maxLatency))) //nolint:errcheck // it is within the bounds
	}
	for name, q := range map[string]float64{"p50": 50, "p99": 99, "p999": 99.9, "max": 100} {
		r.figure(name+"_"+part+"_ms", ms(time.Duration(h.ValueAtQuantile(q))))
	}
}

// p99 is the 99th percentile; of less than a hundred reads the longest.
func p99(reads []timedRead) time.Duration {
	sorted := slices.SortedFunc(slices.Values(reads), func(a, b timedRead) int { return cmp.Compare(a.took, b.took) })
	return sorted[len(sorted)-1-len(sorted)/100].took
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
