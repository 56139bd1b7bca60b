package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// soakSamples is about how often the memory is looked at. Each look has
	// the sidecar collect its garbage.
	soakSamples = 60
	// soakWarmup is how long buffers and pools may grow, or a fifth of the
	// time where that is less.
	soakWarmup = 2 * time.Minute
	// MaxGrowth is how much the memory may grow from the warm-up to the end:
	// this share, and soakSlack for what the runtime rounds up.
	MaxGrowth = 0.05
	soakSlack = 1 << 20 // bytes
)

// A SoakSample is the memory of a sidecar at a moment, in bytes.
type SoakSample struct {
	At       time.Duration
	Resident float64
	// Live is what is left of heap and stacks after a collection.
	Live float64
}

// SidecarSoak runs a sidecar under a steady load for d and tells whether its
// memory stays flat: on the memcached listener connections that stay and such
// that come and go, gRPC calls and a Stream. It prints a line for each look to
// out and gives all of them; an error says that the memory grew.
func SidecarSoak(ctx context.Context, serve []string, d time.Duration, out io.Writer) ([]SoakSample, error) {
	b, err := newSidecarBench(ctx, serve)
	if err != nil {
		return nil, fmt.Errorf("bench: soak: %w", err)
	}
	defer b.close()
	samples, err := b.soak(ctx, d, out)
	if err == nil {
		err = judgeGrowth(samples, min(soakWarmup, d/5), out)
	}
	if err != nil {
		return samples, fmt.Errorf("bench: soak: %w", err)
	}
	return samples, nil
}

func (b *sidecarBench) soak(ctx context.Context, d time.Duration, out io.Writer) ([]SoakSample, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := time.Now()
	end := start.Add(d)
	failed := make(chan error, 8)
	var loads sync.WaitGroup
	var mu sync.Mutex // guards ops and failedSlots
	ops, failedSlots := 0.0, 0
	load := func(run func(Slot) error) {
		loads.Go(func() {
			// A machine that is busy elsewhere makes for a timeout now and then.
			const most = 3 // failures in a row
			for failures := 0; ctx.Err() == nil && time.Now().Before(end); {
				// Slots of a second: connections and streams end and begin.
				slot := Slot{Measure: max(min(time.Second, time.Until(end)), 10*time.Millisecond)}
				err := run(slot)
				switch {
				case ctx.Err() != nil:
					return
				case err == nil:
					failures = 0
					continue
				}
				mu.Lock()
				failedSlots++
				mu.Unlock()
				if failures++; failures == most {
					failed <- err
					return
				}
			}
		})
	}
	measured := func(run func(context.Context, Slot) (Sample, error)) {
		load(func(slot Slot) error {
			s, err := run(ctx, slot)
			mu.Lock()
			defer mu.Unlock()
			ops += s[Throughput] * slot.Measure.Seconds()
			return err
		})
	}
	wire := wireLoad{addrs: []string{b.sidecar.Addr()}, wire: b.wire, conns: proxyConns, batch: 4, every: 1}
	measured(wire.Run)
	measured(b.unary(8).Run)
	measured(func(ctx context.Context, slot Slot) (Sample, error) { return b.stream(ctx, slot, 16, true) })
	load(func(slot Slot) error {
		err := b.getOnEach(b.sidecar.Addr(), 20, 2)
		return errors.Join(err, rest(ctx, min(100*time.Millisecond, slot.Measure)))
	})

	var samples []SoakSample
	every := time.NewTicker(max(d/soakSamples, 10*time.Millisecond))
	defer every.Stop()
	var err error
	for err == nil && time.Now().Before(end) {
		select {
		case <-every.C:
			var s SoakSample
			if s, err = b.look(ctx, time.Since(start)); err == nil {
				samples = append(samples, s)
				fmt.Fprintf(out, "%7.1fs  %.2f MiB resident, %.2f MiB live\n", s.At.Seconds(), mib(int64(s.Resident)), mib(int64(s.Live)))
			}
		case err = <-failed:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	cancel()
	loads.Wait()
	fmt.Fprintf(out, "about %.0f requests in %v; %d seconds of a load failed\n", ops, time.Since(start).Round(time.Second), failedSlots)
	return samples, err
}

// look takes a sample of the sidecar's memory.
func (b *sidecarBench) look(ctx context.Context, at time.Duration) (SoakSample, error) {
	resident, err := processMemory(b.sidecar.pid)
	if err != nil {
		return SoakSample{}, err
	}
	live, err := liveMemory(ctx, "http://"+b.sidecar.admin)
	return SoakSample{At: at, Resident: float64(resident), Live: live}, err
}

// liveMemory has a process collect its garbage and gives what is left.
func liveMemory(ctx context.Context, admin string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, admin+"/debug/pprof/heap?gc=1&debug=1", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	return parseLive(string(text))
}

// parseLive reads the runtime's figures at the end of a heap profile.
func parseLive(profile string) (float64, error) {
	sum := 0.0
	for _, name := range []string{"# HeapAlloc = ", "# Stack = "} {
		_, rest, ok := strings.Cut(profile, "\n"+name)
		word, _, _ := strings.Cut(rest, "\n")
		word, _, _ = strings.Cut(word, " /") // in use / from the system
		n, err := strconv.ParseFloat(word, 64)
		if !ok || err != nil {
			return 0, fmt.Errorf("no %q in the heap profile", name)
		}
		sum += n
	}
	return sum, nil
}

// judgeGrowth fits a line to the samples after the warm-up. One sample says
// nothing: the runtime gives memory back when it likes.
func judgeGrowth(samples []SoakSample, warmup time.Duration, out io.Writer) error {
	for len(samples) > 0 && samples[0].At < warmup {
		samples = samples[1:]
	}
	const least = 10
	if len(samples) < least {
		return fmt.Errorf("%d looks after the warm-up are too few for a verdict, %d are needed", len(samples), least)
	}
	var errs []error
	for _, kind := range []struct {
		name string
		of   func(SoakSample) float64
	}{
		{"resident", func(s SoakSample) float64 { return s.Resident }},
		{"live", func(s SoakSample) float64 { return s.Live }},
	} {
		first, last := fitted(samples, kind.of)
		growth := last - first
		line := fmt.Sprintf("%s memory from %v on: %.2f MiB to %.2f MiB by the fitted line, %+.1f%%",
			kind.name, samples[0].At.Round(time.Second), first/(1<<20), last/(1<<20), 100*growth/first)
		fmt.Fprintln(out, line)
		if growth > MaxGrowth*first+soakSlack {
			errs = append(errs, fmt.Errorf("it grew: %s", line))
		}
	}
	return errors.Join(errs...)
}

// fitted gives the first and the last point of the least-squares line.
func fitted(samples []SoakSample, of func(SoakSample) float64) (first, last float64) {
	var meanX, meanY, xx, xy float64
	n := float64(len(samples))
	for _, s := range samples {
		meanX += s.At.Seconds() / n
		meanY += of(s) / n
	}
	for _, s := range samples {
		dx := s.At.Seconds() - meanX
		xx += dx * dx
		xy += dx * (of(s) - meanY)
	}
	slope := 0.0
	if xx > 0 {
		slope = xy / xx
	}
	at := func(s SoakSample) float64 { return meanY + slope*(s.At.Seconds()-meanX) }
	return at(samples[0]), at(samples[len(samples)-1])
}
