package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const stampedeDuration = 210 * time.Second

func (o Options) withStampedeDefaults() Options {
	if o.Processes == 0 {
		o.Processes = 8
	}
	if o.Duration == 0 {
		o.Duration = stampedeDuration
	}
	if o.keys == 0 {
		o.keys = stampedeKeys
	}
	return o
}

// validateStampede reports every problem of the options at once.
func (o Options) validateStampede() error {
	o = o.withStampedeDefaults()
	var problems []error
	if len(o.Worker) == 0 {
		problems = append(problems, errors.New("worker: there is no command"))
	}
	if o.Processes < 2 {
		problems = append(problems, fmt.Errorf("processes: %d is too few, at least 2 are needed", o.Processes))
	}
	if o.Duration < stampedeDuration/20 {
		problems = append(problems, fmt.Errorf("duration: %v is too short, it needs %v", o.Duration, stampedeDuration/20))
	}
	var names []string
	for _, e := range stampedeEvents {
		names = append(names, e.name)
	}
	for _, only := range o.Only {
		if !slices.Contains(names, only) {
			problems = append(problems, fmt.Errorf("only: there is no event %q, there are %s", only, strings.Join(names, ", ")))
		}
	}
	return errors.Join(problems...)
}

// contenderNames are in the order of the table, and of the runs.
var contenderNames = []string{nameRingside, nameNaive, nameSingle}

const (
	stampedeNodes = 3
	// stampedeKeys are few enough to be loaded within seconds, and enough for
	// a long tail.
	stampedeKeys = 2000
	stampedeSkew = 1.2
	// originDelay is how long a call takes.
	originDelay = 200 * time.Millisecond
	// shortLease is the shortest there is, for events that wait for its end.
	shortLease = 2 * time.Second
	// share is the part of the capacity that the open loop offers.
	share = 0.3
)

// A stampedeEvent is something to be measured, one contender at a time.
type stampedeEvent struct {
	name, about string
	rows        []EventRow
	run         func(ctx context.Context, b *stampedeBench, r *EventRun) error
}

// stampedeEvents are in the order of the report.
var stampedeEvents = []stampedeEvent{
	invalidateEvent, expireEvent, coldEvent, holderEvent, outageEvent, nodeEvent, raceEvent,
}

// Stampede measures how often an origin is asked when popular keys expire, are
// invalidated or lose their holder or their node, by ringside, by naive
// get-load-set and by singleflight in each process. It returns ErrOptions for
// options that it can not run with.
func Stampede(ctx context.Context, opts Options) (*Report, error) {
	opts = opts.withStampedeDefaults()
	if err := opts.validateStampede(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	p := newProgress(opts.Progress)
	p.say("starting servers")
	defer p.end()
	b, err := newStampedeBench(opts)
	if err != nil {
		return nil, fmt.Errorf("bench: stampede: %w", err)
	}
	defer b.close()
	r := &Report{
		Schema: Schema, Scenario: "stampede", Date: time.Now().UTC().Truncate(time.Second),
		Machine: thisMachine(), Versions: b.versions(opts.Version), Processes: opts.Processes,
	}
	began := time.Now()
	bounded, cancel := context.WithTimeout(ctx, opts.Duration*5/4+grace)
	defer cancel()
	p.say("measuring the capacity")
	if r.Capacity, err = b.capacity(bounded); err != nil {
		return nil, fmt.Errorf("bench: stampede: capacity: %w", err)
	}
	b.rate = share * r.Capacity
	r.Rate = b.rate
	r.Setting = b.setting(r)
	for _, e := range stampedeEvents {
		event := Event{Name: e.name, About: e.about, Rows: slices.Clone(e.rows)}
		for _, contender := range contenderNames {
			if len(opts.Only) > 0 && !slices.Contains(opts.Only, e.name) || bounded.Err() != nil {
				continue
			}
			p.say(fmt.Sprintf("%s: %s, %v so far", e.name, contender, time.Since(began).Round(time.Second)))
			event.Runs = append(event.Runs, b.measure(bounded, &e, contender))
		}
		r.Events = append(r.Events, event)
	}
	r.fill()
	r.Took = time.Since(began).Seconds()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("bench: stampede: %w", ctx.Err())
	case bounded.Err() != nil:
		r.Incomplete = fmt.Sprintf("the time ran out after %v", time.Since(began).Round(time.Second))
	case len(opts.Only) > 0:
		r.Incomplete = fmt.Sprintf("only %s was asked for", strings.Join(opts.Only, ", "))
	}
	return r, nil
}

