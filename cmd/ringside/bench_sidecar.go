package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/ringside-cache/ringside/bench"
)

func newBenchSidecar() *cobra.Command {
	var f benchFlags
	var profiles string
	cmd := &cobra.Command{
		Use: "sidecar", Short: "The sidecar beside twemproxy, and its gRPC beside an empty call",
		Long: `Measure the sidecar, a process of its own in front of three memcacheds, beside
twemproxy (nutcracker) and memcached itself: throughput, latency and CPU of the
memcached protocol, gRPC beside an empty call, and memory of 10,000 idle
connections. It needs memcached in PATH, and nutcracker for what is compared
with it, and takes less than three minutes.`,
		Args: nArgs(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			f.opts.Serve = []string{self, "serve"}
			if profiles != "" {
				if f.json != "" || len(f.opts.Only) > 0 || f.opts.Rounds != 0 {
					return usagef("--cpuprofiles goes with --duration only")
				}
				return benchError(bench.SidecarProfile(cmd.Context(), f.opts, profiles, cmd.OutOrStdout()))
			}
			return f.run(cmd, func(opts bench.Options) (*bench.Report, error) { return bench.Sidecar(cmd.Context(), opts) })
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&profiles, "cpuprofiles", "", "instead of the rounds, profile the sidecar under each load, for --duration (default 40s), into this DIRECTORY")
	return cmd
}
