//go:build interop && unix

package interop

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

// A request is one operation, in the form that the scripts in testdata read.
type request struct {
	Op    string   `json:"op"`
	Key   string   `json:"key"`
	Keys  []string `json:"keys"`  // of mget
	Value []byte   `json:"value"` // base64
	Flags uint32   `json:"flags"`
	TTL   int      `json:"ttl"` // seconds
	CAS   string   `json:"cas"` // of an earlier gets
	Delta uint64   `json:"delta"`
}

type item struct {
	Value []byte
	Flags uint32
}

// A reply is what a library made of a request. OK says that it was done or found: a miss, an add of a
// key that is there, and a cas that lost are neither OK nor an error.
type reply struct {
	item
	OK      bool
	CAS     string
	Number  uint64
	Items   map[string]item
	Error   string
	Lacking bool // the library has no such operation
}

// A driver carries out requests with one library, in order.
type driver interface {
	do(t *testing.T, requests ...request) []reply
}

// A library is a way to speak to the cache.
type library struct {
	name string
	// start makes a driver that uses the servers, each [name@]address[*weight], with options in the
	// library's own words.
	start func(t *testing.T, servers []string, options map[string]any) driver
	// lacks lists the operations that the library does not offer.
	lacks []string
	// stores and reads say whether client flags can be chosen and seen.
	storesFlags, readsFlags bool
	// encodes: what is not one line of text is stored in an encoding that only this library reads.
	encodes bool
	// oneLine: it reads a value to the end of its first line only, from memcached itself too.
	oneLine bool
	// asciiKeys: it refuses keys in UTF-8.
	asciiKeys bool
	// noUnix: it cannot connect to a unix socket.
	noUnix bool
	// grpc: it speaks gRPC, not memcached's protocol.
	grpc bool
}

// through starts a driver that uses the sidecar.
func (l library) through(t *testing.T, s *sidecar) driver {
	t.Helper()
	addr := s.memcached
	if l.grpc {
		addr = s.grpc
	}
	return l.start(t, []string{addr}, nil)
}

var (
	pymemcache = library{
		name:  "pymemcache",
		lacks: []string{"gat"}, storesFlags: true, readsFlags: true,
		start: script{command: []string{python, "testdata/use_pymemcache.py"}, probe: []string{python, "-c", "import pymemcache"}}.start,
	}
	pylibmc = library{
		name:  "pylibmc",
		lacks: []string{"gat"}, storesFlags: true, readsFlags: true,
		start: script{command: []string{python, "testdata/use_pylibmc.py"}, probe: []string{python, "-c", "import pylibmc"}}.start,
	}
	grpcPython = library{
		name: "grpc",
		grpc: true, storesFlags: true, readsFlags: true,
		start: startGRPC,
	}
	php = library{
		name:  "php-memcached",
		lacks: []string{"gat"}, storesFlags: true, readsFlags: true, asciiKeys: true,
		start: script{command: []string{"php", "testdata/use_memcached.php"}, probe: []string{"php", "-r", "new Memcached();"}}.start,
	}
	perl = library{
		name: "Cache::Memcached::Fast",
		start: script{
			command: []string{"perl", "testdata/use_cache_memcached_fast.pl"},
			probe:   []string{"perl", "-MCache::Memcached::Fast", "-e", "1"},
		}.start,
	}
	node = library{
		name:  "node-memcached",
		lacks: []string{"gat"}, encodes: true, noUnix: true,
		start: startNode,
	}
	dalli = library{
		name:  "dalli",
		start: script{command: []string{"ruby", "testdata/use_dalli.rb"}, probe: []string{"ruby", "-e", "require 'dalli'"}}.start,
	}
	dalliMeta = library{
		name: "dalli-meta", oneLine: true,
		start: func(t *testing.T, servers []string, options map[string]any) driver {
			options = maps.Clone(options)
			if options == nil {
				options = map[string]any{}
			}
			options["protocol"], options["socket_timeout"] = "meta", 10
			ruby := []string{"ruby", "-I", "../.bin/ruby-dalli/lib"} // scripts/need-dalli
			return script{
				command: append(ruby, "testdata/use_dalli.rb"),
				probe:   append(ruby, "-e", "require 'dalli'; Dalli::Protocol::Meta"),
			}.start(t, servers, options)
		},
	}
	gomemcache = library{
		name: "gomemcache", storesFlags: true, readsFlags: true,
		start: func(t *testing.T, servers []string, _ map[string]any) driver {
			return gomemcacheDriver{newGomemcache(t, servers...)}
		},
	}
	command = library{
		name:        "ringside",
		lacks:       []string{"gets", "gat", "replace", "append", "prepend", "cas"},
		storesFlags: true,
		start: func(_ *testing.T, servers []string, _ map[string]any) driver {
			return commandDriver(strings.Join(servers, ","))
		},
	}
)

// throughSidecar lists the libraries that can use a sidecar: all but dalli with the binary protocol.
var throughSidecar = []library{pymemcache, pylibmc, gomemcache, grpcPython, command, php, perl, node, dalliMeta}

