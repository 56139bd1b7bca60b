package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ringside-cache/ringside/client"
)

// clientDuration is long enough for windows of some hundred milliseconds.
const clientDuration = 150 * time.Second

const (
	clientKeys  = 10_000
	clientValue = 100
	multiKeys   = 100
	multiNodes  = 10
	// largeCallers do small Gets while large values pass: few enough that
	// the wait behind a large value is not lost in their own queue.
	largeCallers = 8
	largeValue   = 1 << 20
	// largeItem is the server's -I: a value of 1 MiB is larger than an item
	// may be by default.
	largeItem = "2m"
)

// Client measures the client library against gomemcache and the wire limit.
// It returns ErrOptions for options that it can not run with.
func Client(ctx context.Context, opts Options) (*Report, error) {
	opts = opts.withDefaults(clientDuration)
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	p := newProgress(opts.Progress)
	p.say("starting servers")
	defer p.end()
	b, err := newClientBench(ctx)
	if err != nil {
		return nil, fmt.Errorf("bench: client: %w", err)
	}
	defer b.close()
	r := &Report{
		Scenario: "client",
		Setting: []string{
			fmt.Sprintf("memcached with one thread on loopback, %d keys of 22 bytes, values of %d bytes, closed loop.", clientKeys, clientValue),
			fmt.Sprintf("gomemcache keeps up to %d connections; the wire limit is a raw loop: batches of %d on %d connections.", manyConns, wireBatch, wireConns),
			fmt.Sprintf("For GetMulti it writes %d requests of %d keys to %d connections and reads the replies, on one thread for each caller.", multiNodes, multiEach, multiNodes),
		},
		Versions: b.versions(opts.Version),
		Groups:   clientGroups(),
	}
	if err := opts.run(ctx, r, b.experiments(), p); errors.Is(err, ErrOptions) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("bench: client: %w", err)
	}
	return r, nil
}

// clientBench has the servers and the clients of the scenario.
type clientBench struct {
	servers
	corpus corpus
	idle   idleSetting

	// On one memcached.
	ringside, twoConns, gomemcache *peer
	wire                           wire
	// On multiNodes of them.
	ringsideMulti, twoConnsMulti, gomemcacheMulti *peer
	wireMulti                                     *wireMulti
	// On one that takes large items.
	ringsideLarge, twoConnsLarge, gomemcacheLarge *peer
}

func newClientBench(ctx context.Context) (b *clientBench, err error) {
	b = &clientBench{corpus: newCorpus(clientKeys, clientValue), idle: idleDefault}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	one, err := b.start(1)
	if err != nil {
		return b, err
	}
	many, err := b.start(multiNodes)
	if err != nil {
		return b, err
	}
	large, err := b.start(1, "-I", largeItem)
	if err != nil {
		return b, err
	}
	for _, set := range []struct {
		addrs                          []string
		ringside, twoConns, gomemcache **peer
	}{
		{one, &b.ringside, &b.twoConns, &b.gomemcache},
		{many, &b.ringsideMulti, &b.twoConnsMulti, &b.gomemcacheMulti},
		{large, &b.ringsideLarge, &b.twoConnsLarge, &b.gomemcacheLarge},
	} {
		if *set.ringside, err = b.keep(newRingside(nameRingside, client.Config{Servers: set.addrs})); err != nil {
			return b, err
		}
		if *set.twoConns, err = b.keep(newRingside(nameTwoConns, client.Config{Servers: set.addrs, ConnsPerNode: 2})); err != nil {
			return b, err
		}
		if *set.gomemcache, err = b.keep(newGomemcache(set.addrs, 0)); err != nil {
			return b, err
		}
		// Ringside and gomemcache place keys on different nodes.
		for _, p := range []*peer{*set.ringside, *set.gomemcache} {
			if err := b.corpus.store(ctx, p); err != nil {
				return b, err
			}
		}
	}
	if b.wireMulti, err = newWireMulti(ctx, many, b.corpus); err != nil {
		return b, err
	}
	b.wire, err = newWire(one[0], b.corpus)
	return b, err
}

