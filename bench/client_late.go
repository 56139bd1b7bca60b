package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/proto/memcached"
	"github.com/ringside-cache/ringside/ring"
)

const (
	lateCallers  = 64
	lateDeadline = 5 * time.Millisecond
)

// late tells how far past their deadline callers return when the node does not
// answer. The time in which they would have had an answer does not count.
func (b *clientBench) late() Experiment {
	var node *memnode.Node
	var p *client.Client
	e := Experiment{
		Name:   "late",
		About:  fmt.Sprintf("%s of Get with a deadline of %v on a node that does not answer: how far past it they return", plural(lateCallers, "caller"), lateDeadline),
		Rounds: MinRounds,
		Start: func(context.Context) (err error) {
			if node, err = memnode.Start(memnode.Config{}); err != nil {
				return err
			}
			node.Inject(memnode.Stall(), memnode.On(memcached.MetaGet), memnode.Always())
			p, err = client.New(client.Config{
				Servers: []string{node.Addr()},
				// It stays to be asked, or there would be nothing to wait for.
				Health: ring.HealthConfig{FailureLimit: 1 << 30},
			})
			return err
		},
		End: func() {
			if p != nil {
				p.Close()
			}
			if node != nil {
				node.Close()
			}
		},
	}
	e.Contenders = []Contender{{Name: nameRingside, Run: func(ctx context.Context, slot Slot) (Sample, error) {
		return measureLate(ctx, p, slot)
	}}}
	return e
}

func measureLate(ctx context.Context, c *client.Client, slot Slot) (Sample, error) {
	hist := newLatency()
	end := time.Now().Add(slot.Measure)
	errs := make([]error, lateCallers)
	var wg sync.WaitGroup
	for i := range lateCallers {
		wg.Go(func() {
			rec := recorder{to: hist}
			defer rec.flush()
			for time.Now().Before(end) && ctx.Err() == nil {
				deadline := time.Now().Add(lateDeadline)
				call, cancel := context.WithDeadline(context.Background(), deadline)
				_, err := c.Get(call, "key")
				now := time.Now()
				cancel()
				if err == nil || errors.Is(err, client.ErrCacheMiss) {
					errs[i] = errors.New("the node answered")
					return
				}
				// What failed before, as with a connection, did not wait.
				if now.After(deadline) {
					rec.record(now.Sub(deadline))
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return nil, err
	}
	s := Sample{}
	hist.late(s)
	if len(s) == 0 {
		return nil, errors.New("no caller met its deadline")
	}
	return s, nil
}
