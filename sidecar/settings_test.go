package sidecar_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/sidecar"
	"github.com/ringside-cache/ringside/stampede"
)

func parse(text string) (*sidecar.Settings, error) {
	return sidecar.ParseSettings("f.yaml", []byte(text), nil)
}

// What is printed is read as the same settings, for any value of each of them.
func TestSettingsRoundTrip(t *testing.T) {
	values := map[string]string{
		"servers": "n1@a:1*2,unix:/run/mc.sock*3", "embedded": "0", "embedded_bytes": "77777777", "dialect": "twemproxy:md5",
		"nodes.failover": "none", "nodes.username": "u:#x", "nodes.password_file": "true", "nodes.conns_per_node": "3",
		"listen.tls.min_version": "1.2", "listen.tls.plain_loopback": "true", "collapse_gets": "true", "tracing": "off",
		"nodes.tls.enabled": "true", "nodes.tls.ca_file": "12", "nodes.tls.cert_file": "a", "nodes.tls.key_file": "b", "nodes.tls.server_name": "- x",
		"health.max_ejected_share": "0.25", "health.failure_limit": "5", "health.max_retry_timeout": "1h",
		"listen.memcached": "unix:/a b", "listen.grpc": "off", "listen.admin": "[::1]:99", "listen.allow_remote": "true", "listen.socket_mode": "0660",
		"lease.grace": "none", "lease.not_found_ttl": "none", "lease.error_ttl": "none", "lease.jitter": "0.5", "lease.early_refresh": "-1", "lease.lease": "20s",
		"log.format": "json", "log.level": "debug",
	}
	var s sidecar.Settings
	for _, one := range s.All() {
		text := values[one.Path]
		if text == "" {
			text = "7" // of numbers; times have a unit
			if strings.Contains(one.Path, "timeout") || strings.Contains(one.Path, "ttl") || strings.HasSuffix(one.Path, "every") ||
				strings.HasSuffix(one.Path, "window") || strings.HasSuffix(one.Path, "after") {
				text = "17s"
			}
		}
		if err := s.Set(one.Path, text); err != nil {
			t.Fatalf("%s %v", one.Path, err)
		}
	}
	got, err := parse(string(s.YAML()))
	if err != nil {
		t.Fatalf("%v\n%s", err, s.YAML())
	}
	if diff := cmp.Diff(string(s.YAML()), string(got.YAML())); diff != "" {
		t.Error(diff)
	}
	if c := got.Client; len(c.Servers) != 2 || c.Failover != client.FailoverNone || c.Username != "u:#x" || got.Stampede.Grace != stampede.None || c.Timeout != 17*time.Second {
		t.Errorf("%+v", got)
	}
	if got.SocketMode != "0660" {
		t.Errorf("the mode of the sockets is %q", got.SocketMode)
	}
	full := sidecar.Settings{}.WithDefaults()
	full.Client.Servers = []string{"a:1"}
	if got, err = parse(string(full.YAML())); err != nil {
		t.Fatalf("the defaults: %v", err)
	}
	if diff := cmp.Diff(string(full.YAML()), string(got.YAML())); diff != "" {
		t.Error(diff)
	}
}

// Each setting has a name in the file, a flag and a help of its own.
func TestSettingsNames(t *testing.T) {
	var s sidecar.Settings
	seen := map[string]bool{}
	for _, one := range s.All() {
		for _, name := range []string{"path " + one.Path, "flag " + one.Flag, "help " + one.Help} {
			if seen[name] || strings.HasSuffix(name, " ") {
				t.Errorf("%q twice, or empty", name)
			}
			seen[name] = true
		}
	}
}

func TestSettingsFile(t *testing.T) {
	set, err := parse("# all is in a section\nservers: [a:1, 'n@b:2*3']\nlimits:\n  max_conns: 50\n  write_timeout: 1m30s\nlease: {grace: none, jitter: 0}\nlog:\n  level: warn\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Client.Servers) != 2 || set.MaxConns != 50 || set.WriteTimeout != 90*time.Second || set.Stampede.Grace != stampede.None || set.LogLevel != "warn" {
		t.Errorf("%+v", set)
	}
	if set, err = parse("servers: a:1\nlimits:\n"); err != nil || len(set.Client.Servers) != 1 {
		t.Errorf("one server, and a section without settings: %+v, %v", set, err)
	}

	// The command line comes before the file, and is checked with it.
	set, err = sidecar.ParseSettings("f.yaml", []byte("servers: [a:1]\nlimits: {max_conns: 5}\n"), func(s *sidecar.Settings) error {
		return s.Set("limits.max_conns", "6")
	})
	if err != nil || set.MaxConns != 6 {
		t.Errorf("%+v, %v", set, err)
	}
}

