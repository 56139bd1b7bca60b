package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ringside-cache/ringside/sidecar"
)

func newServe() *cobra.Command {
	var f settingFlags
	var show bool
	cmd := &cobra.Command{
		Use:   "serve (--config FILE | --servers LIST | --embedded N)",
		Short: "Run the sidecar: memcached protocol, gRPC and admin HTTP in front of the nodes",
		Long: `Run the sidecar until SIGTERM or SIGINT, which drain it. A second one ends
it at once.

An ADDR is host:port, unix:/path (mode 0600, or --socket-mode) or "off". Listeners are on
loopback unless --allow-remote says otherwise, and then they need TLS.

Each flag is a setting of the config file too, and comes before what that says;
'ringside check FILE --print' shows them by their names there. The file is read
again when it changes, and on SIGHUP.`,
		Args: nArgs(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, text, err := f.read(cmd)
			if err != nil {
				return err
			}
			if err := listens(set); err != nil {
				return &usageError{err}
			}
			if show {
				full := set.WithDefaults()
				_, err := cmd.OutOrStdout().Write(full.YAML())
				return err
			}
			return serve(cmd, &f, set, text)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&show, "print", false, "print the effective config, and serve nothing")
	return cmd
}

func serve(cmd *cobra.Command, f *settingFlags, set *sidecar.Settings, text []byte) error {
	// Before anything is begun: SIGHUP ends a process that does not expect it.
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP)
	defer signal.Stop(hangUp)
	if err := set.SetLogger(cmd.ErrOrStderr()); err != nil {
		return &usageError{err}
	}
	s, err := sidecar.StartWith(set)
	if err != nil {
		return err
	}
	if err := printStart(cmd.OutOrStdout(), s); err != nil {
		return err
	}
	ctx, end := context.WithCancel(cmd.Context())
	defer end()
	var following sync.WaitGroup
	following.Go(func() {
		if f.file != "" {
			s.Follow(ctx, sidecar.Reloader{File: f.file, Read: f.parse, Now: hangUp}, text)
			return
		}
		// There is nothing to read again, and the terminal is gone.
		select {
		case <-hangUp:
			end()
		case <-ctx.Done():
		}
	})
	reserve := make([]byte, heapReserve)
	err = s.Run(ctx)
	runtime.KeepAlive(reserve)
	end()
	following.Wait()
	return err
}

// printStart says where the sidecar listens, which nodes it has, and what to
// try.
func printStart(out io.Writer, s *sidecar.Sidecar) error {
	st := s.Status()
	addrs := s.Addresses()
	nodes := "nodes"
	if len(st.Nodes) == 1 {
		nodes = "node"
	}
	fmt.Fprintf(out, "ringside %s serves %d %s, dialect %s\n", st.Version, len(st.Nodes), nodes, st.Dialect)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	scheme := "http://"
	if s.Secured("admin") {
		scheme = "https://"
	}
	for _, name := range []string{"memcached", "grpc", "admin"} {
		addr, on := addrs[name]
		if !on {
			continue
		}
		if name == "admin" && !strings.HasPrefix(addr, "unix:") {
			addr = scheme + addr
		}
		if s.Secured(name) {
			addr += "\tTLS"
		}
		fmt.Fprintf(w, "  %s\t%s\n", name, addr)
	}
	for _, n := range st.Nodes {
		fmt.Fprintf(w, "  node\t%s\t%s\tweight %d\n", n.Name, n.Address, n.Weight)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	self := os.Args[0]
	if exe, err := os.Executable(); err == nil && strings.Contains(exe, "go-build") {
		self = "go run ./cmd/ringside" // as that has built it, to remove it again
	}
	var try []string
	if addr, on := addrs["memcached"]; on && !s.Secured("memcached") {
		try = append(try, self+" set hello world --ttl 60 --servers "+addr, self+" get hello --servers "+addr)
	}
	if addr, on := addrs["admin"]; on && !strings.HasPrefix(addr, "unix:") {
		try = append(try, "curl "+scheme+addr+"/api/status")
	}
	if len(try) > 0 {
		_, err := fmt.Fprintf(out, "try\n  %s\n", strings.Join(try, "\n  "))
		return err
	}
	return nil
}
