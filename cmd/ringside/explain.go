package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/sidecar"
)

func newExplain() *cobra.Command {
	var f fleet
	cmd := &cobra.Command{
		Use: "explain KEY --servers LIST", Short: "Say where a key goes and why",
		Long: "Say where a key goes and why. Every server of the list is asked whether it is there.",
		Args: nArgs(1, 1, "KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			defer c.Close()
			e, err := c.Explain(args[0])
			if err != nil {
				return named(err, args[0])
			}
			causes := make(map[string]error) // by node, of those that do not answer
			if failed := new(client.MultiError); errors.As(c.Ping(cmd.Context()), &failed) {
				for _, e := range failed.Errors {
					causes[e.Node] = e.Err
				}
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "key\t%s\n", e.Key)
			fmt.Fprintf(w, "dialect\t%s, key hash %s\n", e.Dialect, e.KeyHash)
			fmt.Fprintf(w, "hash\t%d (0x%08x)\n", e.Hash, e.Hash)
			fmt.Fprintf(w, "owner\t%s\n", e.Owner)
			fmt.Fprintf(w, "stand-ins\t%s\n", strings.Join(e.StandIns, ", "))
			for _, n := range c.Stats().Nodes {
				fmt.Fprintf(w, "node %s\t%s\n", n.Name, reached(n, causes[n.Name]))
			}
			return w.Flush()
		},
	}
	f.add(cmd)
	return cmd
}

func reached(n client.NodeStats, cause error) string {
	switch {
	case cause != nil:
		return fmt.Sprintf("does not answer: %v", cause)
	case n.Legacy:
		return "answers, without meta commands, version " + n.Version
	}
	return "answers, version " + n.Version
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version",
		Args: nArgs(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintln(cmd.OutOrStdout(), "ringside", sidecar.Version)
			return nil
		},
	}
}
