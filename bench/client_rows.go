package bench

import "fmt"

// clientGroups are the claims about the client, with the floor that must be
// reached and the target that we want: once for its defaults, once with two
// connections to each node, then what is good to know beside.
func clientGroups() []Group {
	return []Group{
		{Title: "ringside with its defaults; a ratio (x) is to gomemcache unless the row says otherwise", Rows: append(clientRows(nameRingside), allocRows()...)},
		{Title: twoConnsTitle, Rows: clientRows(nameTwoConns)},
		{Title: "to be known beside; without a floor", Rows: besideRows()},
	}
}

const twoConnsTitle = "the same with 2 connections to each node"

func bound(x float64) *float64 { return &x }

// clientRows are the rows that hold for one way to set the client up.
func clientRows(name string) []Row {
	more := func(what, experiment string, q Quantity, floor, target float64) Row {
		return Row{
			What: what, Experiment: experiment, Quantity: q, Contender: name, Baseline: nameGomemcache,
			Floor: bound(floor), Target: bound(target),
		}
	}
	less := func(what, experiment string, q Quantity, floor, target float64) Row {
		r := more(what, experiment, q, floor, target)
		r.LessIsBetter = true
		return r
	}
	wire := func(callers int) Row {
		r := more(fmt.Sprintf("share of the wire limit, %d goroutines", callers), fmt.Sprintf("get/%d", callers), Throughput, 0.6, 0.75)
		r.Baseline = nameWire
		return r
	}
	own := func(r Row) Row { r.Baseline = ""; return r }
	large := less("small Gets while 1 MiB values pass: p99, to that without", "large", LatencyP99, 5, 3)
	large.Contender, large.Baseline = passing(name), name
	return []Row{
		more("throughput, 64 goroutines", "get/64", Throughput, 6, 8),
		more("throughput, 256 goroutines", "get/256", Throughput, 7, 10),
		more("throughput, 8 goroutines", "get/8", Throughput, 1.3, 1.8),
		less("median latency, 1 goroutine", "get/1", LatencyP50, 1.05, 0.95),
		wire(64),
		wire(256),
		less("client CPU per Get, 64 goroutines", "get/64", CPUPerOp, 1.0/5, 1.0/7),
		less("p99 latency, 64 goroutines", "get/64", LatencyP99, 1.0/4, 1.0/6),
		more("GetMulti of 100 keys over 10 nodes, 1 goroutine", "multi/1", Throughput, 2, 4),
		more("GetMulti of 100 keys over 10 nodes, 8 goroutines", "multi/8", Throughput, 2, 4),
		more("GetMulti of 100 keys over 10 nodes, 64 goroutines", "multi/64", Throughput, 2, 4),
		large,
		own(less("goroutines for each of 100 idle nodes", "idle", GoroutinesPerNode, 3, 2)),
		own(less("KiB for each of 100 idle nodes, after a burst", "idle", KiBPerNode, 64, 16)),
	}
}

// allocRows hold for any number of connections.
func allocRows() []Row {
	row := func(what, experiment string, floor, target float64) Row {
		return Row{
			What: "allocations of a " + what, Experiment: "allocs/" + experiment, Quantity: AllocsPerOp,
			Contender: nameRingside, LessIsBetter: true, Resolution: 0.1,
			Floor: bound(floor), Target: bound(target),
		}
	}
	return []Row{
		row("Get", "Get", 2, 1),
		row("GetInto", "GetInto", 0, 0),
		row("Set", "Set", 0, 0),
		row("GetMulti of 100 hits", "GetMulti", 2*multiKeys+10, multiKeys),
	}
}

// wireMultiRow has no floor: it tells what GetMulti's ratio could be at most.
func wireMultiRow(callers int) Row {
	return Row{
		What: "share of the wire limit, GetMulti, " + plural(callers, "goroutine"), Experiment: fmt.Sprintf("multi/%d", callers),
		Quantity: Throughput, Contender: nameRingside, Baseline: nameWire,
	}
}

func besideRows() []Row {
	row := func(what, experiment string, q Quantity, less bool) Row {
		return Row{
			What: what, Experiment: experiment, Quantity: q, LessIsBetter: less,
			Contender: nameRingside, Baseline: nameGomemcache,
		}
	}
	of := func(contender string, r Row) Row { r.Contender = contender; return r }
	late := func(which string, q Quantity) Row {
		return Row{What: "how far past its deadline a caller returns, " + which, Experiment: "late", Quantity: q, LessIsBetter: true, Contender: nameRingside}
	}
	largeGomemcache := of(passing(nameGomemcache), row("gomemcache's small Gets while 1 MiB values pass: p99, to that without", "large", LatencyP99, true))
	return []Row{
		wireMultiRow(1), wireMultiRow(8), wireMultiRow(64),
		row("throughput, 1 goroutine", "get/1", Throughput, false),
		row("p99 latency, 1 goroutine", "get/1", LatencyP99, true),
		row("median latency, 64 goroutines", "get/64", LatencyP50, true),
		of(nameCancel, row("median latency, 1 goroutine, contexts that can end", "get/1", LatencyP50, true)),
		of(nameCancel, row("throughput, 64 goroutines, contexts that can end", "get/64", Throughput, false)),
		of(passing(nameRingside), Row{
			What: "1 MiB values that pass", Experiment: "large", Quantity: BesideThroughput, Baseline: passing(nameGomemcache),
		}),
		largeGomemcache,
		of(nameWire, row("the wire limit of GetMulti, 1 goroutine", "multi/1", Throughput, false)),
		of(nameWire, row("the wire limit of GetMulti, 8 goroutines", "multi/8", Throughput, false)),
		of(nameWire, row("the wire limit of GetMulti, 64 goroutines", "multi/64", Throughput, false)),
		of(nameWire, row("the wire limit of Get, 64 goroutines", "get/64", Throughput, false)),
		late("median", LateP50), late("99 %", LateP99), late("99.9 %", LateP999), late("most", LateMax),
	}
}
