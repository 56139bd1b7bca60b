package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/ringside-cache/ringside/bench"
	"github.com/ringside-cache/ringside/sidecar"
)

func newBenchStampede() *cobra.Command {
	var opts bench.StampedeOptions
	var json string
	cmd := &cobra.Command{
		Use: "stampede", Short: "How often the origin is asked, beside get-load-set and singleflight",
		Long: `Measure how often an origin is asked, and who waits for it, when popular keys
expire, are invalidated, or lose their loader or their node. A fleet of real
processes reads through real memcacheds at about 30% of its capacity: with
ringside, with naive get-load-set, and with singleflight in each process. It
needs memcached in PATH and takes less than four minutes.`,
		Args: nArgs(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			opts.Worker = []string{self, "bench", stampedeWorker}
			opts.Version, opts.Progress = sidecar.Version, benchProgress(cmd)
			return runBench(cmd, json, func() (benchReport, error) { return bench.Stampede(cmd.Context(), opts) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&json, "json", "", "write everything that was measured to this FILE")
	flags.DurationVar(&opts.Duration, "duration", 0, "about how long all events take together (default 3m30s)")
	flags.IntVar(&opts.Processes, "processes", 0, "processes that read through the cache (default 8)")
	flags.StringSliceVar(&opts.Only, "only", nil, "run only these events, as they are named in the table")
	return cmd
}

const stampedeWorker = "stampede-worker"

// newBenchStampedeWorker is a process of the fleet, which the scenario starts
// for itself.
func newBenchStampedeWorker() *cobra.Command {
	return &cobra.Command{
		Use: stampedeWorker, Hidden: true,
		Args: nArgs(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.StampedeWorker(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
