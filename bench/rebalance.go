package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/stampede"
)

const (
	rebalanceDuration = 110 * time.Second
	rebalanceNodes    = 4 // before one more joins
	rebalanceKeys     = 20_000
	rebalanceSkew     = 1.1
	rebalanceCallers  = 64
	rebalanceRate     = 4000
	// The origin does 1,000 calls a second, a quarter of the reads.
	rebalanceAtOnce = 10
	rebalanceDelay  = 10 * time.Millisecond
	// rebalanceFill is about how long filling the cache for a turn takes.
	rebalanceFill = 1200 * time.Millisecond
	// leastTimeline is the shortest turn that shows anything.
	leastTimeline = 600 * time.Millisecond

	nameRingsideStampede = "ringside with stampede"
)

func rebalanceScenario() Scenario {
	return Scenario{
		Name: "rebalance", Short: "A server is added and one removed under load: hit ratio and origin calls over time",
		Long: `Read through real memcacheds from an origin of limited capacity while a server is
added and later another one is removed, and measure the hit ratio and the calls
to the origin over time: gomemcache with its own selector (hash modulo the number
of servers), ringside, and ringside with stampede control. It needs memcached in
PATH and takes about two minutes.`,
		Duration: rebalanceDuration, Least: 30 * time.Second, HasRounds: true, Run: Rebalance,
	}
}

// turnLength is how long a timeline may be, so that all turns of the contenders
// end within the duration.
func (o Options) turnLength(turns int, around time.Duration) (time.Duration, error) {
	length := o.Duration/time.Duration(turns*o.Rounds) - around
	if length < leastTimeline {
		need := (leastTimeline + around) * time.Duration(turns*o.Rounds)
		return 0, fmt.Errorf("%w: duration: %v is too short for %d rounds, they need %v", ErrOptions, o.Duration, o.Rounds, (need + time.Second).Truncate(time.Second))
	}
	return length.Truncate(timelineSteps * time.Millisecond), nil
}

// Rebalance shows what a change of the servers does to a read-through cache. It
// returns ErrOptions for options that it can not run with.
func Rebalance(ctx context.Context, opts Options) (*Report, error) {
	if opts.Rounds == 0 {
		opts.Rounds = MinRounds
	}
	opts = opts.withDefaults(rebalanceDuration)
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	length, err := opts.turnLength(3, rebalanceFill)
	if err != nil {
		return nil, err
	}
	p := newProgress(opts.Progress)
	p.say("starting servers")
	defer p.end()
	b := &rebalanceBench{line: timeline{callers: rebalanceCallers, rate: rebalanceRate, length: length}, keys: rebalanceKeys}
	defer b.close()
	if b.addrs, err = b.start(rebalanceNodes + 1); err != nil {
		return nil, fmt.Errorf("bench: rebalance: %w", err)
	}
	r := &Report{
		Scenario: "rebalance",
		Setting: []string{
			fmt.Sprintf("%d memcacheds with one thread on loopback; a fifth joins, then the first one leaves. All keys are in the cache before.", rebalanceNodes),
			fmt.Sprintf("%d keys by Zipf's law (s = %v), values of %d bytes; %d callers read %d times a second together, and leave reads out while they wait.", b.keys, rebalanceSkew, clientValue, rebalanceCallers, rebalanceRate),
			fmt.Sprintf("The origin takes %v for a call and does %d at a time, %.0f a second; the others wait in a line.", rebalanceDelay, rebalanceAtOnce, b.origin(corpus{}).perSecond()),
			"Get, and on a miss load and set; with stampede a read that waited for another's load is a miss as well.",
		},
		Versions: b.versions(opts.Version),
		Groups:   rebalanceGroups(),
	}
	if err := opts.run(ctx, r, []Experiment{b.experiment()}, p); errors.Is(err, ErrOptions) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("bench: rebalance: %w", err)
	}
	return r, nil
}

type rebalanceBench struct {
	servers
	addrs []string
	line  timeline
	keys  int
	turns int
}

