package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/ringside-cache/ringside/client"
)

// sidecarDuration leaves the windows about a second.
const sidecarDuration = 120 * time.Second

const (
	sidecarNodes = 3
	// proxyConns is how many clients share the proxy, pipelined how many gets
	// each sends at a time in the second experiment.
	proxyConns = 50
	pipelined  = 16
	idleConns  = 10_000
)

// The contenders of the sidecar scenario, beside those of peer.go.
const (
	nameSidecar    = "sidecar"
	nameNutcracker = "nutcracker"
	nameDirect     = "memcached itself"
)

// Sidecar measures the sidecar, a process of its own, against twemproxy
// (nutcracker) and against gRPC's own cost. Where nutcracker is not installed
// its rows are not measured. It returns ErrOptions for options that it can not
// run with.
func Sidecar(ctx context.Context, opts Options) (*Report, error) {
	opts = opts.withDefaults(sidecarDuration)
	err := opts.Validate()
	if len(opts.Serve) == 0 {
		err = errors.Join(err, errors.New("serve: the command that runs a sidecar is needed"))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	// Before anything is started: a typo shall not take a second to be told.
	if _, err := opts.choose(new(sidecarBench).experiments()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	p := newProgress(opts.Progress)
	p.say("starting servers")
	defer p.end()
	b, err := newSidecarBench(ctx, opts.Serve)
	if err != nil {
		return nil, fmt.Errorf("bench: sidecar: %w", err)
	}
	defer b.close()
	r := &Report{
		Scenario: "sidecar",
		Setting:  b.setting(),
		Versions: b.versions(opts.Version),
		Groups:   sidecarGroups(),
	}
	if err := opts.run(ctx, r, b.experiments(), p); errors.Is(err, ErrOptions) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("bench: sidecar: %w", err)
	}
	return r, nil
}

// A proxy is a process that the load goes through.
type proxy struct {
	server
	name        string
	pid         int
	grpc, admin string // addresses, of the sidecar
}

func (p *proxy) cpu() (time.Duration, error) { return processCPU(p.pid) }

// sidecarBench has the processes of the scenario.
type sidecarBench struct {
	servers
	serve []string // runs a sidecar
	addrs []string // of the memcacheds
	wire  *classic
	idle  idleProxies

	sidecar    *proxy
	nutcracker *proxy // nil where it is not installed
	conn       *grpc.ClientConn
}

func newSidecarBench(ctx context.Context, serve []string) (b *sidecarBench, err error) {
	b = &sidecarBench{serve: serve, wire: newClassic(newCorpus(clientKeys, clientValue)), idle: idleProxiesDefault}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.addrs, err = b.start(sidecarNodes); err != nil {
		return b, err
	}
	// Every key on every node: the contenders place them differently.
	for _, addr := range b.addrs {
		p, err := b.keep(newRingside(nameRingside, client.Config{Servers: []string{addr}}))
		if err != nil {
			return b, err
		}
		if err := b.wire.store(ctx, p); err != nil {
			return b, err
		}
	}
	if b.sidecar, err = b.startSidecar(); err != nil {
		return b, err
	}
	b.running = append(b.running, b.sidecar)
	switch b.nutcracker, err = startNutcracker(b.addrs); {
	case err == nil:
		b.running = append(b.running, b.nutcracker)
	case !notInstalled(err):
		return b, err
	}
	b.conn, err = dialSidecar(b.sidecar.grpc)
	return b, err
}

func (b *sidecarBench) close() {
	if b.conn != nil {
		b.conn.Close()
	}
	b.servers.close()
}

func (b *sidecarBench) startSidecar() (*proxy, error) {
	p, err := startSidecar(b.serve, b.addrs)
	if err != nil {
		return nil, fmt.Errorf("the sidecar: %w", err)
	}
	return p, nil
}

func (b *sidecarBench) setting() []string {
	list := []string{
		fmt.Sprintf("%d memcacheds with one thread on loopback, %d keys of 22 bytes, each on all of them, values of %d bytes, classic get, closed loop.", sidecarNodes, clientKeys, clientValue),
		"The sidecar and nutcracker are processes of their own, with their defaults. The load is one thread of this process that waits with epoll, or gRPC's own client.",
		"CPU/op is that of the load, proxy CPU that of the proxy. With pipelining latency is that of a batch.",
	}
	if b.nutcracker == nil {
		list = append(list, "nutcracker is not installed: what is compared with it is not measured.")
	}
	return list
}

// experiments are in the order of the report. Idle comes last, as it starts
// processes of its own. Their names do not need a bench that was started.
func (b *sidecarBench) experiments() []Experiment {
	return []Experiment{
		b.gets("memcached/50", proxyConns, 1),
		b.gets("memcached/50x16", proxyConns, pipelined),
		b.gets("memcached/1", 1, 1),
		b.calls(),
		b.idling(),
	}
}

func (b *sidecarBench) gets(name string, conns, batch int) Experiment {
	about := plural(conns, "connection") + " of the memcached protocol, one get at a time"
	every := 1
	switch {
	case batch > 1:
		about = fmt.Sprintf("%s of the memcached protocol, %d gets in a batch", plural(conns, "connection"), batch)
	case conns > 1:
		every = 8 // always thousands of samples
	}
	e := Experiment{Name: name, About: about, Baseline: nameNutcracker}
	for _, p := range []*proxy{b.sidecar, b.nutcracker} {
		if p != nil {
			load := wireLoad{addrs: []string{p.Addr()}, wire: b.wire, conns: conns, batch: batch, every: every, cpu: p.cpu}
			e.Contenders = append(e.Contenders, Contender{Name: p.name, Run: load.Run})
		}
	}
	direct := wireLoad{addrs: b.addrs, wire: b.wire, conns: conns, batch: batch, every: every}
	e.Contenders = append(e.Contenders, Contender{Name: nameDirect, Run: direct.Run})
	return e
}