// experiments are in the order of the report. Idle comes last because of the
// servers that it starts.
func (b *clientBench) experiments() []Experiment {
	var all []Experiment
	for _, callers := range []int{1, 8, 64, 256} {
		all = append(all, b.gets(callers))
	}
	for _, callers := range []int{1, 8, 64} {
		all = append(all, b.multis(callers))
	}
	all = append(all, b.large())
	all = append(all, b.late())
	all = append(all, b.allocs()...)
	return append(all, b.idling())
}

func (b *clientBench) gets(callers int) Experiment {
	e := Experiment{
		Name:     fmt.Sprintf("get/%d", callers),
		About:    plural(callers, "caller") + " of Get",
		Baseline: nameGomemcache,
	}
	for _, p := range []*peer{b.ringside, b.twoConns} {
		e.Contenders = append(e.Contenders, p.contender(p.name, b.corpus.gets(p, callers)))
	}
	if callers == 1 || callers == 64 {
		e.Contenders = append(e.Contenders, b.cancellable(callers))
	}
	e.Contenders = append(e.Contenders, b.gomemcache.contender(nameGomemcache, b.corpus.gets(b.gomemcache, callers)))
	if callers >= 64 {
		e.Contenders = append(e.Contenders, Contender{Name: nameWire, Run: b.wire.Run})
	}
	return e
}

// cancellable is ringside as most services use it: each caller has a context
// that can end, which is more to watch than context.Background.
func (b *clientBench) cancellable(callers int) Contender {
	return Contender{Name: nameCancel, Run: func(ctx context.Context, slot Slot) (Sample, error) {
		// One each: callers that share a context share its lock.
		own := make([]context.Context, callers)
		for i := range own {
			var cancel context.CancelFunc
			own[i], cancel = context.WithCancel(context.Background())
			defer cancel()
		}
		load := b.corpus.getsUnder(b.ringside, callers, func(i int) context.Context { return own[i] })
		return b.ringside.contender(nameCancel, load).Run(ctx, slot)
	}}
}

func (b *clientBench) multis(callers int) Experiment {
	e := Experiment{
		Name:     fmt.Sprintf("multi/%d", callers),
		About:    fmt.Sprintf("%s of GetMulti, %d keys over %d memcacheds", plural(callers, "caller"), multiKeys, multiNodes),
		Baseline: nameGomemcache,
	}
	for _, p := range []*peer{b.ringsideMulti, b.twoConnsMulti, b.gomemcacheMulti} {
		e.Contenders = append(e.Contenders, p.contender(p.name, b.corpus.multis(p, callers, multiKeys)))
	}
	e.Contenders = append(e.Contenders, b.wireMulti.contender(callers))
	return e
}

// The small Gets of a peer alone, and while large values pass.
func passing(name string) string { return name + ", 1 MiB passing" }

func (b *clientBench) large() Experiment {
	e := Experiment{
		Name:  "large",
		About: fmt.Sprintf("%s of small Gets, alone and while another sets and gets 1 MiB values without a pause", plural(largeCallers, "caller")),
	}
	value := make([]byte, largeValue)
	for _, p := range []*peer{b.ringsideLarge, b.twoConnsLarge, b.gomemcacheLarge} {
		alone := b.corpus.gets(p, largeCallers)
		beside := alone
		turn := 0
		beside.Beside = func() error {
			const key = "large"
			turn++
			if turn%2 == 1 {
				return p.set(context.Background(), key, value)
			}
			got, err := p.get(context.Background(), key)
			if err == nil && len(got) != largeValue {
				err = errWrongValue
			}
			return err
		}
		e.Contenders = append(e.Contenders, p.contender(p.name, alone), p.contender(passing(p.name), beside))
	}
	return e
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