// python is Debian's, to which Debian's packages belong; another one may come first in PATH.
const python = "/usr/bin/python3"

// A serverAddr is a server as the scripts want it, in parts.
type serverAddr struct {
	Name   string `json:"name"`
	Host   string `json:"host"`
	Port   int    `json:"port"`
	Path   string `json:"path"` // of a unix socket
	Weight int    `json:"weight"`
}

// dial gives the address as gomemcache wants it.
func (s serverAddr) dial() string {
	if s.Path != "" {
		return s.Path
	}
	return s.Host + ":" + strconv.Itoa(s.Port)
}

// parseServer takes [name@]address[*weight] apart.
func parseServer(server string) serverAddr {
	addr, weight, weighted := strings.Cut(server, "*")
	name, addr, named := strings.Cut(addr, "@")
	if !named {
		name, addr = "", name
	}
	s := serverAddr{Name: name, Weight: 1}
	if weighted {
		s.Weight, _ = strconv.Atoi(weight)
	}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		s.Path = path
		return s
	}
	host, port, _ := strings.Cut(addr, ":")
	s.Host = host
	s.Port, _ = strconv.Atoi(port)
	return s
}

// A script is a program that reads requests on stdin and writes replies on stdout.
type script struct {
	command []string
	probe   []string // fails where the library is not installed
	env     []string
}

// scriptTimeout bounds the life of a script.
const scriptTimeout = 60 * time.Second

func (s script) start(t *testing.T, servers []string, options map[string]any) driver {
	t.Helper()
	if _, err := exec.LookPath(s.command[0]); err != nil {
		missing(t, s.command[0])
	}
	config := struct {
		Servers []serverAddr   `json:"servers"`
		Options map[string]any `json:"options"`
	}{Options: options}
	for _, server := range servers {
		config.Servers = append(config.Servers, parseServer(server))
	}
	arg, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	cmd := exec.CommandContext(ctx, s.command[0], append(slices.Clone(s.command[1:]), string(arg))...)
	cmd.Env = append(os.Environ(), s.env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdin, errIn := cmd.StdinPipe()
	stdout, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &scriptDriver{stdin: stdin, stdout: bufio.NewReaderSize(stdout, 1<<16)}
	t.Cleanup(func() {
		stdin.Close() // a script ends with its input
		_, _ = io.Copy(io.Discard, stdout)
		err := cmd.Wait()
		cancel()
		if t.Failed() && stderr.Len() > 0 {
			t.Logf("%s (%v) says:\n%s", s.command[1], err, stderr.String())
		}
	})
	if ready, err := d.read(); err != nil || !ready.OK {
		if exec.Command(s.probe[0], s.probe[1:]...).Run() != nil {
			missing(t, strings.Join(s.probe, " "))
		}
		t.Fatalf("%s did not start: %v", s.command[1], err)
	}
	return d
}

type scriptDriver struct {
	stdin  io.Writer
	stdout *bufio.Reader
}

func (d *scriptDriver) read() (reply, error) {
	var r reply
	line, err := d.stdout.ReadBytes('\n')
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("%.200q: %w", line, err)
	}
	return r, nil
}

