package ring

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// goldenSet is one file of testdata/golden/sets, made with the real C
// programs; testdata/golden/README.md tells how.
type goldenSet struct {
	Set          string
	Distribution string
	Hash         string
	Servers      []goldenServer
	Ring         struct {
		Points int
		SHA256 string
	}
	Rows [][]json.RawMessage
}

type goldenServer struct {
	Addr   string
	Name   string
	Weight int
	Points int
}

func (s goldenServer) String() string {
	t := s.Addr
	if s.Name != "" {
		t = s.Name + "@" + t
	}
	return fmt.Sprintf("%s*%d", t, s.Weight)
}

// refusedSets hold a list that ringside refuses; docs/dialects.md says why.
var refusedSets = map[string]bool{
	"ketama__n3-duplicate":          true,
	"ketama-md5__n3-duplicate":      true,
	"ketama_weighted__n3-duplicate": true,
}

func (g goldenSet) dialect(t *testing.T) Dialect {
	names := map[string]Dialect{
		"ketama":              Libmemcached,
		"ketama_weighted":     LibmemcachedWeighted,
		"ketama_spy":          LibmemcachedSpy,
		"ketama_spy_weighted": LibmemcachedSpyWeighted,
		"ketama (twemproxy)":  Twemproxy,
	}
	d, ok := names[g.Distribution]
	if !ok {
		t.Fatalf("distribution %q is not known here", g.Distribution)
	}
	if g.Hash == "default" {
		return d
	}
	return d + Dialect(":"+g.Hash)
}

func goldenKey(t *testing.T, raw json.RawMessage) string {
	var key string
	if json.Unmarshal(raw, &key) == nil {
		return key
	}
	var bytes struct{ Hex string }
	if err := json.Unmarshal(raw, &bytes); err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(bytes.Hex)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func readJSON(t *testing.T, file string, v any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func TestGoldenSets(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/sets/*.json")
	if err != nil || len(files) < 118 {
		t.Fatalf("found %d golden sets, want 118 (%v)", len(files), err)
	}
	// The list of the sets, so that none is lost or cut short unnoticed.
	var index []struct {
		File    string
		Set     string
		Servers int
		Rows    int
	}
	readJSON(t, "testdata/golden/index.json", &index)
	if len(index) != len(files) {
		t.Errorf("the index has %d sets, there are %d", len(index), len(files))
	}
	for _, entry := range index {
		var g goldenSet
		readJSON(t, "testdata/golden/"+entry.File, &g)
		if g.Set != entry.Set || len(g.Servers) != entry.Servers || len(g.Rows) != entry.Rows {
			t.Errorf("%s is %s with %d servers and %d rows, the index says %+v", entry.File, g.Set, len(g.Servers), len(g.Rows), entry)
		}
	}
	rows := 0
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			var g goldenSet
			readJSON(t, file, &g)
			var list []string
			for _, s := range g.Servers {
				list = append(list, s.String())
			}
			nodes, err := ParseNodes(list)
			if refusedSets[g.Set] {
				if err == nil || !strings.Contains(err.Error(), "10.0.5.1:11211") || !strings.Contains(err.Error(), "twice") {
					t.Fatalf("a server that is listed twice: got error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			r, err := New(nodes, g.dialect(t))
			if err != nil {
				t.Fatal(err)
			}
			counts := make([]int, len(nodes))
			for p := range r.points {
				counts[r.owner(p)]++
			}
			for i, s := range g.Servers {
				if counts[i] != s.Points {
					t.Errorf("%s has %d points, want %d", s.Addr, counts[i], s.Points)
				}
			}
			if g.Ring.SHA256 != "" {
				sum := sha256.New()
				for p, point := range r.points {
					fmt.Fprintf(sum, "%d:%d\n", point>>32, r.owner(p))
				}
				if got := hex.EncodeToString(sum.Sum(nil)); got != g.Ring.SHA256 {
					t.Errorf("the ring's sha256 is %s, want %s", got, g.Ring.SHA256)
				}
			}
			for _, row := range g.Rows {
				key := goldenKey(t, row[1])
				var want int
				if err := json.Unmarshal(row[3], &want); err != nil {
					t.Fatal(err)
				}
				if got := r.Lookup(key); got != want {
					t.Errorf("kind %s key %q: node %d, want %d", row[0], key, got, want)
				}
				rows++
			}
		})
	}
	if rows < 29000 {
		t.Errorf("only %d rows were checked", rows)
	}
}

func TestGoldenHashVectors(t *testing.T) {
	var vectors struct {
		Fields []string
		Rows   [][]json.RawMessage
	}
	readJSON(t, "testdata/golden/hash-vectors.json", &vectors)
	checked := 0
	for _, row := range vectors.Rows {
		var hexKey string
		if err := json.Unmarshal(row[0], &hexKey); err != nil {
			t.Fatal(err)
		}
		key, err := hex.DecodeString(hexKey)
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range vectors.Fields[2:] {
			if name == "default" {
				name = "one_at_a_time"
			}
			var want uint32
			if err := json.Unmarshal(row[i+2], &want); err != nil {
				t.Fatal(err)
			}
			if got := keyHashes[name](string(key)); got != want {
				t.Errorf("%s(%x) = %d, want %d", name, key, got, want)
			}
			checked++
		}
	}
	if checked != 93*7 {
		t.Errorf("%d vectors were checked, want %d", checked, 93*7)
	}
}

func TestGoldenRings(t *testing.T) {
	tests := []struct {
		file    string
		dialect Dialect
		servers []string
	}{
		{"ketama__2-servers.tsv", Libmemcached, []string{"10.0.0.1:11211", "10.0.0.2:11212"}},
		{"ketama-md5__2-servers.tsv", Libmemcached + ":md5", []string{"10.0.0.1:11211", "10.0.0.2:11212"}},
		{"ketama_weighted__3-servers-1-2-3.tsv", LibmemcachedWeighted, []string{"10.0.1.1:11211", "10.0.1.2:11212*2", "10.0.1.3:11211*3"}},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			want, err := os.ReadFile("testdata/golden/rings/" + tt.file)
			if err != nil {
				t.Fatal(err)
			}
			r := mustRing(t, tt.dialect, tt.servers...)
			var got strings.Builder
			got.WriteString("# every point of the ring, as libmemcached 1.1.4 sorted it: value, server\n")
			for p, point := range r.points {
				fmt.Fprintf(&got, "%d\t%s\n", point>>32, r.Node(r.owner(p)).Name)
			}
			if got.String() != string(want) {
				t.Errorf("the ring differs from %s", tt.file)
			}
		})
	}
}

func mustRing(tb testing.TB, d Dialect, servers ...string) *Ring {
	tb.Helper()
	nodes, err := ParseNodes(servers)
	if err != nil {
		tb.Fatal(err)
	}
	r, err := New(nodes, d)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}
