package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringside-cache/ringside/internal/realserver"
)

// fakeScenario notes what it was asked for.
func fakeScenario(name string, d time.Duration, err error, log *[]Options) Scenario {
	return Scenario{Name: name, Duration: d, Run: func(_ context.Context, o Options) (*Report, error) {
		*log = append(*log, o)
		if err != nil {
			return nil, err
		}
		r := testReport()
		r.Scenario = name
		return r, nil
	}}
}

// What is not installed, and what fails, leaves the others as they are; each
// has a share of the time, and nobody has more than its default.
func TestAll(t *testing.T) {
	var log []Options
	var said bytes.Buffer
	broken := errors.New("broken")
	r, err := runAll(t.Context(), Options{Duration: 90 * time.Second, Log: &said}, []Scenario{
		fakeScenario("first", 60*time.Second, nil, &log),
		fakeScenario("missing", 30*time.Second, fmt.Errorf("start: %w", realserver.ErrNotInstalled), &log),
		fakeScenario("broken", 60*time.Second, broken, &log),
		fakeScenario("last", 30*time.Second, nil, &log),
	})
	if !errors.Is(err, broken) || errors.Is(err, realserver.ErrNotInstalled) {
		t.Errorf("error %v", err)
	}
	var durations []time.Duration
	for _, o := range log {
		durations = append(durations, o.Duration)
	}
	// The fakes take no time, so what the first did not use is there for the
	// others.
	if durations[0] != 30*time.Second || durations[3] != 30*time.Second {
		t.Errorf("durations %v", durations)
	}
	if len(r.Reports) != 4 || r.Reports[3].Scenario != "last" || r.Versions.Memcached != "3" {
		t.Fatalf("reports %+v, versions %v", r.Reports, r.Versions)
	}
	for i, want := range []string{"", "not measured: start", "not measured: broken", ""} {
		if got := r.Reports[i].Incomplete; !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("report %d: %q, want %q", i, got, want)
		}
	}
	if !strings.Contains(said.String(), "[2/4] missing, about ") || !strings.Contains(said.String(), "left after it: broken, last\n") {
		t.Errorf("said %q", said.String())
	}
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	got, err := ReadReport(&b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got, cmp.AllowUnexported(Figure{})); diff != "" {
		t.Error(diff)
	}
	log = nil
	some := []Scenario{fakeScenario("a", time.Second, nil, &log), fakeScenario("b", time.Second, nil, &log), fakeScenario("c", time.Second, nil, &log)}
	if _, err := runAll(t.Context(), Options{Only: []string{"a", "a/x", "c/y/1", "c/z"}}, some); err != nil || len(log) != 2 {
		t.Fatalf("%v, %d scenarios", err, len(log))
	}
	if diff := cmp.Diff([][]string{nil, {"y/1", "z"}}, [][]string{log[0].Only, log[1].Only}); diff != "" {
		t.Error(diff)
	}
	if _, err := runAll(t.Context(), Options{Only: []string{"nope"}}, Scenarios()); !errors.Is(err, ErrOptions) {
		t.Errorf("an unknown scenario: %v", err)
	}
}

// Whoever needs more than its share has it at the cost of the others.
// A scenario does not run in the heap that the one before it has left.
func TestAllBeginsAnew(t *testing.T) {
	const large = 64 << 20
	var log []Options
	var next runtime.MemStats
	scenario := func(name string, do func()) Scenario {
		s := fakeScenario(name, time.Second, nil, &log)
		inner := s.Run
		s.Run = func(ctx context.Context, o Options) (*Report, error) {
			do()
			return inner(ctx, o)
		}
		return s
	}
	_, err := runAll(t.Context(), Options{}, []Scenario{
		scenario("large", func() {
			b := make([]byte, large)
			runtime.GC() // it is what the next collection waits for
			runtime.KeepAlive(b)
		}),
		scenario("small", func() { runtime.ReadMemStats(&next) }),
	})
	if err != nil || len(log) != 2 {
		t.Fatalf("%v, %d scenarios", err, len(log))
	}
	if next.NextGC > large {
		t.Errorf("the next collection is at %d MiB", next.NextGC>>20)
	}
}

func TestPartOf(t *testing.T) {
	a := Scenario{Duration: 100 * time.Second}
	b := Scenario{Duration: 200 * time.Second, Least: 100 * time.Second}
	for _, tc := range []struct {
		left time.Duration
		list []Scenario
		want time.Duration
	}{
		{200 * time.Second, []Scenario{a, b}, 50 * time.Second},
		{150 * time.Second, []Scenario{b}, 150 * time.Second},
		{150 * time.Second, []Scenario{b, a}, 125 * time.Second},
		{10 * time.Second, []Scenario{b, a}, 100 * time.Second},
		{10 * time.Second, []Scenario{a, b}, 0},
		{time.Hour, []Scenario{b, a}, 200 * time.Second},
	} {
		if got := partOf(tc.left, tc.list); got != tc.want {
			t.Errorf("%v left: %v, want %v", tc.left, got, tc.want)
		}
	}
	// All of them fit by default, and the shortest that they can take is less.
	var all, least time.Duration
	for _, s := range Scenarios() {
		all, least = all+s.Duration, least+s.Least
		if s.Least > s.Duration || s.Least == 0 {
			t.Errorf("%s needs %v and has %v", s.Name, s.Least, s.Duration)
		}
	}
	if least > allDuration {
		t.Errorf("the scenarios need %v together, there are %v", least, allDuration)
	}
	t.Logf("default %v, least %v", all, least)
}

// A scenario that could not run is a line, and no table of nothing.
func TestNotMeasuredTable(t *testing.T) {
	r := &Report{Scenario: "all", Date: time.Now(), Reports: []*Report{{Scenario: "failover", Incomplete: "not measured: memcached is not installed"}}}
	var b bytes.Buffer
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "\nfailover: not measured: memcached is not installed\n") || strings.Contains(b.String(), "0001") {
		t.Errorf("got %s", b.String())
	}
}

// Lists of numbers stand on a line, and nothing else changes.
func TestNumberLists(t *testing.T) {
	const in = "{\"a\": [\n  1,\n  -2.5e+3\n ],\n \"b\": [\n  \"1, 2\",\n  3\n ], \"c\": \"[1,  2]\"}"
	want := strings.Replace(in, "[\n  1,\n  -2.5e+3\n ]", "[1,-2.5e+3]", 1)
	if got := string(numberLists().ReplaceAllFunc([]byte(in), oneLineList)); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// An exact figure needs one round, and is none if the rounds differ.
func TestExactFigure(t *testing.T) {
	e := rounds(MovedByJoin, map[string][]float64{"a": {0.5}, "b": {0.25}})
	if e.Figure("a", MovedByJoin).Measured() {
		t.Error("one round of what is not exact is a figure")
	}
	e.Exact = true
	if f := e.Ratio("a", "b", MovedByJoin); f.Median() != 2 || f.spreadString() != "exact" || f.Wide() {
		t.Errorf("%v, %s", f, f.spreadString())
	}
	if exactFigure([]float64{1, 2}).Measured() || exactFigure(nil).Measured() {
		t.Error("rounds that differ, or none, are a figure")
	}
}
