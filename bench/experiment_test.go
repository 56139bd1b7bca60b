package bench

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// rounds makes results of one quantity, a value per round; NaN for a round in
// which the contender failed.
func rounds(q Quantity, values map[string][]float64) *Results {
	r := &Results{Name: "e"}
	for name, list := range values {
		r.Contenders = append(r.Contenders, name)
		for i, v := range list {
			if len(r.Rounds) <= i {
				r.Rounds = append(r.Rounds, Round{Samples: map[string]Sample{}})
			}
			if !math.IsNaN(v) {
				r.Rounds[i].Samples[name] = Sample{q: v}
			}
		}
	}
	return r
}

// The ratio is taken within each round: a machine that is slow for a while is
// slow for both, and the ratio of the medians would be another one.
func TestRatioWithinRounds(t *testing.T) {
	r := rounds(Throughput, map[string][]float64{
		"a": {20, 200, 2, 2000, 60},
		"b": {10, 100, 1, 1000, 20},
	})
	f := r.Ratio("a", "b", Throughput)
	if diff := cmp.Diff([]float64{2, 2, 2, 2, 3}, f.Rounds()); diff != "" {
		t.Error(diff)
	}
	if f.Median() != 2 {
		t.Errorf("median %v, want 2", f.Median())
	}
}

func TestRatioMissingRounds(t *testing.T) {
	nan := math.NaN()
	r := rounds(Throughput, map[string][]float64{
		"a": {nan, 2, 2, 2, 2, 2, 2},
		"b": {1, nan, 1, 1, 1, 1, 1},
		"c": {1, 1, 0, 1, 1, 1, 1},
	})
	if f := r.Ratio("a", "b", Throughput); len(f.Rounds()) != 5 {
		t.Errorf("%d rounds have both, got %v", 5, f.Rounds())
	}
	r.Rounds = r.Rounds[:6]
	if f := r.Ratio("a", "b", Throughput); f.Measured() {
		t.Errorf("4 rounds make a figure: %v", f.Rounds())
	}
	if f := r.Ratio("b", "c", Throughput); f.Measured() {
		t.Errorf("a ratio to 0 counts as a round: %v", f.Rounds())
	}
	if f := r.Figure("a", LatencyP99); f.Measured() {
		t.Errorf("a quantity that nobody measured: %v", f)
	}
	if f := r.Figure("nobody", Throughput); f.Measured() {
		t.Errorf("a contender that is not there: %v", f)
	}
}
