//go:build interop && unix

package interop

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ringside-cache/ringside/internal/realserver"
)

// A placement is a way in which others spread keys over servers, and the dialect that is to agree.
type placement struct {
	name    string
	dialect string
	// servers says how the five nodes are listed; %s stands for an address. Nil lists the addresses.
	servers []string
	start   func(t *testing.T, servers []string) driver
	// asciiKeys: it refuses other keys, or is known to place them elsewhere (docs/dialects.md).
	asciiKeys bool
	// unix: it is tried with unix sockets too.
	unix bool
}

var (
	weights = []string{"%s*1", "%s*2", "%s*5", "%s*3", "%s*1"}
	names   = []string{"a@%s", "cache-b@%s", "c.example:11211@%s", "d@%s", "the-fifth-node@%s"}
	both    = []string{"a@%s*7", "cache-b@%s*2", "c.example:11211@%s", "d@%s*4", "the-fifth-node@%s"}
)

var placements = []placement{
	{name: "pylibmc ketama_weighted", dialect: "libmemcached-weighted", start: with(pylibmc, "ketama_weighted", true), unix: true},
	{name: "pylibmc ketama_weighted, weights", dialect: "libmemcached-weighted", start: with(pylibmc, "ketama_weighted", true), servers: weights},
	{name: "pylibmc ketama", dialect: "libmemcached", start: with(pylibmc, "ketama", true), unix: true},
	{name: "pylibmc ketama, weights", dialect: "libmemcached", start: with(pylibmc, "ketama", true), servers: weights},
	{name: "pylibmc ketama md5", dialect: "libmemcached:md5", start: with(pylibmc, "ketama", true, "hash", "md5")},
	{name: "pylibmc ketama fnv1a_64", dialect: "libmemcached:fnv1a_64", start: with(pylibmc, "ketama", true, "hash", "fnv1a_64")},
	{name: "php LIBKETAMA_COMPATIBLE, weights", dialect: "libmemcached-weighted", start: with(php, "LIBKETAMA_COMPATIBLE", true), servers: weights, asciiKeys: true, unix: true},
	{name: "nutcracker", dialect: "twemproxy", start: throughNutcracker("")},
	{name: "nutcracker md5", dialect: "twemproxy:md5", start: throughNutcracker("md5")},
	{name: "nutcracker, weights", dialect: "twemproxy", start: throughNutcracker(""), servers: weights, unix: true},
	{name: "nutcracker, names", dialect: "twemproxy", start: throughNutcracker(""), servers: names},
	{name: "nutcracker md5, names and weights", dialect: "twemproxy:md5", start: throughNutcracker("md5"), servers: both},
	{name: "pymemcache HashClient", dialect: "pymemcache", start: with(pymemcache), asciiKeys: true, unix: true},
	{name: "dalli", dialect: "dalli", start: with(dalli, "socket_timeout", 10)},
	{name: "dalli, weights", dialect: "dalli", start: with(dalli, "socket_timeout", 10), servers: weights, unix: true},
	{name: "gomemcache", dialect: "modulo", start: with(gomemcache)},
}

// with uses the library itself, with options given as name, value, name, value.
func with(l library, options ...any) func(*testing.T, []string) driver {
	return func(t *testing.T, servers []string) driver {
		set := map[string]any{}
		for o := range slices.Chunk(options, 2) {
			set[o[0].(string)] = o[1]
		}
		return l.start(t, servers, set)
	}
}

// throughNutcracker puts the proxy in front of the servers.
func throughNutcracker(hash string) func(*testing.T, []string) driver {
	return func(t *testing.T, servers []string) driver {
		proxy := realserver.Nutcracker(t, realserver.Pool{Servers: servers, Hash: hash})
		return gomemcache.start(t, []string{proxy.Addr()}, nil)
	}
}

const placedKeys = 2000

