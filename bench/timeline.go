package bench

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// An outcome is what became of a read.
type outcome byte

const (
	hit outcome = iota
	miss
	failed
)

// A tick is a read of a timeline: when it began, counted from the start, how
// long it took and what became of it.
type tick struct {
	at, took time.Duration
	what     outcome
}

// A timeline is a load at a given rate during which things happen. Each caller
// has its own moments to read at. A caller whose read took longer than to the
// next moments leaves those out, as a service would that has so many threads: a
// stall is seen as reads that were not made, besides as latency.
type timeline struct {
	callers int
	rate    float64 // reads a second, all callers together
	length  time.Duration
	// happen are called once each, side by side with the reads.
	happen []happening
}

type happening struct {
	at time.Duration
	do func() error
}

// run gives the reads in the order of their beginnings. Whoever began to read
// before the end is waited for.
func (t timeline) run(ctx context.Context, read func(ctx context.Context, caller int) outcome) ([]tick, error) {
	return t.during(ctx, func(ctx context.Context, start time.Time) ([]tick, error) {
		var wg sync.WaitGroup
		ticks := make([][]tick, t.callers)
		for i := range t.callers {
			wg.Go(func() { ticks[i] = t.call(ctx, start, i, read) })
		}
		wg.Wait()
		return slices.Concat(ticks...), nil
	})
}

// during has everything happen while work reads, which may be in another
// process. Its ticks count from start.
func (t timeline) during(ctx context.Context, work func(ctx context.Context, start time.Time) ([]tick, error)) ([]tick, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	start := time.Now()
	wg.Go(func() {
		for _, h := range t.happen {
			if rest(ctx, time.Until(start.Add(h.at))) != nil {
				return
			}
			if err := h.do(); err != nil {
				cancel(err)
				return
			}
		}
	})
	all, err := work(ctx, start)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b tick) int { return cmp.Compare(a.at, b.at) })
	return all, nil
}

func (t timeline) call(ctx context.Context, start time.Time, caller int, read func(context.Context, int) outcome) (ticks []tick) {
	every := t.every()
	next := every * time.Duration(caller) / time.Duration(t.callers)
	for next < t.length {
		if rest(ctx, time.Until(start.Add(next))) != nil {
			return ticks
		}
		began := time.Since(start)
		what := read(ctx, caller)
		ended := time.Since(start)
		ticks = append(ticks, tick{began, ended - began, what})
		next += every
		if late := ended - next; late > 0 {
			next += (late + every - 1) / every * every
		}
	}
	return ticks
}

// every is the time between two reads of a caller.
func (t timeline) every() time.Duration {
	return time.Duration(float64(t.callers) / t.rate * float64(time.Second))
}

// timelineSteps is how many values a series has: enough for a picture.
const timelineSteps = 60

func (t timeline) step() time.Duration { return t.length / timelineSteps }

// keep notes how the reads went, in steps.
func (t timeline) keep(slot Slot, ticks []tick) {
	reads, hits, failures, p99s := t.zeros(), t.zeros(), t.zeros(), t.zeros()
	tooks := make([][]time.Duration, timelineSteps)
	for _, one := range ticks {
		i := t.at(one.at)
		reads[i]++
		switch one.what {
		case hit:
			hits[i]++
		case failed:
			failures[i]++
		}
		tooks[i] = append(tooks[i], one.took)
	}
	for i, list := range tooks {
		if len(list) > 0 {
			p99s[i] = roundedTo(ms(durationP99(list)), 3)
		}
	}
	slot.keep(ReadsDone, reads)
	slot.keep(ReadsHit, hits)
	slot.keep(ReadsFailed, failures)
	slot.keep(LatencyP99, p99s)
}

func (t timeline) zeros() []float64 { return make([]float64, timelineSteps) }

func (t timeline) at(d time.Duration) int {
	return min(timelineSteps-1, max(0, int(d/max(1, t.step()))))
}

// counts gives how many moments fell in each step.
func (t timeline) counts(moments []time.Duration) []float64 {
	n := t.zeros()
	for _, m := range moments {
		if m < t.length {
			n[t.at(m)]++
		}
	}
	return n
}

// A stretch is what happened to the reads that began in a part of a timeline.
type stretch struct {
	reads, hits, failed int
	offered             float64
	p99, longest        time.Duration
	lastFailed          time.Duration // from the beginning of the stretch; 0 for none
}

func (t timeline) between(ticks []tick, from, to time.Duration) stretch {
	s := stretch{offered: t.rate * (to - from).Seconds()}
	var tooks []time.Duration
	for _, one := range ticks {
		if one.at < from || one.at >= to {
			continue
		}
		s.reads++
		switch one.what {
		case hit:
			s.hits++
		case failed:
			s.failed++
			s.lastFailed = max(s.lastFailed, one.at+one.took-from)
		}
		s.longest = max(s.longest, one.took)
		tooks = append(tooks, one.took)
	}
	if len(tooks) > 0 {
		s.p99 = durationP99(tooks)
	}
	return s
}

func (s stretch) hitRatio() float64 { return float64(s.hits) / float64(s.reads) }

// lowestHitRatio is that of the worst step between two moments.
func (t timeline) lowestHitRatio(ticks []tick, from, to time.Duration) float64 {
	lowest := 1.0
	for at := from; at+t.step() <= to; at += t.step() {
		if s := t.between(ticks, at, at+t.step()); s.reads > 0 {
			lowest = min(lowest, s.hitRatio())
		}
	}
	return lowest
}

// durationP99 is the 99th percentile; of less than a hundred the longest.
func durationP99(list []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)-1-len(sorted)/100]
}
