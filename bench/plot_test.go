package bench

import (
	"bytes"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// plotReport has what every picture is drawn of, but for one contender.
func plotReport() *Report {
	throughput := func(name string) *Results {
		e := rounds(Throughput, map[string][]float64{
			nameRingside: {4, 4.2, 4.1, 4, 4.3}, nameGomemcache: {1, 1, 1, 1, 1}, nameWire: {8, 8, 8, 8, 8},
		})
		e.Name = name
		return e
	}
	overTime := func(name string) *Results {
		e := &Results{Name: name, Contenders: []string{nameRingside, nameGomemcache, namePylibmc}, StepSeconds: 0.1, Marks: []Mark{{1, "something happens"}}}
		for i := range MinRounds {
			round := Round{Series: map[string]map[Quantity][]float64{}}
			for _, c := range e.Contenders[:2] {
				s := map[Quantity][]float64{}
				for _, q := range []Quantity{ReadsDone, ReadsHit, ReadsFailed, OriginCalls, LatencyP99} {
					for k := range timelineSteps {
						s[q] = append(s[q], float64(20+k%3+i))
					}
				}
				round.Series[c] = s
			}
			e.Rounds = append(e.Rounds, round)
		}
		return e
	}
	event := Event{Name: "cold", Runs: []EventRun{
		{Contender: nameRingside, Figures: map[string]float64{"loads": 1}},
		{Contender: nameNaive, Figures: map[string]float64{"loads": 32}},
	}}
	return &Report{Schema: Schema, Scenario: "all", Reports: []*Report{
		{Scenario: "client", Experiments: []*Results{throughput("get/1"), throughput("multi/8")}},
		{Scenario: "stampede", Processes: 8, Events: []Event{event}},
		{Scenario: "rebalance", Experiments: []*Results{overTime("rebalance")}},
		{Scenario: "failover", Experiments: []*Results{overTime("killed"), overTime("hung")}},
	}}
}

// Every picture is there in both formats and themes, has the texts in it that it
// is read by, and is as wide as it is to be.
func TestWritePlots(t *testing.T) {
	dir := t.TempDir()
	if err := WritePlots(plotReport(), dir); err != nil {
		t.Fatal(err)
	}
	var got []string
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		got = append(got, f.Name())
	}
	var want []string
	for _, name := range []string{"failover-hung", "failover-killed", "rebalance", "stampede", "throughput"} {
		want = append(want, name+".svg", name+".png", name+"-dark.svg", name+"-dark.png")
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	for name, texts := range map[string][]string{
		"rebalance":     {"hit ratio, %", "something happens", ">gomemcache<", "seconds"},
		"failover-hung": {"99th percentile", ">ringside<"},
		"stampede":      {"it is not there", ">32<"},
		"throughput":    {"1 caller", ">4.1<", ">8.0<"},
	} {
		svg, err := os.ReadFile(filepath.Join(dir, name+".svg"))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if !bytes.Contains(svg, []byte(text)) {
				t.Errorf("%s.svg has no %q", name, text)
			}
		}
		// What was not measured is not in the legend.
		if bytes.Contains(svg, []byte(namePylibmc)) {
			t.Errorf("%s.svg has a contender that was not measured", name)
		}
		f, err := os.Open(filepath.Join(dir, name+"-dark.png"))
		if err != nil {
			t.Fatal(err)
		}
		image, err := png.DecodeConfig(f)
		f.Close()
		if err != nil || image.Width != plotWidth*plotDPI/72 {
			t.Errorf("%s: %+v, %v", name, image, err)
		}
	}
}

// Nothing is drawn of what was not measured, in too few rounds or in none.
func TestNoPlots(t *testing.T) {
	r := plotReport()
	for _, one := range r.Reports {
		for _, e := range one.Experiments {
			e.Rounds = e.Rounds[:MinRounds-1]
		}
		one.Events = nil
	}
	if list := pictures(r); len(list) > 0 {
		t.Errorf("%d pictures of nothing", len(list))
	}
}

// A step without enough reads has no ratio, and no line leads over it.
func TestCurve(t *testing.T) {
	e := &Results{StepSeconds: 0.5}
	for range MinRounds {
		e.Rounds = append(e.Rounds, Round{Series: map[string]map[Quantity][]float64{"a": {
			ReadsDone: {20, 20, 3, 20, 20}, ReadsHit: {10, 20, 3, 5, 20},
		}}})
	}
	c := e.curve("a", timePanel{value: ratioOf(ReadsHit, ReadsDone, 100)})
	var got []float64
	for _, p := range c.mid {
		got = append(got, p.X, p.Y)
	}
	if diff := cmp.Diff([]float64{0.25, 50, 0.75, 100, 1.75, 25, 2.25, 100}, got); diff != "" {
		t.Error(diff)
	}
	if parts := c.parts(0.75); len(parts) != 2 || len(parts[0].mid) != 2 || len(parts[1].high) != 2 {
		t.Errorf("parts %+v", parts)
	}
}

// The colours can be told from the background: at least 3 to 1, as the WCAG ask
// for graphics, and 4.5 to 1 for text.
func TestContrast(t *testing.T) {
	for _, th := range []theme{light(), dark()} {
		for name, c := range th.colours {
			if got := contrast(c, th.back); got < 3 {
				t.Errorf("theme %q: %s has a contrast of %.1f", th.suffix, name, got)
			}
		}
		if a, b := contrast(th.text, th.back), contrast(th.mark, th.back); a < 4.5 || b < 4.5 {
			t.Errorf("theme %q: text has %.1f, marks %.1f", th.suffix, a, b)
		}
	}
	if !strings.HasPrefix(dark().suffix, "-") {
		t.Error("the files of the two themes have one name")
	}
}

func contrast(a, b color.NRGBA) float64 {
	luminance := func(c color.NRGBA) float64 {
		part := func(v uint8) float64 {
			x := float64(v) / 255
			if x <= 0.04045 {
				return x / 12.92
			}
			return math.Pow((x+0.055)/1.055, 2.4)
		}
		return 0.2126*part(c.R) + 0.7152*part(c.G) + 0.0722*part(c.B)
	}
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}
