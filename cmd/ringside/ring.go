package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ringside-cache/ringside/proto/memcached"
	"github.com/ringside-cache/ringside/ring"
)

func newRing() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ring", Short: "Where keys live, and what a change of nodes would move",
		Args: onlyCommands,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRingLocate(), newRingPlan(), newRingDialects())
	return cmd
}

func newRingDialects() *cobra.Command {
	return &cobra.Command{
		Use: "dialects", Short: "List the dialects, a line each",
		Args: nArgs(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, d := range ring.Dialects() {
				fmt.Fprintln(cmd.OutOrStdout(), d)
			}
			return nil
		},
	}
}

func newRingLocate() *cobra.Command {
	var f fleet
	cmd := &cobra.Command{
		Use: "locate --servers LIST [KEY…]", Short: "Print KEY<TAB>NODE for each key; keys come from stdin if none is given",
		Args: nArgs(0, -1, "any number of keys"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := parseRing("--servers", f.servers, f.dialect)
			if err != nil {
				return err
			}
			out := bufio.NewWriter(cmd.OutOrStdout())
			for key, err := range keysOf(args, cmd.InOrStdin()) {
				if err != nil {
					return errors.Join(err, out.Flush())
				}
				fmt.Fprintf(out, "%s\t%s\n", key, r.Node(r.Lookup(key)).Name)
			}
			return out.Flush()
		},
	}
	cmd.Flags().StringVar(&f.servers, "servers", "", "LIST of servers: [name@]address[*weight],…")
	f.addDialect(cmd)
	return cmd
}

// keysOf yields the arguments, or the lines of in where there are none. A
// line longer than a key can be is an error that names it by its number.
func keysOf(args []string, in io.Reader) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := checkKeys(args); err != nil {
			yield("", err)
			return
		}
		for _, key := range args {
			if !yield(key, nil) {
				return
			}
		}
		if len(args) > 0 {
			return
		}
		line := 0
		s := bufio.NewScanner(in)
		s.Split(scanLF)
		for s.Scan() {
			line++
			err := checkKey(s.Text())
			if err != nil {
				err = fmt.Errorf("line %d: %w", line, err)
			}
			if !yield(s.Text(), err) || err != nil {
				return
			}
		}
		switch err := s.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			yield("", fmt.Errorf("line %d: malformed key: the key has more than %d bytes, at most %d are allowed", line+1, bufio.MaxScanTokenSize-1, memcached.MaxKey))
		case err != nil:
			yield("", fmt.Errorf("line %d: %w", line+1, err))
		}
	}
}

func newRingPlan() *cobra.Command {
	var from, to, keys string
	var asJSON bool
	var f fleet
	cmd := &cobra.Command{
		Use: "plan --from LIST --to LIST", Short: "Say what a change of nodes would move, before it is made",
		Args: nArgs(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			before, err := parseRing("--from", from, f.dialect)
			if err != nil {
				return err
			}
			after, err := parseRing("--to", to, f.dialect)
			if err != nil {
				return err
			}
			sample := ring.SampleKeys(1_000_000)
			var readErr error
			if keys != "" {
				file, err := os.Open(keys)
				if err != nil {
					return err
				}
				defer file.Close()
				sample = untilError(keysOf(nil, file), &readErr)
			}
			change := ring.Plan(before, after, sample)
			if readErr != nil {
				return fmt.Errorf("%s: %w", keys, readErr)
			}
			if change.Keys == 0 {
				return fmt.Errorf("%s has no keys", keys)
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(struct {
					ring.Change
					MovedShare float64 `json:"moved_share"`
				}{change, change.MovedShare()})
			}
			return printPlan(cmd.OutOrStdout(), change)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "LIST of servers today")
	cmd.Flags().StringVar(&to, "to", "", "LIST of servers after the change")
	cmd.Flags().StringVar(&keys, "keys", "", "file with a sample of real keys, one per line (default a million made-up keys)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	f.addDialect(cmd)
	return cmd
}

func untilError(seq iter.Seq2[string, error], failed *error) iter.Seq[string] {
	return func(yield func(string) bool) {
		for key, err := range seq {
			if err != nil {
				*failed = err
				return
			}
			if !yield(key) {
				return
			}
		}
	}
}

func printPlan(out io.Writer, c ring.Change) error {
	percent := func(n int) string {
		if c.Keys == 0 {
			return "-"
		}
		return fmt.Sprintf("%.2f%%", 100*float64(n)/float64(c.Keys))
	}
	fmt.Fprintf(out, "%s of %d keys move, %s of them between nodes that stay\n\n", percent(c.Moved), c.Keys, shareOf(c.Needless, c.Moved))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "node\tbefore\tafter\tgains\tloses\t\t")
	for _, n := range c.Nodes {
		note := ""
		switch {
		case n.Joins:
			note = "joins"
		case n.Leaves:
			note = "leaves"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t\n", n.Name, percent(n.Before), percent(n.After), percent(n.Gained), percent(n.Lost), note)
	}
	return w.Flush()
}

func shareOf(part, whole int) string {
	if whole == 0 {
		return "none"
	}
	return fmt.Sprintf("%.2f%%", 100*float64(part)/float64(whole))
}