// join and leave are when that happens.
func (b *rebalanceBench) join() time.Duration  { return b.line.length / 6 }
func (b *rebalanceBench) leave() time.Duration { return b.line.length * 7 / 12 }

func (b *rebalanceBench) origin(in corpus) *limited {
	return newLimited(rebalanceAtOnce, rebalanceDelay, in.value)
}

func (b *rebalanceBench) experiment() Experiment {
	e := Experiment{
		Name:     "rebalance",
		About:    "a server joins four, then another leaves; figures are for the time after each",
		Baseline: nameGomemcache,
		Fixed:    b.line.length + rebalanceFill,
		Step:     b.line.step(),
		Marks:    []Mark{{b.join().Seconds(), "a server joins"}, {b.leave().Seconds(), "another leaves"}},
	}
	for _, c := range []struct {
		name string
		open func([]string, *limited) (*changing, error)
	}{
		{nameRingside, openRingside},
		{nameRingsideStampede, openRingsideStampede},
		{nameGomemcache, openGomemcache},
	} {
		e.Contenders = append(e.Contenders, Contender{Name: c.name, Run: func(ctx context.Context, slot Slot) (Sample, error) {
			return b.measure(ctx, slot, c.open)
		}})
	}
	return e
}

// A changing is a cache whose servers change, in front of an origin.
type changing struct {
	store   *peer // to fill it
	read    func(ctx context.Context, key string) (outcome, []byte, error)
	servers func(addrs []string) error
	close   func()
}

// measure is one turn, on keys that no other turn has used.
func (b *rebalanceBench) measure(ctx context.Context, slot Slot, open func([]string, *limited) (*changing, error)) (Sample, error) {
	b.turns++
	space := keyspace{Prefix: fmt.Sprintf("rebalance:%04d:", b.turns), Count: b.keys, Skew: rebalanceSkew}
	in := corpus{keys: space.names(), valueSize: clientValue}
	origin := b.origin(in)
	cache, err := open(b.addrs[:rebalanceNodes], origin)
	if err != nil {
		return nil, err
	}
	defer cache.close()
	if err := in.store(ctx, cache.store); err != nil {
		return nil, err
	}
	pick := make([]func() int, b.line.callers)
	for i := range pick {
		pick[i] = space.ranks(rand.New(rand.NewPCG(uint64(i), 1)))
	}
	line := b.line
	line.happen = []happening{
		{b.join(), func() error { return cache.servers(b.addrs) }},
		{b.leave(), func() error { return cache.servers(b.addrs[1:]) }},
	}
	start := time.Now()
	ticks, err := line.run(ctx, func(ctx context.Context, caller int) outcome {
		key := in.keys[pick[caller]()]
		what, value, err := cache.read(ctx, key)
		if err != nil || in.check(key, value) != nil {
			return failed
		}
		return what
	})
	if err != nil {
		return nil, err
	}
	calls := origin.since(start)
	line.keep(slot, ticks)
	slot.keep(OriginCalls, line.counts(calls))

	before := line.between(ticks, 0, b.join())
	after := line.between(ticks, b.join(), b.leave())
	left := line.between(ticks, b.leave(), line.length)
	if before.reads == 0 || after.reads == 0 || left.reads == 0 {
		return nil, errors.New("no reads")
	}
	return Sample{
		OriginCallsJoin:  countBetween(calls, b.join(), b.leave()),
		OriginCallsLeave: countBetween(calls, b.leave(), line.length),
		HitRatioBefore:   before.hitRatio(),
		HitRatioJoin:     after.hitRatio(),
		HitRatioJoinLow:  line.lowestHitRatio(ticks, b.join(), b.leave()),
		HitRatioLeave:    left.hitRatio(),
		HitRatioLeaveLow: line.lowestHitRatio(ticks, b.leave(), line.length),
		ServedJoin:       float64(after.reads-after.failed) / after.offered,
		LatencyP99:       float64(after.p99),
		ReadsFailed:      float64(before.failed + after.failed + left.failed),
	}, nil
}

