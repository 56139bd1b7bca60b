package bench

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/ringside-cache/ringside/client"
)

// idleSetting is what happens before an idle client is looked at.
type idleSetting struct {
	nodes   int
	callers int
	// rounds are how often each caller does a GetMulti of all keys, a Set and
	// a Get of a value of size bytes.
	rounds int
	size   int
	// settle is how long the client then has to become idle.
	settle time.Duration
	// fixed is about how long all of it takes.
	fixed time.Duration
}

var idleDefault = idleSetting{
	nodes: 100, callers: 16, rounds: 4, size: 64 << 10,
	settle: time.Second, fixed: 2 * time.Second,
}

// idleTimeout is long enough for a hundred servers on two cores: what is
// looked at comes after it.
const idleTimeout = 5 * time.Second

// idling tells what a client of many nodes holds when a burst is over.
func (b *clientBench) idling() Experiment {
	var started []server
	var addrs []string
	set := b.idle
	e := Experiment{
		Name:  "idle",
		About: plural(set.nodes, "node") + ", idle after a burst: what the client holds for each",
		Fixed: set.fixed, Rounds: MinRounds,
		Start: func(context.Context) (err error) {
			// Real servers, as an in-process node's memory could not be told
			// from the client's.
			started, err = startMemcacheds(set.nodes, "-m", "16")
			addrs = addresses(started)
			return err
		},
		End: func() { closeServers(started) },
	}
	for _, kind := range []struct {
		name string
		open func() (*peer, error)
	}{
		{nameRingside, func() (*peer, error) {
			return newRingside(nameRingside, client.Config{Servers: addrs, Timeout: idleTimeout})
		}},
		{nameTwoConns, func() (*peer, error) {
			return newRingside(nameTwoConns, client.Config{Servers: addrs, ConnsPerNode: 2, Timeout: idleTimeout})
		}},
		{nameGomemcache, func() (*peer, error) { return newGomemcache(addrs, idleTimeout) }},
	} {
		e.Contenders = append(e.Contenders, Contender{Name: kind.name, Run: func(ctx context.Context, _ Slot) (Sample, error) {
			return set.measure(ctx, kind.open)
		}})
	}
	return e
}

func (set idleSetting) measure(ctx context.Context, open func() (*peer, error)) (Sample, error) {
	before := heldNow()
	p, err := open()
	if err != nil {
		return nil, err
	}
	defer p.close()
	if err := set.burst(ctx, p); err != nil {
		return nil, err
	}
	select {
	case <-time.After(set.settle):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	after := heldNow()
	runtime.KeepAlive(p)
	n := float64(set.nodes)
	return Sample{
		// What else the process lets go of meanwhile can exceed little.
		GoroutinesPerNode: max(0, float64(after.goroutines-before.goroutines)) / n,
		KiBPerNode:        max(0, float64(after.bytes-before.bytes)) / 1024 / n,
	}, nil
}

// burst makes every buffer grow.
func (set idleSetting) burst(ctx context.Context, p *peer) error {
	// Keys enough that each node has some, few enough for its memory.
	in := newCorpus(10*set.nodes, clientValue)
	if err := in.store(ctx, p); err != nil {
		return err
	}
	large := in
	large.valueSize = set.size
	errs := make([]error, set.callers)
	var wg sync.WaitGroup
	for i := range set.callers {
		wg.Go(func() {
			for r := 0; r < set.rounds && errs[i] == nil; r++ {
				got, _, err := p.multi(ctx, in.keys)
				if err == nil && got != len(in.keys) {
					err = errMissing
				}
				key := "large:" + in.keys[(i*set.rounds+r)%len(in.keys)]
				errs[i] = errors.Join(ctx.Err(), err, p.set(ctx, key, large.value(key)))
				if errs[i] == nil {
					value, err := p.get(ctx, key)
					errs[i] = errors.Join(err, large.check(key, value))
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// held is what the process holds at a moment.
type held struct {
	goroutines int
	bytes      int64 // live heap, and stacks
}

func heldNow() held {
	// What a pool lets go of is gone after the second collection.
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return held{goroutines: runtime.NumGoroutine(), bytes: int64(m.HeapAlloc + m.StackInuse)}
}
