package bench

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"time"
)

var raceEvent = stampedeEvent{
	name:  "race",
	about: "Refresh after a committed write with readers racing; naive and singleflight delete instead",
	rows: []EventRow{
		{What: "reads that began after Refresh had returned and saw an older value", Figure: "older", Target: exactly(0)},
		{What: "rounds: writes that were followed by a Refresh that returned", Figure: "rounds", Target: atLeast(raceRounds)},
		{What: "reads", Figure: "reads"},
		{What: "loads that were delayed for 1 to 30 ms", Figure: "delayed"},
		{What: "leases that were taken over", Figure: "takeovers"},
		{What: "processes that were killed meanwhile", Figure: "killed"},
		{What: "Refreshes that gave an error, and so promised nothing", Figure: "refresh_errors"},
		{What: "reads that failed", Figure: "failed"},
	},
	run: runRace,
}

const (
	raceKeys   = 64
	raceRounds = 100_000
	// raceLimit is how long the rounds may take; for the others it is raceNaive.
	raceLimit = 45 * time.Second
	raceLeast = 15 * time.Second
	raceNaive = 4 * time.Second
	raceKills = 4
	// In each process.
	raceWriters = 4
	raceReaders = 2
)

// The rounds are counted where a process that is killed can not lose them.
const (
	wordRounds = iota
	wordReads
	wordOlder
	wordDelayed
	wordFailed
	wordRefreshErrors
	wordTakeovers
	// wordVersions is the first of raceKeys committed versions: the origin.
	wordVersions
	// wordFloors is the first of raceKeys floors: the newest version whose
	// Refresh has returned. No read that begins now may see less.
	wordFloors = wordVersions + raceKeys
	raceWords  = wordFloors + raceKeys
)

func runRace(ctx context.Context, b *stampedeBench, r *EventRun) error {
	keys := b.keys()
	keys.Count = raceKeys
	path := filepath.Join(b.dir, keys.Prefix+"shared")
	if err := createShared(path, raceWords); err != nil {
		return err
	}
	shared, err := openShared(path)
	if err != nil {
		return err
	}
	defer shared.close()
	setup := b.setup(r.Contender, cacheConfig{TTL: 10 * time.Minute, Lease: shortLease})
	setup.Shared = path
	f, err := startFleet(ctx, b.opts.Worker, b.opts.Processes, setup)
	if err != nil {
		return err
	}
	defer f.close()

	limit := b.scaled(raceNaive)
	if r.Contender == nameRingside {
		// The rounds take a small part of that. On a starved machine those of
		// a short run need more than their share.
		limit = max(b.scaled(raceLimit), raceLeast)
	}
	spec := raceSpec{
		Keys: keys, Until: time.Now().Add(limit).UnixNano(), Rounds: uint64(b.scaled(raceRounds)),
		Writers: raceWriters, Readers: raceReaders,
	}
	began := time.Now()
	killing, stop := context.WithCancel(ctx)
	killed := make(chan int)
	go func() { killed <- killSome(killing, f, &shared.words[wordRounds], spec.Rounds) }()
	err = f.each(func(i int) error { return raceOn(ctx, f, i, spec) })
	stop()
	r.figure("killed", float64(<-killed))
	if err != nil {
		return err
	}
	for name, word := range map[string]int{
		"rounds": wordRounds, "reads": wordReads, "older": wordOlder, "delayed": wordDelayed,
		"failed": wordFailed, "refresh_errors": wordRefreshErrors, "takeovers": wordTakeovers,
	} {
		r.figure(name, float64(shared.words[word].Load()))
	}
	r.figure("seconds", time.Since(began).Seconds())
	return nil
}

// killSome kills one worker after the other, at even distances on the way to
// all rounds, and tells how many. Leases that those held and loads that they
// had under way are left behind.
func killSome(ctx context.Context, f *fleet, rounds *atomic.Uint64, all uint64) int {
	for n := range raceKills {
		at := uint64(n+1) * all / (raceKills + 1)
		if await(ctx, time.Hour, func() bool { return rounds.Load() >= at }) != nil {
			return n
		}
		f.worker(n % len(f.workers)).kill()
	}
	return raceKills
}

// raceOn has the i-th worker race, and another in its place when it is killed.
func raceOn(ctx context.Context, f *fleet, i int, spec raceSpec) error {
	for {
		w := f.worker(i)
		_, err := w.ask(ctx, request{Race: &spec})
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-w.ended:
		case <-time.After(time.Second):
			return err
		}
		if err := f.restart(ctx, i); err != nil {
			return err
		}
	}
}
