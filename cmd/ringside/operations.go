package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/proto/memcached"
)

// operation makes a command that runs one operation on a fleet.
func operation(use, short string, lo, hi int, what string, do func(ctx context.Context, c *client.Client, cmd *cobra.Command, args []string) error) *cobra.Command {
	var f fleet
	cmd := &cobra.Command{
		Use: use, Short: short, Args: nArgs(lo, hi, what),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.client()
			if err != nil {
				return err
			}
			defer c.Close()
			return do(cmd.Context(), c, cmd, args)
		},
	}
	f.add(cmd)
	return cmd
}

func newOperations() []*cobra.Command {
	return []*cobra.Command{
		operation("get KEY", "Print the value of a key; exit 1 when it is not there", 1, 1, "KEY",
			func(ctx context.Context, c *client.Client, cmd *cobra.Command, args []string) error {
				item, err := c.Get(ctx, args[0])
				if err != nil {
					return named(err, args[0])
				}
				out := cmd.OutOrStdout()
				if _, err := out.Write(item.Value); err != nil {
					return err
				}
				// A person wants a line; a pipe wants the value as it is.
				if f, ok := out.(*os.File); ok && isTerminal(f) {
					fmt.Fprintln(out)
				}
				return nil
			}),
		newStore("set", "Store a value", (*client.Client).Set),
		newStore("add", "Store a value if the key is not there; exit 1 when it is", (*client.Client).Add),
		operation("delete KEY…", "Remove keys; exit 1 when one was not there", 1, -1, "KEY…",
			func(ctx context.Context, c *client.Client, _ *cobra.Command, args []string) error {
				if err := checkKeys(args); err != nil {
					return err
				}
				var errs []error
				for _, key := range args {
					if err := c.Delete(ctx, key); err != nil {
						errs = append(errs, named(err, key))
					}
				}
				return errors.Join(errs...)
			}),
		operation("incr KEY [DELTA]", "Add DELTA (default 1, may be negative) to a number and print it", 1, 2, "KEY [DELTA]", incr),
		operation("touch KEY SECONDS", "Set a new time to live", 2, 2, "KEY SECONDS",
			func(ctx context.Context, c *client.Client, _ *cobra.Command, args []string) error {
				seconds, err := strconv.ParseInt(args[1], 10, 64)
				if err != nil {
					return usagef("SECONDS is %q, it must be a number", args[1])
				}
				expiration, err := expirationOf("SECONDS", seconds, time.Now())
				if err != nil {
					return err
				}
				return named(c.Touch(ctx, args[0], expiration), args[0])
			}),
		operation("mget KEY…", "Print KEY<TAB>VALUE for each key that is there", 1, -1, "KEY…",
			func(ctx context.Context, c *client.Client, cmd *cobra.Command, args []string) error {
				if err := checkKeys(args); err != nil {
					return err
				}
				items, err := c.GetMulti(ctx, args)
				for _, key := range args {
					if item := items[key]; item != nil {
						fmt.Fprintf(cmd.OutOrStdout(), "%s\t%s\n", key, item.Value)
					}
				}
				return err
			}),
		operation("stats [ARGUMENT]", "Print NODE<TAB>NAME<TAB>VALUE of each node's own statistics", 0, 1, "one ARGUMENT at most", stats),
	}
}

func newStore(name, short string, store func(*client.Client, context.Context, *client.Item) error) *cobra.Command {
	var ttl int64
	var flags uint32
	cmd := operation(name+" KEY [VALUE]", short+"; VALUE comes from stdin if it is not given", 1, 2, "KEY [VALUE]",
		func(ctx context.Context, c *client.Client, cmd *cobra.Command, args []string) error {
			expiration, err := expirationOf("--ttl", ttl, time.Now())
			if err != nil {
				return err
			}
			item := &client.Item{Key: args[0], Expiration: expiration, Flags: flags}
			if len(args) == 2 {
				item.Value = []byte(args[1])
			} else {
				value, err := io.ReadAll(cmd.InOrStdin())
				if err != nil {
					return err
				}
				item.Value = value
			}
			return named(store(c, ctx, item), args[0])
		})
	cmd.Flags().Int64Var(&ttl, "ttl", 0, "time to live in seconds, 0 is for ever, below 0 is over at once")
	cmd.Flags().Uint32Var(&flags, "flags", 0, "client flags")
	return cmd
}

// expirationOf gives seconds from now as memcached takes them, where a number
// above 30 days is a Unix time.
func expirationOf(name string, seconds int64, now time.Time) (int32, error) {
	most := max(math.MaxInt32-now.Unix(), memcached.MaxRelative)
	if seconds > most || seconds < math.MinInt32 {
		return 0, usagef("%s is %d, it must be from %d to %d seconds, whose end is a date that memcached knows", name, seconds, math.MinInt32, most)
	}
	if seconds > memcached.MaxRelative {
		seconds += now.Unix()
	}
	return int32(seconds), nil
}

func incr(ctx context.Context, c *client.Client, cmd *cobra.Command, args []string) error {
	up, delta := true, uint64(1)
	if len(args) == 2 {
		text := args[1]
		if text != "" && text[0] == '-' {
			up, text = false, text[1:]
		}
		var err error
		if delta, err = strconv.ParseUint(text, 10, 64); err != nil {
			return usagef("DELTA is %q, it must be a number of 64 bits", args[1])
		}
	}
	change := c.Increment
	if !up {
		change = c.Decrement
	}
	n, err := change(ctx, args[0], delta)
	if err != nil {
		return named(err, args[0])
	}
	fmt.Fprintln(cmd.OutOrStdout(), n)
	return nil
}

func stats(ctx context.Context, c *client.Client, cmd *cobra.Command, args []string) error {
	arg := ""
	if len(args) == 1 {
		arg = args[0]
	}
	byNode, err := c.ServerStats(ctx, arg)
	names := make([]string, 0, len(byNode))
	for name := range byNode {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, s := range byNode[name] {
			fmt.Fprintf(cmd.OutOrStdout(), "%s\t%s\t%s\n", name, s.Name, s.Value)
		}
	}
	return err
}

// named says which key a result is about. The library's own errors never
// print one, but here it was typed by hand.
func named(err error, key string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, client.ErrMalformedKey):
		return &usageError{fmt.Errorf("key %.60q: %w", key, err)}
	default:
		return fmt.Errorf("key %q: %w", key, err)
	}
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
