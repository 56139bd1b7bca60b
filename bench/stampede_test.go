package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/internal/realserver"
)

// workerEnv makes this test binary a process of a fleet.
const workerEnv = "RINGSIDE_BENCH_STAMPEDE_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(workerEnv) != "" {
		if err := StampedeWorker(context.Background(), os.Stdin, os.Stdout); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(serveEnv) != "" {
		if err := serveSidecar(os.Args[1:]); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// needWorkers has the processes that this test starts be workers.
func needWorkers(t *testing.T) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(workerEnv, "1")
	return []string{self}
}

// Every row of these events is measured, by real processes on real servers, too
// short to say anything else. But that ringside loads once, and never serves
// what was refreshed, is true at any size.
func TestStampedeScenario(t *testing.T) {
	only := []string{"invalidate", "cold", "race"} // the others take longer
	report, err := Stampede(t.Context(), Options{
		Worker: needWorkers(t), Processes: 3, Duration: stampedeDuration / 20, Only: only, Version: "test", keys: 100,
	})
	if errors.Is(err, realserver.ErrNotInstalled) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if problems := report.Problems(); len(problems) != 1 || !strings.Contains(problems[0], "asked for") {
		t.Errorf("problems: %q", problems)
	}
	for _, e := range report.Events {
		if !slices.Contains(only, e.Name) {
			if len(e.Runs) > 0 || e.Rows[0].Verdict != NotMeasured {
				t.Errorf("%s was not asked for and has %d runs, %q", e.Name, len(e.Runs), e.Rows[0].Verdict)
			}
			continue
		}
		for _, row := range e.Rows {
			if row.Verdict == NotMeasured {
				t.Errorf("%s: %s is not measured", e.Name, row.What)
			}
		}
		for _, name := range contenderNames {
			if _, ok := e.of(name, e.Rows[0].Figure); !ok {
				t.Errorf("%s: %s has no figure for %s", e.Name, name, e.Rows[0].What)
			}
		}
	}
	for name, figures := range map[string]map[string]float64{
		"invalidate": {"loads_per_invalidation": 1, "failed": 0},
		"cold":       {"loads_most": 1, "failed": 0},
		"race":       {"older": 0, "killed": raceKills},
	} {
		i := slices.IndexFunc(report.Events, func(e Event) bool { return e.Name == name })
		for figure, want := range figures {
			if got, _ := report.Events[i].of(nameRingside, figure); got != want {
				t.Errorf("%s: %s is %v, want %v", name, figure, got, want)
			}
		}
	}
	var table, kept bytes.Buffer
	if err := errors.Join(report.WriteTable(&table), report.WriteJSON(&kept)); err != nil {
		t.Fatal(err)
	}
	if !json.Valid(kept.Bytes()) || !strings.Contains(table.String(), "invalidate: ") {
		t.Errorf("table %s\nJSON %s", table.String(), kept.String())
	}
	if t.Failed() {
		t.Log(table.String())
	}
}

func TestStampedeOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		opts Options
		want string // empty for none
	}{
		"defaults":   {Options{Worker: []string{"x"}}, ""},
		"no worker":  {Options{}, "worker"},
		"alone":      {Options{Worker: []string{"x"}, Processes: 1}, "processes"},
		"too short":  {Options{Worker: []string{"x"}, Duration: time.Second}, "duration"},
		"no event":   {Options{Worker: []string{"x"}, Only: []string{"nope"}}, "nope"},
		"some event": {Options{Worker: []string{"x"}, Only: []string{"cold"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.opts.validateStampede()
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
	if _, err := Stampede(t.Context(), Options{}); !errors.Is(err, ErrOptions) {
		t.Errorf("%v, want ErrOptions", err)
	}
}

// A target can be missed, and what was not measured reaches none.
func TestEventJudge(t *testing.T) {
	e := Event{
		Rows: []EventRow{
			{Figure: "a", Target: exactly(1)},
			{Figure: "b", Target: atMost(2)},
			{Figure: "b", Target: atLeast(4)},
			{Figure: "c", Target: exactly(0)},
			{Figure: "a"},
		},
		Runs: []EventRun{
			{Contender: nameNaive, Figures: map[string]float64{"a": 7, "c": 0}},
			{Contender: nameRingside, Figures: map[string]float64{"a": 1, "b": 3}},
		},
	}
	e.judge()
	want := []Verdict{TargetReached, TargetMissed, TargetMissed, NotMeasured, NoClaim}
	for i, row := range e.Rows {
		if row.Verdict != want[i] {
			t.Errorf("row %d: %q, want %q", i, row.Verdict, want[i])
		}
	}
	var b bytes.Buffer
	e.write(&b)
	if lines := strings.Split(b.String(), "\n"); !strings.Contains(lines[6], "-       -     -") && !strings.Contains(b.String(), "not measured") {
		t.Errorf("table\n%s", b.String())
	}
}
