package ring

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestLibraries checks dialects against answers of the libraries themselves.
func TestLibraries(t *testing.T) {
	for _, d := range []Dialect{Dalli, Pymemcache} {
		t.Run(string(d), func(t *testing.T) {
			f, err := os.Open("testdata/libraries/" + string(d) + ".tsv")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			rings := map[string]*Ring{}
			checked := 0
			for s := bufio.NewScanner(f); s.Scan(); {
				fields := strings.Split(s.Text(), "\t")
				if len(fields) != 3 {
					continue
				}
				if rings[fields[0]] == nil {
					rings[fields[0]] = mustRing(t, d, strings.Split(fields[0], ",")...)
				}
				r := rings[fields[0]]
				if got := r.Node(r.Lookup(fields[1])).Name; got != fields[2] {
					t.Errorf("key %q over %s: %s, want %s", fields[1], fields[0], got, fields[2])
				}
				checked++
			}
			if checked != 600 {
				t.Errorf("%d keys were checked, want 600", checked)
			}
		})
	}
}

// TestUpstreamVectors are libmemcached's own test cases.
func TestUpstreamVectors(t *testing.T) {
	var v struct {
		Servers []goldenServer
		Sets    []struct {
			Name string
			Rows [][]json.RawMessage
		}
	}
	readJSON(t, "testdata/golden/upstream/libmemcached-ketama-vectors.json", &v)
	var list []string
	for _, s := range v.Servers {
		list = append(list, s.String())
	}
	for i, d := range []Dialect{LibmemcachedWeighted, LibmemcachedSpyWeighted} {
		t.Run(v.Sets[i].Name, func(t *testing.T) {
			r := mustRing(t, d, list...)
			if len(v.Sets[i].Rows) != 99 {
				t.Fatalf("%d rows, want 99", len(v.Sets[i].Rows))
			}
			for _, row := range v.Sets[i].Rows {
				var server string
				if err := json.Unmarshal(row[3], &server); err != nil {
					t.Fatal(err)
				}
				key := goldenKey(t, row[0])
				if got := r.Node(r.Lookup(key)).Name; got != server {
					t.Errorf("key %q: %s, want %s", key, got, server)
				}
			}
		})
	}
}

func fleet(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("cache%d.example.net:11211", i)
	}
	return list
}

// TestKetamaBalance: at 100 equal nodes the largest share of a million keys
// is at most 1.10 of the mean.
func TestKetamaBalance(t *testing.T) {
	r := mustRing(t, Ketama, fleet(100)...)
	const keys = 1_000_000
	counts := make([]int, r.Len())
	for key := range SampleKeys(keys) {
		counts[r.Lookup(key)]++
	}
	mean := float64(keys) / float64(r.Len())
	if share := float64(slices.Max(counts)) / mean; share > 1.10 {
		t.Errorf("the largest share is %.3f of the mean, want at most 1.10", share)
	}
	if share := float64(slices.Min(counts)) / mean; share < 0.90 {
		t.Errorf("the smallest share is %.3f of the mean, want at least 0.90", share)
	}
}

// TestKetamaJoin: 50 joins with arbitrary names, from n to n+1 nodes.
func TestKetamaJoin(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	name := func() string {
		b := make([]byte, 4+random.IntN(20))
		for i := range b {
			b[i] = "abcdefghijklmnopqrstuvwxyz0123456789-."[random.IntN(38)]
		}
		return string(b)
	}
	sum, worst := 0.0, 0.0
	const joins, keys = 50, 200_000
	for join := range joins {
		n := 2 + join
		var list []string
		for i := range n + 1 {
			list = append(list, fmt.Sprintf("%s@10.0.%d.%d:11211", name(), i/250, i%250+1))
		}
		c := Plan(mustRing(t, Ketama, list[:n]...), mustRing(t, Ketama, list...), SampleKeys(keys))
		if c.Needless != 0 {
			t.Errorf("%d nodes: %d keys moved between old nodes", n, c.Needless)
		}
		ratio := c.MovedShare() * float64(n+1)
		sum += ratio
		worst = max(worst, ratio)
	}
	if mean := sum / joins; mean > 1.02 {
		t.Errorf("joins moved %.4f of 1/(n+1) on average, want at most 1.02", mean)
	}
	if worst > 1.12 {
		t.Errorf("the worst join moved %.4f of 1/(n+1), want at most 1.12", worst)
	}
}

