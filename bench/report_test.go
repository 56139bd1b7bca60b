package bench

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testReport() *Report {
	e := rounds(Throughput, map[string][]float64{
		"us": {700_000, 690_000, 710_000, 700_000, 720_000}, "them": {100_000, 100_000, 100_000, 100_000, 100_000},
		"noisy": {10_000, 100_000, 200_000, 300_000, 900_000},
	})
	e.About, e.Contenders, e.Baseline = "what is done", []string{"us", "noisy", "them"}, "them"
	for i := range e.Rounds {
		e.Rounds[i].Order = e.Contenders
	}
	e.Rounds[1].Errors = map[string]string{"them": "a very\nlong story"}
	r := &Report{
		Schema: Schema, Scenario: "test", Date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Took: 12.3,
		Machine:  Machine{CPU: "CPU", Cores: 2, OS: "OS", Kernel: "6", Load: "0.1"},
		Versions: Versions{Ringside: "1", Go: "go2", Memcached: "3", Gomemcache: "4"},
		Setting:  []string{"A setting."}, Rounds: 5, WindowSeconds: 0.5,
		Groups: []Group{{Title: "A group", Rows: []Row{
			{What: "reached", Experiment: "e", Contender: "us", Baseline: "them", Quantity: Throughput, Floor: bound(6), Target: bound(8)},
			{What: "noise", Experiment: "e", Contender: "noisy", Baseline: "them", Quantity: Throughput, Floor: bound(2)},
			{What: "own", Experiment: "e", Contender: "us", Quantity: Throughput},
			{What: "latency", Experiment: "e", Contender: "us", Baseline: "them", Quantity: LatencyP99, Floor: bound(0.5)},
			{What: "elsewhere", Experiment: "other", Contender: "us", Quantity: KiBPerNode, Floor: bound(64)},
		}}},
		Experiments: []*Results{e},
	}
	r.fill()
	return r
}

func TestReportJSON(t *testing.T) {
	want := testReport()
	var b bytes.Buffer
	if err := want.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	got, err := ReadReport(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Figure{})); diff != "" {
		t.Error(diff)
	}
	// The raw rounds give the same rows again.
	again := *got
	again.Groups = []Group{{Title: "A group"}}
	for _, row := range want.Groups[0].Rows {
		row.Figure, row.Own, row.Base, row.Verdict = Figure{}, Figure{}, Figure{}, ""
		again.Groups[0].Rows = append(again.Groups[0].Rows, row)
	}
	again.fill()
	if diff := cmp.Diff(want.Groups, again.Groups, cmp.AllowUnexported(Figure{})); diff != "" {
		t.Error(diff)
	}
	other := strings.Replace(b.String(), Schema, "ringside-bench/0", 1)
	if _, err := ReadReport(strings.NewReader(other)); err == nil {
		t.Error("another schema was read")
	}
}

func TestReportTable(t *testing.T) {
	const want = `test, 2026-01-02, 5 rounds, windows of 500ms, took 12s
CPU, 2 cores, OS, kernel 6, load 0.1 before
ringside 1, memcached 3, gomemcache 4, go2
A setting.

A group
  ratio  quartiles  floor  target  result           what       measured
  7.00x  7.00-7.10  6      8       floor reached    reached    700k/s to 100k/s
~ 2.00x  1.00-3.00  2      -       spread too wide  noise      200k/s to 100k/s
  700000 700000-710000  -  -       -                own        700k/s
  -      -          0.5    -       not measured     latency    -
  -      -          64     -       not measured     elsewhere  -

~ The quartiles are further apart than 25% of the median: only what every
  round says counts as a result.

e: what is done
  ratio  contender  rate
  7.00x  us         700k/s
  2.00x  noisy      200k/s
  1.00x  them       100k/s

Problems
  e, them, round 2: a very ...
`
	var b bytes.Buffer
	if err := testReport().WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	// The width of a column is text/tabwriter's business.
	if diff := cmp.Diff(words(want), words(b.String())); diff != "" {
		t.Errorf("%s\n%s", diff, b.String())
	}
}

func words(s string) (lines [][]string) {
	for line := range strings.Lines(s) {
		lines = append(lines, strings.Fields(line))
	}
	return lines
}

// A report of nothing shows no figure at all.
func TestReportOfNothing(t *testing.T) {
	r := testReport()
	r.Experiments = nil
	r.Incomplete = "the time ran out"
	r.fill()
	var b bytes.Buffer
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(b.String(), "A group")
	for line := range strings.Lines(table) {
		if strings.Contains(line, "k/s") || strings.Contains(line, "x  ") {
			t.Errorf("a figure: %s", line)
		}
	}
	if n := strings.Count(table, "not measured"); n != 5 {
		t.Errorf("%d rows are not measured, want 5\n%s", n, table)
	}
	if !strings.Contains(table, "incomplete: the time ran out") {
		t.Errorf("it does not say why:\n%s", table)
	}
}

func TestSampleCheck(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1), -1} {
		if (Sample{Throughput: v}).check() == nil {
			t.Errorf("%v is taken for a measurement", v)
		}
	}
	if err := (Sample{Throughput: 0, LatencyP50: 1}).check(); err != nil {
		t.Error(err)
	}
}

func TestProgress(t *testing.T) {
	var none *progress
	none.say("x")
	none.step(Step{})
	none.end()
	var b bytes.Buffer
	p := newProgress(&b)
	p.step(Step{Turn: 1, Turns: 9})
	p.step(Step{Experiment: "get/64", Contender: "us", Round: 2, Rounds: 7, Turn: 3, Turns: 9})
	p.end()
	if got := b.String(); !strings.Contains(got, "[3/9] get/64  round 2 of 7  us  about") || !strings.HasSuffix(got, clearLine) {
		t.Errorf("%q", got)
	}
	if newProgress(nil) != nil {
		t.Error("progress to nowhere")
	}
}
