package bench

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// A Load is a closed loop: each caller does one operation after the other.
type Load struct {
	// Callers is the number of goroutines.
	Callers int
	// Caller gives the i-th caller's operation. It is called before the
	// window, on the caller's goroutine. The operation tells how many
	// requests it did; an error ends the slot.
	Caller func(i int) func() (int, error)
	// SampleEvery is which share of each caller's operations has its latency
	// taken: 1 is all, 8 every eighth, 0 none. Reading the clock twice took
	// 0.1 to 0.3 us on a virtual machine, where a pipelined Get took 1.5.
	SampleEvery int
	// Beside, if not nil, is what one more goroutine does over and over. A
	// window in which it did nothing is an error.
	Beside func() error
	// Process, if not nil, gives the CPU time of another process that does the
	// work.
	Process func() (time.Duration, error)
}

// The phases of a slot, in order.
const (
	warming int32 = iota
	measuring
	over
)

// loop is one slot of a Load.
type loop struct {
	phase   atomic.Int32
	failed  chan struct{} // closed at the first error
	once    sync.Once
	err     error // set before failed is closed
	callers sync.WaitGroup
	ops     atomic.Int64 // each goroutine adds its count once, at the end
	beside  atomic.Int64
	latency *latency
}

// Run warms up, measures and waits for every caller to end.
func (l Load) Run(ctx context.Context, slot Slot) (Sample, error) {
	lp := &loop{failed: make(chan struct{}), latency: newLatency()}
	for i := range l.Callers {
		lp.callers.Go(func() { lp.call(l.Caller(i), l.SampleEvery, &lp.ops) })
	}
	if l.Beside != nil {
		once := func() (int, error) { return 1, l.Beside() }
		lp.callers.Go(func() { lp.call(once, 0, &lp.beside) })
	}
	lp.sleep(ctx, slot.Warmup)
	before := readUsage()
	process, err1 := l.process()
	lp.phase.CompareAndSwap(warming, measuring)
	lp.sleep(ctx, slot.Measure)
	lp.phase.Store(over)
	processEnd, err2 := l.process()
	used := readUsage().since(before)
	lp.callers.Wait()

	switch ops := lp.ops.Load(); {
	case lp.err != nil:
		return nil, lp.err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err1 != nil || err2 != nil:
		return nil, errors.Join(err1, err2)
	case ops == 0:
		return nil, errors.New("no operation ended within the window")
	case l.Beside != nil && lp.beside.Load() == 0:
		return nil, errors.New("nothing passed beside within the window")
	default:
		s := used.sample(ops)
		lp.latency.into(s)
		if l.Process != nil {
			s[ProxyCPUPerOp] = float64(processEnd-process) / float64(ops)
		}
		if l.Beside != nil {
			s[BesideThroughput] = float64(lp.beside.Load()) / used.wall.Seconds()
		}
		return s, nil
	}
}

func (l Load) process() (time.Duration, error) {
	if l.Process == nil {
		return 0, nil
	}
	return l.Process()
}

// call is one goroutine's loop. An operation counts if it ends within the
// window: those that began before it make up for those that end behind it.
func (lp *loop) call(op func() (int, error), every int, total *atomic.Int64) {
	rec := recorder{to: lp.latency}
	done := 0
	for i := 0; ; i++ {
		timed := every > 0 && i%every == 0
		var start time.Time
		if timed {
			start = time.Now()
		}
		n, err := op()
		if err != nil {
			lp.fail(err)
			break
		}
		phase := lp.phase.Load()
		if phase == over {
			break
		}
		if phase == measuring {
			done += n
			if timed {
				rec.record(time.Since(start))
			}
		}
	}
	rec.flush()
	total.Add(int64(done))
}

func (lp *loop) fail(err error) {
	lp.once.Do(func() {
		lp.err = err
		lp.phase.Store(over)
		close(lp.failed)
	})
}

func (lp *loop) sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-lp.failed:
	case <-ctx.Done():
	}
}
