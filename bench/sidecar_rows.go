package bench

// sidecarGroups are the claims about the sidecar, then what is good to know
// beside.
func sidecarGroups() []Group {
	return []Group{
		{Title: "the sidecar; a ratio (x) is to nutcracker unless the row says otherwise", Rows: sidecarRows()},
		{Title: "to be known beside; without a floor", Rows: sidecarBesideRows()},
	}
}

func sidecarRows() []Row {
	row := func(what, experiment string, q Quantity, floor, target float64) Row {
		return Row{
			What: what, Experiment: experiment, Quantity: q, Contender: nameSidecar, Baseline: nameNutcracker,
			Floor: bound(floor), Target: bound(target),
		}
	}
	less := func(r Row) Row { r.LessIsBetter = true; return r }
	between := func(contender, baseline string, r Row) Row { r.Contender, r.Baseline = contender, baseline; return r }
	return []Row{
		row("memcached protocol, 50 connections, one get at a time: throughput", "memcached/50", Throughput, 1.0, 1.2),
		row("the same with 16 gets pipelined", "memcached/50x16", Throughput, 1.5, 2.0),
		less(row("one connection, one get at a time: median latency", "memcached/1", LatencyP50, 1.4, 1.1)),
		between(nameUnary, nameCheck, row("gRPC unary Get, 64 callers: share of an empty call (health Check)", "grpc/64", Throughput, 0.7, 0.85)),
		between(nameAlso, nameUnary, row("gRPC Stream, 64 requests under way, many in a message: times unary Get", "grpc/64", Throughput, 3, 6)),
		between(nameSidecar, "", less(row("MiB for 10,000 idle connections that were used once", "idle", IdleMiB, 300, 150))),
	}
}

func sidecarBesideRows() []Row {
	row := func(what, experiment string, q Quantity) Row {
		return Row{
			What: what, Experiment: experiment, Quantity: q, LessIsBetter: q != Throughput,
			Contender: nameSidecar, Baseline: nameNutcracker,
		}
	}
	between := func(contender, baseline string, r Row) Row { r.Contender, r.Baseline = contender, baseline; return r }
	return []Row{
		row("p99 latency, 50 connections", "memcached/50", LatencyP99),
		row("p99 latency of a batch, 50 connections with 16 gets pipelined", "memcached/50x16", LatencyP99),
		row("p99 latency, 1 connection", "memcached/1", LatencyP99),
		row("CPU of the proxy per get, 50 connections", "memcached/50", ProxyCPUPerOp),
		row("CPU of the proxy per get, 50 connections with 16 gets pipelined", "memcached/50x16", ProxyCPUPerOp),
		row("CPU of the proxy per get, 1 connection", "memcached/1", ProxyCPUPerOp),
		between(nameSidecar, nameDirect, row("share of memcached itself, 50 connections", "memcached/50", Throughput)),
		between(nameSidecar, nameDirect, row("share of memcached itself, 50 connections with 16 gets pipelined", "memcached/50x16", Throughput)),
		between(nameSidecar, nameDirect, row("median latency to that of memcached itself, 1 connection", "memcached/1", LatencyP50)),
		between(nameUnary, nameCheck, row("p99 latency of a gRPC unary Get to that of an empty call", "grpc/64", LatencyP99)),
		between(nameUnary, nameCheck, row("CPU of the sidecar for a gRPC unary Get to that of an empty call", "grpc/64", ProxyCPUPerOp)),
		between(nameStream, nameUnary, row("gRPC Stream, 64 requests under way, each in a message of its own: times unary Get", "grpc/64", Throughput)),
		between(nameAlso, nameUnary, row("CPU of the sidecar for a Get in a Stream, many in a message, to that of a unary one", "grpc/64", ProxyCPUPerOp)),
		between(nameStream, nameUnary, row("CPU of the sidecar for a Get in a Stream to that of a unary one", "grpc/64", ProxyCPUPerOp)),
		between(nameSidecar, "", row("MiB for 10,000 idle connections that were never used", "idle", UnusedIdleMiB)),
		row("MiB for 10,000 idle connections that were used once, to nutcracker's", "idle", IdleMiB),
	}
}
