// Package bench measures ringside against what people use today. Each
// scenario starts its own servers, is bounded in time, and gives a [Report]
// that prints as a table and is kept as JSON.
//
// The harness is the same for all scenarios. An [Experiment] has contenders
// that do the same work. A [Runner] lets them take turns, round by round in
// rotated order (A B C, B C A, C A B), so that whatever else the machine does
// hits all of them. A [Figure] is a ratio to the baseline contender that was
// computed within each round, and then the median of the rounds with their
// spread. Where the spread is too wide (see [TooWide]) the report says so
// instead of naming a winner. A [Figure] can only come from what was measured;
// without at least [MinRounds] rounds it prints as "not measured".
//
// Latencies go into an HDR histogram. CPU time is this process's alone, since
// the servers are processes of their own; it has the cost of the load loop in
// it, which is the same for every contender. The callers are a closed loop:
// each sends its next request when the last one was answered, so a latency is
// what a caller saw, and a contender that stalls is not sent more.
//
// Nothing here is safe for concurrent use: two measurements at a time would
// measure each other.
//
// [Scenarios] lists the scenarios, and [All] runs them one after the other. What
// is claimed over time comes from a timeline, a load at a given rate during
// which servers come, go, die or hang; its counts per step are kept with the
// rounds, and [WritePlots] draws them. [WritePage] makes docs/benchmarks.md.
//
//	report, err := bench.Client(ctx, bench.Options{})
//	err = report.WriteTable(os.Stdout)
package bench
