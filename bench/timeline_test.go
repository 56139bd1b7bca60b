package bench

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Callers read at their moments; one that is held up leaves those out that it
// could not keep, and what takes long is seen as latency and as missing reads.
func TestTimeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := timeline{callers: 2, rate: 20, length: 6 * time.Second} // each every 100 ms
		var happened time.Duration
		start := time.Now()
		line.happen = []happening{{3 * time.Second, func() error { happened = time.Since(start); return nil }}}
		ticks, err := line.run(t.Context(), func(_ context.Context, caller int) outcome {
			at := time.Since(start)
			if caller == 1 && at >= 3*time.Second && at < 3100*time.Millisecond {
				time.Sleep(950 * time.Millisecond)
				return failed
			}
			if caller == 1 {
				return miss
			}
			return hit
		})
		if err != nil || happened != 3*time.Second {
			t.Fatalf("%v, happened after %v", err, happened)
		}
		all := line.between(ticks, 0, line.length)
		// 120 moments, of which nine passed while the caller was held up.
		if all.reads != 111 || all.failed != 1 || all.hits != 60 || all.offered != 120 || all.longest != 950*time.Millisecond {
			t.Errorf("all of it: %+v", all)
		}
		if all.lastFailed != 4*time.Second {
			t.Errorf("last error %v after the start", all.lastFailed)
		}
		before := line.between(ticks, 0, 3*time.Second)
		if before.reads != 60 || before.hitRatio() != 0.5 || before.failed != 0 || before.p99 != 0 {
			t.Errorf("before: %+v", before)
		}
		if got := line.lowestHitRatio(ticks, 0, 3*time.Second); got != 0.5 {
			t.Errorf("lowest hit ratio %v", got)
		}
		slot := Slot{series: map[Quantity][]float64{}}
		line.keep(slot, ticks)
		sum := map[Quantity]float64{}
		for q, values := range slot.series {
			if len(values) != timelineSteps {
				t.Errorf("%s has %d steps", q, len(values))
			}
			for _, v := range values {
				sum[q] += v
			}
		}
		want := map[Quantity]float64{ReadsDone: 111, ReadsHit: 60, ReadsFailed: 1, LatencyP99: 950}
		if diff := cmp.Diff(want, sum); diff != "" {
			t.Error(diff)
		}
		if slot.series[LatencyP99][30] != 950 {
			t.Errorf("latencies %v", slot.series[LatencyP99])
		}
	})
}

// What can not happen ends the turn, and no read is left running.
func TestTimelineFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		line := timeline{callers: 3, rate: 30, length: time.Hour, happen: []happening{{time.Second, func() error { return broken }}}}
		start := time.Now()
		_, err := line.run(t.Context(), func(context.Context, int) outcome { return hit })
		if !errors.Is(err, broken) || time.Since(start) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// The origin does so many calls at a time, and counts those that it did.
func TestLimitedOrigin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newLimited(2, 10*time.Millisecond, func(key string) []byte { return []byte(key) })
		start := time.Now()
		done := make(chan time.Duration, 6)
		for range 6 {
			go func() {
				if v, err := o.load(t.Context(), "k"); err != nil || string(v) != "k" {
					t.Errorf("%q, %v", v, err)
				}
				done <- time.Since(start)
			}()
		}
		var last time.Duration
		for range 6 {
			last = <-done
		}
		moments := o.since(start)
		want := []time.Duration{0, 0, 10 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 20 * time.Millisecond}
		if diff := cmp.Diff(want, moments); diff != "" || last != 30*time.Millisecond || o.perSecond() != 200 {
			t.Errorf("%s, all done after %v, capacity %v", diff, last, o.perSecond())
		}
		if n := countBetween(moments, 10*time.Millisecond, 20*time.Millisecond); n != 2 {
			t.Errorf("%v calls in the second ten milliseconds", n)
		}
	})
}
