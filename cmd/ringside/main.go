// Command ringside runs the sidecar and answers questions about rings and
// fleets by hand. It has flags, signals and exit codes; what it does is in
// the packages.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

const (
	exitFailed = 1
	exitUsage  = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is main for tests: it gives the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := untilSignal(stderr)
	defer stop()
	root := newRoot()
	root.SetArgs(numbersAreArguments(root, args))
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(stderr, "ringside: %v\nSee 'ringside help' and 'ringside COMMAND --help'.\n", err)
		return exitUsage
	}
	if !errors.Is(err, errSilent) {
		fmt.Fprintf(stderr, "ringside: %v\n", err)
	}
	return exitFailed
}

// sameSignal is how soon after the first a second signal means the same.
const sameSignal = 100 * time.Millisecond

// untilSignal gives a context that ends with the first SIGTERM or SIGINT. The
// second one ends the process, whatever it is waiting for; unless it comes at once,
// as from timeout(1) and others that send the first to the process and to its group.
func untilSignal(stderr io.Writer) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer cancel()
		var first time.Time
		for {
			select {
			case <-signals:
				if ctx.Err() != nil {
					if time.Since(first) < sameSignal {
						continue
					}
					fmt.Fprintln(stderr, "ringside: a second signal: not waiting any longer")
					os.Exit(exitFailed)
				}
				first = time.Now()
				cancel()
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		<-ctx.Done()
	}
}

// numbersAreArguments puts the flags first and "--" behind them where a
// negative number is among the arguments, as in "incr KEY -5": no flag of ours
// is a digit, but -5 would be taken for one.
func numbersAreArguments(root *cobra.Command, args []string) []string {
	cmd, rest, err := root.Find(args)
	if err != nil || !slices.ContainsFunc(rest, isNegativeNumber) {
		return args
	}
	flags := strings.Fields(cmd.CommandPath())[1:]
	var words []string
	for i := 0; i < len(rest); i++ {
		arg := rest[i]
		if arg == "--" {
			words = append(words, rest[i+1:]...)
			break
		}
		if !strings.HasPrefix(arg, "-") || arg == "-" || isNegativeNumber(arg) {
			words = append(words, arg)
			continue
		}
		flags = append(flags, arg)
		f := cmd.Flags().Lookup(strings.TrimPrefix(arg, "--"))
		if f == nil || f.NoOptDefVal != "" {
			continue
		}
		if i++; i == len(rest) {
			return flags // and the missing value is what will be complained of
		}
		flags = append(flags, rest[i])
	}
	return append(append(flags, "--"), words...)
}

func isNegativeNumber(arg string) bool {
	return len(arg) > 1 && arg[0] == '-' && arg[1] >= '0' && arg[1] <= '9'
}

// usageError is a command line that can not be understood.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// errSilent is a failure that was already said on stdout.
var errSilent = errors.New("failed")

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "ringside",
		Short: "A distributed cache client and per-host sidecar for a fleet of memcached servers",
		Long: `ringside spreads keys over a fleet of memcached servers with a ketama ring,
keeps working when servers die, and shares one client with every process on a
host.

LIST is a comma-separated list of servers, each [name@]address[*weight]:
  10.0.0.1:11211,cache2@10.0.0.2:11211*2,unix:/run/mc.sock

Exit codes: 0 done, 1 failed, 2 bad usage.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          onlyCommands,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{
		Use: "help [COMMAND]", Short: "Say more about a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("%q is not a command of %q", strings.Join(args, " "), root.CommandPath())
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	})
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(newServe(), newCheck(), newRing(), newExplain(), newBench(), newVersion())
	root.AddCommand(newOperations()...)
	return root
}

// onlyCommands refuses words that are no command.
func onlyCommands(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%q is not a command of %q", args[0], cmd.CommandPath())
	}
	return nil
}

// nArgs wants lo to hi arguments, any number above lo where hi is -1.
func nArgs(lo, hi int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < lo || hi >= 0 && len(args) > hi {
			return usagef("%s needs %s, got %d arguments", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}
