package bench

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/internal/realserver"
)

// A real server dies and comes back, and gomemcache's reads fail meanwhile; what
// is not installed is not measured, and nothing else is missing.
func TestFailoverScenario(t *testing.T) {
	b := &failoverBench{line: timeline{callers: 8, rate: 800, length: 300 * time.Millisecond}, keys: 100}
	defer b.close()
	addrs, err := b.start(failoverNodes)
	if errors.Is(err, realserver.ErrNotInstalled) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.addrs = addrs // and no pylibmc
	results, err := (&Runner{Rounds: MinRounds + 1}).Run(t.Context(), []Experiment{b.experiment(faults()[0])})
	if err != nil {
		t.Fatal(err)
	}
	r := &Report{Groups: failoverGroups()[:1], Experiments: results}
	r.fill()
	for _, row := range r.Groups[0].Rows {
		if want := row.Contender != namePylibmc; row.Figure.Measured() != want {
			t.Errorf("%s: measured %v, want %v", row.What, row.Figure.Measured(), want)
		}
	}
	for _, problem := range r.Problems() {
		t.Log(problem)
	}
	// How much better ringside is takes longer to see than a test has.
	if f := results[0].Figure(nameGomemcache, FailedDown); !(f.Median() > 0) {
		t.Error("nothing fails for gomemcache while a server is dead")
	}
	for _, s := range b.running { // as they were
		if _, err := askVersion(s.Addr()); err != nil {
			t.Errorf("a server is still down: %v", err)
		}
	}
}

// The worker of pylibmc reads at its rate, and its reads are those of the Go side.
func TestPylibmcWorker(t *testing.T) {
	if _, err := pylibmcVersion(t.Context()); err != nil {
		t.Skip(err)
	}
	var s servers
	defer s.close()
	addrs, err := s.start(2)
	if errors.Is(err, realserver.ErrNotInstalled) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	setup := pylibmcSetup{
		Servers: addrs, Behaviors: pylibmcBehaviors(), Prefix: "p:", Keys: 50, Value: 100,
		Callers: 4, Rate: 400, Seconds: 0.5,
	}
	w, err := startPylibmc(t.Context(), setup)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	ticks, err := w.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	line := timeline{callers: 4, rate: 400, length: 500 * time.Millisecond}
	all := line.between(ticks, 0, time.Hour)
	if all.reads == 0 || all.reads > 210 || all.hits+all.failed != all.reads {
		t.Errorf("%+v", all)
	}
	setup.Behaviors = map[string]any{"no such thing": 1}
	if _, err := startPylibmc(t.Context(), setup); err == nil {
		t.Error("pylibmc took an unknown behaviour")
	}
}
