package bench

import (
	"context"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// windowed are the latencies of a fleet's last drive, during windows and
// between them.
type windowed struct {
	during, between         *hdrhistogram.Histogram
	slowDuring, slowBetween int
}

// windowed asks the workers for their latencies.
func (f *fleet) windowed(ctx context.Context, spec collectSpec) (*windowed, error) {
	answers, err := f.ask(ctx, func(int) request { return request{Collect: &spec} })
	if err != nil {
		return nil, err
	}
	w := &windowed{during: newMicroseconds(), between: newMicroseconds()}
	for _, a := range answers {
		w.during.Merge(hdrhistogram.Import(a.Collect.During))
		w.between.Merge(hdrhistogram.Import(a.Collect.Between))
		w.slowDuring += a.Collect.SlowDuring
		w.slowBetween += a.Collect.SlowBetween
	}
	return w, nil
}

// report notes the quantiles. What has no reads has none.
func (w *windowed) report(r *EventRun) {
	for _, part := range []struct {
		name string
		hist *hdrhistogram.Histogram
	}{{"during", w.during}, {"between", w.between}} {
		r.figure("reads_"+part.name, float64(part.hist.TotalCount()))
		if part.hist.TotalCount() == 0 {
			continue
		}
		for name, q := range map[string]float64{"p50": 50, "p99": 99, "p999": 99.9, "max": 100} {
			r.figure(name+"_"+part.name+"_ms", ms(time.Duration(part.hist.ValueAtQuantile(q))*histogramUnit))
		}
	}
	if during, between := w.during.ValueAtQuantile(99), w.between.ValueAtQuantile(99); w.during.TotalCount() > 0 && between > 0 {
		r.figure("p99_ratio", float64(during)/float64(between))
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