func TestKetamaIgnoresOrder(t *testing.T) {
	list := fleet(20)
	a := mustRing(t, Ketama, list...)
	slices.Reverse(list)
	b := mustRing(t, Ketama, list...)
	for key := range SampleKeys(20_000) {
		if x, y := a.Node(a.Lookup(key)).Name, b.Node(b.Lookup(key)).Name; x != y {
			t.Fatalf("key %q: %s in one order, %s in the other", key, x, y)
		}
	}
}

// TestEjectionMovesOnlyTheDeadNodesKeys: walking on from a dead node leaves
// all other keys where they were, with weights 1, 2 and 5 too, and spreads
// the dead node's keys over the others.
func TestEjectionMovesOnlyTheDeadNodesKeys(t *testing.T) {
	list := fleet(9)
	for i := range list {
		list[i] += []string{"*1", "*2", "*5"}[i%3]
	}
	for _, d := range Dialects() {
		t.Run(string(d), func(t *testing.T) {
			list := list
			if d == Pymemcache || d == Modulo {
				list = fleet(9)
			}
			r := mustRing(t, d, list...)
			const dead = 5
			standIns := map[int]int{}
			for key := range SampleKeys(20_000) {
				owner := r.Lookup(key)
				order := slices.Collect(r.Successors(key))
				if sorted := slices.Sorted(slices.Values(append([]int{owner}, order...))); !slices.Equal(sorted, []int{0, 1, 2, 3, 4, 5, 6, 7, 8}) {
					t.Fatalf("key %q: owner %d and successors %v are not every node once", key, owner, order)
				}
				if owner == dead {
					standIns[order[0]]++
				}
			}
			if d != Modulo && len(standIns) < 8 {
				t.Errorf("the dead node's keys went to %d nodes only: %v", len(standIns), standIns)
			}
		})
	}
}

// TestSuccessorIsTheOwnerWithoutTheDeadNode: for a dialect whose points do
// not depend on the other nodes, the first successor is who would own the key
// if the owner had never been there.
func TestSuccessorIsTheOwnerWithoutTheDeadNode(t *testing.T) {
	for _, d := range []Dialect{Ketama, Libmemcached, Dalli, Pymemcache} {
		t.Run(string(d), func(t *testing.T) {
			list := fleet(8)
			full, less := mustRing(t, d, list...), mustRing(t, d, list[:7]...)
			seen := 0
			for key := range SampleKeys(20_000) {
				if full.Lookup(key) != 7 {
					if full.Lookup(key) != less.Lookup(key) {
						t.Fatalf("key %q moved between healthy nodes", key)
					}
					continue
				}
				seen++
				for next := range full.Successors(key) {
					if want := less.Lookup(key); next != want {
						t.Errorf("key %q: stand-in %d, want %d", key, next, want)
					}
					break
				}
			}
			if seen == 0 {
				t.Error("no key of the dead node was seen")
			}
		})
	}
}

