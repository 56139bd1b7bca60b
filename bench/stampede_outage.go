package bench

import (
	"context"
	"fmt"
	"time"
)

var outageEvent = stampedeEvent{
	name:  "outage",
	about: fmt.Sprintf("the origin fails for 20 s while the values are stale; Lease is %v", shortLease),
	rows: []EventRow{
		{What: "reads that failed", Figure: "failed", Target: exactly(0)},
		{What: "loads of a key within a Lease (less 5%), most", Figure: "loads_per_lease", Target: atMost(1)},
		{What: "reads that waited for half a load or longer", Figure: "waited", Target: exactly(0)},
		{What: "99th percentile of all reads, ms", Figure: "p99_all_ms"},
		{What: "origin queries a second, mean", Figure: "queries_per_second"},
		{What: "origin queries a second, peak", Figure: "queries_peak"},
		{What: "reads", Figure: "reads"},
		{What: "seconds", Figure: "seconds"},
	},
	run: runOutage,
}

const (
	outageLength      = 20 * time.Second
	outageLengthNaive = 3 * time.Second
	// outageTTL has all values due when the reading begins.
	outageTTL = time.Second
)

func runOutage(ctx context.Context, b *stampedeBench, r *EventRun) error {
	f, err := b.fleet(ctx, r.Contender, cacheConfig{TTL: outageTTL, Lease: shortLease})
	if err != nil {
		return err
	}
	defer f.close()
	keys := b.keys()
	if err := f.warm(ctx, keys, 0); err != nil {
		return err
	}
	b.origin.fail(true)
	defer b.origin.fail(false)
	// The node's clock ticks in whole seconds.
	if err := rest(ctx, 2*outageTTL); err != nil {
		return err
	}
	length := outageLengthNaive
	if r.Contender == nameRingside {
		length = outageLength
	}
	length = max(b.scaled(length), time.Second)
	start, wait := f.drive(ctx, driveSpec{Keys: keys, For: length, Rate: b.rate})
	d, err := wait()
	if err != nil {
		return err
	}
	end := start.Add(length)
	calls := b.origin.of(keys.Prefix, start)
	queryRates(r, calls, start, end)
	r.figure("loads_per_lease", float64(mostWithin(calls, shortLease-shortLease/20)))
	reads, err := f.timedReads(ctx, false)
	if err != nil {
		return err
	}
	r.latencies("all", reads)
	r.figure("waited", slow(reads))
	r.figure("seconds", length.Seconds())
	r.reads(d)
	return nil
}

// mostWithin is the highest number of calls of one key that began within d.
func mostWithin(calls []originCall, d time.Duration) int {
	most := 0
	recent := map[string][]time.Time{} // of each key, those less than d ago
	for _, c := range calls {
		list := append(recent[c.Key], c.Begin)
		for c.Begin.Sub(list[0]) >= d {
			list = list[1:]
		}
		recent[c.Key] = list
		most = max(most, len(list))
	}
	return most
}
