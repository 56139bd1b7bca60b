package archtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/ringside-cache/ringside"

// Other modules, by the prefix that all their packages share.
const (
	cobra      = "github.com/spf13/cobra"
	gomemcache = "github.com/bradfitz/gomemcache"
	grpc       = "google.golang.org/grpc"
	otel       = "go.opentelemetry.io/otel"
	otter      = "github.com/maypok86/otter/v2"
	prometheus = "github.com/prometheus"
	protobuf   = "google.golang.org/protobuf"
	xsync      = "golang.org/x/sync"
	xxhash     = "github.com/cespare/xxhash/v2"
	yaml       = "github.com/goccy/go-yaml"
)

// anything stands for every module outside this one.
const anything = "*"

// A row says what the non-test files of a package may import besides the standard library.
type row struct {
	own    []string // packages of this module
	others []string // other modules
}

// rows is the house: arrows only go down.
//
//	floor 4   cmd/ringside          flags, signals, exit codes; no logic
//	floor 3   sidecar   bench       shares the client on one host; measures it
//	floor 2   client                the only place with sockets to cache servers
//	floor 1   ring   stampede   proto
//
// A package that is not here fails the test: where it stands is a decision. Below P, P/internal/... has
// P's row and belongs to P.
var rows = map[string]row{
	"ring":              {others: []string{xxhash}},
	"stampede":          {others: []string{xsync}},
	"proto/memcached":   {},
	"proto/ringside/v1": {others: []string{grpc, protobuf}},

	"client": {
		own:    []string{"ring", "stampede", "proto/memcached", "internal/nonblock"},
		others: []string{gomemcache, xsync},
	},
	"client/memnode": {
		own:    []string{"proto/memcached"},
		others: []string{otter},
	},

	"sidecar": {
		own: []string{
			"client", "client/memnode", "stampede", "ring", "proto/memcached", "proto/ringside/v1",
			"internal/nonblock",
		},
		others: []string{grpc, otel, prometheus, protobuf, yaml},
	},
	"bench": {
		own: []string{
			"client", "client/memnode", "stampede", "ring", "proto/memcached", "proto/ringside/v1",
			"internal/nonblock", "internal/realserver",
		},
		others: []string{anything},
	},

	"cmd/ringside": {
		own: []string{
			"sidecar", "bench",
			"client", "client/memnode", "stampede", "ring", "proto/memcached", "proto/ringside/v1",
		},
		others: []string{cobra},
	},

	"deploy":              {}, // tests only
	"internal/archtest":   {},
	"internal/nonblock":   {},
	"internal/realserver": {},
	"interop":             {}, // tests only
}

// onlyFiles names the files that may import a module, where a row is too wide a permission.
var onlyFiles = map[string]map[string][]string{
	"client":  {gomemcache: {"legacy.go", "legacy_epoch.go", "selector.go"}},
	"sidecar": {otel: {"trace.go"}, protobuf: {"grpc_codec.go"}},
}

// floor1 packages do not know each other, directly or through anything.
var floor1 = []string{"ring", "stampede", "proto/memcached", "proto/ringside/v1"}

// A pkg is what the rules look at.
type pkg struct {
	path    string              // from the module's root
	imports map[string][]string // import path to the files that have it
	deps    []string            // import paths, transitive
}

func TestDependencies(t *testing.T) {
	pkgs := load(t)
	if len(pkgs) < 2 {
		t.Fatalf("go list knows only %v", pkgs)
	}
	for _, v := range violations(pkgs) {
		t.Error(v)
	}
}

// violations lists what the rules forbid, in the order of the packages.
func violations(pkgs []pkg) []string {
	var bad []string
	for _, p := range pkgs {
		owner := ownerOf(p.path)
		r, known := rows[owner]
		if !known {
			bad = append(bad, p.path+" is not in the table of internal/archtest: decide what it may import")
			continue
		}
		for _, imported := range sortedKeys(p.imports) {
			files := p.imports[imported]
			if !r.allows(owner, imported) {
				bad = append(bad, fmt.Sprintf("%s must not import %s (%s)", p.path, imported, strings.Join(files, ", ")))
			}
			for other, allowed := range onlyFiles[owner] {
				if !within(imported, other) {
					continue
				}
				for _, f := range files {
					if !slices.Contains(allowed, f) {
						bad = append(bad, fmt.Sprintf("%s/%s must not import %s: only %s may",
							p.path, f, imported, strings.Join(allowed, ", ")))
					}
				}
			}
		}
		if !slices.Contains(floor1, owner) {
			continue
		}
		for _, dep := range p.deps {
			other, ours := strings.CutPrefix(dep, module+"/")
			if ours && ownerOf(other) != owner && slices.Contains(floor1, ownerOf(other)) {
				bad = append(bad, fmt.Sprintf("%s must not know %s, directly or not", p.path, other))
			}
		}
	}
	return bad
}

