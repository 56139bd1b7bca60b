package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringside-cache/ringside/ring"
)

// dialects are the names of what the golden sets were made with.
var dialects = map[string]string{
	"ketama":              "libmemcached",
	"ketama_weighted":     "libmemcached-weighted",
	"ketama_spy":          "libmemcached-spy",
	"ketama_spy_weighted": "libmemcached-spy-weighted",
	"ketama (twemproxy)":  "twemproxy",
}

// goldenSet is a file of ring/testdata/golden/sets, whose README says how they
// were made with the real C programs.
type goldenSet struct {
	Set          string
	Distribution string
	Hash         string
	Servers      []struct {
		Addr, Name string
		Weight     int
	}
	Rows [][]json.RawMessage // kind, key, server, index of the server
}

// list is the set's servers as --servers takes them.
func (g *goldenSet) list() []string {
	var list []string
	for _, s := range g.Servers {
		server := fmt.Sprintf("%s*%d", s.Addr, s.Weight)
		if s.Name != "" {
			server = s.Name + "@" + server
		}
		list = append(list, server)
	}
	return list
}

// key reads a key, which is a string, or {"hex": "…"} where it is no UTF-8.
func key(raw json.RawMessage) (string, error) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text, nil
	}
	var binary struct{ Hex string }
	if err := json.Unmarshal(raw, &binary); err != nil {
		return "", err
	}
	b, err := hex.DecodeString(binary.Hex)
	return string(b), err
}

// TestRingLocateGolden feeds the keys of every golden set to ring locate.
func TestRingLocateGolden(t *testing.T) {
	files, err := filepath.Glob("../../ring/testdata/golden/sets/*.json")
	if err != nil || len(files) < 118 {
		t.Fatalf("found %d golden sets, want 118 (%v)", len(files), err)
	}
	rows := 0
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var g goldenSet
			if err := json.Unmarshal(b, &g); err != nil {
				t.Fatal(err)
			}
			dialect := dialects[g.Distribution]
			if dialect == "" {
				t.Fatalf("distribution %q is not known here", g.Distribution)
			}
			if g.Hash != "default" {
				dialect += ":" + g.Hash
			}
			list := g.list()
			nodes, err := ring.ParseNodes(list)
			twice := err != nil // one set has a server twice, which we refuse
			var stdin, want bytes.Buffer
			for _, row := range g.Rows {
				k, err := key(row[1])
				if err != nil {
					t.Fatal(err)
				}
				var index int
				if err := json.Unmarshal(row[3], &index); err != nil {
					t.Fatal(err)
				}
				stdin.WriteString(k + "\n")
				if !twice {
					want.WriteString(k + "\t" + nodes[index].Name + "\n")
				}
			}
			var stdout, stderr bytes.Buffer
			code := run([]string{"ring", "locate", "--servers", strings.Join(list, ","), "--dialect", dialect}, &stdin, &stdout, &stderr)
			if twice {
				if code != exitUsage || !strings.Contains(stderr.String(), "is listed twice") {
					t.Errorf("exit code %d, stderr %q; want %d for a server that is listed twice", code, &stderr, exitUsage)
				}
				return
			}
			if code != 0 || stderr.Len() != 0 {
				t.Fatalf("exit code %d, stderr %q", code, &stderr)
			}
			if got := stdout.String(); got != want.String() {
				gotLines, wantLines := strings.Split(got, "\n"), strings.Split(want.String(), "\n")
				for i := range min(len(gotLines), len(wantLines)) {
					if gotLines[i] != wantLines[i] {
						t.Fatalf("line %d is %q, want %q", i+1, gotLines[i], wantLines[i])
					}
				}
				t.Fatalf("%d lines, want %d", len(gotLines), len(wantLines))
			}
			rows += len(g.Rows)
		})
	}
	if rows < 29000 {
		t.Errorf("only %d rows were checked", rows)
	}
}

// TestNumbersAreArguments: negative numbers are no flags, and flags stay what
// they are.
func TestNumbersAreArguments(t *testing.T) {
	for _, tt := range []struct{ name, args, want string }{
		{"no number", "get k --servers a", "get k --servers a"},
		{"a delta", "incr k -5 --servers a", "incr --servers a -- k -5"},
		{"flags first", "--servers a incr k -5", "incr --servers a -- k -5"},
		{"between", "incr --servers a k -5 --timeout 1s", "incr --servers a --timeout 1s -- k -5"},
		{"with an equals sign", "incr k -5 --servers=a", "incr --servers=a -- k -5"},
		{"the value of a flag", "set k v --ttl -5 --servers a", "set --ttl -5 --servers a -- k v"},
		{"the value of a flag, and a value", "set --ttl -5 k -7 --servers a", "set --ttl -5 --servers a -- k -7"},
		{"a flag without a value", "ring plan --json --from a --to b -5", "ring plan --json --from a --to b -- -5"},
		{"help", "incr k -5 -h", "incr -h -- k -5"},
		{"a marked end of the flags", "incr k -5 --servers a -- --x -y", "incr --servers a -- k -5 --x -y"},
		{"an unknown flag", "incr k -5 --nope", "incr --nope -- k -5"},
		{"an unknown shorthand", "incr k -5 -x", "incr -x -- k -5"},
		{"a dash", "set - -5 --servers a", "set --servers a -- - -5"},
		{"a flag without its value", "incr k -5 --servers", "incr --servers"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.Join(numbersAreArguments(newRoot(), strings.Fields(tt.args)), " ")
			if got != tt.want {
				t.Errorf("numbersAreArguments(%s) = %s, want %s", tt.args, got, tt.want)
			}
		})
	}
}
