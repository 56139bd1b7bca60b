package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// SidecarProfile takes CPU profiles of the sidecar under each load of
// [Sidecar], one after the other within Options.Duration (default 40 s), and
// writes them into a directory, a file each: memcached-50.pprof and so on.
// Nothing else runs meanwhile, so the rates are not those of the report.
func SidecarProfile(ctx context.Context, opts Options, dir string, out io.Writer) error {
	if opts.Duration == 0 {
		opts.Duration = 40 * time.Second
	}
	if len(opts.Serve) == 0 || opts.Duration < 0 {
		return fmt.Errorf("%w: serve and a duration above 0 are needed", ErrOptions)
	}
	b, err := newSidecarBench(ctx, opts.Serve)
	if err != nil {
		return fmt.Errorf("bench: sidecar: %w", err)
	}
	defer b.close()
	loads := b.profiled()
	for _, l := range loads {
		path := filepath.Join(dir, strings.ReplaceAll(l.Name, "/", "-")+".pprof")
		s, err := b.profile(ctx, l, opts.Duration/time.Duration(len(loads)), path)
		if err != nil {
			return fmt.Errorf("bench: sidecar: %s: %w", l.Name, err)
		}
		fmt.Fprintf(out, "%s: %s, %s of CPU each, into %s\n", l.Name,
			valueString(s[Throughput], Throughput), valueString(s[ProxyCPUPerOp], ProxyCPUPerOp), path)
	}
	return nil
}

// profiled are the loads on the sidecar alone.
func (b *sidecarBench) profiled() []Contender {
	var all []Contender
	for _, e := range b.experiments() {
		for _, c := range e.Contenders {
			switch c.Name {
			case nameSidecar:
				if e.Name != "idle" {
					all = append(all, Contender{e.Name, c.Run})
				}
			case nameUnary, nameCheck, nameStream, nameAlso:
				all = append(all, Contender{e.Name + "/" + strings.ReplaceAll(c.Name, " ", "-"), c.Run})
			}
		}
	}
	return all
}

// profile carries a load for d and takes a profile meanwhile.
func (b *sidecarBench) profile(ctx context.Context, load Contender, d time.Duration, path string) (s Sample, err error) {
	// A profile takes whole seconds.
	whole := max(d.Truncate(time.Second), time.Second)
	done := make(chan error, 1)
	go func() {
		var err error
		s, err = load.Run(ctx, Slot{Warmup: 200 * time.Millisecond, Measure: whole})
		done <- err
	}()
	err = download(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", b.sidecar.admin, int(whole.Seconds())), path)
	err = errors.Join(<-done, err) // before s is looked at
	return s, err
}

func download(ctx context.Context, url, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s is answered %s", url, resp.Status)
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, resp.Body)
	return errors.Join(err, file.Close())
}
