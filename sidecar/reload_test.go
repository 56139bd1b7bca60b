package sidecar_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/sidecar"
)

// A followed is a sidecar with a config file.
type followed struct {
	*running
	path string
	now  chan os.Signal
	log  *syncBuffer
}

func follow(t *testing.T, text string) *followed {
	t.Helper()
	f := &followed{path: filepath.Join(t.TempDir(), "ringside.yaml"), now: make(chan os.Signal, 1), log: &syncBuffer{}}
	f.write(t, text)
	off := func(s *sidecar.Settings) error {
		s.Memcached, s.GRPC, s.Admin = "127.0.0.1:0", sidecar.Off, "127.0.0.1:0"
		return nil
	}
	read := func(text []byte) (*sidecar.Settings, error) { return sidecar.ParseSettings(f.path, text, off) }
	set, err := read([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	set.Logger = slog.New(slog.NewTextHandler(f.log, nil))
	set.Level = new(slog.LevelVar)
	s, err := sidecar.StartWith(set)
	if err != nil {
		t.Fatal(err)
	}
	f.running = run(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Follow(ctx, sidecar.Reloader{File: f.path, Read: read, Now: f.now}, []byte(text))
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return f
}

// write replaces the file at once, as everybody should.
func (f *followed) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(f.path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(f.path+".new", f.path); err != nil {
		t.Fatal(err)
	}
}

func (f *followed) servers() string { return strings.Join(f.Client().Servers(), " ") }

// TestReload: a changed file is applied as a whole, connections to nodes that
// stay are kept, and a bad file changes nothing and is said.
func TestReload(t *testing.T) {
	t.Parallel()
	a, b := newNode(t), newNode(t)
	const tail = "reload_every: 100ms\n"
	one := "servers: ['a@" + a.Addr() + "']\n" + tail
	two := "servers: ['a@" + a.Addr() + "', 'b@" + b.Addr() + "*2']\nlimits: {max_conns: 3}\nlog: {level: error}\n" + tail
	f := follow(t, one)
	p := dial(t, f.addr("memcached"))
	p.want("set key 0 0 1\r\nx\r\n", "STORED\r\n")
	dials := f.Client().Stats().Nodes[0].Dials

	f.write(t, two)
	eventually(t, "the second server is there", func() bool { return len(f.Client().Servers()) == 2 })
	if n := f.Client().Stats().Nodes[0]; n.Dials != dials || n.Connections != 1 {
		t.Errorf("the first node's connection was not kept: %+v", n)
	}
	eventually(t, "it is counted", func() bool { return f.metric(t, `ringside_config_reloads_total{result="applied"}`) == 2 })
	dial(t, f.addr("memcached"))
	dial(t, f.addr("memcached"))
	dial(t, f.addr("memcached")).want("", "SERVER_ERROR too many connections\r\n(closed)")
	if n := f.metric(t, "ringside_connections_max"); n != 3 {
		t.Errorf("the metric has a limit of %v, want 3", n)
	}

	had := f.servers()
	for name, text := range map[string]string{
		"no YAML":          "servers: [",
		"unknown":          two + "x: 1\n",
		"a bad server":     "servers: [a:1*0]\n" + tail,
		"no servers":       tail,
		"needs a restart":  "servers: [new:1]\nnodes: {timeout: 7s}\n" + tail,
		"restart, listens": "servers: [new:1]\nlease: {ttl: 7s}\n" + tail,
	} {
		refused := f.metric(t, `ringside_config_reloads_total{result="refused"}`)
		f.write(t, text)
		eventually(t, name+" is refused", func() bool { return f.metric(t, `ringside_config_reloads_total{result="refused"}`) == refused+1 })
		if got := f.servers(); got != had {
			t.Errorf("%s: the servers are %s", name, got)
		}
		if f.metric(t, "ringside_config_last_reload_successful") != 0 {
			t.Errorf("%s: the metric says it is fine", name)
		}
	}
	for _, want := range []string{"nodes.timeout", "restart", "servers: the list is empty", "x is no setting"} {
		if !strings.Contains(f.log.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, f.log)
		}
	}
	p.want("set key 0 0 1\r\ny\r\n", "STORED\r\n")
	p.want("get key\r\n", "VALUE key 0 1\r\ny\r\nEND\r\n")

	f.write(t, one)
	eventually(t, "the first is back", func() bool { return len(f.Client().Servers()) == 1 })
	eventually(t, "and fine", func() bool { return f.metric(t, "ringside_config_last_reload_successful") == 1 })
	// SIGHUP reads it whether it has changed or not.
	applied := f.metric(t, `ringside_config_reloads_total{result="applied"}`)
	f.now <- syscall.SIGHUP
	eventually(t, "it is read again", func() bool { return f.metric(t, `ringside_config_reloads_total{result="applied"}`) == applied+1 })
	// A file that is gone is said once.
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is missed", func() bool { return f.metric(t, "ringside_config_last_reload_successful") == 0 })
	time.Sleep(350 * time.Millisecond) // three more looks
	if n := strings.Count(f.log.String(), "no such file"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	f.write(t, one)
	eventually(t, "it is back", func() bool { return f.metric(t, "ringside_config_last_reload_successful") == 1 })
}

// What can not change is named, and nothing else changes either.
func TestApplyIsAllOrNothing(t *testing.T) {
	t.Parallel()
	set := &sidecar.Settings{Config: free(sidecar.Config{Client: client.Config{Servers: []string{"a:1"}}})}
	s, err := sidecar.StartWith(set)
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	for _, one := range set.All() {
		next := *set
		next.Client.Servers = []string{"b:1"}
		text := map[string]string{"listen.memcached": "127.0.0.1:1", "listen.grpc": "127.0.0.1:1", "listen.admin": "127.0.0.1:1", "dialect": "modulo", "nodes.failover": "none", "log.format": "json"}[one.Path]
		if one.Reloads || text == "" {
			continue
		}
		if err := next.Set(one.Path, text); err != nil {
			t.Fatal(err)
		}
		if err := s.Apply(&next); err == nil || !strings.Contains(err.Error(), one.Path+" can not change") {
			t.Errorf("%s: %v", one.Path, err)
		}
	}
	if got := s.Client().Servers(); len(got) != 1 || got[0] != "a:1" {
		t.Errorf("the servers are %v", got)
	}
}

// A client that looks its servers up goes on to do so: another list is for the
// next start.
func TestReloadOfServersThatAreLookedUp(t *testing.T) {
	t.Parallel()
	list := filepath.Join(t.TempDir(), "servers")
	if err := os.WriteFile(list, []byte("a:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	set := &sidecar.Settings{Config: free(sidecar.Config{Client: client.Config{Servers: []string{"file:" + list}}})}
	s, err := sidecar.StartWith(set)
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	next := *set
	next.Client.Servers = []string{"b:1"}
	if err := s.Apply(&next); err == nil || !strings.Contains(err.Error(), "servers that are looked up can not change") {
		t.Error(err)
	}
	next = *set
	next.MaxConns = 7
	if err := s.Apply(&next); err != nil {
		t.Errorf("something else: %v", err)
	}
}

// Passwords and certificates of the nodes come from files.
func TestNodeCredentials(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		cfg  sidecar.Config
		want string
	}{
		"no password file": {sidecar.Config{PasswordFile: dir + "/none", Client: client.Config{Username: "u"}}, "PasswordFile: open"},
		"no CA file":       {sidecar.Config{NodeTLS: sidecar.NodeTLS{Enabled: true, CAFile: dir + "/none"}}, "NodeTLS.CAFile: open"},
		"no key":           {sidecar.Config{NodeTLS: sidecar.NodeTLS{Enabled: true, CertFile: dir + "/c", KeyFile: dir + "/k"}}, "NodeTLS.CertFile: open"},
		"not enabled":      {sidecar.Config{NodeTLS: sidecar.NodeTLS{CAFile: dir}}, "NodeTLS.Enabled is false"},
	} {
		tt.cfg.Client.Servers = []string{"a:1"}
		s, err := sidecar.Start(free(tt.cfg))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if s != nil {
			t.Errorf("%s: there is a sidecar", name)
		}
	}
}
