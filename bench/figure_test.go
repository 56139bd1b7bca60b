package bench

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFigure(t *testing.T) {
	type numbers struct{ Median, Q1, Q3, Min, Max, Spread float64 }
	for name, tc := range map[string]struct {
		rounds []float64
		want   numbers
		wide   bool
		text   string
	}{
		"odd, unsorted":  {[]float64{5, 1, 4, 2, 3}, numbers{3, 2, 4, 1, 5, 2.0 / 3}, true, "3.00"},
		"even":           {[]float64{1, 2, 3, 4, 5, 6}, numbers{3.5, 2.25, 4.75, 1, 6, 2.5 / 3.5}, true, "3.50"},
		"one outlier":    {[]float64{10, 10, 10, 10, 500}, numbers{10, 10, 10, 10, 500, 0}, false, "10.0"},
		"all zero":       {[]float64{0, 0, 0, 0, 0}, numbers{}, false, "0"},
		"just not wide":  {[]float64{8, 9, 10, 11.5, 12}, numbers{10, 9, 11.5, 8, 12, 0.25}, false, "10.0"},
		"just wide":      {[]float64{8, 9, 10, 11.6, 12}, numbers{10, 9, 11.6, 8, 12, 0.26}, true, "10.0"},
		"a share":        {[]float64{0.1, 0.1, 0.123456, 0.13, 0.13}, numbers{0.123456, 0.1, 0.13, 0.1, 0.13, 0.03 / 0.123456}, false, "0.123"},
		"hundreds":       {[]float64{216, 216, 216, 216, 216}, numbers{216, 216, 216, 216, 216, 0}, false, "216"},
		"median of zero": {[]float64{0, 0, 0, 1, 1}, numbers{0, 0, 1, 0, 1, math.Inf(1)}, true, "0"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFigure(tc.rounds)
			got := numbers{Median: f.Median(), Spread: f.Spread()}
			got.Q1, got.Q3 = f.Quartiles()
			got.Min, got.Max = f.Range()
			near := cmp.Comparer(func(a, b float64) bool { return a == b || math.Abs(a-b) < 1e-12 })
			if diff := cmp.Diff(tc.want, got, near); diff != "" {
				t.Error(diff)
			}
			if f.Wide() != tc.wide {
				t.Errorf("Wide is %v", f.Wide())
			}
			if f.String() != tc.text {
				t.Errorf("String is %q, want %q", f.String(), tc.text)
			}
		})
	}
}

// Too few rounds are no figure, and nothing of them can be printed.
func TestFigureNotMeasured(t *testing.T) {
	for name, f := range map[string]Figure{
		"zero value":    {},
		"nothing":       newFigure(nil),
		"too few":       newFigure([]float64{1, 2, 3, 4}),
		"no experiment": (*Results)(nil).Figure("a", Throughput),
		"no ratio":      (*Results)(nil).Ratio("a", "b", Throughput),
	} {
		t.Run(name, func(t *testing.T) {
			if f.Measured() || f.Wide() || len(f.Rounds()) > 0 {
				t.Error("it is measured")
			}
			if f.String() != "not measured" {
				t.Errorf("String is %q", f)
			}
			if !math.IsNaN(f.Median()) {
				t.Errorf("Median is %v", f.Median())
			}
			if s := f.spreadString() + quantityString(f, Throughput); strings.ContainsAny(s, "0123456789") {
				t.Errorf("it prints as %q", s)
			}
			if b, err := json.Marshal(f); string(b) != "null" || err != nil {
				t.Errorf("JSON is %s, %v", b, err)
			}
		})
	}
}

func TestFigureJSON(t *testing.T) {
	want := newFigure([]float64{5, 1, 4, 2, 3})
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	const text = `{"median":3,"q1":2,"q3":4,"min":1,"max":5,"rounds":[5,1,4,2,3]}`
	if string(b) != text {
		t.Errorf("got %s, want %s", b, text)
	}
	var got Figure
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Figure{})); diff != "" {
		t.Error(diff)
	}
	// A median that its rounds do not give is not believed.
	if err := json.Unmarshal([]byte(`{"median":99,"rounds":[1,1,1,1,1]}`), &got); err != nil || got.Median() != 1 {
		t.Errorf("median is %v, %v", got.Median(), err)
	}
}

func TestThreeDigits(t *testing.T) {
	for x, want := range map[float64]string{
		0: "0", 0.0001: "0", 0.0123: "0.012", 0.5: "0.500", 1.234: "1.23", 9.876: "9.88",
		12.34: "12.3", 99.94: "99.9", 216: "216", 12345: "12345", -1.5: "-1.50",
	} {
		if got := threeDigits(x); got != want {
			t.Errorf("%v: got %q, want %q", x, got, want)
		}
	}
}
