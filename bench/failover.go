package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ringside-cache/ringside/client"
)

const (
	failoverDuration = 200 * time.Second
	failoverNodes    = 4
	failoverKeys     = 2000
	failoverCallers  = 16
	failoverRate     = 1000
	// failoverFill is about how long filling the cache and putting the server
	// right again take.
	failoverFill = 500 * time.Millisecond
)

func failoverScenario() Scenario {
	return Scenario{
		Name: "failover", Short: "A server is killed, or hangs, and comes back: errors, latency and hit ratio over time",
		Long: `Kill one of four memcacheds under load and start it again, and stop another with
SIGSTOP and let it go on: errors, latency and hit ratio over time for gomemcache,
for libmemcached through pylibmc where Debian's python3-pylibmc is installed, and
for ringside. It needs memcached in PATH and takes less than four minutes.`,
		// Ringside ejects a hanging server after a second and a half; with less
		// time there is nothing to be seen of it.
		Duration: failoverDuration, Least: 135 * time.Second, HasRounds: true, Run: Failover,
	}
}

// Failover shows what a server that fails does to its users. It returns
// ErrOptions for options that it can not run with.
func Failover(ctx context.Context, opts Options) (*Report, error) {
	if opts.Rounds == 0 {
		opts.Rounds = MinRounds
	}
	opts = opts.withDefaults(failoverDuration)
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	faults := faults()
	length, err := opts.turnLength(3*len(faults), failoverFill)
	if err != nil {
		return nil, err
	}
	p := newProgress(opts.Progress)
	p.say("starting servers")
	defer p.end()
	b := &failoverBench{line: timeline{callers: failoverCallers, rate: failoverRate, length: length}, keys: failoverKeys}
	defer b.close()
	if b.addrs, err = b.start(failoverNodes); err != nil {
		return nil, fmt.Errorf("bench: failover: %w", err)
	}
	r := &Report{
		Scenario: "failover",
		Setting: []string{
			fmt.Sprintf("%d memcacheds with one thread on loopback, %d keys chosen evenly, values of %d bytes, all in the cache before.", failoverNodes, b.keys, clientValue),
			fmt.Sprintf("%d callers read %d times a second together, and leave reads out while they wait; a miss is stored again, an error is not.", failoverCallers, failoverRate),
			fmt.Sprintf("One of the servers fails for %v. gomemcache and ringside have their defaults, a timeout of 500 ms.", b.back()-b.down()),
			pylibmcSetting(),
		},
		Versions: b.versions(opts.Version),
		Groups:   failoverGroups(),
	}
	b.pylibmc, err = pylibmcVersion(ctx)
	if err != nil {
		r.Setting = append(r.Setting, "libmemcached is not measured: "+err.Error()+".")
	}
	r.Versions.Libmemcached = b.pylibmc
	var all []Experiment
	for _, f := range faults {
		all = append(all, b.experiment(f))
	}
	if err := opts.run(ctx, r, all, p); errors.Is(err, ErrOptions) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("bench: failover: %w", err)
	}
	return r, nil
}

// A faulty is a server that can fail and come back.
type faulty interface {
	server
	Kill()
	Restart() error
	Stop() error
	Continue() error
}

// A fault is a way to fail.
type fault struct {
	name, about, down, back string
	fail, mend              func(faulty) error
}

func faults() []fault {
	return []fault{
		{
			"killed", "a server is killed (SIGKILL), and is started again, empty", "killed", "started again",
			func(s faulty) error { s.Kill(); return nil }, faulty.Restart,
		},
		{
			"hung", "a server hangs (SIGSTOP), and goes on (SIGCONT)", "hangs", "goes on",
			faulty.Stop, faulty.Continue,
		},
	}
}

type failoverBench struct {
	servers
	addrs   []string
	line    timeline
	keys    int
	turns   int
	pylibmc string // its version; empty if it is not installed
}

// down and back are when that happens.
func (b *failoverBench) down() time.Duration { return b.line.length / 8 }
func (b *failoverBench) back() time.Duration { return b.line.length * 5 / 8 }

