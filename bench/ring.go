package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ringside-cache/ringside/ring"
)

const (
	ringDuration = 40 * time.Second
	ringKeys     = 1_000_000
	leastKeys    = 1000
	mostKeys     = 10_000_000
	mostNodes    = 1000
	// scoreBudget bounds the scores that a rendezvous ring computes for its
	// shares: with 1,000 nodes it looks at 1,000 scores for a key.
	scoreBudget = 3_000_000
	// lookupKeys are enough for no branch predictor to learn them, and few
	// enough to stay in the second cache: the placement is what is timed.
	lookupKeys = 1 << 13
)

// movesPerKey is about what counting one key in three placements takes.
const movesPerKey = 300 * time.Nanosecond

func ringSizes() []int { return []int{2, 5, 10, 50, 100, 1000} }

func ringScenario() Scenario {
	return Scenario{
		Name: "ring", Short: "How many keys move, and what placing one costs, beside modulo and others",
		Long: `Count how many keys move when a node is added or removed, how many of them had
no reason to, and how evenly keys are spread, for ringside's ring, hash modulo
the number of servers, the rings of libmemcached and twemproxy, rendezvous
hashing and jump hash; and measure what a lookup and building a ring cost. It
needs no servers and takes less than a minute with its defaults.`,
		Duration: ringDuration, Least: 25 * time.Second, HasRounds: true, Run: Ring,
	}
}

func (o Options) withRingDefaults() Options {
	if o.Rounds == 0 {
		o.Rounds = MinRounds // of 42 timed turns each
	}
	if len(o.Nodes) == 0 {
		o.Nodes = ringSizes()
	}
	// More keys than usual take longer, and what was asked for is to be done.
	more := time.Duration(max(0, o.Keys-ringKeys)*len(o.Nodes)*len(placers())) * movesPerKey
	o = o.withDefaults(ringDuration + more)
	if o.Keys == 0 {
		// Shorter, and the counting must not take all the time.
		o.Keys = max(ringKeys/10, int(ringKeys*min(1, o.Duration.Seconds()/ringDuration.Seconds())))
	}
	return o
}

func (o Options) validateRing() error {
	o = o.withRingDefaults()
	problems := []error{o.Validate()}
	for _, n := range o.Nodes {
		if n < 2 || n > mostNodes {
			problems = append(problems, fmt.Errorf("nodes: %d is not between 2 and %d", n, mostNodes))
		}
	}
	if o.Keys < leastKeys || o.Keys > mostKeys {
		problems = append(problems, fmt.Errorf("keys: %d is not between %d and %d", o.Keys, leastKeys, mostKeys))
	}
	return errors.Join(problems...)
}

