package bench

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// near tells whether got is within a share of want.
func near(got, want, share float64) bool { return math.Abs(got-want) <= share*want }

// A histogram that is fed known data gives its quantiles, to three digits.
func TestLatency(t *testing.T) {
	l := newLatency()
	a, b := recorder{to: l}, recorder{to: l}
	for i := 1; i <= 10_000; i++ {
		rec := &a
		if i%2 == 0 {
			rec = &b
		}
		rec.record(time.Duration(i) * time.Microsecond)
	}
	a.flush()
	b.flush()
	a.flush() // nothing twice
	if n := l.hist.TotalCount(); n != 10_000 {
		t.Fatalf("%d values", n)
	}
	s := Sample{}
	l.into(s)
	for q, want := range map[Quantity]float64{LatencyP50: 5e6, LatencyP99: 9.9e6, LatencyP999: 9.99e6} {
		if !near(s[q], want, 0.001) {
			t.Errorf("%s is %v, want %v", q, s[q], want)
		}
	}
}

func TestLatencyBounds(t *testing.T) {
	l := newLatency()
	s := Sample{}
	l.into(s)
	if len(s) != 0 {
		t.Errorf("an empty histogram gives %v", s)
	}
	rec := recorder{to: l}
	rec.record(-1)
	rec.record(time.Hour)
	rec.flush()
	if l.hist.TotalCount() != 2 || l.hist.Min() != 1 || !near(float64(l.hist.Max()), float64(maxLatency), 0.001) {
		t.Errorf("%d values from %d to %d", l.hist.TotalCount(), l.hist.Min(), l.hist.Max())
	}
}

// sleeping is a load of operations that take d.
func sleeping(callers int, d time.Duration) Load {
	return Load{Callers: callers, SampleEvery: 1, Caller: func(int) func() (int, error) {
		return func() (int, error) { time.Sleep(d); return 1, nil }
	}}
}

func TestLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := sleeping(4, time.Millisecond).Run(t.Context(), Slot{Warmup: 100 * time.Millisecond, Measure: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if !near(s[Throughput], 4000, 0.01) {
			t.Errorf("throughput %v, want 4000", s[Throughput])
		}
		for _, q := range []Quantity{LatencyP50, LatencyP99} {
			if !near(s[q], 1e6, 0.002) {
				t.Errorf("%s %v, want 1 ms", q, s[q])
			}
		}
		if _, ok := s[BesideThroughput]; ok {
			t.Error("nothing was beside")
		}
	})
}

// Operations outside the window do not count, those that are longer than it
// neither.
func TestLoadWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		l := Load{Callers: 1, Caller: func(int) func() (int, error) {
			return func() (int, error) { calls.Add(1); time.Sleep(10 * time.Millisecond); return 32, nil }
		}}
		s, err := l.Run(t.Context(), Slot{Warmup: 505 * time.Millisecond, Measure: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if !near(s[Throughput], 3200, 1e-9) || calls.Load() != 61 {
			t.Errorf("throughput %v, %d calls", s[Throughput], calls.Load())
		}
		if _, ok := s[LatencyP50]; ok {
			t.Errorf("a latency that was not taken: %v", s)
		}
		if s, err := sleeping(4, time.Minute).Run(t.Context(), Slot{Measure: time.Second}); err == nil {
			t.Errorf("no operation ended, and yet %v", s)
		}
	})
}

func TestLoadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("refused")
		l := sleeping(4, time.Millisecond)
		healthy := l.Caller
		l.Caller = func(i int) func() (int, error) {
			if i != 2 {
				return healthy(i)
			}
			return func() (int, error) { time.Sleep(50 * time.Millisecond); return 0, broken }
		}
		start := time.Now()
		if _, err := l.Run(t.Context(), Slot{Measure: time.Hour}); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("it went on for %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := sleeping(1, time.Millisecond).Run(ctx, Slot{Measure: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestLoadBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := sleeping(2, time.Millisecond)
		l.Beside = func() error { time.Sleep(10 * time.Millisecond); return nil }
		slot := Slot{Warmup: time.Second, Measure: time.Second}
		s, err := l.Run(t.Context(), slot)
		if err != nil || !near(s[BesideThroughput], 100, 0.02) || !near(s[Throughput], 2000, 0.01) {
			t.Errorf("%v, %v", s, err)
		}
		l.Beside = func() error { time.Sleep(time.Minute); return nil }
		if s, err := l.Run(t.Context(), slot); err == nil {
			t.Errorf("nothing passed beside, and yet %v", s)
		}
	})
}

// A contender that was slowed on purpose shows up as slower, in every
// quantity that has to do with time.
func TestSlowedContender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		contender := func(name string, d time.Duration) Contender {
			return Contender{Name: name, Run: sleeping(8, d).Run}
		}
		r := Runner{Rounds: 5, Warmup: 20 * time.Millisecond, Measure: 200 * time.Millisecond}
		results, err := r.Run(t.Context(), []Experiment{{Name: "e", Contenders: []Contender{
			contender("plain", 200*time.Microsecond), contender("slowed", 500*time.Microsecond),
		}}})
		if err != nil {
			t.Fatal(err)
		}
		for q, want := range map[Quantity]float64{Throughput: 0.4, LatencyP50: 2.5, LatencyP99: 2.5} {
			row := Row{Experiment: "e", Contender: "slowed", Baseline: "plain", Quantity: q, Floor: bound(1), LessIsBetter: q != Throughput}
			row.fill(results[0])
			if row.Verdict != BelowFloor || !near(row.Figure.Median(), want, 0.02) {
				t.Errorf("%s: ratio %v (%s), want %v", q, row.Figure, row.Verdict, want)
			}
		}
	})
}

// CPU time is the process's own: a caller that computes has some, one that
// sleeps has next to none.
func TestCPUPerOp(t *testing.T) {
	if _, ok := cpuTime(); !ok {
		t.Skip("no rusage on this system")
	}
	slot := Slot{Warmup: 10 * time.Millisecond, Measure: 200 * time.Millisecond}
	idle, err := sleeping(1, 5*time.Millisecond).Run(t.Context(), slot)
	if err != nil {
		t.Fatal(err)
	}
	var sum atomic.Uint64
	busy, err := Load{Callers: 1, Caller: func(int) func() (int, error) {
		return func() (int, error) {
			before, _ := cpuTime()
			for now := before; now < before+5*time.Millisecond; now, _ = cpuTime() {
				sum.Add(1)
			}
			return 1, nil
		}
	}}.Run(t.Context(), slot)
	if err != nil {
		t.Fatal(err)
	}
	if got := time.Duration(busy[CPUPerOp]); got < 4*time.Millisecond {
		t.Errorf("5 ms of computing took %v of CPU", got)
	}
	if got := time.Duration(idle[CPUPerOp]); got > 2500*time.Microsecond {
		t.Errorf("5 ms of sleep took %v of CPU", got)
	}
}

var escape []byte

func TestCountAllocs(t *testing.T) {
	count := 0
	s, err := countAllocs(1000, func() error {
		count++
		for range 3 {
			escape = make([]byte, 100)
		}
		return nil
	})
	if err != nil || !near(s[AllocsPerOp], 3, 0.02) || s[BytesPerOp] < 300 {
		t.Errorf("%v, %v", s, err)
	}
	if count != 1101 {
		t.Errorf("%d operations", count)
	}
	if _, ok := s[Throughput]; ok {
		t.Errorf("time plays no part: %v", s)
	}
	broken := errors.New("refused")
	if _, err := countAllocs(10, func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
