package bench

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteTable prints the report for people: the rows with the ratio first, then
// all contenders of all experiments, then what went wrong.
func (r *Report) WriteTable(w io.Writer) error {
	var b strings.Builder
	r.writeHead(&b)
	wide := false
	for _, g := range r.Groups {
		wide = writeGroup(&b, g) || wide
	}
	if wide {
		fmt.Fprintf(&b, "\n~ The quartiles are further apart than %.0f%% of the median: only what every\n  round says counts as a result.\n", 100*TooWide)
	}
	r.writeContenders(&b)
	for i, problem := range r.Problems() {
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
	fmt.Fprintf(w, "%s, %s, %d rounds, windows of %v, took %v\n", r.Scenario, r.Date.Format(time.DateOnly), r.Rounds,
		seconds(r.WindowSeconds).Round(time.Millisecond), seconds(r.Took).Round(time.Second))
	fmt.Fprintf(w, "%s, %d cores, %s, kernel %s, load %s before\n", m.CPU, m.Cores, m.OS, m.Kernel, m.Load)
	fmt.Fprintf(w, "ringside %s, memcached %s, gomemcache %s, %s\n", v.Ringside, v.Memcached, v.Gomemcache, v.Go)
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

// writeContenders prints every contender of every experiment.
func (r *Report) writeContenders(w io.Writer) {
	quantities := []Quantity{Throughput, LatencyP50, LatencyP99, CPUPerOp, ProxyCPUPerOp, AllocsPerOp, OpsPerWrite, BesideThroughput, GoroutinesPerNode, KiBPerNode, IdleMiB, UnusedIdleMiB}
	heads := []string{"rate", "median", "p99", "CPU/op", "proxy CPU", "allocs/op", "per write", "beside", "goroutines", "KiB", "used", "unused"}
	for _, e := range r.Experiments {
		fmt.Fprintf(w, "\n%s: %s\n", e.Name, e.About)
		var used []int // columns that any contender has
		for i, q := range quantities {
			for _, c := range e.Contenders {
				if e.Figure(c, q).Measured() {
					used = append(used, i)
					break
				}
			}
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprint(t, "  ratio\tcontender")
		for _, i := range used {
			fmt.Fprintf(t, "\t%s", heads[i])
		}
		fmt.Fprintln(t)
		for _, c := range e.Contenders {
			ratio := "-"
			if f := e.Ratio(c, e.Baseline, Throughput); f.Measured() {
				ratio = f.String() + "x"
			}
			fmt.Fprintf(t, "  %s\t%s", ratio, c)
			for _, i := range used {
				fmt.Fprintf(t, "\t%s", quantityString(e.Figure(c, quantities[i]), quantities[i]))
			}
			fmt.Fprintln(t)
		}
		t.Flush()
	}
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
	case LatencyP50, LatencyP99, LatencyP999, LateP50, LateP99, LateP999, LateMax, CPUPerOp, ProxyCPUPerOp:
		if x >= 1e6 {
			return threeDigits(x/1e6) + "ms"
		}
		return threeDigits(x/1e3) + "us"
	case KiBPerNode:
		return threeDigits(x) + "KiB"
	case IdleMiB, UnusedIdleMiB:
		return threeDigits(x) + "MiB"
	}
	return threeDigits(x)
}