func (r row) allows(owner, imported string) bool {
	if own, ours := strings.CutPrefix(imported, module+"/"); ours {
		return slices.Contains(r.own, own) || strings.HasPrefix(own, owner+"/internal/")
	}
	if imported == "C" {
		return false // the module builds without cgo
	}
	first, _, _ := strings.Cut(imported, "/")
	if !strings.Contains(first, ".") {
		return true // the standard library
	}
	return slices.ContainsFunc(r.others, func(other string) bool {
		return other == anything || within(imported, other)
	})
}

// ownerOf is the package whose row counts: P for P/internal/..., else the package itself.
func ownerOf(path string) string {
	owner, _, found := strings.Cut(path, "/internal/")
	if _, known := rows[owner]; found && known {
		return owner
	}
	return path
}

func within(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// load asks the go command for the module's packages, and the files for their imports, so that an error
// can name the file.
func load(t *testing.T) []pkg {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	watch(t, root)

	cmd := exec.Command("go", "list", "-e", "-tags=interop", "-deps", "-json=ImportPath,Dir,Deps,GoFiles,CgoFiles,IgnoredGoFiles,Module", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, stderr.Bytes())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var listed struct {
			ImportPath, Dir                         string
			Deps, GoFiles, CgoFiles, IgnoredGoFiles []string
			Module                                  *struct{ Main bool }
		}
		if err := dec.Decode(&listed); err == io.EOF {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		if listed.Module == nil || !listed.Module.Main {
			continue
		}
		p := pkg{
			path:    strings.TrimPrefix(strings.TrimPrefix(listed.ImportPath, module), "/"),
			imports: map[string][]string{},
			deps:    listed.Deps,
		}
		// Files for other systems and other build tags count as well.
		for _, f := range slices.Concat(listed.GoFiles, listed.CgoFiles, listed.IgnoredGoFiles) {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(listed.Dir, f), nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, spec := range parsed.Imports {
				path, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				p.imports[path] = append(p.imports[path], f)
			}
		}
		pkgs = append(pkgs, p)
	}
}

// watch reads every directory of the module. `go test` repeats a cached pass while what the test itself
// opened is unchanged, and it does not see what the go command opened: without this, a new file or
// package would not be looked at.
func watch(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() {
			return nil
		}
		if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules") {
			return filepath.SkipDir
		}
		_, err = os.ReadDir(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sortedKeys(m map[string][]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// The rules can fail: each case is a house with one wrong arrow, or with none.
func TestViolations(t *testing.T) {
	uses := func(path string, imports ...string) pkg {
		p := pkg{path: path, imports: map[string][]string{}}
		for _, i := range imports {
			p.imports[i] = []string{"x.go"}
		}
		return p
	}
	ours := func(path string) string { return module + "/" + path }

	for name, tc := range map[string]struct {
		pkg  pkg
		want []string
	}{
		"as designed":          {uses("client", ours("ring"), ours("stampede"), "net", "golang.org/x/sync/singleflight"), nil},
		"own internal":         {uses("ring", ours("ring/internal/crc")), nil},
		"internal has the row": {uses("ring/internal/crc", "hash/crc32", xxhash), nil},
		"bench may":            {uses("bench", ours("internal/realserver"), "gonum.org/v1/plot"), nil},
		"unknown package": {
			uses("util", "fmt"),
			[]string{"util is not in the table of internal/archtest: decide what it may import"},
		},
		"floor 1 sideways": {
			uses("ring", ours("stampede")),
			[]string{"ring must not import " + ours("stampede") + " (x.go)"},
		},
		"floor 1 sideways, through another": {
			pkg{path: "stampede", deps: []string{"fmt", ours("client"), ours("ring")}},
			[]string{"stampede must not know ring, directly or not"},
		},
		"upwards": {
			uses("client", ours("sidecar")),
			[]string{"client must not import " + ours("sidecar") + " (x.go)"},
		},
		"bench uses the sidecar": {
			uses("bench", ours("sidecar")),
			[]string{"bench must not import " + ours("sidecar") + " (x.go)"},
		},
		"the command is imported": {
			uses("sidecar", ours("cmd/ringside")),
			[]string{"sidecar must not import " + ours("cmd/ringside") + " (x.go)"},
		},
		"a test helper in the product": {
			uses("client", ours("internal/realserver")),
			[]string{"client must not import " + ours("internal/realserver") + " (x.go)"},
		},
		"somebody else's internal": {
			uses("client", ours("ring/internal/crc")),
			[]string{"client must not import " + ours("ring/internal/crc") + " (x.go)"},
		},
		"a module that is not listed": {
			uses("proto/memcached", xxhash),
			[]string{"proto/memcached must not import " + xxhash + " (x.go)"},
		},
		"a module whose name only begins alike": {
			uses("ring", xxhash+"more"),
			[]string{"ring must not import " + xxhash + "more (x.go)"},
		},
		"cgo": {
			uses("ring", "C"),
			[]string{"ring must not import C (x.go)"},
		},
		"gomemcache outside its file": {
			pkg{path: "client", imports: map[string][]string{gomemcache + "/memcache": {"client.go", "legacy.go"}}},
			[]string{"client/client.go must not import " + gomemcache + "/memcache: only legacy.go, legacy_epoch.go, selector.go may"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := violations([]pkg{tc.pkg}); !slices.Equal(got, tc.want) {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
		})
	}
}