// Every problem has its line and the name that it has in the file.
func TestSettingsProblems(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"nothing":                     {"", []string{"f.yaml: servers: the list is empty"}},
		"no YAML":                     {"servers: [a:1\nx", []string{"f.yaml:2: "}},
		"a tab":                       {"servers:\n\t- a:1\n", []string{"f.yaml:2: "}},
		"twice":                       {"servers: [a:1]\nservers: [b:1]\n", []string{"f.yaml:2: "}},
		"unknown":                     {"servers: [a:1]\nserver: [b:1]\n", []string{"f.yaml:2: server is no setting; there are servers, embedded, "}},
		"unknown below":               {"servers: [a:1]\nnodes:\n  timout: 1s\n", []string{"f.yaml:3: nodes.timout is no setting; there are nodes.timeout, "}},
		"a section is none":           {"servers: [a:1]\nnodes: 5\n", []string{"f.yaml:2: nodes has settings below it"}},
		"a value is none":             {"servers: [a:1]\nlimits:\n  max_conns:\n    x: 1\n", []string{"f.yaml:3: limits.max_conns has no plain value"}},
		"no value":                    {"servers: [a:1]\nlimits:\n  max_conns:\n", []string{"f.yaml:3: limits.max_conns has no plain value"}},
		"a list":                      {"servers: [a:1]\ndialect: [x, y]\n", []string{"f.yaml:2: dialect is one value and not a list"}},
		"not a list of text":          {"servers: [{a: 1}]\n", []string{"f.yaml:1: servers: an entry"}},
		"no unit":                     {"servers: [a:1]\ndrain_timeout: 5\n", []string{`f.yaml:2: drain_timeout is "5", it must be a time with its unit`}},
		"no number":                   {"servers: [a:1]\nlimits: {max_conns: many}\n", []string{`f.yaml:2: limits.max_conns is "many", it must be a whole number`}},
		"no bool":                     {"servers: [a:1]\nlisten: {allow_remote: perhaps}\n", []string{`f.yaml:2: listen.allow_remote is "perhaps"`}},
		"a bad mode":                  {"servers: [a:1]\nlisten: {socket_mode: 0400}\n", []string{`f.yaml:2: listen.socket_mode is "0400", it must be octal`}},
		"a second document":           {"servers: [a:1]\n---\nservers: [b:1]\n", []string{"f.yaml:3: a second document"}},
		"a bad server":                {"servers:\n  - a:1\n  - b:1*0\n", []string{"f.yaml:3: servers: "}},
		"beside what can not be read": {"servers: [a:1]\nlease: {jitter: 5}\nnodes: {timeout: 5}\n", []string{"f.yaml:2: lease.jitter is 5", "f.yaml:3: nodes.timeout is"}},
		"from what can not be read":   {"servers: [a:1]\nhealth:\n  retry_timeout: 500\n  max_retry_timeout: 1s\n", []string{"f.yaml:3: health.retry_timeout is"}},
		"a password not read":         {"servers: [a:1]\nnodes:\n  username: u\n  password_file: {a: b}\n", []string{"f.yaml:4: nodes.password_file"}},
		"remote not read":             {"servers: [a:1]\nlisten:\n  allow_remote: x\n  memcached: 0.0.0.0:1\n", []string{"f.yaml:3: listen.allow_remote"}},
		"a name that is a server":     {"servers:\n  - n@a:1\n  - n@b:1\n  - n\n", []string{"f.yaml:1: servers: two nodes"}},
		"a server elsewhere":          {"servers:\n  - text\n  - \"a b\"\nlisten: {memcached: \"a b\"}\n", []string{"f.yaml:3: servers: ", "f.yaml:4: listen.memcached"}},
		"the same twice":              {"servers: [a:1, a:1]\n", []string{"f.yaml:1: servers: "}},
		"a bad dialect":               {"servers: [a:1]\ndialect: x\n", []string{"f.yaml:2: dialect"}},
		"all at once": {
			"servers: [a:1]\nnodes:\n  timeout: -1s\nlimits:\n  max_conns: -1\nlease:\n  lease: 1s\nlog: {level: loud}\nhealth: {failure_limit: -1}\nreload_every: 1ms\n",
			[]string{
				"f.yaml: nodes.dial_timeout is -1s", "f.yaml:3: nodes.timeout is -1s", "f.yaml:5: limits.max_conns is -1", "f.yaml:7: lease.lease is 1s",
				`f.yaml:8: log.level is "loud"`, "f.yaml:9: health.failure_limit is -1", "f.yaml:10: reload_every is 1ms",
			},
		},
		"remote":          {"servers: [a:1]\nlisten:\n  memcached: 0.0.0.0:11311\n", []string{"f.yaml:3: listen.memcached: "}},
		"password alone":  {"servers: [a:1]\nnodes: {password_file: /x}\n", []string{"f.yaml:2: nodes.password_file is given without"}},
		"half a key pair": {"servers: [a:1]\nnodes:\n  tls: {enabled: true, cert_file: x}\n", []string{"f.yaml:3: nodes.tls.cert_file and"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(tt.text)
			var f *sidecar.FileError
			if !errors.As(err, &f) {
				t.Fatalf("%v is no FileError", err)
			}
			got := strings.Split(err.Error(), "\n")
			for i, want := range tt.want {
				if i >= len(got) || !strings.HasPrefix(got[i], want) {
					t.Errorf("line %d of\n%v\nwant %s", i+1, err, want)
				}
			}
			if len(got) != len(tt.want) {
				t.Errorf("%d problems:\n%v", len(got), err)
			}
		})
	}
}

func FuzzParseSettings(f *testing.F) {
	f.Add([]byte("servers: [a:1]\nlimits: {max_conns: 5}\n"))
	f.Add([]byte("a: &x [*x]\n"))
	f.Add([]byte("---\n- \n"))
	full := sidecar.Settings{}.WithDefaults()
	f.Add(full.YAML())
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := sidecar.ParseSettings("f", text, nil)
		if err != nil {
			return
		}
		again, err := sidecar.ParseSettings("f", s.YAML(), nil)
		if err != nil {
			t.Fatalf("what was printed is not read: %v\n%s", err, s.YAML())
		}
		if diff := cmp.Diff(string(s.YAML()), string(again.YAML())); diff != "" {
			t.Error(diff)
		}
	})
}