// makeKeys makes keys of several shapes; they begin with prefix.
func makeKeys(prefix string, ascii bool) []string {
	shapes := []string{"user:%d", "session:%08x", "/en/page/%d?draft=no", strings.Repeat("long-", 40) + "%d", "größe-%d"}
	if ascii {
		shapes = shapes[:4]
	}
	keys := make([]string, placedKeys)
	for i := range keys {
		keys[i] = prefix + fmt.Sprintf(shapes[i%len(shapes)], i)
	}
	return keys
}

// Keys that another library or proxy wrote lie where the dialect says, and a fleet can be shared with
// it: what the one wrote, the other reads.
func TestPlacement(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		var addrs []string
		for range 5 {
			if network == "tcp" {
				addrs = append(addrs, realserver.Memcached(t).Addr())
			} else {
				addrs = append(addrs, realserver.MemcachedUnix(t).Addr())
			}
		}
		t.Run(network, func(t *testing.T) {
			for i, p := range placements {
				if network == "unix" && !p.unix {
					continue
				}
				t.Run(p.name, func(t *testing.T) {
					t.Parallel()
					servers := slices.Clone(addrs)
					for j, form := range p.servers {
						servers[j] = fmt.Sprintf(form, addrs[j])
					}
					checkPlacement(t, p, servers, fmt.Sprintf("%d-", i))
				})
			}
		})
	}
}

func checkPlacement(t *testing.T, p placement, servers []string, prefix string) {
	list := strings.Join(servers, ",")
	old := p.start(t, servers)
	s := startSidecar(t, "--servers", list, "--dialect", p.dialect)
	ours := gomemcache.through(t, s)

	written := makeKeys(prefix+"theirs-", p.asciiKeys)
	write(t, old, written)
	checkPlaces(t, list, p.dialect, servers, written)
	read(t, ours, written)

	written = makeKeys(prefix+"ours-", p.asciiKeys)
	write(t, ours, written)
	checkPlaces(t, list, p.dialect, servers, written)
	read(t, old, written)
}

// checkPlaces looks for every key on every server, and compares with what `ringside ring locate` says.
func checkPlaces(t *testing.T, list, dialect string, servers, keys []string) {
	t.Helper()
	stdout, stderr, code := ringside(t, []byte(strings.Join(keys, "\n")), "ring", "locate", "--servers", list, "--dialect", dialect)
	if code != 0 {
		t.Fatalf("ring locate: exit code %d: %s", code, stderr)
	}
	said := map[string]string{}
	for line := range strings.Lines(stdout) {
		key, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		said[key] = name
	}
	holders := map[string][]string{}
	for _, server := range servers {
		name := parseServer(server).Name
		if name == "" {
			name = strings.Split(server, "*")[0]
		}
		items, err := newGomemcache(t, server).GetMulti(keys)
		if err != nil {
			t.Fatal(err)
		}
		for key := range items {
			holders[key] = append(holders[key], name)
		}
		if len(items) == len(keys) {
			t.Errorf("%s has all %d keys", name, len(keys))
		}
	}
	wrong := 0
	for _, key := range keys {
		if h := holders[key]; len(h) != 1 || h[0] != said[key] {
			if wrong++; wrong <= 5 {
				t.Errorf("%q is on %q; ring locate says %q", key, h, said[key])
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d keys are not where ring locate says", wrong, len(keys))
	}
}

func write(t *testing.T, d driver, keys []string) {
	t.Helper()
	requests := make([]request, len(keys))
	for i, key := range keys {
		requests[i] = request{Op: "set", Key: key, Value: []byte("of " + key)}
	}
	for i, got := range d.do(t, requests...) {
		if !got.OK {
			t.Fatalf("set %q: %s", keys[i], show(got))
		}
	}
}

func read(t *testing.T, d driver, keys []string) {
	t.Helper()
	for part := range slices.Chunk(keys, 250) {
		got := d.do(t, request{Op: "mget", Keys: part})[0]
		if got.Error != "" || len(got.Items) != len(part) {
			t.Errorf("mget of %d keys: %d items, error %q", len(part), len(got.Items), got.Error)
		}
		for key, it := range got.Items {
			if string(it.Value) != "of "+key {
				t.Fatalf("%q has %.60q", key, it.Value)
			}
		}
	}
}