// Ring compares ways to place keys on nodes. It returns ErrOptions for options
// that it can not run with.
func Ring(ctx context.Context, opts Options) (*Report, error) {
	opts = opts.withRingDefaults()
	if err := opts.validateRing(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	p := newProgress(opts.Progress)
	defer p.end()
	r := &Report{
		Scenario: "ring",
		Setting: []string{
			fmt.Sprintf("%d keys are placed before and after the change, and what moved is counted: exact for these keys. Rendezvous looks at every node for a key, so it places at most %d / nodes.", opts.Keys, scoreBudget),
			"A node of the middle leaves; but jump hash can only lose its last one, and numbers the others anew otherwise.",
			"All are our implementations of the algorithms: the time is that of ours. A share needs " + fmt.Sprint(leastPerNode) + " keys for each node.",
		},
		Versions: Versions{Ringside: ownVersion(opts.Version), Go: goVersion()},
		Groups:   ringGroups(opts.Nodes),
	}
	var all []Experiment
	for _, n := range opts.Nodes {
		all = append(all, ringMoves(n, opts.Keys))
	}
	for _, n := range opts.Nodes {
		all = append(all, ringCost(n))
	}
	if err := opts.run(ctx, r, all, p); err != nil {
		if errors.Is(err, ErrOptions) {
			return nil, err
		}
		return nil, fmt.Errorf("bench: ring: %w", err)
	}
	return r, nil
}

func ringMoves(nodes, keys int) Experiment {
	e := Experiment{
		Name: fmt.Sprintf("moves/%d", nodes),
		About: fmt.Sprintf("%d nodes: the least that has to move is %s%% when one joins, %s%% when one leaves; needless are keys moved between nodes that stay",
			nodes, threeDigits(100/float64(nodes+1)), threeDigits(100/float64(nodes))),
		Exact: true,
		Fixed: time.Duration(keys) * movesPerKey, // of a contender
	}
	for _, p := range placers() {
		n := keys
		if p.perNode {
			n = min(keys, max(leastKeys, scoreBudget/nodes))
		}
		e.Contenders = append(e.Contenders, Contender{Name: p.name, Run: func(ctx context.Context, _ Slot) (Sample, error) {
			m, err := countMoves(ctx, p, nodes, n)
			if err != nil {
				return nil, err
			}
			return m.sample(), nil
		}})
	}
	return e
}

func ringCost(nodes int) Experiment {
	keys := slices.Collect(ring.SampleKeys(lookupKeys))
	e := Experiment{
		Name:  fmt.Sprintf("cost/%d", nodes),
		About: fmt.Sprintf("%d nodes: one lookup, building the placement, and what it holds", nodes),
	}
	for _, p := range placers() {
		if p.name == nameJumpAny {
			continue // the same placement
		}
		e.Contenders = append(e.Contenders, Contender{Name: p.name, Run: func(ctx context.Context, slot Slot) (Sample, error) {
			return measurePlacer(ctx, p, nodes, keys, slot)
		}})
	}
	return e
}

// measurePlacer builds and looks up, each for half of the slot.
func measurePlacer(ctx context.Context, p placer, nodes int, keys []string, slot Slot) (Sample, error) {
	names := nodeNames(nodes)
	build := func() (placement, error) { return p.build(names) }
	held, err := heldBy(build)
	if err != nil {
		return nil, err
	}
	var at placement
	built, spent, err := repeat(ctx, slot.Measure/2, 1, func(int) (err error) {
		at, err = build()
		return err
	})
	if err != nil {
		return nil, err
	}
	sum := 0
	lookup := func(i int) error {
		sum += at.Lookup(keys[i%len(keys)])
		return nil
	}
	if _, _, err := repeat(ctx, slot.Warmup, 64, lookup); err != nil {
		return nil, err
	}
	looked, took, err := repeat(ctx, slot.Measure/2, 64, lookup)
	if err != nil {
		return nil, err
	}
	if sum < 0 {
		return nil, errors.New("an owner below 0")
	}
	return Sample{
		BuildTime:  float64(spent) / float64(built),
		LookupTime: float64(took) / float64(looked),
		RingMemory: held,
	}, nil
}

// repeat does something for a while, at least once, and looks at the clock after
// every batch.
func repeat(ctx context.Context, d time.Duration, batch int, do func(i int) error) (n int, took time.Duration, err error) {
	for start := time.Now(); ; {
		for range batch {
			if err := do(n); err != nil {
				return n, 0, err
			}
			n++
		}
		if took = time.Since(start); took >= d || ctx.Err() != nil {
			return n, took, ctx.Err()
		}
	}
}

// ringGroups are the claims about the ring.
func ringGroups(sizes []int) []Group {
	row := func(n int, what string, q Quantity, floor, target *float64) Row {
		return Row{
			What: fmt.Sprintf(what, plural(n, "node")), Experiment: fmt.Sprintf("moves/%d", n), Quantity: q,
			Contender: nameRingside, LessIsBetter: true, Floor: floor, Target: target,
		}
	}
	var rows []Row
	for _, n := range sizes {
		rows = append(rows,
			row(n, "keys that move when one joins %s, to the least possible", JoinToIdeal, bound(1.2), bound(1.1)),
			row(n, "keys that move needlessly when one joins %s", NeedlessByJoin, bound(0), bound(0)),
			row(n, "keys that move needlessly when one of %s leaves", NeedlessByLeave, bound(0), bound(0)))
		if n == 100 { // what the number of points was chosen for
			rows = append(rows, row(n, "largest share of %s, to the mean", LargestShare, bound(1.1), nil))
		}
	}
	return []Group{{Title: "ringside's ring", Rows: rows}}
}
