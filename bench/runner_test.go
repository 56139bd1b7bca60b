package bench

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fake is a contender that notes its turns in a shared log.
func fake(name string, log *[]string, run func(Slot) (Sample, error)) Contender {
	return Contender{Name: name, Run: func(_ context.Context, slot Slot) (Sample, error) {
		*log = append(*log, name)
		return run(slot)
	}}
}

func always(v float64) func(Slot) (Sample, error) {
	return func(Slot) (Sample, error) { return Sample{Throughput: v}, nil }
}

func TestRunnerInterleaves(t *testing.T) {
	var log []string
	var steps []Step
	r := Runner{Rounds: 5, Progress: func(s Step) { steps = append(steps, s) }}
	results, err := r.Run(t.Context(), []Experiment{
		{Name: "one", Contenders: []Contender{fake("A", &log, always(1)), fake("B", &log, always(2)), fake("C", &log, always(3))}},
		{Name: "two", Contenders: []Contender{fake("x", &log, always(1)), fake("y", &log, always(1))}, Rounds: 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = "A B C  B C A  C A B  A B C  B C A  x y  y x  x y"
	if got := strings.Join(log, " "); got != strings.Join(strings.Fields(want), " ") {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if len(steps) != 21 || steps[20] != (Step{Experiment: "two", Contender: "y", Round: 3, Rounds: 3, Turn: 21, Turns: 21}) {
		t.Errorf("steps %+v", steps)
	}
	one := results[0]
	if diff := cmp.Diff([]string{"B", "C", "A"}, one.Rounds[1].Order); diff != "" {
		t.Error(diff)
	}
	if f := one.Ratio("C", "A", Throughput); f.Median() != 3 || len(f.Rounds()) != 5 {
		t.Errorf("ratio %v of %v", f, f.Rounds())
	}
}

// Rotating does not write into the experiment's own list.
func TestRotated(t *testing.T) {
	list := []Contender{{Name: "A"}, {Name: "B"}, {Name: "C"}}
	names := func(l []Contender) (s string) {
		for _, c := range l {
			s += c.Name
		}
		return s
	}
	for round, want := range []string{"ABC", "BCA", "CAB", "ABC"} {
		if got := names(rotated(list, round)); got != want {
			t.Errorf("round %d: %s, want %s", round, got, want)
		}
	}
	if names(list) != "ABC" || len(rotated(nil, 3)) != 0 {
		t.Errorf("the list is %s now", names(list))
	}
}

// A turn that fails is tried once more. What fails twice has no sample.
func TestRunnerRetries(t *testing.T) {
	var log []string
	tries := 0
	flaky := func(s Slot) (Sample, error) {
		if tries++; tries == 1 {
			return nil, errors.New("busy elsewhere")
		}
		return always(7)(s)
	}
	broken := func(Slot) (Sample, error) { return Sample{Throughput: 9}, errors.New("refused") }
	absurd := func(Slot) (Sample, error) { return Sample{Throughput: math.Inf(1)}, nil }
	r := Runner{Rounds: 5}
	results, err := r.Run(t.Context(), []Experiment{{Contenders: []Contender{
		fake("flaky", &log, flaky), fake("broken", &log, broken), fake("absurd", &log, absurd),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	res := results[0]
	if f := res.Figure("flaky", Throughput); f.Median() != 7 {
		t.Errorf("flaky: %v", f)
	}
	if got := res.Rounds[0].Errors["flaky"]; got != "busy elsewhere" {
		t.Errorf("flaky's first error is %q", got)
	}
	for _, name := range []string{"broken", "absurd"} {
		if f := res.Figure(name, Throughput); f.Measured() {
			t.Errorf("%s: %v", name, f)
		}
		if res.Rounds[4].Errors[name] == "" {
			t.Errorf("%s: no error on record", name)
		}
	}
	if n := len(log); n != 5+1+10+10 {
		t.Errorf("%d turns", n)
	}
}

// What was measured before the end of ctx is kept.
func TestRunnerEnds(t *testing.T) {
	var log []string
	ctx, cancel := context.WithCancel(t.Context())
	ended := false
	third := func(s Slot) (Sample, error) {
		if s.Round == 2 {
			cancel()
			return nil, ctx.Err()
		}
		return always(1)(s)
	}
	r := Runner{Rounds: 5}
	results, err := r.Run(ctx, []Experiment{
		{Name: "cut", Contenders: []Contender{fake("A", &log, always(1)), fake("B", &log, third)}, End: func() { ended = true }},
		{Name: "never", Contenders: []Contender{fake("A", &log, always(1))}},
	})
	if !errors.Is(err, context.Canceled) || !ended {
		t.Errorf("error %v, ended %v", err, ended)
	}
	if len(results) != 1 || len(results[0].Rounds) != 3 {
		t.Fatalf("results %+v", results)
	}
	if got := results[0].Figure("A", Throughput); got.Measured() {
		t.Errorf("%v of too few rounds", got)
	}
}

func TestRunnerStart(t *testing.T) {
	var log []string
	r := Runner{Rounds: 5}
	results, err := r.Run(t.Context(), []Experiment{
		{
			Name: "bad", Contenders: []Contender{fake("A", &log, always(1))},
			Start: func(context.Context) error { return errors.New("no servers") },
			End:   func() { log = append(log, "end") },
		},
		{Name: "good", Contenders: []Contender{fake("B", &log, always(1))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if results[0].Error != "no servers" || len(results[0].Rounds) != 0 {
		t.Errorf("%+v", results[0])
	}
	if !slices.Equal(log, []string{"end", "B", "B", "B", "B", "B"}) {
		t.Errorf("log %v", log)
	}
}

func TestPlan(t *testing.T) {
	timed := Experiment{Contenders: make([]Contender, 4)}
	fixed := Experiment{Contenders: make([]Contender, 2), Fixed: time.Second, Rounds: 5}
	r := Runner{Rounds: 10}
	if err := r.Plan([]Experiment{timed, fixed}, time.Minute); err != nil {
		t.Fatal(err)
	}
	if got := 40*(r.Warmup+r.Measure+turnOverhead) + 10*time.Second; got > time.Minute || got < time.Minute-time.Millisecond {
		t.Errorf("it takes %v", got)
	}
	if r.Measure < 4*r.Warmup {
		t.Errorf("warm-up %v, window %v", r.Warmup, r.Measure)
	}
	if err := r.Plan([]Experiment{timed, fixed}, 12*time.Second); err == nil || !strings.Contains(err.Error(), "too short") {
		t.Errorf("12s for 40 turns and 10s: %v, window %v", err, r.Measure)
	}
	if err := (&Runner{Rounds: 5}).Plan([]Experiment{fixed}, time.Millisecond); err != nil {
		t.Errorf("nothing to plan: %v", err)
	}
}
