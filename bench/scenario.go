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
	// Rounds is how many turns each contender takes. Default 7, at least
	// MinRounds.
	Rounds int
	// Duration is about how long the scenario measures, for all rounds
	// together: with more rounds each turn is shorter. Default 150 s. What is
	// not measured 20 s after it is left out.
	Duration time.Duration
	// Only names the experiments to run, as they are named in the report; a
	// name before a slash stands for all behind it. Default all. Rows of the
	// others print as not measured.
	Only []string
	// Progress, if not nil, is a terminal for a line that says what runs.
	Progress io.Writer
	// Version is ringside's own, for the report.
	Version string
	// Serve is the command that runs a sidecar when the flags of "ringside
	// serve" are put behind it; for the scenario sidecar.
	Serve []string
}

// grace is how much longer than Options.Duration a scenario may take.
const grace = 20 * time.Second

func (o Options) withDefaults() Options {
	if o.Rounds == 0 {
		o.Rounds = 7
	}
	if o.Duration == 0 {
		o.Duration = 150 * time.Second
	}
	return o
}

// Validate reports every problem of the options at once. Whether Duration is
// long enough depends on the scenario, which says so.
func (o Options) Validate() error {
	o = o.withDefaults()
	var problems []error
	if o.Rounds < MinRounds {
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
	runner := Runner{Rounds: o.Rounds, Progress: p.step}
	if err := runner.Plan(chosen, o.Duration); err != nil {
		return fmt.Errorf("%w: duration: %w", ErrOptions, err)
	}
	bounded, cancel := context.WithTimeout(ctx, o.Duration+grace)
	defer cancel()

	r.Schema, r.Date, r.Machine = Schema, time.Now().UTC().Truncate(time.Second), thisMachine()
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
