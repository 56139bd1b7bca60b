package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

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
	for _, s := range bench.Scenarios() {
		cmd.AddCommand(newScenario(s))
	}
	cmd.AddCommand(newBenchAll(), newBenchReport(), newBenchStampedeWorker())
	return cmd
}

// benchFlags are those of every scenario.
type benchFlags struct {
	opts        bench.Options
	json, plots string
}

func (f *benchFlags) add(cmd *cobra.Command, duration time.Duration, rounds bool) {
	flags := cmd.Flags()
	flags.StringVar(&f.json, "json", "", "write everything that was measured to this FILE")
	flags.StringVar(&f.plots, "plots", "", "write pictures into this DIRECTORY: SVG and PNG, light and dark")
	flags.DurationVar(&f.opts.Duration, "duration", 0, fmt.Sprintf("about how long to measure, all together (default %v)", duration))
	flags.StringSliceVar(&f.opts.Only, "only", nil, "run only these parts, as they are named in the output")
	if rounds {
		flags.IntVar(&f.opts.Rounds, "rounds", 0, "turns of each contender, at least 5")
	}
}

// newScenario makes the command of a scenario. Most have only the flags that
// all have.
func newScenario(s bench.Scenario) *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use: s.Name, Short: s.Short, Long: s.Long,
		Args: nArgs(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, s.Run) },
	}
	f.add(cmd, s.Duration, s.HasRounds)
	switch s.Name {
	case "client":
		f.addProfile(cmd)
	case "sidecar":
		f.addProfiles(cmd)
	case "stampede":
		f.addProcesses(cmd)
	case "ring":
		f.addSizes(cmd)
	}
	return cmd
}

func (f *benchFlags) addProcesses(cmd *cobra.Command) {
	cmd.Flags().IntVar(&f.opts.Processes, "processes", 0, "processes that read through the cache (default 8)")
}

func (f *benchFlags) addSizes(cmd *cobra.Command) {
	cmd.Flags().IntSliceVar(&f.opts.Nodes, "nodes", nil, "sizes of the rings, 2 to 1000 nodes (default 2,5,10,50,100,1000)")
	cmd.Flags().IntVar(&f.opts.Keys, "keys", 0, "keys to place, 1000 to 10000000 (default 1000000)")
}

// run runs a scenario, prints its report and keeps it in a file. What was
// measured until an error is kept as well.
func (f *benchFlags) run(cmd *cobra.Command, scenario func(context.Context, bench.Options) (*bench.Report, error)) (err error) {
	if err := f.complete(cmd); err != nil {
		return err
	}
	var out io.Writer
	if f.json != "" {
		// Now, as nobody wants to hear of a typo after minutes.
		file, err := os.OpenFile(f.json, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		out = &truncating{file: file}
		defer func() { err = errors.Join(err, file.Close()) }()
	}
	if f.plots != "" {
		if err := os.MkdirAll(f.plots, 0o755); err != nil {
			return err
		}
	}
	report, err := scenario(cmd.Context(), f.opts)
	if report == nil {
		return benchError(err)
	}
	errs := []error{benchError(err), report.WriteTable(cmd.OutOrStdout())}
	if out != nil {
		errs = append(errs, report.WriteJSON(out))
	}
	if f.plots != "" {
		errs = append(errs, bench.WritePlots(report, f.plots))
	}
	return errors.Join(errs...)
}

// complete sets the options that are not the user's.
func (f *benchFlags) complete(cmd *cobra.Command) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	f.opts.Worker = []string{self, "bench", stampedeWorker}
	f.opts.Serve = []string{self, "serve"}
	f.opts.Version = sidecar.Version
	f.opts.Progress = benchProgress(cmd)
	return nil
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
	// Not embedded: its WriteString would be called past Write.
	file  *os.File
	begun bool
}

func (t *truncating) Write(b []byte) (int, error) {
	if !t.begun {
		if err := t.file.Truncate(0); err != nil {
			return 0, err
		}
		t.begun = true
	}
	return t.file.Write(b)
}

func newBenchAll() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use: "all", Short: "Every scenario, within 15 minutes",
		Long: `Run every scenario, one after the other, within 15 minutes. What can not run, as
something is not installed, is reported as not measured. --only names scenarios,
or parts of them as SCENARIO/PART.`,
		Args: nArgs(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.opts.Log = cmd.ErrOrStderr()
			return f.run(cmd, bench.All)
		},
	}
	f.add(cmd, 14*time.Minute, true)
	return cmd
}

// addProfile lets the client be profiled.
func (f *benchFlags) addProfile(cmd *cobra.Command) {
	var path string
	cmd.Flags().StringVar(&path, "cpuprofile", "", "instead of the rounds, profile ringside at 64 goroutines for --duration (default 10s) into this FILE")
	scenario := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if path == "" {
			return scenario(cmd, args)
		}
		return f.profile(cmd, path)
	}
}

func (f *benchFlags) profile(cmd *cobra.Command, path string) (err error) {
	if f.json != "" || f.plots != "" || len(f.opts.Only) > 0 || f.opts.Rounds != 0 {
		return usagef("--cpuprofile goes with --duration only")
	}
	if err := f.complete(cmd); err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return benchError(bench.ClientProfile(cmd.Context(), f.opts, file, cmd.OutOrStdout()))
}

// addProfiles lets the sidecar be profiled under each load.
func (f *benchFlags) addProfiles(cmd *cobra.Command) {
	var dir string
	cmd.Flags().StringVar(&dir, "cpuprofiles", "", "instead of the rounds, profile the sidecar under each load, for --duration (default 40s), into this DIRECTORY")
	scenario := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if dir == "" {
			return scenario(cmd, args)
		}
		if f.json != "" || f.plots != "" || len(f.opts.Only) > 0 || f.opts.Rounds != 0 {
			return usagef("--cpuprofiles goes with --duration only")
		}
		if err := f.complete(cmd); err != nil {
			return err
		}
		return benchError(bench.SidecarProfile(cmd.Context(), f.opts, dir, cmd.OutOrStdout()))
	}
}
