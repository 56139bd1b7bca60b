package bench

import (
	"context"
	"fmt"
	"io"
	"runtime/pprof"
	"time"

	"github.com/ringside-cache/ringside/client"
)

// profileCallers is the setting that most of the client's claims are about.
const profileCallers = 64

// ClientProfile writes a CPU profile of ringside with its defaults under Get
// by 64 goroutines to w, and what was measured meanwhile to out. It compares
// nothing: a profiled program is slower. Of the options it takes Duration, by
// default 10 s, and Progress.
func ClientProfile(ctx context.Context, opts Options, w, out io.Writer) (err error) {
	if opts.Duration == 0 {
		opts.Duration = 10 * time.Second
	}
	if err := opts.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrOptions, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("bench: profile: %w", err)
		}
	}()
	p := newProgress(opts.Progress)
	defer p.end()
	p.say(fmt.Sprintf("profiling %d goroutines for %v", profileCallers, opts.Duration))

	var s servers
	defer s.close()
	addrs, err := s.start(1)
	if err != nil {
		return err
	}
	peer, err := s.keep(newRingside(nameRingside, client.Config{Servers: addrs}))
	if err != nil {
		return err
	}
	in := newCorpus(clientKeys, clientValue)
	if err := in.store(ctx, peer); err != nil {
		return err
	}
	work := peer.contender(nameRingside, in.gets(peer, profileCallers))
	if _, err := work.Run(ctx, Slot{Measure: time.Second}); err != nil { // warm-up
		return err
	}
	if err := pprof.StartCPUProfile(w); err != nil {
		return err
	}
	sample, err := work.Run(ctx, Slot{Measure: opts.Duration})
	pprof.StopCPUProfile()
	if err != nil {
		return err
	}
	p.end()
	_, err = fmt.Fprintln(out, profileLine(sample))
	return err
}

// profileLine prints what was measured; a quantity that was not says so.
func profileLine(s Sample) string {
	line := fmt.Sprintf("%d goroutines, profiled:", profileCallers)
	for _, q := range []struct {
		q    Quantity
		name string
	}{{Throughput, "Gets"}, {LatencyP50, "median"}, {LatencyP99, "p99"}, {CPUPerOp, "CPU/Get"}, {AllocsPerOp, "allocs/Get"}, {OpsPerWrite, "per write"}} {
		text := "not measured"
		if x, ok := s[q.q]; ok {
			text = valueString(x, q.q)
		}
		line += "  " + q.name + " " + text
	}
	return line
}
