package main

import (
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/ringside-cache/ringside/bench"
	"github.com/ringside-cache/ringside/sidecar"
)

func newBench() *cobra.Command {
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure ringside against what people use today",
		Long: `Measure ringside against what people use today.

Each scenario starts its own servers, is bounded in time, and prints a table
with the ratio first. Ratios come from interleaved rounds. Where the rounds
differ too much to tell, the table says so.`,
		Args: onlyCommands,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBenchClient(), newBenchStampede(), newBenchStampedeWorker(), newBenchSidecar())
	return cmd
}

// benchFlags are those of every scenario.
type benchFlags struct {
	opts bench.Options
	json string
}

func (f *benchFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.json, "json", "", "write everything that was measured to this FILE")
	flags.DurationVar(&f.opts.Duration, "duration", 0, "about how long to measure, all rounds together (default 2m30s)")
	flags.IntVar(&f.opts.Rounds, "rounds", 0, "turns of each contender, at least 5 (default 7)")
	flags.StringSliceVar(&f.opts.Only, "only", nil, "run only these experiments, as they are named in the table")
}

// run runs a scenario and prints its report.
func (f *benchFlags) run(cmd *cobra.Command, scenario func(bench.Options) (*bench.Report, error)) error {
	f.complete(cmd)
	return runBench(cmd, f.json, func() (benchReport, error) { return scenario(f.opts) })
}

// benchReport is what a scenario gives.
type benchReport interface {
	WriteTable(w io.Writer) error
	WriteJSON(w io.Writer) error
}

// runBench runs a scenario, prints its report and keeps it in a file.
func runBench(cmd *cobra.Command, path string, scenario func() (benchReport, error)) (err error) {
	var out io.Writer
	if path != "" {
		// Now, as nobody wants to hear of a typo after minutes.
		file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		out = &truncating{File: file}
		defer func() { err = errors.Join(err, file.Close()) }()
	}
	report, err := scenario()
	if err != nil {
		return benchError(err)
	}
	err = report.WriteTable(cmd.OutOrStdout())
	if out != nil {
		err = errors.Join(err, report.WriteJSON(out))
	}
	return err
}

func (f *benchFlags) complete(cmd *cobra.Command) {
	f.opts.Version = sidecar.Version
	f.opts.Progress = benchProgress(cmd)
}

// benchProgress gives the terminal for a line that says what runs, if there is
// one.
func benchProgress(cmd *cobra.Command) io.Writer {
	if file, ok := cmd.ErrOrStderr().(*os.File); ok && isTerminal(file) {
		return file
	}
	return nil
}

func benchError(err error) error {
	if errors.Is(err, bench.ErrOptions) {
		return &usageError{err}
	}
	return err
}

// truncating empties its file before the first write, so that an old report
// is not lost to a run that fails.
type truncating struct {
	*os.File
	begun bool
}

func (t *truncating) Write(b []byte) (int, error) {
	if !t.begun {
		if err := t.Truncate(0); err != nil {
			return 0, err
		}
		t.begun = true
	}
	return t.File.Write(b)
}

func newBenchClient() *cobra.Command {
	var f benchFlags
	var profile string
	cmd := &cobra.Command{
		Use: "client", Short: "The client library beside gomemcache and the limit of the wire",
		Long: `Measure the client library beside gomemcache and a raw loop that shows the
limit of the wire: throughput, latency, CPU, allocations, and what an idle
client holds. It needs memcached in PATH and takes less than three minutes.`,
		Args: nArgs(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if profile == "" {
				return f.run(cmd, func(opts bench.Options) (*bench.Report, error) { return bench.Client(cmd.Context(), opts) })
			}
			if f.json != "" || len(f.opts.Only) > 0 || f.opts.Rounds != 0 {
				return usagef("--cpuprofile goes with --duration only")
			}
			f.complete(cmd)
			file, err := os.Create(profile)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, file.Close()) }()
			return benchError(bench.ClientProfile(cmd.Context(), f.opts, file, cmd.OutOrStdout()))
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&profile, "cpuprofile", "", "instead of the rounds, profile ringside at 64 goroutines for --duration (default 10s) into this FILE")
	return cmd
}
