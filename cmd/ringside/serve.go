package main

import (
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/ring"
	"github.com/ringside-cache/ringside/sidecar"
)

func newServe() *cobra.Command {
	var cfg sidecar.Config
	var f fleet
	var failover, logFormat, logLevel string
	cmd := &cobra.Command{
		Use:   "serve (--servers LIST | --embedded N)",
		Short: "Run the sidecar: memcached protocol, gRPC and admin HTTP in front of the nodes",
		Long: `Run the sidecar until SIGTERM or SIGINT, which drain it.

An ADDR is host:port, unix:/path (mode 0600) or "off". Listeners are on
loopback unless --allow-remote says otherwise.`,
		Args: nArgs(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case cmd.Flags().Changed("embedded") && cfg.Embedded < 1:
				return usagef("--embedded is %d, it must be at least 1", cfg.Embedded)
			case cfg.Embedded == 0 && len(splitList(f.servers)) == 0:
				return usagef("--servers LIST or --embedded N is needed")
			}
			cfg.Client.Servers = splitList(f.servers)
			cfg.Client.Dialect = ring.Dialect(f.dialect)
			cfg.Client.Timeout = f.timeout
			switch failover {
			case "next":
				cfg.Client.Failover = client.FailoverNext
			case "none":
				cfg.Client.Failover = client.FailoverNone
			default:
				return usagef("--failover is %q, it must be next or none", failover)
			}
			log, err := newLogger(cmd.ErrOrStderr(), logFormat, logLevel)
			if err != nil {
				return err
			}
			cfg.Logger = log
			if err := cfg.Validate(); err != nil {
				return &usageError{err}
			}
			s, err := sidecar.Start(cfg)
			if err != nil {
				return err
			}
			if err := printStart(cmd.OutOrStdout(), s); err != nil {
				return err
			}
			reserve := make([]byte, heapReserve)
			defer runtime.KeepAlive(reserve)
			return s.Run(cmd.Context())
		},
	}
	f.add(cmd)
	flags := cmd.Flags()
	flags.IntVar(&cfg.Embedded, "embedded", 0, "serve N in-process nodes instead of servers: nothing to install")
	flags.Int64Var(&cfg.EmbeddedBytes, "embedded-bytes", 0, "memory of each embedded node (default 64 MiB)")
	flags.StringVar(&cfg.Memcached, "memcached", "127.0.0.1:11311", "ADDR of the memcached protocol")
	flags.StringVar(&cfg.GRPC, "grpc", "127.0.0.1:11312", "ADDR of gRPC")
	flags.StringVar(&cfg.Admin, "admin", "127.0.0.1:11313", "ADDR of the admin HTTP")
	flags.BoolVar(&cfg.AllowRemote, "allow-remote", false, "let the memcached and admin listeners be reached from other hosts")
	flags.IntVar(&cfg.MaxValueBytes, "max-value-bytes", 0, "largest value that is taken (default 1 MiB)")
	flags.IntVar(&cfg.MaxConns, "max-conns", 0, "most connections of the memcached listener (default 10000)")
	flags.IntVar(&cfg.Client.ConnsPerNode, "conns-per-node", 0, "connections to each node (default 1)")
	flags.DurationVar(&cfg.DrainTimeout, "drain-timeout", 0, "bound of the drain (default 10s)")
	flags.StringVar(&failover, "failover", "next", "what happens to an ejected node's keys: next (a stand-in answers) or none (an error)")
	flags.StringVar(&logFormat, "log-format", "text", "text or json")
	flags.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("--log-level is %q, it must be debug, info, warn or error", level)
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, usagef("--log-format is %q, it must be text or json", format)
}

// printStart says where the sidecar listens, which nodes it has, and what to
// try.
func printStart(out io.Writer, s *sidecar.Sidecar) error {
	st := s.Status()
	addrs := s.Addresses()
	fmt.Fprintf(out, "ringside %s serves %d nodes, dialect %s\n", st.Version, len(st.Nodes), st.Dialect)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, name := range []string{"memcached", "grpc", "admin"} {
		addr, on := addrs[name]
		if !on {
			continue
		}
		if name == "admin" && !strings.HasPrefix(addr, "unix:") {
			addr = "http://" + addr
		}
		fmt.Fprintf(w, "  %s\t%s\n", name, addr)
	}
	for _, n := range st.Nodes {
		fmt.Fprintf(w, "  node\t%s\t%s\tweight %d\n", n.Name, n.Address, n.Weight)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	var try []string
	if addr, on := addrs["memcached"]; on {
		try = append(try, "go run ./cmd/ringside set hello world --ttl 60 --servers "+addr, "go run ./cmd/ringside get hello --servers "+addr)
	}
	if addr, on := addrs["admin"]; on && !strings.HasPrefix(addr, "unix:") {
		try = append(try, "curl http://"+addr+"/api/status")
	}
	if len(try) > 0 {
		_, err := fmt.Fprintf(out, "try\n  %s\n", strings.Join(try, "\n  "))
		return err
	}
	return nil
}