func (b *failoverBench) experiment(f fault) Experiment {
	e := Experiment{
		Name: f.name, About: f.about,
		Fixed: b.line.length + failoverFill,
		Step:  b.line.step(),
		Marks: []Mark{{b.down().Seconds(), f.down}, {b.back().Seconds(), f.back}},
	}
	for _, c := range []struct {
		name string
		open func() (*peer, error)
	}{
		{nameRingside, func() (*peer, error) { return newRingside(nameRingside, client.Config{Servers: b.addrs}) }},
		{nameGomemcache, func() (*peer, error) { return newGomemcache(b.addrs, 0) }},
	} {
		e.Contenders = append(e.Contenders, Contender{Name: c.name, Run: func(ctx context.Context, slot Slot) (Sample, error) {
			p, err := c.open()
			if err != nil {
				return nil, err
			}
			defer p.close()
			space := b.space()
			in := corpus{keys: space.names(), valueSize: clientValue}
			if err := in.store(ctx, p); err != nil {
				return nil, err
			}
			return b.measure(ctx, f, slot, func(line timeline) ([]tick, error) {
				return line.run(ctx, readAndStore(p, in, line.callers))
			})
		}})
	}
	libmemcached := Contender{Name: namePylibmc}
	if b.pylibmc != "" {
		libmemcached.Run = func(ctx context.Context, slot Slot) (Sample, error) {
			worker, err := startPylibmc(ctx, pylibmcSetup{
				Servers: b.addrs, Behaviors: pylibmcBehaviors(), Prefix: b.space().Prefix, Keys: b.keys,
				Value: clientValue, Callers: b.line.callers, Rate: b.line.rate, Seconds: b.line.length.Seconds(),
			})
			if err != nil {
				return nil, err
			}
			defer worker.close()
			return b.measure(ctx, f, slot, func(line timeline) ([]tick, error) {
				return line.during(ctx, func(ctx context.Context, _ time.Time) ([]tick, error) { return worker.run(ctx) })
			})
		}
	}
	e.Contenders = append(e.Contenders, libmemcached)
	return e
}

// space gives keys that no turn has used before.
func (b *failoverBench) space() keyspace {
	b.turns++
	return keyspace{Prefix: fmt.Sprintf("failover:%04d:", b.turns), Count: b.keys}
}

// readAndStore is a read-through cache whose origin costs nothing.
func readAndStore(p *peer, in corpus, callers int) func(context.Context, int) outcome {
	draw := make([]*rand.Rand, callers)
	for i := range draw {
		draw[i] = rand.New(rand.NewPCG(uint64(i), 2))
	}
	return func(ctx context.Context, caller int) outcome {
		key := in.keys[draw[caller].IntN(len(in.keys))]
		value, err := p.get(ctx, key)
		switch {
		case errors.Is(err, client.ErrCacheMiss): // gomemcache's own as well
			_ = p.set(ctx, key, in.value(key)) // a miss the next time, then
			return miss
		case err != nil || in.check(key, value) != nil:
			return failed
		}
		return hit
	}
}

// measure is one turn. The server is as it was when it returns.
func (b *failoverBench) measure(ctx context.Context, f fault, slot Slot, work func(timeline) ([]tick, error)) (s Sample, err error) {
	// Every contender of a round loses the same server.
	victim, ok := b.running[slot.Round%len(b.running)].(faulty)
	if !ok {
		return nil, errors.New("the server can not be made to fail")
	}
	broken := false
	defer func() {
		if broken {
			err = errors.Join(err, f.mend(victim))
		}
	}()
	line := b.line
	line.happen = []happening{
		{b.down(), func() error { broken = true; return f.fail(victim) }},
		{b.back(), func() error { broken = false; return f.mend(victim) }},
	}
	ticks, err := work(line)
	if err != nil {
		return nil, err
	}
	line.keep(slot, ticks)
	down := line.between(ticks, b.down(), b.back())
	back := line.between(ticks, b.back(), line.length)
	if down.reads == 0 || back.reads == 0 {
		return nil, errors.New("no reads")
	}
	return Sample{
		ServedDown:   float64(down.reads-down.failed) / down.offered,
		FailedDown:   float64(down.failed),
		FailedBack:   float64(back.failed),
		ErrorTime:    float64(down.lastFailed),
		LatencyP99:   float64(down.p99),
		LatencyMax:   float64(down.longest),
		HitRatioDown: down.hitRatio(),
		HitRatioBack: back.hitRatio(),
		ServedBack:   float64(back.reads-back.failed) / back.offered,
	}, nil
}

func failoverGroups() []Group {
	var groups []Group
	for _, f := range faults() {
		row := func(contender, what string, q Quantity, less bool, floor, target *float64) Row {
			return Row{
				What: f.name + ", " + contender + ": " + what, Experiment: f.name, Quantity: q, LessIsBetter: less,
				Contender: contender, Floor: floor, Target: target,
			}
		}
		var rows []Row
		for _, name := range []string{nameRingside, nameGomemcache, namePylibmc} {
			var floor, target *float64
			if name == nameRingside && f.name == "killed" {
				floor, target = bound(0.97), bound(0.99)
			}
			rows = append(rows,
				row(name, "reads answered while it is down, of those offered", ServedDown, false, floor, target),
				row(name, "reads that failed while it is down", FailedDown, true, nil, nil),
				row(name, "reads that failed after it is back", FailedBack, true, nil, nil),
				row(name, "from the fault to the last error before it is back", ErrorTime, true, nil, nil),
				row(name, "longest read while it is down", LatencyMax, true, nil, nil))
		}
		groups = append(groups, Group{Title: f.about, Rows: rows})
	}
	return groups
}
