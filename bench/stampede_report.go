package bench

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// An Event is something that happens to a cache, and what each contender made
// of it.
type Event struct {
	Name  string     `json:"name"`
	About string     `json:"about"`
	Rows  []EventRow `json:"rows"`
	Runs  []EventRun `json:"runs"`
}

// An EventRow is a line of an event's table: a figure of every contender.
type EventRow struct {
	What   string `json:"what"`
	Figure string `json:"figure"`
	// Target is what ringside's figure is to be, nil where the row is there
	// to be known.
	Target *EventTarget `json:"target,omitempty"`
	// Verdict is TargetReached, TargetMissed, NotMeasured or NoClaim.
	Verdict Verdict `json:"verdict"`
}

// TargetMissed is the verdict on a figure of an event that is not what it is
// to be.
const TargetMissed Verdict = "target missed"

// An EventTarget is a bound of a figure: exactly the value, or at most or at
// least that.
type EventTarget struct {
	Bound string  `json:"bound"` // "=", "<=" or ">="
	Value float64 `json:"value"`
}

func exactly(v float64) *EventTarget { return &EventTarget{"=", v} }
func atMost(v float64) *EventTarget  { return &EventTarget{"<=", v} }
func atLeast(v float64) *EventTarget { return &EventTarget{">=", v} }

func (t *EventTarget) reached(v float64) bool {
	const epsilon = 1e-9
	switch t.Bound {
	case "<=":
		return v <= t.Value+epsilon
	case ">=":
		return v >= t.Value-epsilon
	}
	return math.Abs(v-t.Value) <= epsilon
}

func (t *EventTarget) String() string {
	if t == nil {
		return "-"
	}
	return t.Bound + " " + eventNumber(t.Value)
}

// An EventRun is one contender's part in an event. A figure that is not in it
// was not measured.
type EventRun struct {
	Contender string               `json:"contender"`
	Figures   map[string]float64   `json:"figures"`
	Lists     map[string][]float64 `json:"lists,omitempty"`
	// FailedReads counts by error.
	FailedReads map[string]int `json:"failed_reads,omitempty"`
	// Error says why the run did not come to its end.
	Error string `json:"error,omitempty"`
}

func (r *EventRun) figure(name string, value float64) {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return // a division by nothing measured nothing
	}
	if r.Figures == nil {
		r.Figures = map[string]float64{}
	}
	r.Figures[name] = value
}

func (r *EventRun) list(name string, values []float64) {
	if r.Lists == nil {
		r.Lists = map[string][]float64{}
	}
	r.Lists[name] = values
}

// of gives a contender's figure.
func (e *Event) of(contender, name string) (float64, bool) {
	for i := range e.Runs {
		if e.Runs[i].Contender == contender {
			v, ok := e.Runs[i].Figures[name]
			return v, ok
		}
	}
	return 0, false
}

// contenders are those that had their part, in their order.
func (e *Event) contenders() (names []string) {
	for i := range e.Runs {
		names = append(names, e.Runs[i].Contender)
	}
	return names
}

// judge sets the verdict of every row.
func (e *Event) judge() {
	for i := range e.Rows {
		row := &e.Rows[i]
		v, measured := e.of(nameRingside, row.Figure)
		switch {
		case !measured:
			row.Verdict = NotMeasured
		case row.Target == nil:
			row.Verdict = NoClaim
		case row.Target.reached(v):
			row.Verdict = TargetReached
		default:
			row.Verdict = TargetMissed
		}
	}
}

func processes(n int) string {
	if n == 1 {
		return "1 process"
	}
	return fmt.Sprintf("%d processes", n)
}

// writeQueries prints what the origin had to do, in the form of "Scaling
// Memcache at Facebook" (NSDI 2013), where leases brought the peak from 17,000
// queries a second down to 1,300.
func (r *Report) writeQueries(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	begun := false
	for i := range r.Events {
		e := &r.Events[i]
		line := "  " + e.Name
		for _, figure := range []string{"queries_peak", "queries_per_second"} {
			naive, ok1 := e.of(nameNaive, figure)
			own, ok2 := e.of(nameRingside, figure)
			if !ok1 || !ok2 {
				line = ""
				break
			}
			line += fmt.Sprintf("\t%s to %s", eventNumber(naive), eventNumber(own))
		}
		if line == "" {
			continue
		}
		if !begun {
			fmt.Fprint(w, "\nOrigin queries a second, naive to ringside\n")
			fmt.Fprintln(t, "  event\tpeak\tmean")
			begun = true
		}
		fmt.Fprintln(t, line)
	}
	t.Flush()
}

func (e *Event) write(w io.Writer) {
	if len(e.Runs) == 0 {
		fmt.Fprintf(w, "\n%s: not measured\n", e.Name)
		return
	}
	fmt.Fprintf(w, "\n%s: %s\n", e.Name, e.About)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "  target\tresult")
	for _, name := range e.contenders() {
		fmt.Fprintf(t, "\t%s", name)
	}
	fmt.Fprintln(t, "\twhat")
	for _, row := range e.Rows {
		result := string(row.Verdict)
		if row.Verdict == NoClaim {
			result = "-"
		}
		fmt.Fprintf(t, "  %s\t%s", row.Target, result)
		for _, name := range e.contenders() {
			text := "-"
			if v, ok := e.of(name, row.Figure); ok {
				text = eventNumber(v)
			}
			fmt.Fprintf(t, "\t%s", text)
		}
		fmt.Fprintf(t, "\t%s\n", row.What)
	}
	t.Flush()
}

// eventNumber prints a whole number as it is, since most figures are counts.
func eventNumber(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return fmt.Sprintf("%.0f", v)
	}
	return threeDigits(v)
}
