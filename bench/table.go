package bench

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteTable prints the report for people: the rows with the ratio first, then
// all contenders of all experiments, then what went wrong.
func (r *Report) WriteTable(w io.Writer) error {
	var b strings.Builder
	if len(r.Groups)+len(r.Experiments)+len(r.Events)+len(r.Reports) == 0 {
		_, err := fmt.Fprintf(w, "%s: %s\n", r.Scenario, r.Incomplete)
		return err
	}
	r.writeHead(&b)
	for _, one := range r.Reports {
		b.WriteString("\n")
		if err := one.WriteTable(&b); err != nil {
			return err
		}
	}
	wide := false
	for _, g := range r.Groups {
		wide = writeGroup(&b, g) || wide
	}
	if wide {
		fmt.Fprintf(&b, "\n~ The quartiles are further apart than %.0f%% of the median: only what every\n  round says counts as a result.\n", 100*TooWide)
	}
	r.writeContenders(&b)
	for i := range r.Events {
		r.Events[i].write(&b)
	}
	r.writeQueries(&b)
	for i, problem := range r.Problems() {
		if len(r.Reports) > 0 {
			break // each has its own
		}
		if i == 0 {
			b.WriteString("\nProblems\n")
		}
		fmt.Fprintf(&b, "  %s\n", oneLine(problem))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// oneLine cuts what an error of many keys and nodes has to say. The JSON has
// all of it.
func oneLine(s string) string {
	const most = 160
	s, rest, _ := strings.Cut(s, "\n")
	if len(s) > most {
		s, rest = s[:most], s[most:]
	}
	if rest != "" {
		s += " ..."
	}
	return s
}

func (r *Report) writeHead(w io.Writer) {
	m, v := r.Machine, r.Versions
	how := ""
	if r.Rounds > 0 {
		how = fmt.Sprintf(", %d rounds", r.Rounds)
	}
	if r.WindowSeconds > 0 {
		how += fmt.Sprintf(", windows of %v", seconds(r.WindowSeconds).Round(time.Millisecond))
	}
	if r.Processes > 0 {
		how += ", " + processes(r.Processes)
	}
	fmt.Fprintf(w, "%s, %s%s, took %v\n", r.Scenario, r.Date.Format(time.DateOnly), how, seconds(r.Took).Round(time.Second))
	fmt.Fprintf(w, "%s, %d cores, %s, kernel %s, load %s before\n", m.CPU, m.Cores, m.OS, m.Kernel, m.Load)
	fmt.Fprintln(w, v)
	for _, s := range r.Setting {
		fmt.Fprintf(w, "%s\n", s)
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// writeGroup prints a table of rows and tells whether one is marked as wide.
func writeGroup(w io.Writer, g Group) (wide bool) {
	fmt.Fprintf(w, "\n%s\n", g.Title)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  ratio\tquartiles\tfloor\ttarget\tresult\twhat\tmeasured")
	for _, row := range g.Rows {
		mark := " "
		if row.Figure.Wide() {
			mark, wide = "~", true
		}
		fmt.Fprintf(t, "%s %s\t%s\t%s\t%s\t%s\t%s\t%s\n", mark, row.ratioString(), row.Figure.spreadString(),
			boundString(row.Floor), boundString(row.Target), resultString(row), row.What, row.measuredString())
	}
	t.Flush()
	return wide
}

func resultString(row Row) string {
	if row.Verdict == NoClaim {
		return "-"
	}
	return string(row.Verdict)
}

func (row *Row) ratioString() string {
	if !row.Figure.Measured() {
		return "-" // the result says it
	}
	if row.Baseline == "" {
		return row.Figure.String()
	}
	return row.Figure.String() + "x"
}

func boundString(bound *float64) string {
	if bound == nil {
		return "-"
	}
	return strconv.FormatFloat(*bound, 'g', 3, 64)
}

// measuredString is what the figure came from, "312k/s to 45.1k/s".
func (row *Row) measuredString() string {
	s := quantityString(row.Own, row.Quantity)
	if row.Baseline != "" && row.Figure.Measured() {
		s += " to " + quantityString(row.Base, row.Quantity)
	}
	return s
}

// A column is a quantity in the table of contenders.
type column struct {
	quantity Quantity
	head     string
}

func columns() []column {
	return []column{
		{Throughput, "rate"},
		{LatencyP50, "median"},
		{LatencyP99, "p99"},
		{CPUPerOp, "CPU/op"},
		{ProxyCPUPerOp, "proxy CPU"},
		{AllocsPerOp, "allocs/op"},
		{OpsPerWrite, "per write"},
		{BesideThroughput, "beside"},
		{GoroutinesPerNode, "goroutines"},
		{KiBPerNode, "KiB"},
		{IdleMiB, "used"},
		{UnusedIdleMiB, "unused"},
		{MovedByJoin, "moved, +1"},
		{NeedlessByJoin, "needless"},
		{MovedByLeave, "moved, -1"},
		{NeedlessByLeave, "needless"},
		{LargestShare, "largest"},
		{SmallestShare, "smallest"},
		{KeysPlaced, "keys"},
		{OriginCallsJoin, "calls, join"},
		{OriginCallsLeave, "calls, leave"},
		{HitRatioBefore, "hits before"},
		{HitRatioJoin, "after join"},
		{HitRatioJoinLow, "lowest"},
		{HitRatioLeave, "after leave"},
		{HitRatioLeaveLow, "lowest"},
		{ServedJoin, "served"},
		{ReadsFailed, "failed"},
		{LatencyMax, "longest"},
		{ServedDown, "served, down"},
		{FailedDown, "failed, down"},
		{ErrorTime, "errors for"},
		{HitRatioDown, "hits, down"},
		{ServedBack, "served, back"},
		{FailedBack, "failed, back"},
		{HitRatioBack, "hits, back"},
		{LookupTime, "lookup"},
		{BuildTime, "build"},
		{RingMemory, "memory"},
	}
}

// writeContenders prints every contender of every experiment.
func (r *Report) writeContenders(w io.Writer) {
	for _, e := range r.Experiments {
		fmt.Fprintf(w, "\n%s: %s\n", e.Name, e.About)
		e.write(w)
	}
}

// write prints the contenders with the columns that any of them has.
func (r *Results) write(w io.Writer) {
	var used []column
	for _, c := range columns() {
		if r.any(func(name string) bool { return r.Figure(name, c.quantity).Measured() }) {
			used = append(used, c)
		}
	}
	compared := r.any(func(name string) bool { return r.Ratio(name, r.Baseline, Throughput).Measured() })
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if compared {
		fmt.Fprint(t, "  ratio\tcontender")
	} else {
		fmt.Fprint(t, "  contender")
	}
	for _, c := range used {
		fmt.Fprintf(t, "\t%s", c.head)
	}
	fmt.Fprintln(t)
	for _, name := range r.Contenders {
		fmt.Fprint(t, "  ")
		if compared {
			ratio := "-"
			if f := r.Ratio(name, r.Baseline, Throughput); f.Measured() {
				ratio = f.String() + "x"
			}
			fmt.Fprintf(t, "%s\t", ratio)
		}
		fmt.Fprint(t, name)
		for _, c := range used {
			fmt.Fprintf(t, "\t%s", quantityString(r.Figure(name, c.quantity), c.quantity))
		}
		if !r.measured(name) {
			fmt.Fprint(t, "\tnot measured")
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}

func (r *Results) any(holds func(contender string) bool) bool {
	return slices.ContainsFunc(r.Contenders, holds)
}

// measured tells whether a contender has any figure at all.
func (r *Results) measured(contender string) bool {
	for _, c := range columns() {
		if r.Figure(contender, c.quantity).Measured() {
			return true
		}
	}
	return false
}

// quantityString prints a figure's median with its unit.
func quantityString(f Figure, q Quantity) string {
	if !f.Measured() {
		return "-"
	}
	return valueString(f.Median(), q)
}

func valueString(x float64, q Quantity) string {
	switch q {
	case Throughput, BesideThroughput:
		switch {
		case x >= 1e6:
			return threeDigits(x/1e6) + "M/s"
		case x >= 1e3:
			return threeDigits(x/1e3) + "k/s"
		}
		return threeDigits(x) + "/s"
	case LatencyP50, LatencyP99, LatencyP999, LateP50, LateP99, LateP999, LateMax, LatencyMax, ErrorTime, CPUPerOp, ProxyCPUPerOp:
		if x >= 1e6 {
			return threeDigits(x/1e6) + "ms"
		}
		return threeDigits(x/1e3) + "us"
	case LookupTime, BuildTime:
		switch {
		case x >= 1e6:
			return threeDigits(x/1e6) + "ms"
		case x >= 1e3:
			return threeDigits(x/1e3) + "us"
		}
		return threeDigits(x) + "ns"
	case RingMemory:
		return threeDigits(x/1024) + "KiB"
	case MovedByJoin, MovedByLeave, NeedlessByJoin, NeedlessByLeave:
		return threeDigits(100*x) + "%"
	case HitRatioBefore, HitRatioJoin, HitRatioJoinLow, HitRatioLeave, HitRatioLeaveLow, ServedJoin, ServedDown, ServedBack, HitRatioDown, HitRatioBack:
		return threeDigits(100*x) + "%"
	case KeysPlaced, OriginCallsJoin, OriginCallsLeave, ReadsFailed, FailedDown, FailedBack:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case KiBPerNode:
		return threeDigits(x) + "KiB"
	case IdleMiB, UnusedIdleMiB:
		return threeDigits(x) + "MiB"
	}
	return threeDigits(x)
}
