package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/ringside-cache/ringside/internal/realserver"
)

const (
	// allLimit is when All ends, whatever is left.
	allLimit = 15 * time.Minute
	// allDuration is what the scenarios have together by default. The rest of
	// the limit is for starting servers and for what takes longer than planned.
	allDuration = 14 * time.Minute
)

// All runs every scenario, or those that Options.Only names, one after the
// other, each with its part of Options.Duration (default 14 minutes), but at
// least with what it needs. What can not run, as something is not installed, says so in its report. Of a scenario
// that fails otherwise, and of one that ctx ends, the report is given together
// with the error.
func All(ctx context.Context, opts Options) (*Report, error) {
	return runAll(ctx, opts, Scenarios())
}

func runAll(ctx context.Context, opts Options, all []Scenario) (*Report, error) {
	chosen, err := opts.scenarios(all)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	if opts.Duration == 0 {
		opts.Duration = allDuration
	}
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	began := time.Now()
	r := &Report{Schema: Schema, Scenario: "all", Date: began.UTC().Truncate(time.Second), Machine: thisMachine()}
	bounded, cancel := context.WithTimeout(ctx, max(allLimit, opts.Duration*5/4))
	defer cancel()
	var errs []error
	for i, s := range chosen {
		if ctx.Err() != nil {
			break
		}
		own := opts
		own.Only = opts.within(s.Name)
		own.Duration = partOf(opts.Duration-time.Since(began), chosen[i:])
		opts.announce(i, chosen, own.Duration)
		// As in a process of its own: behind the ring's ten million keys the next
		// collection would be a gigabyte away and every allocation a page that was
		// never touched. 64 goroutines had 4.0 times gomemcache's throughput so,
		// and 6.2 alone.
		debug.FreeOSMemory()
		one, err := s.Run(bounded, own)
		switch {
		case errors.Is(err, realserver.ErrNotInstalled):
			one = &Report{Scenario: s.Name, Incomplete: "not measured: " + err.Error()}
		case errors.Is(err, ErrOptions):
			// The flags are fine, they only leave it too little time.
			one = &Report{Scenario: s.Name, Incomplete: "not measured: " + err.Error()}
			errs = append(errs, fmt.Errorf("%s: %w", s.Name, errors.Unwrap(err)))
		case err != nil:
			one = &Report{Scenario: s.Name, Incomplete: "not measured: " + err.Error()}
			errs = append(errs, err)
		}
		r.Reports = append(r.Reports, one)
		r.Versions.add(one.Versions)
	}
	r.Took = time.Since(began).Seconds()
	if len(opts.Only) > 0 {
		r.Incomplete = fmt.Sprintf("only %s was asked for", strings.Join(opts.Only, ", "))
	}
	return r, errors.Join(append(errs, ctx.Err())...)
}

// scenarios gives those that Only names, alone or as SCENARIO/PART.
func (o Options) scenarios(all []Scenario) ([]Scenario, error) {
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	for _, only := range o.Only {
		if name, _, _ := strings.Cut(only, "/"); !slices.Contains(names, name) {
			return nil, fmt.Errorf("only: there is no scenario %q, there are %s", only, strings.Join(names, ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(s Scenario) bool {
		return len(o.Only) > 0 && !slices.ContainsFunc(o.Only, func(only string) bool {
			name, _, _ := strings.Cut(only, "/")
			return name == s.Name
		})
	}), nil
}

// within gives the parts of a scenario that Only names; none for all of it.
func (o Options) within(scenario string) (parts []string) {
	for _, only := range o.Only {
		name, part, cut := strings.Cut(only, "/")
		switch {
		case name == scenario && !cut:
			return nil
		case name == scenario:
			parts = append(parts, part)
		}
	}
	return parts
}

// partOf is what the first of the scenarios has of what is left of the time: the
// least that it needs, and of what the least of all of them leaves a part as large
// as it wants beyond that. It is never more than its default.
func partOf(left time.Duration, scenarios []Scenario) time.Duration {
	var least, more time.Duration
	for _, s := range scenarios {
		least += s.Least
		more += s.Duration - s.Least
	}
	first := scenarios[0]
	spare := max(0, left-least)
	part := first.Least
	if more > 0 {
		part += time.Duration(float64(spare) * float64(first.Duration-first.Least) / float64(more))
	}
	return min(first.Duration, part).Round(time.Second)
}

// announce says what begins and what is left.
func (o Options) announce(i int, scenarios []Scenario, d time.Duration) {
	if o.Log == nil {
		return
	}
	left := "nothing"
	for k, s := range scenarios[i+1:] {
		if k == 0 {
			left = s.Name
		} else {
			left += ", " + s.Name
		}
	}
	fmt.Fprintf(o.Log, "[%d/%d] %s, about %v; left after it: %s\n", i+1, len(scenarios), scenarios[i].Name, d, left)
}

// add fills in what is not known yet.
func (v *Versions) add(more Versions) {
	for _, field := range []struct{ to, from *string }{
		{&v.Ringside, &more.Ringside},
		{&v.Go, &more.Go},
		{&v.Memcached, &more.Memcached},
		{&v.Gomemcache, &more.Gomemcache},
		{&v.Libmemcached, &more.Libmemcached},
	} {
		if *field.to == "" {
			*field.to = *field.from
		}
	}
}
