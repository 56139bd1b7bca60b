package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/ring"
	"github.com/ringside-cache/ringside/sidecar"
)

// fleet are the flags that name the nodes.
type fleet struct {
	servers string
	dialect string
	timeout time.Duration
	file    string
	cmd     *cobra.Command
}

func (f *fleet) add(cmd *cobra.Command) {
	f.cmd = cmd
	cmd.Flags().StringVar(&f.servers, "servers", "", "LIST of servers: [name@]address[*weight],…")
	cmd.Flags().StringVar(&f.file, "config", "", "FILE of 'ringside serve': the servers as it says, with its TLS and credentials")
	f.addDialect(cmd)
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "bound of one operation (default 500ms)")
}

func (f *fleet) addDialect(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dialect, "dialect", string(ring.Ketama), "way that keys are placed, NAME[:KEYHASH]; see 'ringside ring dialects'")
}

func (f *fleet) config() (client.Config, error) {
	if f.cmd.Flags().Changed("timeout") && f.timeout <= 0 {
		return client.Config{}, usagef("--timeout is %v, it must be above 0s", f.timeout)
	}
	if f.file != "" {
		return f.configOf(f.file)
	}
	cfg := client.Config{Servers: splitList(f.servers), Dialect: ring.Dialect(f.dialect), Timeout: f.timeout}
	if len(cfg.Servers) == 0 {
		return cfg, usagef("--servers or --config is needed: a comma-separated list of servers, or a config file")
	}
	if err := cfg.Validate(); err != nil {
		return cfg, &usageError{byFlags(f.cmd, &sidecar.Settings{}, err)}
	}
	return cfg, nil
}

// configOf is what the config file of a sidecar says of the nodes.
func (f *fleet) configOf(file string) (client.Config, error) {
	for _, name := range []string{"servers", "dialect"} {
		if f.cmd.Flags().Changed(name) {
			return client.Config{}, usagef("--%s and --config can not both be given: the file says it", name)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return client.Config{}, err
	}
	s, err := sidecar.ParseSettings(file, text, nil)
	if err != nil {
		return client.Config{}, err
	}
	cfg, err := s.Nodes()
	if err != nil {
		return cfg, fmt.Errorf("%s: %w", file, err)
	}
	if f.timeout != 0 {
		cfg.Timeout = f.timeout
	}
	return cfg, cfg.Validate()
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
