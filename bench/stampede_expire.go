package bench

import (
	"context"
	"errors"
	"time"
)

var expireEvent = stampedeEvent{
	name:  "expire",
	about: "the hot key expires every 4 s, early refresh is on",
	rows: []EventRow{
		{What: "loads of the hot key per expiry", Figure: "loads_per_expiry", Target: exactly(1)},
		{What: "the most for a single one", Figure: "loads_most", Target: exactly(1)},
		{What: "reads that noticed: were served stale, or waited for half a load or longer", Figure: "noticed", Target: exactly(0)},
		{What: "99th percentile of the hot key's reads, ms", Figure: "p99_hot_ms"},
		{What: "reads that failed", Figure: "failed", Target: exactly(0)},
		{What: "origin queries a second, peak", Figure: "queries_peak"},
		{What: "expiries", Figure: "expiries"},
	},
	run: runExpire,
}

const (
	// expireTTL is long enough for early refresh to have a whole second, the
	// quarter of it, before the end.
	expireTTL        = 4 * time.Second
	expireTimes      = 4
	expireTimesNaive = 2
)

func runExpire(ctx context.Context, b *stampedeBench, r *EventRun) error {
	f, err := b.fleet(ctx, r.Contender, cacheConfig{TTL: 10 * time.Minute})
	if err != nil {
		return err
	}
	defer f.close()
	keys := b.keys()
	if err := f.warm(ctx, keys, expireTTL); err != nil {
		return err
	}
	length := time.Duration(b.times(r, expireTimes, expireTimesNaive)) * expireTTL
	start, wait := f.drive(ctx, driveSpec{Keys: keys, For: length, Rate: b.rate, HotTTL: expireTTL})
	d, err := wait()
	if err != nil {
		return err
	}
	end := start.Add(length)
	loads := bursts(b.origin.of(keys.hot(), start), expireTTL/4)
	if len(loads) == 0 {
		return errors.New("the hot key did not expire")
	}
	r.list("loads", loads)
	r.figure("expiries", float64(len(loads)))
	r.figure("loads_per_expiry", mean(loads))
	r.figure("loads_most", highest(loads))
	queryRates(r, b.origin.of(keys.Prefix, start), start, end)
	reads, err := f.timedReads(ctx, true)
	if err != nil {
		return err
	}
	r.latencies("hot", reads)
	stats, err := f.stats(ctx)
	if err != nil {
		return err
	}
	r.figure("waited", slow(reads))
	r.figure("served_stale", float64(stats.HotStale))
	r.figure("noticed", slow(reads)+float64(stats.HotStale))
	r.figure("early_refreshes", float64(stats.Cache.EarlyRefreshes))
	r.reads(d)
	return nil
}

// bursts counts the calls that belong together: each began less than gap after
// the one before.
func bursts(calls []originCall, gap time.Duration) (sizes []float64) {
	var last time.Time
	for _, c := range calls {
		if len(sizes) == 0 || c.Begin.Sub(last) >= gap {
			sizes = append(sizes, 0)
		}
		sizes[len(sizes)-1]++
		last = c.Begin
	}
	return sizes
}
