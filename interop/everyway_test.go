//go:build interop && unix

package interop

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A sample is something to write one way and read every way.
type sample struct {
	name  string
	value []byte
	flags uint32
	ttl   int
}

// sampleTTL is in seconds, and more than the tests take.
const sampleTTL = 1000

// Some libraries keep the lower half of the flags for themselves.
const upperFlags = 0x1234 << 16

var samples = []sample{
	{name: "text", value: text},
	{name: "empty"},
	{name: "binary", value: everyBit},
	{name: "large", value: large},
	{name: "größe-鍵-🔑", value: []byte("grün 鍵 🔑")},
	{name: "flags", value: text, flags: upperFlags},
	{name: "ttl", value: text, ttl: sampleTTL},
	{name: strings.Repeat("long", 50), value: text},
}

// fits tells whether the library can have a part in this sample.
func (l library) fits(s sample) bool {
	ascii := !strings.ContainsFunc(s.name, func(r rune) bool { return r > 0x7f })
	oneLine := !bytes.ContainsAny(s.value, "\r\n")
	return (ascii || !l.asciiKeys) && (oneLine || !l.encodes && !l.oneLine)
}

// A key that was written one way is read every way, on TCP and on unix sockets.
func TestEveryWay(t *testing.T) {
	listeners := map[string]func(t *testing.T) []string{
		"tcp": func(*testing.T) []string { return nil },
		"unix": func(t *testing.T) []string {
			dir, err := os.MkdirTemp("/tmp", "ringside") // short enough for a socket
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			return []string{"--memcached", "unix:" + filepath.Join(dir, "mc"), "--grpc", "unix:" + filepath.Join(dir, "grpc")}
		},
	}
	for name, flags := range listeners {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fleet := startFleet(t, 3)
			s := startSidecar(t, append(flags(t), "--servers", strings.Join(fleet, ","))...)
			var users []*user
			for _, l := range throughSidecar {
				if name != "unix" || !l.noUnix {
					users = append(users, &user{t: t, library: l, driver: l.through(t, s)})
				}
			}
			everyoneWrites(t, users)
			everyoneReads(t, users)
			everyoneReadsMany(t, users)
			checkTTL(t, users, fleet)
			everyoneDeletes(t, users)
			everyoneExpires(t, users)
		})
	}
}

func keyOf(writer *user, name string) string { return writer.library.name + ":" + name }

func everyoneWrites(t *testing.T, users []*user) {
	for _, w := range users {
		for _, s := range samples {
			if w.library.fits(s) {
				w.want(request{Op: "set", Key: keyOf(w, s.name), Value: s.value, Flags: s.flags, TTL: s.ttl}, done)
			}
		}
	}
}

func everyoneReads(t *testing.T, users []*user) {
	pairs := 0
	for _, w := range users {
		for _, r := range users {
			for _, s := range samples {
				if !w.library.fits(s) || !r.library.fits(s) {
					continue
				}
				want := found(s.value)
				if w.library.storesFlags {
					want.Flags = s.flags
				}
				r.want(request{Op: "get", Key: keyOf(w, s.name)}, want)
				pairs++
			}
		}
	}
	t.Logf("%d ways through the sidecar, %d keys read by another or the same", len(users), pairs)
}

func everyoneReadsMany(t *testing.T, users []*user) {
	keys := []string{"nothing"}
	for _, w := range users {
		keys = append(keys, keyOf(w, "text"), keyOf(w, "ttl"))
	}
	for _, r := range users {
		got := r.do(request{Op: "mget", Keys: keys})
		if !got.OK || len(got.Items) != len(keys)-1 {
			t.Errorf("%s: mget of %d keys, one of them not there: %d items, %s", r.library.name, len(keys), len(got.Items), show(got))
		}
		for key, it := range got.Items {
			if !bytes.Equal(it.Value, text) {
				t.Errorf("%s: mget: %q has %.40q", r.library.name, key, it.Value)
			}
		}
	}
}

// checkTTL asks the nodes themselves how long the items have to live.
func checkTTL(t *testing.T, users []*user, fleet []string) {
	for _, w := range users {
		key, held := keyOf(w, "ttl"), 0
		for _, addr := range fleet {
			line := ask(t, addr, "mg "+key+" t")
			left, ok := strings.CutPrefix(line, "HD t")
			if !ok {
				continue // EN: another node has it
			}
			held++
			if n, err := strconv.Atoi(left); err != nil || n <= 0 || n > sampleTTL || n < sampleTTL-100 {
				t.Errorf("%s: %s answers %q, want t%d or a little less", key, addr, line, sampleTTL)
			}
		}
		if held != 1 {
			t.Errorf("%s: %d nodes have it, want 1", key, held)
		}
	}
}

func everyoneDeletes(t *testing.T, users []*user) {
	for i, w := range users {
		key := keyOf(users[(i+1)%len(users)], "text")
		w.want(request{Op: "delete", Key: key}, done)
		w.want(request{Op: "delete", Key: key}, refused)
		for _, r := range users {
			r.want(request{Op: "get", Key: key}, refused)
		}
	}
}

func everyoneExpires(t *testing.T, users []*user) {
	for _, w := range users {
		w.want(request{Op: "set", Key: keyOf(w, "brief"), Value: text, TTL: 1}, done)
	}
	r := users[0]
	for _, w := range users {
		eventually(t, 5*time.Second, keyOf(w, "brief")+" expires", func() bool {
			return !r.do(request{Op: "get", Key: keyOf(w, "brief")}).OK
		})
	}
}

// ask sends one line to a server and gives the first line of its reply.
func ask(t *testing.T, addr, line string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, commandTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(commandTimeout)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "%s\r\n", line)
	got, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %q: %v", addr, line, err)
	}
	return strings.TrimSuffix(got, "\r\n")
}

// The health service, and the status codes that the proto file promises, for a client in another
// language.
func TestGRPC(t *testing.T) {
	s := startSidecar(t, "--servers", strings.Join(startFleet(t, 2), ","))
	d := grpcPython.through(t, s)
	tests := map[string]struct {
		request request
		want    string // the beginning of the error, "" for OK
	}{
		"health of the server":        {request{Op: "health"}, ""},
		"health of the service":       {request{Op: "health", Key: "ringside.v1.Cache"}, ""},
		"health of an unknown one":    {request{Op: "health", Key: "nobody"}, "_InactiveRpcError: "},
		"an empty key":                {request{Op: "get"}, "RuntimeError: INVALID_ARGUMENT "},
		"a key with a space":          {request{Op: "set", Key: "a b"}, "RuntimeError: INVALID_ARGUMENT "},
		"a key that is too long":      {request{Op: "delete", Key: strings.Repeat("k", 251)}, "RuntimeError: INVALID_ARGUMENT "},
		"a value that is too large":   {request{Op: "set", Key: "k", Value: make([]byte, 1<<20+1)}, "RuntimeError: INVALID_ARGUMENT "},
		"a TTL of more than 30 days":  {request{Op: "set", Key: "k", TTL: 30*24*3600 + 1}, "RuntimeError: INVALID_ARGUMENT "},
		"one key of many that is bad": {request{Op: "mget", Keys: []string{"k", "a b"}}, "RuntimeError: failures: "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := d.do(t, tt.request)[0]
			if got.OK != (tt.want == "") || !strings.HasPrefix(got.Error, tt.want) {
				t.Errorf("got %s, want an error that begins with %q", show(got), tt.want)
			}
		})
	}
}
