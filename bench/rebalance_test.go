package bench

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/internal/realserver"
)

// Real servers, too short to say how much; but that modulo loads much more than
// a ring is true at any length. Every row is measured, and every contender has
// its series.
func TestRebalanceScenario(t *testing.T) {
	b := &rebalanceBench{line: timeline{callers: 8, rate: 2000, length: 240 * time.Millisecond}, keys: 400}
	defer b.close()
	addrs, err := b.start(rebalanceNodes + 1)
	if errors.Is(err, realserver.ErrNotInstalled) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.addrs = addrs
	results, err := (&Runner{Rounds: MinRounds + 1}).Run(t.Context(), []Experiment{b.experiment()})
	if err != nil {
		t.Fatal(err)
	}
	r := &Report{Groups: rebalanceGroups(), Experiments: results}
	r.fill()
	checkMeasured(t, r)
	if f := results[0].Ratio(nameRingside, nameGomemcache, OriginCallsJoin); !(f.Median() < 0.8) {
		t.Errorf("ringside loads %v of what gomemcache does", f)
	}
	if f := results[0].Figure(nameRingside, HitRatioBefore); !(f.Median() > 0.95) {
		t.Errorf("%v hits before anything happens", f)
	}
	for _, round := range results[0].Rounds {
		for _, name := range round.Order {
			if len(round.Series[name][OriginCalls]) != timelineSteps {
				t.Errorf("%s has no series of origin calls", name)
			}
		}
	}
}

// checkMeasured wants every row measured.
func checkMeasured(t *testing.T, r *Report) {
	t.Helper()
	for _, g := range r.Groups {
		for _, row := range g.Rows {
			if !row.Figure.Measured() {
				t.Errorf("%s: %s is not measured", g.Title, row.What)
			}
		}
	}
	for _, problem := range r.Problems() {
		t.Log(problem)
	}
}

func TestTurnLength(t *testing.T) {
	o := Options{Rounds: 5, Duration: 40 * time.Second}
	if d, err := o.turnLength(3, time.Second); err != nil || d > 40*time.Second/15-time.Second || d%(timelineSteps*time.Millisecond) != 0 {
		t.Errorf("%v, %v", d, err)
	}
	if _, err := o.turnLength(100, time.Second); !errors.Is(err, ErrOptions) {
		t.Errorf("no time at all: %v", err)
	}
}