// stampedeBench has what all events share.
type stampedeBench struct {
	servers
	opts   Options
	dir    string
	addrs  []string
	origin *origin
	rate   float64 // reads a second of the whole fleet
	runs   int
}

func newStampedeBench(opts Options) (b *stampedeBench, err error) {
	b = &stampedeBench{opts: opts}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.addrs, err = b.start(stampedeNodes); err != nil {
		return b, err
	}
	// Not t.TempDir or the like: the path of a socket may have 107 bytes.
	if b.dir, err = os.MkdirTemp("", "ringside"); err != nil {
		return b, err
	}
	b.origin, err = startOrigin(filepath.Join(b.dir, "origin"), originDelay)
	return b, err
}

func (b *stampedeBench) close() {
	b.servers.close()
	if b.origin != nil {
		b.origin.close()
	}
	if b.dir != "" {
		os.RemoveAll(b.dir) //nolint:errcheck // it is in the directory for that
	}
}

func (b *stampedeBench) setting(r *Report) []string {
	return []string{
		fmt.Sprintf("%d memcacheds with one thread on loopback, %d keys of about 100 bytes by Zipf's law (s = %v).", stampedeNodes, b.opts.keys, stampedeSkew),
		fmt.Sprintf("The origin takes %v for each call.", originDelay),
		fmt.Sprintf("A closed loop of one caller in each process: %s reads/s. Offered in an open loop: %s reads/s; latency counts from the intended start.", threeDigits(r.Capacity), threeDigits(r.Rate)),
	}
}

// scaled is a part of the default duration as it is under the options.
func (b *stampedeBench) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) * float64(b.opts.Duration) / float64(stampedeDuration))
}

// keys gives keys that no run has used before.
func (b *stampedeBench) keys() keyspace {
	b.runs++
	return keyspace{Prefix: fmt.Sprintf("r%d:", b.runs), Count: b.opts.keys, Skew: stampedeSkew}
}

// fleet starts the workers of a contender.
func (b *stampedeBench) fleet(ctx context.Context, contender string, cfg cacheConfig) (*fleet, error) {
	return startFleet(ctx, b.opts.Worker, b.opts.Processes, b.setup(contender, cfg))
}

func (b *stampedeBench) setup(contender string, cfg cacheConfig) workerSetup {
	return workerSetup{Contender: contender, Servers: b.addrs, Origin: filepath.Join(b.dir, "origin"), Cache: cfg}
}

func (b *stampedeBench) measure(ctx context.Context, e *stampedeEvent, contender string) EventRun {
	r := EventRun{Contender: contender}
	err := errors.Join(e.run(ctx, b, &r), b.settle(ctx))
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

// settle waits until the origin has nothing to do, so that a run begins with
// no calls from the one before.
func (b *stampedeBench) settle(ctx context.Context) error {
	b.origin.fail(false)
	return await(ctx, 10*time.Second, func() bool { return b.origin.forget() == nil })
}

// capacityCallers is how many closed loops each worker has. With more of them
// their requests would share writes, which those of an open loop seldom do: 30%
// of that capacity took 80% of two cores.
const capacityCallers = 1

// capacity is how many reads a second the fleet does in a closed loop, all of
// them hits.
func (b *stampedeBench) capacity(ctx context.Context) (float64, error) {
	f, err := b.fleet(ctx, nameRingside, cacheConfig{TTL: time.Hour})
	if err != nil {
		return 0, err
	}
	defer f.close()
	keys := b.keys()
	if err := f.warm(ctx, keys, 0); err != nil {
		return 0, err
	}
	length := max(b.scaled(3*time.Second), 500*time.Millisecond)
	start, wait := f.drive(ctx, driveSpec{Keys: keys, For: length, Callers: capacityCallers})
	d, err := wait()
	if err != nil {
		return 0, err
	}
	if d.Failed > 0 {
		return 0, fmt.Errorf("%d of %d reads failed: %v", d.Failed, d.Reads, d.Errors)
	}
	if loads := len(b.origin.of(keys.Prefix, start)); loads > 0 {
		return 0, fmt.Errorf("%d of %d reads were no hits", loads, d.Reads)
	}
	return float64(d.Reads) / length.Seconds(), b.settle(ctx)
}
