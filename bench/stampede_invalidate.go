package bench

import (
	"context"
	"fmt"
	"slices"
	"time"
)

var invalidateEvent = stampedeEvent{
	name:  "invalidate",
	about: "the hot key is invalidated once a second",
	rows: []EventRow{
		{What: "loads of the hot key per invalidation", Figure: "loads_per_invalidation", Target: exactly(1)},
		{What: "the most after a single one", Figure: "loads_most", Target: exactly(1)},
		{What: "99th percentile of the hot key's reads during a refill to that after it, median", Figure: "p99_ratio", Target: atMost(2)},
		{What: "the same over all reads together", Figure: "p99_ratio_all"},
		{What: "99th percentile during refills, ms", Figure: "p99_during_ms"},
		{What: "99th percentile between, ms", Figure: "p99_between_ms"},
		{What: "reads that waited for half a load or longer", Figure: "waited", Target: exactly(0)},
		{What: "reads that failed", Figure: "failed", Target: exactly(0)},
		{What: "origin queries a second, mean", Figure: "queries_per_second"},
		{What: "origin queries a second, peak", Figure: "queries_peak"},
		{What: "invalidations", Figure: "invalidations"},
	},
	run: runInvalidate,
}

// The stretch of the naive runs is shorter: a stampede a second says it all.
const (
	invalidateTimes      = 30
	invalidateTimesNaive = 10
)

func runInvalidate(ctx context.Context, b *stampedeBench, r *EventRun) error {
	f, err := b.fleet(ctx, r.Contender, cacheConfig{TTL: 10 * time.Minute})
	if err != nil {
		return err
	}
	defer f.close()
	keys := b.keys()
	if err := f.warm(ctx, keys, 0); err != nil {
		return err
	}
	times := b.times(r, invalidateTimes, invalidateTimesNaive)
	const every = time.Second
	start, wait := f.drive(ctx, driveSpec{Keys: keys, For: time.Duration(times+1) * every, Rate: b.rate})
	var begun []time.Time
	for i := range times {
		if err := rest(ctx, time.Until(start.Add(time.Duration(i+1)*every-every/2))); err != nil {
			return err
		}
		b.origin.commit(keys.hot())
		begun = append(begun, time.Now())
		w := f.worker(i % len(f.workers))
		if _, err := w.ask(ctx, request{Invalidate: keys.hot()}); err != nil {
			return fmt.Errorf("invalidate: %w", err)
		}
	}
	d, err := wait()
	if err != nil {
		return err
	}
	end := start.Add(time.Duration(times+1) * every)

	loads, windows := perInvalidation(b.origin.of(keys.hot(), begun[0]), begun)
	r.list("loads", loads)
	r.figure("invalidations", float64(times))
	r.figure("loads_per_invalidation", mean(loads))
	r.figure("loads_most", highest(loads))
	queryRates(r, b.origin.of(keys.Prefix, start), start, end)
	reads, err := f.timedReads(ctx, true)
	if err != nil {
		return err
	}
	during, between := split(reads, windows)
	r.latencies("during", during)
	r.latencies("between", between)
	r.figure("p99_ratio_all", r.Figures["p99_during_ms"]/r.Figures["p99_between_ms"])
	if ratios := refillRatios(reads, windows); len(ratios) > 0 {
		r.list("p99_ratios", ratios)
		r.figure("p99_ratio", median(ratios))
	}
	r.figure("waited", slow(reads))
	r.reads(d)
	return nil
}

// times is how often something is done, for ringside and for the others.
func (b *stampedeBench) times(r *EventRun, ringside, others int) int {
	n := others
	if r.Contender == nameRingside {
		n = ringside
	}
	return max(2, int(b.scaled(time.Duration(n))))
}

// reads notes how many reads there were and what failed.
func (r *EventRun) reads(d driven) {
	r.figure("reads", float64(d.Reads))
	r.figure("failed", float64(d.Failed))
	if d.Failed > 0 {
		r.FailedReads = d.Errors
	}
}

// fillTime is how long after the origin's answer a value may take to be in the
// cache; until then a refill lasts.
const fillTime = 10 * time.Millisecond

// perInvalidation counts the loads that each invalidation led to, and gives the
// windows from it to the end of the last of those. An invalidation without a
// load has no window.
func perInvalidation(calls []originCall, begun []time.Time) (loads []float64, windows []window) {
	loads = make([]float64, len(begun))
	for i, from := range begun {
		w := window{from: from}
		for _, c := range calls {
			if c.Begin.Before(from) || i+1 < len(begun) && !c.Begin.Before(begun[i+1]) {
				continue
			}
			loads[i]++
			if end := c.End.Add(fillTime); end.After(w.to) {
				w.to = end
			}
		}
		if loads[i] > 0 {
			windows = append(windows, w)
		}
	}
	return loads, windows
}

// refillRatios compares the reads during each refill with those between it and
// the next one. What else the machine does hits both, where all refills together
// would have its worst moment on one side.
func refillRatios(reads []timedRead, windows []window) (ratios []float64) {
	for i, w := range windows[:max(0, len(windows)-1)] {
		during, after := within(reads, w), within(reads, window{w.to, windows[i+1].from})
		if len(during) > 0 && len(after) > 0 {
			ratios = append(ratios, float64(p99(during))/float64(p99(after)))
		}
	}
	return ratios
}

// queryRates notes how often the origin was asked, as a mean and in the worst
// second.
func queryRates(r *EventRun, calls []originCall, start, end time.Time) {
	rates := perSecond(calls, start, end)
	r.list("queries", rates)
	n := 0.0
	for _, v := range rates {
		n += v
	}
	r.figure("queries_per_second", n/end.Sub(start).Seconds())
	r.figure("queries_peak", highest(rates))
}

// perSecond counts the calls that began in each second.
func perSecond(calls []originCall, start, end time.Time) []float64 {
	counts := make([]float64, int((end.Sub(start)+time.Second-1)/time.Second))
	for _, c := range calls {
		if i := int(c.Begin.Sub(start) / time.Second); !c.Begin.Before(start) && i < len(counts) {
			counts[i]++
		}
	}
	return counts
}

func mean(list []float64) float64 {
	sum := 0.0
	for _, v := range list {
		sum += v
	}
	return sum / float64(len(list))
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func highest(list []float64) float64 {
	most := 0.0
	for _, v := range list {
		most = max(most, v)
	}
	return most
}
