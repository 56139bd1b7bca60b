package bench

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
)

const (
	// MinRounds is the least number of rounds that a Figure is made of.
	MinRounds = 5

	// TooWide is the spread above which a median alone decides nothing. The
	// spread is the distance of the quartiles, as a share of the median. A
	// quarter is about what two runs of the same program differ by on a
	// virtual machine with noisy neighbours.
	TooWide = 0.25
)

// A Figure sums up what the rounds of an experiment gave. The zero Figure was
// not measured, and says so when it is printed. There is no way to make one
// but from measurements.
type Figure struct {
	rounds []float64 // one per round, in order; nil if not measured
	exact  bool      // a count that is the same in each round
}

// newFigure makes a figure of one value per round. With fewer than MinRounds
// it is not measured.
func newFigure(rounds []float64) Figure {
	if len(rounds) < MinRounds {
		return Figure{}
	}
	return Figure{rounds: sixDigits(rounds)}
}

// exactFigure makes a figure of a count that is the same each time: one round
// is enough. Rounds that differ show that it is not, and are no figure.
func exactFigure(rounds []float64) Figure {
	if len(rounds) == 0 || slices.Min(rounds) != slices.Max(rounds) {
		return Figure{}
	}
	return Figure{rounds: sixDigits(rounds), exact: true}
}

// sixDigits rounds to as many. No measurement here has more, and a file of
// sixteen each is twice as long.
func sixDigits(values []float64) []float64 {
	list := make([]float64, len(values))
	for i, v := range values {
		list[i] = roundedTo(v, 6)
	}
	return list
}

func roundedTo(v float64, digits int) float64 {
	short, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', digits, 64), 64)
	if err != nil {
		return v
	}
	return short
}

// Measured tells whether there is a figure at all. The other methods give NaN
// where there is none.
func (f Figure) Measured() bool { return f.rounds != nil }

// Rounds are the values of the single rounds, in order.
func (f Figure) Rounds() []float64 { return slices.Clone(f.rounds) }

// Median is the median of the rounds.
func (f Figure) Median() float64 { return f.quantile(0.5) }

// Quartiles are the values that a quarter and three quarters of the rounds
// are below, with linear interpolation between rounds.
func (f Figure) Quartiles() (low, high float64) { return f.quantile(0.25), f.quantile(0.75) }

// Range is the smallest and the largest round.
func (f Figure) Range() (low, high float64) { return f.quantile(0), f.quantile(1) }

// Spread is the distance of the quartiles as a share of the median.
func (f Figure) Spread() float64 {
	low, high := f.Quartiles()
	if low == high {
		return 0 // also where all are 0
	}
	return (high - low) / math.Abs(f.Median())
}

// Wide tells whether the spread is above TooWide.
func (f Figure) Wide() bool { return f.Measured() && f.Spread() > TooWide }

// rounded gives the figure with each round rounded to a multiple of to.
func (f Figure) rounded(to float64) Figure {
	if !f.Measured() || to <= 0 {
		return f
	}
	g := Figure{rounds: slices.Clone(f.rounds), exact: f.exact}
	for i, v := range g.rounds {
		g.rounds[i] = math.Round(v/to) * to
	}
	return g
}

func (f Figure) quantile(q float64) float64 {
	if !f.Measured() {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(f.rounds))
	at := q * float64(len(sorted)-1)
	below := int(at)
	if below == len(sorted)-1 {
		return sorted[below]
	}
	return sorted[below] + (at-float64(below))*(sorted[below+1]-sorted[below])
}

// String is the median, to three digits.
func (f Figure) String() string {
	if !f.Measured() {
		return "not measured"
	}
	return threeDigits(f.Median())
}

// spreadString is the quartiles, "6.91-7.20".
func (f Figure) spreadString() string {
	if !f.Measured() {
		return "-"
	}
	if f.exact {
		return "exact"
	}
	low, high := f.Quartiles()
	return threeDigits(low) + "-" + threeDigits(high)
}

// threeDigits prints x with three significant digits and no exponent.
func threeDigits(x float64) string {
	switch abs := math.Abs(x); {
	case abs < 0.0005: // no measurement here is that fine
		return "0"
	case abs >= 100:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case abs >= 10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	case abs >= 1:
		return strconv.FormatFloat(x, 'f', 2, 64)
	default:
		return strconv.FormatFloat(x, 'f', 3, 64)
	}
}

// jsonFigure is a Figure in a report. Only rounds is read back; the rest is
// computed from it.
type jsonFigure struct {
	Median float64   `json:"median"`
	Q1     float64   `json:"q1"`
	Q3     float64   `json:"q3"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Rounds []float64 `json:"rounds"`
	Exact  bool      `json:"exact,omitempty"`
}

// MarshalJSON gives an object, or null where nothing was measured.
func (f Figure) MarshalJSON() ([]byte, error) {
	if !f.Measured() {
		return []byte("null"), nil
	}
	j := jsonFigure{Median: f.Median(), Rounds: f.rounds, Exact: f.exact}
	j.Q1, j.Q3 = f.Quartiles()
	j.Min, j.Max = f.Range()
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON gave.
func (f *Figure) UnmarshalJSON(b []byte) error {
	var j jsonFigure
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	if j.Exact {
		*f = exactFigure(j.Rounds)
	} else {
		*f = newFigure(j.Rounds)
	}
	return nil
}