func TestPlan(t *testing.T) {
	list := fleet(4)
	from, to := mustRing(t, Ketama, list[:3]...), mustRing(t, Ketama, list[1:]...)
	c := Plan(from, to, SampleKeys(30_000))
	var before, after, gained, lost int
	for _, n := range c.Nodes {
		before, after, gained, lost = before+n.Before, after+n.After, gained+n.Gained, lost+n.Lost
		if n.Before-n.Lost+n.Gained != n.After {
			t.Errorf("%s: %d - %d + %d is not %d", n.Name, n.Before, n.Lost, n.Gained, n.After)
		}
		if n.Joins != (n.Name == "cache3.example.net:11211") || n.Leaves != (n.Name == "cache0.example.net:11211") {
			t.Errorf("%s: joins %v, leaves %v", n.Name, n.Joins, n.Leaves)
		}
	}
	if before != c.Keys || after != c.Keys || gained != c.Moved || lost != c.Moved || c.Keys != 30_000 {
		t.Errorf("sums do not agree: %+v", c)
	}
	if modulo := Plan(mustRing(t, Modulo, list[:3]...), mustRing(t, Modulo, list...), SampleKeys(30_000)); modulo.Needless == 0 || modulo.MovedShare() < 0.7 {
		t.Errorf("modulo moved %.2f, %d needlessly; a naive change moves about 3/4", modulo.MovedShare(), modulo.Needless)
	}
}

