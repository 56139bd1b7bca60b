package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/ring"
)

// fleet are the flags that name the nodes.
type fleet struct {
	servers string
	dialect string
	timeout time.Duration
}

func (f *fleet) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.servers, "servers", "", "LIST of servers: [name@]address[*weight],…")
	f.addDialect(cmd)
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "bound of one operation (default 500ms)")
}

func (f *fleet) addDialect(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dialect, "dialect", string(ring.Ketama), "way that keys are placed, NAME[:KEYHASH]; see 'ringside ring dialects'")
}

func (f *fleet) config() (client.Config, error) {
	cfg := client.Config{Servers: splitList(f.servers), Dialect: ring.Dialect(f.dialect), Timeout: f.timeout}
	if len(cfg.Servers) == 0 {
		return cfg, usagef("--servers is needed: a comma-separated list of servers")
	}
	if err := cfg.Validate(); err != nil {
		return cfg, &usageError{err}
	}
	return cfg, nil
}

func (f *fleet) client() (*client.Client, error) {
	cfg, err := f.config()
	if err != nil {
		return nil, err
	}
	return client.New(cfg)
}

func splitList(s string) []string {
	var list []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

func parseRing(flag, servers, dialect string) (*ring.Ring, error) {
	if len(splitList(servers)) == 0 {
		return nil, usagef("%s is needed: a comma-separated list of servers", flag)
	}
	for _, server := range splitList(servers) {
		if (client.Config{Servers: []string{server}}).LooksUp() {
			return nil, usagef("%s: %q is looked up by serve and the key operations only; here the servers themselves are needed", flag, server)
		}
	}
	nodes, err := ring.ParseNodes(splitList(servers))
	if err != nil {
		return nil, usagef("%s: %w", flag, err)
	}
	r, err := ring.New(nodes, ring.Dialect(dialect))
	if err != nil {
		return nil, usagef("%s: %w", flag, err)
	}
	return r, nil
}
