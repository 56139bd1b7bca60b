package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ringside-cache/ringside/client"
)

var nodeEvent = stampedeEvent{
	name:  "node",
	about: fmt.Sprintf("the cache node of the hot key is killed under load; MaxLoads is %d in each process", nodeMaxLoads),
	rows: []EventRow{
		{What: "loads of a process in flight, most", Figure: "in_flight", Target: atMost(nodeMaxLoads)},
		{What: "origin queries a second at the end, to the peak", Figure: "fallen_to", Target: atMost(0.1)},
		{What: "origin queries a second, peak", Figure: "queries_peak"},
		{What: "origin queries a second, in the last 2 s", Figure: "queries_last"},
		{What: "loads of the hot key", Figure: "hot_loads"},
		{What: "reads that failed, of a million", Figure: "failed_per_million"},
		{What: "99th percentile of all reads after the death, ms", Figure: "p99_after_ms"},
		{What: "99th percentile before, ms", Figure: "p99_before_ms"},
	},
	run: runNode,
}

const (
	nodeMaxLoads = 8
	nodeBefore   = 2 * time.Second
	// nodeAfter ends before what stand-ins keep for StandInTTL expires.
	nodeAfter = 8 * time.Second
	nodeLast  = 2 * time.Second
)

func runNode(ctx context.Context, b *stampedeBench, r *EventRun) error {
	f, err := b.fleet(ctx, r.Contender, cacheConfig{TTL: 10 * time.Minute, MaxLoads: nodeMaxLoads})
	if err != nil {
		return err
	}
	defer f.close()
	keys := b.keys()
	// With so few loads at a time warming up would take long.
	b.origin.take(0)
	err = f.warm(ctx, keys, 0)
	b.origin.take(originDelay)
	if err != nil {
		return err
	}
	node, err := b.owner(keys.hot())
	if err != nil {
		return err
	}
	after := max(b.scaled(nodeAfter), 2*nodeLast)
	start, wait := f.drive(ctx, driveSpec{Keys: keys, For: nodeBefore + after, Rate: b.rate})
	if err := rest(ctx, time.Until(start.Add(nodeBefore))); err != nil {
		return err
	}
	died := time.Now()
	node.Kill()
	d, err := wait()
	if err := errors.Join(err, node.Restart()); err != nil {
		return err
	}
	end := start.Add(nodeBefore + after)
	r.figure("in_flight", float64(b.origin.mostInFlight()))
	calls := b.origin.of(keys.Prefix, died)
	queryRates(r, calls, died, end)
	last := b.origin.of(keys.Prefix, end.Add(-nodeLast))
	rate := float64(len(last)) / nodeLast.Seconds()
	r.figure("queries_last", rate)
	r.figure("fallen_to", rate/r.Figures["queries_peak"])
	r.figure("hot_loads", float64(len(b.origin.of(keys.hot(), died))))
	reads, err := f.timedReads(ctx, false)
	if err != nil {
		return err
	}
	r.latencies("before", within(reads, window{start, died}))
	r.latencies("after", within(reads, window{died, end}))
	r.reads(d)
	r.figure("failed_per_million", 1e6*float64(d.Failed)/float64(d.Reads))
	return nil
}

// A killable is a server that can be killed and come back empty.
type killable interface {
	Kill()
	Restart() error
}

// owner gives the node that a key belongs to.
func (b *stampedeBench) owner(key string) (killable, error) {
	c, err := client.New(client.Config{Servers: b.addrs})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	e, err := c.Explain(key)
	if err != nil {
		return nil, err
	}
	i := slices.Index(b.addrs, e.Owner)
	if i < 0 {
		return nil, fmt.Errorf("there is no node %q", e.Owner)
	}
	node, ok := b.running[i].(killable)
	if !ok {
		return nil, fmt.Errorf("%T can not be killed", b.running[i])
	}
	return node, nil
}