func TestParseNode(t *testing.T) {
	good := map[string]Node{
		"10.0.0.1:11311":              {"10.0.0.1:11311", "10.0.0.1:11311", 1},
		"10.0.0.1":                    {"10.0.0.1:11211", "10.0.0.1:11211", 1},
		"cache2@10.0.0.2:11211*2":     {"cache2", "10.0.0.2:11211", 2},
		"[::1]:11212":                 {"[::1]:11212", "[::1]:11212", 1},
		"::1":                         {"[::1]:11211", "[::1]:11211", 1},
		"unix:/run/mc.sock":           {"unix:/run/mc.sock", "unix:/run/mc.sock", 1},
		"/run/mc.sock*3":              {"unix:/run/mc.sock", "unix:/run/mc.sock", 3},
		"a@unix:/run/m@c.sock":        {"a", "unix:/run/m@c.sock", 1},
		"unix:/run/m@c.sock":          {"unix:/run/m@c.sock", "unix:/run/m@c.sock", 1},
		"MC-A.Example.COM:11211*1000": {"MC-A.Example.COM:11211", "MC-A.Example.COM:11211", 1000},
	}
	for s, want := range good {
		n, err := ParseNode(s)
		if err != nil || n != want {
			t.Errorf("ParseNode(%q) = %+v, %v, want %+v", s, n, err, want)
		}
		if again, err := ParseNode(n.String()); err != nil || again != n {
			t.Errorf("ParseNode(%q) = %+v, %v, want %+v again", n.String(), again, err, n)
		}
	}
	bad := map[string]string{
		"":                                  "address is empty",
		"a@":                                "address is empty",
		"@10.0.0.1:1":                       "name before @ is empty",
		"10.0.0.1:0":                        `port "0"`,
		"10.0.0.1:65536":                    `port "65536"`,
		"10.0.0.1:http":                     `port "http"`,
		":11211":                            "no host",
		"10.0.0.1:1*0":                      "weight 0 is not between 1 and 65535",
		"10.0.0.1:1*-3":                     "weight -3 is not",
		"10.0.0.1:1*70000":                  "weight 70000 is not",
		"10.0.0.1:1*9999999999999999999999": "weight 9999999999999999999999 is not",
		"10.0.0.1:1*x":                      `weight "x" is not a number`,
		"10.0.0.1:1*":                       `weight "" is not a number`,
		"unix:":                             "socket path is empty",
		"a b@10.0.0.1:1":                    "byte 0x20 at place 1",
		"a:b:c":                             "not host:port",
		"ho st:11211":                       "not allowed",
	}
	for s, want := range bad {
		if _, err := ParseNode(s); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), fmt.Sprintf("%q", s)) {
			t.Errorf("ParseNode(%q): error %v, want one that names it and says %q", s, err, want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	tests := []struct {
		name    string
		servers []string
		dialect Dialect
		want    []string
	}{
		{"empty list", nil, Ketama, []string{"list is empty"}},
		{"server twice", []string{"a:1", "b:1", "a:1"}, Ketama, []string{`"a:1" is listed twice`, "places 1 and 3"}},
		{"address twice", []string{"x@a:1", "y@a:1"}, Ketama, []string{`"a:1" is listed twice`}},
		{"name twice", []string{"x@a:1", "x@b:1"}, Ketama, []string{`two nodes have the name "x"`}},
		{"all problems at once", []string{"a:0", "b:1*0", "c:1", "c:1"}, Ketama, []string{`"a:0"`, "weight 0", `"c:1" is listed twice`}},
		{"unknown dialect", []string{"a:1"}, "kettle", []string{`unknown dialect "kettle"`, "libmemcached-weighted"}},
		{"unknown key hash", []string{"a:1"}, "ketama:md6", []string{`unknown key hash "md6"`, "fnv1a_64"}},
		{"weights where there are none", []string{"a:1*2", "b:1"}, Pymemcache, []string{"has no weights"}},
		{"too much weight", []string{"a:1*10000", "b:1*1000"}, Ketama, []string{"add up to 11000", "10485"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			nodes, err := ParseNodes(tt.servers)
			if err == nil {
				_, err = New(nodes, tt.dialect)
			}
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestDialectKeyHash(t *testing.T) {
	for d, want := range map[Dialect]string{"": "xxhash", "twemproxy": "fnv1a_64", "twemproxy:md5": "md5", ":crc": "crc"} {
		if got, err := d.KeyHash(); err != nil || got != want {
			t.Errorf("%q has the key hash %q, %v, want %q", d, got, err, want)
		}
	}
}

// TestKeyHashOverride: every dialect takes every key hash and places keys
// with it.
func TestKeyHashOverride(t *testing.T) {
	for _, d := range Dialects() {
		for _, h := range KeyHashes() {
			r := mustRing(t, d+Dialect(":"+h), fleet(5)...)
			if want := keyHashes[h]("user:42"); r.Hash("user:42") != want {
				t.Errorf("%s:%s hashes to %d, want %d", d, h, r.Hash("user:42"), want)
			}
			// The same values through a linear search.
			for key := range SampleKeys(200) {
				if got, want := r.Lookup(key), slowLookup(r, key); got != want {
					t.Fatalf("%s:%s: key %q belongs to %d, want %d", d, h, key, got, want)
				}
			}
		}
	}
}

// slowLookup reads the rules of testdata/golden/README.md off the points.
func slowLookup(r *Ring, key string) int {
	h := r.Hash(key)
	switch {
	case r.points == nil && r.scored == nil:
		return int(h % uint32(r.Len()))
	case r.scored != nil:
		return r.ranking(key)[0]
	}
	first, last := -1, -1
	for p, point := range r.points {
		if v := uint32(point >> 32); v >= h && first < 0 {
			first = p
		} else if v <= h {
			last = p
		}
	}
	if r.layout.before {
		if first >= 0 && uint32(r.points[first]>>32) == h {
			last = first
		}
		if last < 0 {
			last = len(r.points) - 1
		}
		return r.owner(last)
	}
	return r.owner(max(first, 0))
}

func BenchmarkLookup(b *testing.B) {
	keys := slices.Collect(SampleKeys(1 << 14))
	for _, d := range []Dialect{Ketama, LibmemcachedWeighted, Modulo} {
		for _, n := range []int{10, 100, 1_000, 10_000} {
			b.Run(fmt.Sprintf("%s/nodes=%d", d, n), func(b *testing.B) {
				r := mustRing(b, d, fleet(n)...)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					r.Lookup(keys[i&(1<<14-1)])
				}
			})
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	for _, n := range []int{10, 100, 1_000, 10_000} {
		b.Run(fmt.Sprintf("ketama/nodes=%d", n), func(b *testing.B) {
			nodes, err := ParseNodes(fleet(n))
			if err != nil {
				b.Fatal(err)
			}
			var r *Ring
			for b.Loop() {
				if r, err = New(nodes, Ketama); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(r.Bytes()), "ring-bytes")
		})
	}
}
