package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/ringside-cache/ringside/bench"
)

// newBenchReport is what "make benchmarks" calls.
func newBenchReport() *cobra.Command {
	var from, plots string
	cmd := &cobra.Command{
		Use: "report", Short: "Print a report again that --json has kept",
		Long: `Print the report that --json has kept in FILE as a table again, or draw its
pictures. Nothing is measured.`,
		Args: nArgs(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" {
				return usagef("--from is missing: a file that --json has written")
			}
			file, err := os.Open(from)
			if err != nil {
				return err
			}
			report, err := bench.ReadReport(file)
			if err := errors.Join(err, file.Close()); err != nil {
				return err
			}
			if plots == "" {
				return report.WriteTable(cmd.OutOrStdout())
			}
			if err := os.MkdirAll(plots, 0o755); err != nil {
				return err
			}
			return bench.WritePlots(report, plots)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "the FILE that --json has written")
	flags.StringVar(&plots, "plots", "", "draw the pictures into this DIRECTORY instead of printing the table")
	return cmd
}
