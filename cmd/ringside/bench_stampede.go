package main

import (
	"github.com/spf13/cobra"

	"github.com/ringside-cache/ringside/bench"
)

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
