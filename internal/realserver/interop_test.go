//go:build interop && unix

package realserver

import (
	"errors"
	"os"
	"testing"
	"time"
)

// The programs of these tests are not needed by `make test`.

func TestNutcracker(t *testing.T) {
	a, b := Memcached(t), MemcachedUnix(t)
	proxy := Nutcracker(t, Pool{
		Servers:      []string{"a@" + a.Addr(), "b@" + b.Addr() + "*2"},
		Distribution: "ketama",
		Hash:         "md5",
	})
	stored := map[string]bool{}
	for _, key := range []string{"k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7", "k8", "k9"} {
		wantReply(t, proxy, "set "+key+" 0 0 1\r\nv", "STORED")
		for name, s := range map[string]*Server{"a": a, "b": b} {
			if line, err := ask(s.Addr(), "get "+key, time.Second); err == nil && line == "VALUE "+key+" 0 1" {
				stored[name] = true
			}
		}
	}
	if !stored["a"] || !stored["b"] {
		t.Errorf("ten keys went to %v, want both servers", stored)
	}

	a.Kill()
	b.Kill()
	wantReply(t, proxy, "get k0", "SERVER_ERROR")
	if err := errors.Join(a.Restart(), b.Restart()); err != nil {
		t.Fatal(err)
	}
	lifecycle(t, proxy, "get k0", "END")

	// The default pool, and a config that nutcracker refuses.
	wantReply(t, Nutcracker(t, Pool{Servers: []string{a.Addr()}}), "get k0", "END")
	if s, err := StartNutcracker(Pool{Servers: []string{a.Addr()}, Hash: "no-such-hash"}); err == nil {
		s.Close()
		t.Error("nutcracker started with an unknown hash")
	}
}

func TestYrmcds(t *testing.T) {
	s := Yrmcds(t)
	wantReply(t, s, "set k 0 0 1\r\nv", "STORED")
	wantReply(t, s, "mg k v", "ERROR")
	lifecycle(t, s, "version", "VERSION ")
}

func lifecycle(t *testing.T, s *Server, command, want string) {
	t.Helper()
	for range 3 {
		wantReply(t, s, command, want)
		pid := s.PID()
		s.Kill()
		if !gone(t, pid) {
			t.Errorf("process %d is still there after Kill", pid)
		}
		if err := s.Restart(); err != nil {
			t.Fatal(err)
		}
		wantReply(t, s, command, want)
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		if got, err := ask(s.Addr(), command, 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a stopped server answers %q, %v; want a timeout", got, err)
		}
		if err := s.Continue(); err != nil {
			t.Fatal(err)
		}
		wantReply(t, s, command, want)
	}
}
