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
	// MovedByJoin and MovedByLeave are the shares of all keys whose owner
	// changes when a node is added or removed; NeedlessByJoin and
	// NeedlessByLeave those of them whose old and new owner stay.
	MovedByJoin     Quantity = "moved_by_join"
	MovedByLeave    Quantity = "moved_by_leave"
	NeedlessByJoin  Quantity = "needless_by_join"
	NeedlessByLeave Quantity = "needless_by_leave"
	// ReadsDone, ReadsHit, ReadsFailed and OriginCalls are counts of a
	// timeline, in all or per step.
	ReadsDone   Quantity = "reads"
	ReadsHit    Quantity = "hits"
	ReadsFailed Quantity = "failed"
	OriginCalls Quantity = "origin_calls"
	// OriginCallsJoin and the next seven are of the time after a server joined,
	// after another left, and before. The low ones are of the worst step.
	// ServedJoin is the share of the offered reads that were answered.
	OriginCallsJoin  Quantity = "origin_calls_after_join"
	OriginCallsLeave Quantity = "origin_calls_after_leave"
	HitRatioBefore   Quantity = "hit_ratio_before"
	HitRatioJoin     Quantity = "hit_ratio_after_join"
	HitRatioJoinLow  Quantity = "hit_ratio_after_join_lowest"
	HitRatioLeave    Quantity = "hit_ratio_after_leave"
	HitRatioLeaveLow Quantity = "hit_ratio_after_leave_lowest"
	ServedJoin       Quantity = "served_after_join"
	// ServedDown and the next six are of the time in which a server is down,
	// or after it is back. ErrorTime is from the fault to the end of the last
	// read that failed before it was back.
	ServedDown   Quantity = "served_while_down"
	ServedBack   Quantity = "served_after_back"
	FailedDown   Quantity = "failed_while_down"
	FailedBack   Quantity = "failed_after_back"
	ErrorTime    Quantity = "error_time_ns"
	HitRatioDown Quantity = "hit_ratio_while_down"
	HitRatioBack Quantity = "hit_ratio_after_back"
	// LatencyMax is the longest of all.
	LatencyMax Quantity = "latency_max_ns"
	// JoinToIdeal and LeaveToIdeal are the first two in units of the least that
	// has to move.
	JoinToIdeal  Quantity = "moved_by_join_to_ideal"
	LeaveToIdeal Quantity = "moved_by_leave_to_ideal"
	// LargestShare and SmallestShare are the share of keys of the nodes with
	// the most and the fewest, to the mean.
	LargestShare  Quantity = "largest_share_to_mean"
	SmallestShare Quantity = "smallest_share_to_mean"
	// KeysPlaced is how many keys the shares were counted over.
	KeysPlaced Quantity = "keys_placed"
	// LookupTime and BuildTime are for one lookup and for one ring.
	LookupTime Quantity = "lookup_ns"
	BuildTime  Quantity = "build_ns"
	// RingMemory is what one ring holds.
	RingMemory Quantity = "ring_bytes"
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

	series map[Quantity][]float64
}

// keep notes how a quantity went over the turn, a value per step of the
// experiment.
func (s Slot) keep(q Quantity, values []float64) {
	if s.series != nil {
		s.series[q] = values
	}
}

// A Contender is one way to do an experiment's work.
type Contender struct {
	Name string
	// Run takes one turn. It must end soon after ctx has. Nil for a contender
	// that is not installed: it prints as not measured.
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
	// Exact experiments count what comes out the same each time. One round
	// makes their figures, which have no spread.
	Exact bool
	// Step is the time between two values of a series, Marks are what happens
	// during a turn; both for experiments that keep series.
	Step  time.Duration
	Marks []Mark
	// Start, if not nil, is called before the first turn, and End after the
	// last one.
	Start func(ctx context.Context) error
	End   func()
}

// rounds is how many rounds the experiment has under a Runner's.
func (e *Experiment) rounds(most int) int {
	if e.Exact {
		return 1
	}
	if e.Rounds > 0 {
		return min(e.Rounds, most)
	}
	return most
}

// A Mark is something that happens during a turn.
type Mark struct {
	AtSeconds float64 `json:"at_seconds"`
	What      string  `json:"what"`
}

// Results are the rounds of an experiment, as they were measured.
type Results struct {
	Name       string   `json:"name"`
	About      string   `json:"about"`
	Baseline   string   `json:"baseline,omitempty"`
	Contenders []string `json:"contenders"`
	Rounds     []Round  `json:"rounds"`
	// Exact, StepSeconds and Marks are the Experiment's.
	Exact       bool    `json:"exact,omitempty"`
	StepSeconds float64 `json:"step_seconds,omitempty"`
	Marks       []Mark  `json:"marks,omitempty"`
	// Error says why the experiment could not be started.
	Error string `json:"error,omitempty"`
}

// A Round is a turn of each contender.
type Round struct {
	// Order is the one in which they took their turns.
	Order []string `json:"order"`
	// Samples is by contender. One that failed has none.
	Samples map[string]Sample `json:"samples"`
	// Series is by contender: a value for each step of the turn.
	Series map[string]map[Quantity][]float64 `json:"series,omitempty"`
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
	return r.figure(values)
}

func (r *Results) figure(values []float64) Figure {
	if r.Exact {
		return exactFigure(values)
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
	return r.figure(values)
}
