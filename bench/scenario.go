package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Options are what all scenarios take. The zero value is the default.
type Options struct {
	// Rounds is how many turns each contender takes, where the scenario has
	// rounds. Default 7, or what the scenario says; at least MinRounds.
	Rounds int
	// Duration is about how long the scenario measures, for all rounds
	// together: with more rounds each turn is shorter. The default is the
	// scenario's. What is not measured 20 s after it is left out.
	Duration time.Duration
	// Only names the experiments to run, as they are named in the report; a
	// name before a slash stands for all behind it. Default all. Rows of the
	// others print as not measured.
	Only []string
	// Progress, if not nil, is a terminal for a line that says what runs.
	Progress io.Writer
	// Log, if not nil, gets a line from All when a scenario begins.
	Log io.Writer
	// Version is ringside's own, for the report.
	Version string

	// What follows is for single scenarios, which the comment names.

	// Processes read through the cache of stampede. Default 8, at least 2.
	Processes int
	// Worker is the command that calls StampedeWorker with its stdin and
	// stdout, for stampede.
	Worker []string
	// Serve is the command that runs a sidecar when the flags of "ringside
	// serve" are put behind it, for sidecar.
	Serve []string
	// Nodes are the sizes of the rings of ring, each from 2 to 1,000. Default
	// 2, 5, 10, 50, 100 and 1,000.
	Nodes []int
	// Keys is how many keys ring places, from 1,000 to 10 million. Default one
	// million.
	Keys int

	keys int // of stampede, for tests, which have no time to warm up more
}

// grace is how much longer than Options.Duration a scenario may take.
const grace = 20 * time.Second

const defaultRounds = 7

func (o Options) withDefaults(duration time.Duration) Options {
	if o.Rounds == 0 {
		o.Rounds = defaultRounds
	}
	if o.Duration == 0 {
		o.Duration = duration
	}
	return o
}

// Validate reports every problem of the options at once. Whether Duration is
// long enough depends on the scenario, which says so.
func (o Options) Validate() error {
	var problems []error
	if o.Rounds != 0 && o.Rounds < MinRounds {
		problems = append(problems, fmt.Errorf("rounds: %d is too few, at least %d make a figure", o.Rounds, MinRounds))
	}
	if o.Duration < 0 {
		problems = append(problems, fmt.Errorf("duration: %v is not above 0", o.Duration))
	}
	return errors.Join(problems...)
}

// wants tells whether an experiment is to be run.
func (o Options) wants(name string) bool {
	return len(o.Only) == 0 || slices.ContainsFunc(o.Only, func(only string) bool {
		return name == only || strings.HasPrefix(name, only+"/")
	})
}

// choose gives the experiments that are wanted. A name that fits none is an
// error that lists them.
func (o Options) choose(all []Experiment) ([]Experiment, error) {
	names := make([]string, len(all))
	for i, e := range all {
		names[i] = e.Name
	}
	for _, only := range o.Only {
		one := Options{Only: []string{only}}
		if !slices.ContainsFunc(names, one.wants) {
			return nil, fmt.Errorf("only: there is no experiment %q, there are %s", only, strings.Join(names, ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(e Experiment) bool { return !o.wants(e.Name) }), nil
}

// ErrOptions is returned for options that a scenario can not run with.
var ErrOptions = errors.New("bench: options")

// run measures the chosen experiments and completes the report, which has its
// Scenario, Setting, Groups and Versions.
func (o Options) run(ctx context.Context, r *Report, all []Experiment, p *progress) error {
	chosen, err := o.choose(all)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOptions, err)
	}
	r.Schema, r.Date, r.Machine = Schema, time.Now().UTC().Truncate(time.Second), thisMachine()
	runner := Runner{Rounds: o.Rounds, Progress: p.step}
	if err := runner.Plan(chosen, o.Duration); err != nil {
		return fmt.Errorf("%w: duration: %w", ErrOptions, err)
	}
	bounded, cancel := context.WithTimeout(ctx, o.Duration+grace)
	defer cancel()

	r.Rounds, r.WindowSeconds = o.Rounds, runner.Measure.Seconds()
	start := time.Now()
	r.Experiments, err = runner.Run(bounded, chosen)
	r.Took = time.Since(start).Seconds()
	p.end()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		r.Incomplete = fmt.Sprintf("the time ran out after %v", time.Since(start).Round(time.Second))
	case len(chosen) < len(all):
		r.Incomplete = fmt.Sprintf("only %s was asked for", strings.Join(o.Only, ", "))
	}
	r.fill()
	return nil
}
