package bench

import (
	"math"
	"testing"
)

func TestVerdict(t *testing.T) {
	nan := math.NaN()
	steady := func(x float64) []float64 { return []float64{x, x * 0.98, x * 1.02, x, x} }
	for name, tc := range map[string]struct {
		row    Row
		rounds []float64
		want   Verdict
	}{
		"above the target":   {Row{Floor: bound(6), Target: bound(8)}, steady(9), TargetReached},
		"on the target":      {Row{Floor: bound(6), Target: bound(8)}, []float64{8, 8, 8, 8, 8}, TargetReached},
		"above the floor":    {Row{Floor: bound(6), Target: bound(8)}, steady(7), FloorReached},
		"below the floor":    {Row{Floor: bound(6), Target: bound(8)}, steady(5), BelowFloor},
		"less, target":       {Row{Floor: bound(0.25), Target: bound(0.17), LessIsBetter: true}, steady(0.1), TargetReached},
		"less, floor":        {Row{Floor: bound(0.25), Target: bound(0.17), LessIsBetter: true}, steady(0.2), FloorReached},
		"less, below":        {Row{Floor: bound(0.25), Target: bound(0.17), LessIsBetter: true}, steady(0.3), BelowFloor},
		"no floor":           {Row{}, steady(1), NoClaim},
		"nothing measured":   {Row{Floor: bound(1)}, nil, NotMeasured},
		"no floor, nothing":  {Row{}, nil, NotMeasured},
		"too few rounds":     {Row{Floor: bound(1)}, []float64{nan, nan, 9, 9, 9, 9}, NotMeasured},
		"wide, on both":      {Row{Floor: bound(6), Target: bound(8)}, []float64{3, 5, 7, 9, 11}, Unclear},
		"wide, all below":    {Row{Floor: bound(6), Target: bound(8)}, []float64{1, 2, 3, 4, 5}, BelowFloor},
		"wide, all above":    {Row{Floor: bound(6), Target: bound(8)}, []float64{9, 12, 15, 18, 21}, TargetReached},
		"wide, above floor":  {Row{Floor: bound(6), Target: bound(8)}, []float64{6.5, 7, 9, 12, 15}, FloorReached},
		"wide, one slow":     {Row{Floor: bound(6), Target: bound(8)}, []float64{5, 7, 9, 12, 15}, Unclear},
		"a count, nearly 0":  {Row{Floor: bound(0), Target: bound(0), LessIsBetter: true, Resolution: 0.1}, []float64{0.003, 0.001, 0, 0.04, 0.002}, TargetReached},
		"a count, not 0":     {Row{Floor: bound(0), Target: bound(0), LessIsBetter: true, Resolution: 0.1}, []float64{0.2, 0.2, 0.2, 0.2, 0.2}, BelowFloor},
		"a count, whole":     {Row{Floor: bound(2), Target: bound(1), LessIsBetter: true, Resolution: 0.1}, []float64{2.01, 2.002, 2.04, 2.01, 2}, FloorReached},
		"a count, no binary": {Row{Floor: bound(0.3), LessIsBetter: true, Resolution: 0.1}, []float64{0.3, 0.3, 0.3, 0.3, 0.3}, FloorReached},
	} {
		t.Run(name, func(t *testing.T) {
			row := tc.row
			row.Contender, row.Quantity = "us", Throughput
			row.fill(rounds(Throughput, map[string][]float64{"us": tc.rounds}))
			if row.Verdict != tc.want {
				t.Errorf("got %q, want %q", row.Verdict, tc.want)
			}
			if tc.want == NotMeasured && row.Figure.Measured() {
				t.Error("there is a figure")
			}
		})
	}
}

// A row whose baseline failed has no ratio, whatever it measured itself.
func TestRowWithoutBaseline(t *testing.T) {
	row := Row{Contender: "us", Baseline: "them", Quantity: Throughput, Floor: bound(1)}
	row.fill(rounds(Throughput, map[string][]float64{"us": {9, 9, 9, 9, 9}}))
	if row.Verdict != NotMeasured || row.Figure.Measured() || row.ratioString() != "-" {
		t.Errorf("verdict %q, ratio %q", row.Verdict, row.ratioString())
	}
	row.fill(nil)
	if row.Verdict != NotMeasured {
		t.Errorf("verdict %q without an experiment", row.Verdict)
	}
}