// throughCache gives what most services do: get, and on a miss load and set.
func throughCache(p *peer, origin *limited) func(context.Context, string) (outcome, []byte, error) {
	return func(ctx context.Context, key string) (outcome, []byte, error) {
		value, err := p.get(ctx, key)
		if err == nil {
			return hit, value, nil
		}
		// A cache that does not answer is a miss to them too.
		if value, err = origin.load(ctx, key); err != nil {
			return failed, nil, err
		}
		_ = p.set(ctx, key, value) // the caller has its value, whether it could be kept or not
		return miss, value, nil
	}
}

func openRingside(addrs []string, origin *limited) (*changing, error) {
	c, err := client.New(client.Config{Servers: addrs})
	if err != nil {
		return nil, err
	}
	p := ringsidePeer(nameRingside, c)
	return &changing{store: p, read: throughCache(p, origin), servers: c.SetServers, close: func() { p.close() }}, nil
}

func openRingsideStampede(addrs []string, origin *limited) (*changing, error) {
	c, err := client.New(client.Config{Servers: addrs})
	if err != nil {
		return nil, err
	}
	cache, err := stampede.New(c, stampede.Config{TTL: 10 * time.Minute, EarlyRefresh: -1})
	if err != nil {
		c.Close()
		return nil, err
	}
	p := ringsidePeer(nameRingsideStampede, c)
	p.set = func(ctx context.Context, key string, value []byte) error {
		// Filled as the cache itself does it.
		_, err := cache.Fetch(ctx, key, func(context.Context, string) ([]byte, error) { return value, nil })
		return err
	}
	return &changing{
		store: p,
		read: func(ctx context.Context, key string) (outcome, []byte, error) {
			start := time.Now()
			value, err := cache.Fetch(ctx, key, origin.load)
			switch {
			case err != nil:
				return failed, nil, err
			case time.Since(start) >= rebalanceDelay/2: // it loaded, or waited for a load
				return miss, value, nil
			}
			return hit, value, nil
		},
		servers: c.SetServers,
		close:   func() { cache.Close(); p.close() },
	}, nil
}

func openGomemcache(addrs []string, origin *limited) (*changing, error) {
	list := new(memcache.ServerList)
	if err := list.SetServers(addrs...); err != nil {
		return nil, err
	}
	p := gomemcachePeer(list, 0)
	return &changing{
		store: p, read: throughCache(p, origin),
		servers: func(addrs []string) error { return list.SetServers(addrs...) },
		close:   func() { p.close() },
	}, nil
}

func rebalanceGroups() []Group {
	row := func(contender, what string, q Quantity, floor, target *float64) Row {
		return Row{
			What: contender + ": " + what, Experiment: "rebalance", Quantity: q, LessIsBetter: true,
			Contender: contender, Baseline: nameGomemcache, Floor: floor, Target: target,
		}
	}
	own := func(r Row, less bool) Row { r.Baseline, r.LessIsBetter = "", less; return r }
	var rows []Row
	for _, name := range []string{nameRingside, nameRingsideStampede} {
		rows = append(rows,
			row(name, "origin calls after a server joined", OriginCallsJoin, bound(0.5), bound(0.4)),
			row(name, "origin calls after a server left", OriginCallsLeave, bound(0.5), bound(0.4)),
			row(name, "p99 latency of a read after a server joined", LatencyP99, nil, nil))
	}
	var beside []Row
	for _, name := range []string{nameRingside, nameRingsideStampede, nameGomemcache} {
		beside = append(beside,
			own(row(name, "lowest hit ratio after a server joined, in a sixtieth of the time", HitRatioJoinLow, nil, nil), false),
			own(row(name, "hit ratio from the join to the leaving", HitRatioJoin, nil, nil), false),
			own(row(name, "reads made and answered after the join, of those offered", ServedJoin, nil, nil), false),
			own(row(name, "reads that failed", ReadsFailed, nil, nil), true))
	}
	return []Group{
		{Title: "a ratio (x) is to gomemcache with its own selector", Rows: rows},
		{Title: "to be known beside; without a floor", Rows: beside},
	}
}
