package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// A drive is the reads of one worker, with what became of each.
type drive struct {
	start   time.Time
	samples []driveSample
}

// A driveSample is one read: when it was to start, counted from the drive's
// start, and how long after that it ended.
type driveSample struct {
	at, took time.Duration
	hot      bool
}

// drive reads as the spec says and waits for every read to end.
func (w *fleetWorker) drive(ctx context.Context, spec driveSpec) (*driven, error) {
	names := spec.Keys.names()
	w.hot.Store(&names[0])
	if spec.Callers > 0 {
		return w.driveClosed(ctx, spec, names)
	}
	r := rand.New(rand.NewPCG(spec.Seed, uint64(w.setup.Index)))
	rank := spec.Keys.ranks(r)
	schedule := arrivals(r, spec.Rate, spec.For)
	d := &drive{start: onThisClock(spec.Start), samples: make([]driveSample, len(schedule))}
	errs := newErrorCount()
	var reads sync.WaitGroup
	sleeper := newSleeper()
	defer sleeper.close()
	for i, at := range schedule {
		key := rank()
		if err := sleeper.until(ctx, d.start.Add(at)); err != nil {
			reads.Wait()
			return nil, err
		}
		reads.Go(func() {
			s := &d.samples[i]
			ttl := time.Duration(0)
			if key == 0 {
				ttl = spec.HotTTL
			}
			_, err := w.cache.read(ctx, names[key], ttl)
			s.at, s.took, s.hot = at, time.Since(d.start)-at, key == 0
			if err != nil {
				errs.add(err)
			}
		})
	}
	reads.Wait()
	w.mu.Lock()
	w.last = d
	w.mu.Unlock()
	return &driven{Reads: len(schedule), Failed: errs.total, Errors: errs.byText}, nil
}

// driveClosed reads as fast as it goes.
func (w *fleetWorker) driveClosed(ctx context.Context, spec driveSpec, names []string) (*driven, error) {
	start := onThisClock(spec.Start)
	if err := rest(ctx, time.Until(start)); err != nil {
		return nil, err
	}
	end := start.Add(spec.For)
	errs := newErrorCount()
	var done atomic.Int64
	var callers sync.WaitGroup
	for i := range spec.Callers {
		callers.Go(func() {
			rank := spec.Keys.ranks(rand.New(rand.NewPCG(spec.Seed, uint64(w.setup.Index*spec.Callers+i))))
			n := int64(0)
			for ; time.Now().Before(end) && ctx.Err() == nil; n++ {
				if _, err := w.cache.read(ctx, names[rank()], 0); err != nil {
					errs.add(err)
				}
			}
			done.Add(n)
		})
	}
	callers.Wait()
	return &driven{Reads: int(done.Load()), Failed: errs.total, Errors: errs.byText}, ctx.Err()
}

// onThisClock turns a Unix time into one that time.Since counts from with the
// monotonic clock, which nobody sets.
func onThisClock(unixNano int64) time.Time {
	now := time.Now()
	return now.Add(time.Duration(unixNano - now.UnixNano()))
}

// collect gives the reads of the last drive. Failed ones count too: somebody
// waited for them.
func (w *fleetWorker) collect(spec collectSpec) (*collected, error) {
	w.mu.Lock()
	d := w.last
	w.mu.Unlock()
	if d == nil {
		return nil, errors.New("there was no drive")
	}
	c := new(collected)
	for _, s := range d.samples {
		if spec.HotOnly && !s.hot {
			continue
		}
		c.At = append(c.At, d.start.Add(s.at).UnixMicro())
		c.Took = append(c.Took, max(1, s.took.Microseconds()))
	}
	return c, nil
}

// errorCount counts errors by text.
type errorCount struct {
	mu     sync.Mutex // guards what follows
	total  int
	byText map[string]int
}

func newErrorCount() *errorCount { return &errorCount{byText: map[string]int{}} }

// add counts; of many different texts it keeps the first few.
func (e *errorCount) add(err error) {
	const different = 8
	text := oneLine(err.Error())
	e.mu.Lock()
	defer e.mu.Unlock()
	e.total++
	if _, known := e.byText[text]; known || len(e.byText) < different {
		e.byText[text]++
	}
}
