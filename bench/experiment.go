package bench

import (
	"context"
	"fmt"
	"math"
	"time"
)

// A Quantity is something that is measured, with its unit in its name.
type Quantity string

const (
	// Throughput counts operations that ended within the window.
	Throughput Quantity = "ops_per_second"
	// LatencyP50 and the next two are quantiles of the callers' latency.
	LatencyP50  Quantity = "latency_p50_ns"
	LatencyP99  Quantity = "latency_p99_ns"
	LatencyP999 Quantity = "latency_p999_ns"
	// CPUPerOp is this process's CPU time, user and system.
	CPUPerOp Quantity = "cpu_ns_per_op"
	// ProxyCPUPerOp is that of the process that the load went through.
	ProxyCPUPerOp Quantity = "proxy_cpu_ns_per_op"
	// AllocsPerOp and BytesPerOp are what the operations allocated.
	AllocsPerOp Quantity = "allocs_per_op"
	BytesPerOp  Quantity = "alloc_bytes_per_op"
	// OpsPerWrite is how many requests shared a write to a socket.
	OpsPerWrite Quantity = "ops_per_write"
	// BesideThroughput counts what a Load's Beside did meanwhile.
	BesideThroughput Quantity = "beside_ops_per_second"
	// LateP50 and the next three are quantiles, and the most, of how far past
	// its deadline a caller returned.
	LateP50  Quantity = "late_p50_ns"
	LateP99  Quantity = "late_p99_ns"
	LateP999 Quantity = "late_p999_ns"
	LateMax  Quantity = "late_max_ns"
	// GoroutinesPerNode and KiBPerNode are what an idle client holds. KiB
	// are live heap and stacks.
	GoroutinesPerNode Quantity = "goroutines_per_node"
	KiBPerNode        Quantity = "kib_per_node"
	// IdleMiB and UnusedIdleMiB are the resident memory that a process has more
	// with idle connections, which had a request each or none.
	IdleMiB       Quantity = "idle_mib"
	UnusedIdleMiB Quantity = "unused_idle_mib"
)

// A Sample is what one contender measured in one round. What is not in it was
// not measured.
type Sample map[Quantity]float64

// check refuses what no measurement can give, such as a division by no
// operations.
func (s Sample) check() error {
	for q, v := range s {
		if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
			return fmt.Errorf("%s is %v", q, v)
		}
	}
	return nil
}

// A Slot is one turn of one contender.
type Slot struct {
	// Round counts from 0.
	Round int
	// Warmup is how long to work before measuring, Measure how long to
	// measure. A contender whose work is counted, not timed, ignores both.
	Warmup, Measure time.Duration
}

// A Contender is one way to do an experiment's work.
type Contender struct {
	Name string
	// Run takes one turn. It must end soon after ctx has.
	Run func(ctx context.Context, slot Slot) (Sample, error)
}

// An Experiment is work that all its contenders do, one after the other.
type Experiment struct {
	// Name is short, as in "get/64"; About says what is done.
	Name, About string
	Contenders  []Contender
	// Baseline is the contender that the others are compared with, in the
	// table of all contenders. Empty where only figures of its own count.
	Baseline string
	// Fixed is about how long a turn takes that ignores the Slot's times; 0
	// for one that keeps them.
	Fixed time.Duration
	// Rounds is how many rounds it has at most; 0 is the Runner's. It is for
	// what takes long and varies little.
	Rounds int
	// Start, if not nil, is called before the first turn, and End after the
	// last one.
	Start func(ctx context.Context) error
	End   func()
}

// rounds is how many rounds the experiment has under a Runner's.
func (e *Experiment) rounds(most int) int {
	if e.Rounds > 0 {
		return min(e.Rounds, most)
	}
	return most
}

// Results are the rounds of an experiment, as they were measured.
type Results struct {
	Name       string   `json:"name"`
	About      string   `json:"about"`
	Baseline   string   `json:"baseline,omitempty"`
	Contenders []string `json:"contenders"`
	Rounds     []Round  `json:"rounds"`
	// Error says why the experiment could not be started.
	Error string `json:"error,omitempty"`
}

// A Round is a turn of each contender.
type Round struct {
	// Order is the one in which they took their turns.
	Order []string `json:"order"`
	// Samples is by contender. One that failed has none.
	Samples map[string]Sample `json:"samples"`
	// Errors is by contender; one that failed once and then not has both.
	Errors map[string]string `json:"errors,omitempty"`
}

func (r Round) value(contender string, q Quantity) (float64, bool) {
	v, ok := r.Samples[contender][q]
	return v, ok
}

// Figure is a contender's own figure. It is not measured where r is nil or
// too few rounds have it.
func (r *Results) Figure(contender string, q Quantity) Figure {
	if r == nil {
		return Figure{}
	}
	var values []float64
	for _, round := range r.Rounds {
		if v, ok := round.value(contender, q); ok {
			values = append(values, v)
		}
	}
	return newFigure(values)
}

// Ratio is a contender's figure divided by the baseline's, round by round. A
// round in which one of them is missing, or the baseline is 0, does not count.
func (r *Results) Ratio(contender, baseline string, q Quantity) Figure {
	if r == nil {
		return Figure{}
	}
	var values []float64
	for _, round := range r.Rounds {
		a, ok1 := round.value(contender, q)
		b, ok2 := round.value(baseline, q)
		if ok1 && ok2 && b != 0 {
			values = append(values, a/b)
		}
	}
	return newFigure(values)
}
