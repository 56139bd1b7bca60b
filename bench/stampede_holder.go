package bench

import (
	"context"
	"fmt"
	"sync"
	"time"
)

var holderEvent = stampedeEvent{
	name:  "holder",
	about: fmt.Sprintf("the process that loads is killed with SIGKILL while loading; Lease is %v", shortLease),
	rows: []EventRow{
		{What: "missing key: loads after the death, mean", Figure: "missing_loads", Target: exactly(1)},
		{What: "missing key: most", Figure: "missing_loads_most", Target: exactly(1)},
		{What: "missing key: from the first read after the death to the takeover, s, longest", Figure: "missing_takeover_s", Target: atMost(takeoverLimit)},
		{What: "missing key: from that read until every process has the value, s, longest", Figure: "missing_served_s"},
		{What: "stale value: loads after the death, mean", Figure: "stale_loads", Target: exactly(1)},
		{What: "stale value: most", Figure: "stale_loads_most", Target: exactly(1)},
		{What: "stale value: from the first read after the death to the takeover, s, longest", Figure: "stale_takeover_s", Target: atMost(takeoverLimit)},
		{What: "stale value: reads that waited for half a load or longer", Figure: "waited", Target: exactly(0)},
		{What: "reads that failed", Figure: "failed", Target: exactly(0)},
		{What: "keys whose loader died", Figure: "keys"},
	},
	run: runHolder,
}

const (
	holderKeys        = 4 // of each kind, held by one process
	holderRounds      = 2
	holderRoundsNaive = 1
	// holderRate is how often a second the stale values are read in all.
	holderRate = 400
	// takeoverLimit is Lease + 20%, in seconds.
	takeoverLimit = 1.2 * float64(shortLease) / float64(time.Second)
)

// A holderRun is one contender's part.
type holderRun struct {
	fleet  *fleet
	origin *origin
	run    *EventRun

	mu                      sync.Mutex // guards what follows
	failed                  int
	waited                  float64
	loads, takeover, served map[string][]float64 // by "missing" and "stale"
}

func runHolder(ctx context.Context, b *stampedeBench, r *EventRun) error {
	f, err := b.fleet(ctx, r.Contender, cacheConfig{TTL: 10 * time.Minute, Lease: shortLease})
	if err != nil {
		return err
	}
	defer f.close()
	h := &holderRun{
		fleet: f, origin: b.origin, run: r,
		loads: map[string][]float64{}, takeover: map[string][]float64{}, served: map[string][]float64{},
	}
	rounds := holderRoundsNaive
	if r.Contender == nameRingside {
		rounds = min(holderRounds, b.times(r, holderRounds, holderRoundsNaive))
	}
	for i := range rounds {
		if err := h.round(ctx, b.keys(), b.keys(), i%len(f.workers)); err != nil {
			return err
		}
	}
	for kind, loads := range h.loads {
		r.list(kind+"_loads", loads)
		r.list(kind+"_takeover_s", h.takeover[kind])
		r.figure(kind+"_loads", mean(loads))
		r.figure(kind+"_loads_most", highest(loads))
		if len(h.takeover[kind]) == len(loads) {
			r.figure(kind+"_takeover_s", highest(h.takeover[kind]))
		}
	}
	if len(h.served["missing"]) > 0 {
		r.figure("missing_served_s", highest(h.served["missing"]))
	}
	r.figure("keys", float64(len(h.loads["missing"])+len(h.loads["stale"])))
	r.figure("waited", h.waited)
	r.figure("failed", float64(h.failed))
	return nil
}

// round has a worker hold the leases of some missing keys and some stale
// values, and kills it.
func (h *holderRun) round(ctx context.Context, missing, stale keyspace, holder int) error {
	missing.Count, stale.Count = holderKeys, holderKeys
	if err := h.fleet.warm(ctx, stale, 0); err != nil {
		return err
	}
	began := time.Now()
	for _, key := range stale.names() {
		h.origin.commit(key)
		if _, err := h.fleet.worker(0).ask(ctx, request{Invalidate: key}); err != nil {
			return err
		}
	}
	// The answers are not waited for: there are none, or they are stale.
	asking, stop := context.WithCancel(ctx)
	var asked sync.WaitGroup
	for _, key := range append(missing.names(), stale.names()...) {
		h.origin.hang(key, time.Hour)
		spec := fetchSpec{Key: key, Start: time.Now().UnixNano(), Callers: 1, Timeout: time.Minute}
		asked.Go(func() { _, _ = h.fleet.worker(holder).ask(asking, request{Fetch: &spec}) })
	}
	err := await(ctx, 5*time.Second, func() bool {
		return len(h.origin.of(missing.Prefix, began))+len(h.origin.of(stale.Prefix, began)) == 2*holderKeys
	})
	h.fleet.worker(holder).kill()
	stop()
	asked.Wait()
	if err != nil {
		return fmt.Errorf("the holder loads: %w", err)
	}
	died := time.Now()
	if err := h.fleet.restart(ctx, holder); err != nil {
		return err
	}
	errs := make([]error, 2)
	var both sync.WaitGroup
	both.Go(func() { errs[0] = h.readMissing(ctx, missing, died) })
	both.Go(func() { errs[1] = h.readStale(ctx, stale, died) })
	both.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// readMissing has every worker read the missing keys, and wait.
func (h *holderRun) readMissing(ctx context.Context, keys keyspace, died time.Time) error {
	var reading sync.WaitGroup
	errs := make([]error, keys.Count)
	start := time.Now().Add(leadIn)
	for i, key := range keys.names() {
		reading.Go(func() {
			spec := fetchSpec{Key: key, Start: start.UnixNano(), Callers: 1, Timeout: 3 * shortLease}
			answers, err := h.fleet.ask(ctx, func(int) request { return request{Fetch: &spec} })
			if err != nil {
				errs[i] = err
				return
			}
			last := int64(0)
			h.mu.Lock()
			defer h.mu.Unlock()
			for _, a := range answers {
				last = max(last, a.Fetch[0].End)
				if a.Fetch[0].Error != "" {
					h.failed++
					h.run.FailedReads = map[string]int{a.Fetch[0].Error: h.failed}
				}
			}
			h.served["missing"] = append(h.served["missing"], time.Duration(last-start.UnixNano()).Seconds())
			h.count("missing", h.origin.of(key, died), start)
		})
	}
	reading.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// readStale has the workers read the stale values for long enough to see a
// second takeover, if there was one.
func (h *holderRun) readStale(ctx context.Context, keys keyspace, died time.Time) error {
	start, wait := h.fleet.drive(ctx, driveSpec{Keys: keys, For: 2*shortLease + time.Second/2, Rate: holderRate})
	d, err := wait()
	if err != nil {
		return err
	}
	reads, err := h.fleet.timedReads(ctx, false)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed += d.Failed
	if d.Failed > 0 {
		h.run.FailedReads = d.Errors
	}
	h.waited += slow(reads)
	for _, key := range keys.names() {
		h.count("stale", h.origin.of(key, died), start)
	}
	return nil
}

// count notes the loads after a death. The caller has the lock.
func (h *holderRun) count(kind string, calls []originCall, firstRead time.Time) {
	h.loads[kind] = append(h.loads[kind], float64(len(calls)))
	if len(calls) > 0 {
		h.takeover[kind] = append(h.takeover[kind], max(0, calls[0].Begin.Sub(firstRead).Seconds()))
	}
}
