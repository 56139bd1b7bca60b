//go:build interop && unix

package interop

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/internal/realserver"
)

// A client of the binary protocol, which the sidecar does not speak, must not be left waiting.
func TestBinaryProtocol(t *testing.T) {
	t.Parallel()
	s := startSidecar(t, "--servers", strings.Join(startFleet(t, 1), ","))
	t.Run("raw", func(t *testing.T) {
		conn, err := net.DialTimeout("tcp", s.memcached, commandTimeout)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
			t.Fatal(err)
		}
		// A get: magic 0x80, operation 0, key length 1, body length 1.
		get := append([]byte{0x80, 0, 0, 1, 8: 0, 11: 1}, make([]byte, 12)...)
		if _, err := conn.Write(append(get, 'k')); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the connection is still open; the answer so far is %q", answer)
		}
		if bytes.HasPrefix(answer, []byte{0x81, 0, 0, 0, 0, 0, 0, 0}) {
			t.Errorf("the answer %q says that it was done", answer)
		}
	})
	t.Run("dalli", func(t *testing.T) {
		began := time.Now()
		for _, got := range dalli.through(t, s).do(t, request{Op: "set", Key: "k", Value: text}, request{Op: "get", Key: "k"}) {
			if got.Error == "" {
				t.Errorf("got %s, want an error", show(got))
			}
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("the error took %v", took)
		}
	})
}

// nutcracker closes the connection on a command that it does not know. That says nothing about its health.
func TestUnknownCommandEjectsNobody(t *testing.T) {
	proxy := realserver.Nutcracker(t, realserver.Pool{Servers: startFleet(t, 1)}).Addr()
	s := startSidecar(t, "--servers", proxy+","+startFleet(t, 1)[0])
	for i := range 20 {
		ask(t, s.memcached, fmt.Sprintf("gat 100 key-%d", i))
		if state := s.nodeState(t, proxy); state == "ejected" {
			t.Fatalf("nutcracker is %s after %d gat", state, i+1)
		}
	}
}

// memcached takes a get of any number of keys on one line; so must the sidecar, or GetMulti of existing
// clients breaks.
func TestLongMultiGet(t *testing.T) {
	s := startSidecar(t, "--servers", strings.Join(startFleet(t, 3), ","))
	keys := makeKeys("", false)
	write(t, gomemcache.through(t, s), keys)
	size := len(strings.Join(keys, " "))
	for _, l := range []library{gomemcache, pymemcache, pylibmc, perl, dalliMeta, grpcPython} {
		t.Run(l.name, func(t *testing.T) {
			got := l.through(t, s).do(t, request{Op: "mget", Keys: keys})[0]
			if got.Error != "" || len(got.Items) != len(keys) {
				t.Errorf("mget of %d keys (%d bytes): %d items, error %q", len(keys), size, len(got.Items), got.Error)
			}
		})
	}
}
