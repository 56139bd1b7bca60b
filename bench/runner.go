package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
)

// A Step is what a Runner is about to do.
type Step struct {
	Experiment, Contender string
	Round, Rounds         int // Round counts from 1
	Turn, Turns           int // over all experiments; Turn counts from 1
}

// A Runner runs experiments, each with its contenders interleaved.
type Runner struct {
	// Rounds is how many turns each contender takes.
	Rounds int
	// Warmup and Measure are those of each Slot.
	Warmup, Measure time.Duration
	// Progress, if not nil, is called before each turn.
	Progress func(Step)
}

// turnOverhead is what a turn takes besides its times: collecting garbage,
// starting and ending callers.
const turnOverhead = 15 * time.Millisecond

// minMeasure is the shortest window that is worth looking at: some hundred
// requests of the slowest contender.
const minMeasure = 50 * time.Millisecond

// Plan sets Warmup and Measure so that the experiments end within total.
func (r *Runner) Plan(experiments []Experiment, total time.Duration) error {
	var fixed time.Duration
	timed := 0
	for _, e := range experiments {
		turns := e.rounds(r.Rounds) * len(e.Contenders)
		if e.Fixed > 0 {
			fixed += time.Duration(turns) * e.Fixed
		} else {
			timed += turns
		}
	}
	if timed == 0 {
		return nil
	}
	turn := (total - fixed) / time.Duration(timed)
	work := turn - turnOverhead
	r.Warmup = work / 6
	r.Measure = work - r.Warmup
	if r.Measure < minMeasure {
		need := fixed + time.Duration(timed)*(minMeasure*6/5+turnOverhead)
		return fmt.Errorf("%v is too short for %d rounds, they need %v or more", total, r.Rounds, (need + time.Second).Truncate(time.Second))
	}
	return nil
}

// Run runs the experiments one after the other. When ctx ends, what was
// measured until then is in the results, and the error says that ctx ended.
func (r *Runner) Run(ctx context.Context, experiments []Experiment) ([]*Results, error) {
	turns := 0
	for _, e := range experiments {
		turns += e.rounds(r.Rounds) * len(e.Contenders)
	}
	var all []*Results
	done := 0
	for _, e := range experiments {
		if err := ctx.Err(); err != nil {
			return all, err
		}
		res := r.run(ctx, e, func(s Step) {
			done++
			s.Turn, s.Turns = done, turns
			if r.Progress != nil {
				r.Progress(s)
			}
		})
		all = append(all, res)
	}
	return all, ctx.Err()
}

func (r *Runner) run(ctx context.Context, e Experiment, progress func(Step)) *Results {
	res := &Results{
		Name: e.Name, About: e.About, Baseline: e.Baseline,
		Exact: e.Exact, StepSeconds: e.Step.Seconds(), Marks: e.Marks,
	}
	for _, c := range e.Contenders {
		res.Contenders = append(res.Contenders, c.Name)
	}
	if e.End != nil {
		defer e.End()
	}
	if e.Start != nil {
		if err := e.Start(ctx); err != nil {
			res.Error = err.Error()
			return res
		}
	}
	for i := range e.rounds(r.Rounds) {
		round := Round{Samples: map[string]Sample{}, Errors: map[string]string{}}
		for _, c := range rotated(e.Contenders, i) {
			if ctx.Err() != nil {
				break
			}
			if c.Run == nil {
				continue
			}
			progress(Step{Experiment: e.Name, Contender: c.Name, Round: i + 1, Rounds: e.rounds(r.Rounds)})
			round.Order = append(round.Order, c.Name)
			sample, series, err := r.turn(ctx, c, i)
			if err != nil {
				round.Errors[c.Name] = err.Error()
			}
			if sample != nil {
				round.Samples[c.Name] = sample
			}
			if len(series) > 0 {
				if round.Series == nil {
					round.Series = map[string]map[Quantity][]float64{}
				}
				round.Series[c.Name] = series
			}
		}
		if len(round.Order) > 0 {
			res.Rounds = append(res.Rounds, round)
		}
	}
	return res
}

// turn lets a contender take its turn, and once more if it fails: a machine
// that is busy elsewhere for half a second makes for a timeout that says
// nothing about the contender. The error of the first try stays on record.
func (r *Runner) turn(ctx context.Context, c Contender, round int) (Sample, map[Quantity][]float64, error) {
	var errs []error
	for range 2 {
		// One contender's garbage is not the next one's work.
		runtime.GC()
		slot := Slot{Round: round, Warmup: r.Warmup, Measure: r.Measure, series: map[Quantity][]float64{}}
		sample, err := c.Run(ctx, slot)
		if err == nil {
			err = sample.check()
		}
		if err == nil {
			for q, v := range sample {
				sample[q] = roundedTo(v, 6)
			}
			return sample, slot.series, errors.Join(errs...)
		}
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	return nil, nil, errors.Join(errs...)
}

// rotated gives the contenders of a round: A B C, then B C A, then C A B.
func rotated(contenders []Contender, round int) []Contender {
	k := round % max(1, len(contenders))
	return append(contenders[k:len(contenders):len(contenders)], contenders[:k]...)
}
