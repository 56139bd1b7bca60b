package bench

// A Verdict says how a row's figure stands to its floor and target.
type Verdict string

const (
	// NotMeasured: there is no figure.
	NotMeasured Verdict = "not measured"
	// TargetReached, FloorReached and BelowFloor are what they say.
	TargetReached Verdict = "target reached"
	FloorReached  Verdict = "floor reached"
	BelowFloor    Verdict = "below the floor"
	// Unclear: the spread is too wide, and the rounds lie on both sides of
	// the floor.
	Unclear Verdict = "spread too wide"
	// NoClaim: the row has no floor. It is there to be known.
	NoClaim Verdict = ""
)

// A Row is a line of a report: one figure and what we want it to be.
type Row struct {
	What string `json:"what"`
	// The figure is Contender's Quantity in Experiment, as a ratio to
	// Baseline's; without Baseline it is the quantity itself.
	Experiment string   `json:"experiment"`
	Quantity   Quantity `json:"quantity"`
	Contender  string   `json:"contender"`
	Baseline   string   `json:"baseline,omitempty"`
	// LessIsBetter is true for latency, CPU, allocations and memory.
	LessIsBetter bool `json:"less_is_better,omitempty"`
	// Floor must be reached, Target is what we want. Nil for none.
	Floor  *float64 `json:"floor,omitempty"`
	Target *float64 `json:"target,omitempty"`
	// Resolution, if not 0, is what the figure is rounded to. It is for
	// counts that the runtime adds a little to: allocations are whole, and a
	// pool that is refilled now and then makes 0.004 of 0.
	Resolution float64 `json:"resolution,omitempty"`

	// What follows is filled in from the results.

	Figure  Figure  `json:"figure"`
	Verdict Verdict `json:"verdict"`
	// Own and Base are the quantities that the ratio was computed from.
	Own  Figure `json:"own"`
	Base Figure `json:"base"`
}

// fill takes the row's figure from its experiment's results; nil for an
// experiment that was not run.
func (r *Row) fill(res *Results) {
	r.Own = res.Figure(r.Contender, r.Quantity)
	r.Figure = r.Own
	if r.Baseline != "" {
		r.Base = res.Figure(r.Baseline, r.Quantity)
		r.Figure = res.Ratio(r.Contender, r.Baseline, r.Quantity)
	}
	r.Figure = r.Figure.rounded(r.Resolution)
	r.Verdict = r.judge()
}

func (r *Row) judge() Verdict {
	switch {
	case !r.Figure.Measured():
		return NotMeasured
	case r.Floor == nil:
		return NoClaim
	}
	switch r.reaches(*r.Floor) {
	case no:
		return BelowFloor
	case unclear:
		return Unclear
	}
	if r.Target != nil && r.reaches(*r.Target) == yes {
		return TargetReached
	}
	return FloorReached
}

type answer int

const (
	unclear answer = iota
	yes
	no
)

// reaches compares the median with a bound. With a spread that is too wide
// only what every single round says is taken for an answer.
func (r *Row) reaches(bound float64) answer {
	if !r.Figure.Wide() {
		return r.beyond(r.Figure.Median(), bound)
	}
	low, high := r.Figure.Range()
	if a := r.beyond(low, bound); a == r.beyond(high, bound) {
		return a
	}
	return unclear
}

func (r *Row) beyond(value, bound float64) answer {
	// 0.1 is no binary fraction.
	const epsilon = 1e-9
	reached := value >= bound-epsilon
	if r.LessIsBetter {
		reached = value <= bound+epsilon
	}
	if reached {
		return yes
	}
	return no
}