func (d *scriptDriver) do(t *testing.T, requests ...request) []reply {
	t.Helper()
	written := make(chan error, 1)
	go func() {
		enc := json.NewEncoder(d.stdin)
		enc.SetEscapeHTML(false)
		for _, r := range requests {
			if err := enc.Encode(r); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	replies := make([]reply, len(requests))
	for i := range replies {
		var err error
		if replies[i], err = d.read(); err != nil {
			t.Fatalf("%s of %.60q: the script answers nothing: %v", requests[i].Op, requests[i].Key, err)
		}
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	return replies
}

// startGRPC generates Python's messages from the proto file, then starts the script.
func startGRPC(t *testing.T, servers []string, _ map[string]any) driver {
	t.Helper()
	protoc, err := exec.LookPath("protoc")
	if err != nil {
		missing(t, "protoc")
	}
	stubs := t.TempDir()
	cmd := exec.Command(protoc, "-I", "../proto", "--python_out", stubs, "ringside/v1/ringside.proto")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	s := script{command: []string{python, "-B", "testdata/use_grpc.py"}, probe: []string{python, "-c", "import grpc, google.protobuf"}}
	return s.start(t, servers, map[string]any{"stubs": stubs, "connection": "../examples/python-grpc"})
}

// installNode installs the library of testdata/node once for a run of the tests, and gives where.
var installNode = sync.OnceValues(func() (modules string, err error) {
	dir := filepath.Join(workDir, "node")
	if err := os.CopyFS(dir, os.DirFS("testdata/node")); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	ci := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	ci.Dir = dir
	if out, err := ci.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s", ci, err, out)
	}
	return filepath.Join(dir, "node_modules"), nil
})

func startNode(t *testing.T, servers []string, _ map[string]any) driver {
	t.Helper()
	modules, err := installNode()
	if err != nil {
		missing(t, fmt.Sprintf("the npm package memcached (%v)", err))
	}
	s := script{
		command: []string{"node", "testdata/use_memcached.js"},
		probe:   []string{"node", "-e", "0"},
		env:     []string{"NODE_PATH=" + modules},
	}
	return s.start(t, servers, nil)
}

func newGomemcache(t *testing.T, servers ...string) *memcache.Client {
	addrs := make([]string, len(servers))
	for i, s := range servers {
		addrs[i] = parseServer(s).dial()
	}
	c := memcache.New(addrs...)
	c.Timeout = 10 * time.Second
	t.Cleanup(func() { c.Close() })
	return c
}

type gomemcacheDriver struct{ c *memcache.Client }

func (d gomemcacheDriver) do(t *testing.T, requests ...request) []reply {
	replies := make([]reply, len(requests))
	for i, r := range requests {
		rep, err := d.one(r)
		switch {
		case err == nil:
			rep.OK = true
		case errors.Is(err, memcache.ErrCacheMiss), errors.Is(err, memcache.ErrNotStored), errors.Is(err, memcache.ErrCASConflict):
		default:
			rep.Error = err.Error()
		}
		replies[i] = rep
	}
	return replies
}

func (d gomemcacheDriver) one(r request) (rep reply, err error) {
	it := &memcache.Item{Key: r.Key, Value: r.Value, Flags: r.Flags, Expiration: int32(r.TTL)}
	found := func(it *memcache.Item, err error) (reply, error) {
		if err != nil {
			return reply{}, err
		}
		return reply{item: item{it.Value, it.Flags}, CAS: strconv.FormatUint(it.CasID, 10)}, nil
	}
	switch r.Op {
	case "get", "gets":
		return found(d.c.Get(r.Key))
	case "gat":
		return found(d.c.GetAndTouch(r.Key, int32(r.TTL)))
	case "mget":
		items, err := d.c.GetMulti(r.Keys)
		rep.Items = make(map[string]item, len(items))
		for key, it := range items {
			rep.Items[key] = item{it.Value, it.Flags}
		}
		return rep, err
	case "set":
		return rep, d.c.Set(it)
	case "add":
		return rep, d.c.Add(it)
	case "replace":
		return rep, d.c.Replace(it)
	case "append":
		return rep, d.c.Append(it)
	case "prepend":
		return rep, d.c.Prepend(it)
	case "cas":
		if it.CasID, err = strconv.ParseUint(r.CAS, 10, 64); err != nil {
			return rep, err
		}
		return rep, d.c.CompareAndSwap(it)
	case "delete":
		return rep, d.c.Delete(r.Key)
	case "incr":
		rep.Number, err = d.c.Increment(r.Key, r.Delta)
		return rep, err
	case "decr":
		rep.Number, err = d.c.Decrement(r.Key, r.Delta)
		return rep, err
	case "touch":
		return rep, d.c.Touch(r.Key, int32(r.TTL))
	}
	return rep, fmt.Errorf("unknown operation %q", r.Op)
}

// A commandDriver runs `ringside OPERATION --servers`, here with the sidecar for a server.
type commandDriver string

func (servers commandDriver) do(t *testing.T, requests ...request) []reply {
	t.Helper()
	replies := make([]reply, len(requests))
	for i, r := range requests {
		replies[i] = servers.one(t, r)
	}
	return replies
}

func (servers commandDriver) one(t *testing.T, r request) (rep reply) {
	t.Helper()
	args := []string{r.Op, "--servers", string(servers), "--timeout", patience, r.Key}
	switch r.Op {
	case "set", "add":
		args = slices.Insert(args, 1, "--ttl", strconv.Itoa(r.TTL), "--flags", strconv.FormatUint(uint64(r.Flags), 10))
	case "incr":
		args = append(args, strconv.FormatUint(r.Delta, 10))
	case "decr":
		args[0] = "incr"
		args = append(args, "-"+strconv.FormatUint(r.Delta, 10))
	case "touch":
		args = append(args, strconv.Itoa(r.TTL))
	case "mget":
		args = append(args[:len(args)-1], r.Keys...)
	}
	stdout, stderr, code := ringside(t, r.Value, args...)
	rep.OK = code == 0
	switch {
	case strings.Contains(stderr, "cache miss"), strings.Contains(stderr, "not stored"):
	case code != 0:
		rep.Error = stderr
	case r.Op == "get":
		rep.Value = []byte(stdout)
	case r.Op == "incr" || r.Op == "decr":
		n, err := strconv.ParseUint(strings.TrimSuffix(stdout, "\n"), 10, 64)
		if err != nil {
			t.Fatalf("%s prints %q", r.Op, stdout)
		}
		rep.Number = n
	case r.Op == "mget":
		rep.Items = map[string]item{}
		for line := range strings.Lines(stdout) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			rep.Items[key] = item{Value: []byte(value)}
		}
	}
	return rep
}
