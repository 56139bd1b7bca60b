package bench

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/ring"
)

// Jump hash is held to its definition.
func TestJump(t *testing.T) {
	// A key stays in its bucket or goes to the new one, never elsewhere: the
	// definition of the algorithm.
	for n := 1; n < 60; n++ {
		before, after := &jump{int64(n)}, &jump{int64(n + 1)}
		moved := 0
		for key := range ring.SampleKeys(500) {
			a, b := before.Lookup(key), after.Lookup(key)
			if a < 0 || a >= n || b != a && b != n {
				t.Fatalf("%d buckets: %d, then %d", n, a, b)
			}
			if a != b {
				moved++
			}
		}
		if want := 500.0 / float64(n+1); math.Abs(float64(moved)-want) > 5*math.Sqrt(want)+1 {
			t.Errorf("%d keys move to bucket %d, want about %.0f", moved, n, want)
		}
	}
}

// Counting agrees with what ring.Plan counts.
func TestCountMoves(t *testing.T) {
	const n, keys = 7, 20000
	for _, d := range []ring.Dialect{ring.Ketama, ring.Modulo, ring.Twemproxy} {
		m, err := countMoves(t.Context(), dialectPlacer("x", d), n, keys)
		if err != nil {
			t.Fatal(err)
		}
		names := nodeNames(n + 1)
		build := func(names []string) *ring.Ring {
			p, err := dialectPlacer("x", d).build(names)
			if err != nil {
				t.Fatal(err)
			}
			return p.(*ring.Ring)
		}
		before := build(names[:n])
		join := ring.Plan(before, build(names), ring.SampleKeys(keys))
		leave := ring.Plan(before, build(append(append([]string{}, names[:3]...), names[4:n]...)), ring.SampleKeys(keys))
		if m.join != join.Moved || m.needlessJoin != join.Needless || m.leave != leave.Moved || m.needlessLeave != leave.Needless {
			t.Errorf("%s: %+v, want join %d (%d needless), leave %d (%d)", d, m, join.Moved, join.Needless, leave.Moved, leave.Needless)
		}
		for i, c := range leave.Nodes {
			// The one that leaves comes last in a plan.
			at := i
			if i >= 3 {
				at++
			}
			if i == len(leave.Nodes)-1 {
				at = 3
			}
			if m.perNode[at] != c.Before {
				t.Errorf("%s: node %d has %d keys, want %d", d, at, m.perNode[at], c.Before)
			}
		}
	}
}

// The claims that need no clock: modulo moves nearly everything, a consistent
// hash only what it must; a share without enough keys is not measured.
func TestRingScenario(t *testing.T) {
	runner := Runner{Rounds: MinRounds, Warmup: time.Millisecond, Measure: 4 * time.Millisecond}
	results, err := runner.Run(t.Context(), []Experiment{ringMoves(20, 3000), ringCost(20)})
	if err != nil {
		t.Fatal(err)
	}
	r := &Report{Groups: ringGroups([]int{20}), Experiments: results}
	r.fill()
	for _, problem := range r.Problems() {
		t.Error(problem)
	}
	for _, g := range r.Groups {
		for _, row := range g.Rows {
			if !row.Figure.Measured() {
				t.Errorf("%s is not measured", row.What)
			}
		}
	}
	moved := r.Experiments[0]
	for _, p := range placers() {
		needless := moved.Figure(p.name, NeedlessByLeave).Median()
		free := p.name != nameModulo && p.name != nameJumpAny
		if free && needless > 0 || !free && needless < 0.4 {
			t.Errorf("%s moves %.2f of the keys needlessly", p.name, needless)
		}
		cost := r.Experiments[1].Figure(p.name, LookupTime)
		if cost.Measured() == (p.name == nameJumpAny) {
			t.Errorf("%s: lookup %v", p.name, cost)
		}
	}
	m, err := countMoves(t.Context(), rendezvousPlacer(), 50, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := m.sample()[LargestShare]; ok {
		t.Error("20 keys for each node make a largest share")
	}
}

func TestRingOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"one node":       {Nodes: []int{1}},
		"too many nodes": {Nodes: []int{10, 1001}},
		"too few keys":   {Keys: 999},
		"too many keys":  {Keys: mostKeys + 1},
		"too few rounds": {Rounds: 4},
	} {
		if _, err := Ring(t.Context(), o); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
