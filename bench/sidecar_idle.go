package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// idleProxies is how idle connections are held.
type idleProxies struct {
	conns  int
	settle time.Duration
	fixed  time.Duration // about what a turn takes
}

var idleProxiesDefault = idleProxies{conns: idleConns, settle: 500 * time.Millisecond, fixed: 5 * time.Second}

// otherFiles is what a process has open beside the idle connections.
const otherFiles = 500

// idling tells what a proxy holds for connections that do nothing. Each turn
// has a process of its own, which has served nobody yet.
func (b *sidecarBench) idling() Experiment {
	set := b.idle
	e := Experiment{
		Name:  "idle",
		About: fmt.Sprintf("%d idle connections of the memcached protocol: memory of the process above that without", set.conns),
		Fixed: set.fixed, Rounds: MinRounds,
		Start: func(context.Context) error { return needFiles(set.conns + otherFiles) },
		Contenders: []Contender{{Name: nameSidecar, Run: func(ctx context.Context, _ Slot) (Sample, error) {
			return b.idleTurn(ctx, b.startSidecar)
		}}},
	}
	if b.nutcracker != nil {
		e.Contenders = append(e.Contenders, Contender{Name: nameNutcracker, Run: func(ctx context.Context, _ Slot) (Sample, error) {
			return b.idleTurn(ctx, func() (*proxy, error) { return startNutcracker(b.addrs) })
		}})
	}
	return e
}

func (b *sidecarBench) idleTurn(ctx context.Context, start func() (*proxy, error)) (Sample, error) {
	p, err := start()
	if err != nil {
		return nil, err
	}
	defer p.Close()
	// The connections to the nodes are made by the first gets.
	if err := b.getOnEach(p.Addr(), 1, 200); err != nil {
		return nil, err
	}
	before, err := b.settled(ctx, p)
	if err != nil {
		return nil, err
	}
	fds, end, err := openIdle(p.Addr(), b.idle.conns)
	if err != nil {
		return nil, err
	}
	defer end()
	unused, err := b.settled(ctx, p)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, b.wire.reply)
	for i, fd := range fds {
		if err := b.getOnce(fd, i, buf); err != nil {
			return nil, fmt.Errorf("connection %d of %d: %w", i, len(fds), err)
		}
	}
	used, err := b.settled(ctx, p)
	if err != nil {
		return nil, err
	}
	return Sample{IdleMiB: mib(used - before), UnusedIdleMiB: mib(unused - before)}, nil
}

// settled gives the memory of a process a while later.
func (b *sidecarBench) settled(ctx context.Context, p *proxy) (int64, error) {
	if err := rest(ctx, b.idle.settle); err != nil {
		return 0, err
	}
	return processMemory(p.pid)
}

// getOnEach opens n connections and does gets on each, one at a time.
func (b *sidecarBench) getOnEach(addr string, n, gets int) error {
	fds, end, err := openIdle(addr, n)
	if err != nil {
		return err
	}
	defer end()
	buf := make([]byte, b.wire.reply)
	for _, fd := range fds {
		for key := range gets {
			if err := b.getOnce(fd, key, buf); err != nil {
				return err
			}
		}
	}
	return nil
}

// getOnce does one get and looks at its reply. buf is as long as that.
func (b *sidecarBench) getOnce(fd, key int, buf []byte) error {
	key %= len(b.wire.keys)
	if err := writeRaw(fd, b.wire.request(key)); err != nil {
		return err
	}
	for got := 0; got < len(buf); {
		n, err := readRaw(fd, buf[got:])
		if got += n; err != nil {
			return errors.Join(err, fmt.Errorf("after %q", buf[:got]))
		}
	}
	return b.wire.check(buf, key, true)
}
