//go:build unix

package realserver

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// ask sends one command and returns the reply's first line.
func ask(addr, command string, timeout time.Duration) (string, error) {
	network, address := "tcp", addr
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, address = "unix", path
	}
	conn, err := net.DialTimeout(network, address, timeout)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

func wantReply(t *testing.T, s *Server, command, want string) {
	t.Helper()
	got, err := ask(s.Addr(), command, 2*time.Second)
	if err != nil || !strings.HasPrefix(got, want) {
		t.Fatalf("%s: %q answers %q, %v; want %q", s.Addr(), command, got, err, want)
	}
}

// gone reports whether no process runs under pid. An orphan that nobody waits for stays a zombie where
// the first process of a container reaps none; it holds nothing any more.
func gone(t *testing.T, pid int) bool {
	t.Helper()
	if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return runtime.GOOS == "linux" // it went between the two looks
	}
	return strings.Contains(string(stat), ") Z ")
}

func TestMemcached(t *testing.T) {
	for name, begin := range map[string]func(TB, ...string) *Server{"tcp": Memcached, "unix": MemcachedUnix} {
		t.Run(name, func(t *testing.T) {
			s := begin(t)
			wantReply(t, s, "version", "VERSION ")
			wantReply(t, s, "set k 0 0 1\r\nv", "STORED")

			addr, pid := s.Addr(), s.PID()
			s.Kill()
			if !gone(t, pid) {
				t.Errorf("process %d is still there after Kill", pid)
			}
			if s.PID() != 0 {
				t.Errorf("PID is %d after Kill, want 0", s.PID())
			}
			if got, err := ask(addr, "version", time.Second); err == nil {
				t.Errorf("a killed server answers %q", got)
			}
			if err := s.Stop(); !errors.Is(err, ErrNotRunning) {
				t.Errorf("Stop after Kill: %v, want ErrNotRunning", err)
			}
			s.Kill() // does nothing

			if err := s.Restart(); err != nil {
				t.Fatal(err)
			}
			if s.Addr() != addr {
				t.Errorf("restarted on %s, was on %s", s.Addr(), addr)
			}
			wantReply(t, s, "get k", "END")

			pid = s.PID()
			if err := s.Restart(); err != nil { // kills the running one
				t.Fatal(err)
			}
			if s.PID() == pid || !gone(t, pid) {
				t.Errorf("process %d is still there after Restart", pid)
			}
			wantReply(t, s, "version", "VERSION ")
		})
	}
}

func TestStopAndContinue(t *testing.T) {
	s := Memcached(t, "-t", "4")
	wantReply(t, s, "set k 0 0 1\r\nv", "STORED")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	got, err := ask(s.Addr(), "get k", 100*time.Millisecond)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a stopped server answers %q, %v; want a timeout", got, err)
	}
	if err := s.Continue(); err != nil {
		t.Fatal(err)
	}
	wantReply(t, s, "get k", "VALUE k 0 1")

	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	pid := s.PID()
	s.Kill()
	if !gone(t, pid) {
		t.Errorf("stopped process %d is still there after Kill", pid)
	}
}

func TestTerminateKeepsMemoryFile(t *testing.T) {
	s := Memcached(t, "-e", filepath.Join(t.TempDir(), "items"), "-m", "64")
	wantReply(t, s, "set k 0 0 1\r\nv", "STORED")
	if err := s.Terminate(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	wantReply(t, s, "get k", "VALUE k 0 1")
}

func TestReadyWithAuthentication(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, []byte("user:pass\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := Memcached(t, "-Y", users)
	wantReply(t, s, "version", "CLIENT_ERROR unauthenticated")
	wantReply(t, s, "set auth 0 0 9\r\nuser pass", "STORED")
}

func TestCloseLeavesNothing(t *testing.T) {
	for name, begin := range map[string]func(...string) (*Server, error){
		"tcp": StartMemcached, "unix": StartMemcachedUnix,
	} {
		t.Run(name, func(t *testing.T) {
			Memcached(t) // skips or fails where memcached is missing
			s, err := begin()
			if err != nil {
				t.Fatal(err)
			}
			pid := s.PID()
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
			s.Close()
			s.Close()
			if !gone(t, pid) {
				t.Errorf("process %d is still there after Close", pid)
			}
			if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there after Close: %v", s.dir, err)
			}
			if err := s.Restart(); err == nil {
				t.Error("Restart works after Close")
			}
		})
	}
}

func TestCleanupEndsServer(t *testing.T) {
	var pid int
	t.Run("inner", func(t *testing.T) { pid = Memcached(t).PID() })
	if pid == 0 {
		t.Skip("the inner test had no memcached")
	}
	if !gone(t, pid) {
		t.Errorf("process %d is still there after its test", pid)
	}
}

func TestManyAtOnce(t *testing.T) {
	Memcached(t) // skips or fails where memcached is missing
	const n = 16
	servers := make([]*Server, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { servers[i], errs[i] = StartMemcached("-m", "4") })
	}
	wg.Wait()
	seen := map[string]bool{}
	for i, s := range servers {
		if errs[i] != nil {
			t.Error(errs[i])
			continue
		}
		if seen[s.Addr()] {
			t.Errorf("two servers on %s", s.Addr())
		}
		seen[s.Addr()] = true
		s.Close()
	}
}

func TestPortStaysReservedWhileKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("ports are locked on Linux only")
	}
	s := Memcached(t)
	s.Kill()
	var port int
	if _, err := fmt.Sscanf(s.Addr(), "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	if port < firstPort || port > lastPort {
		t.Errorf("port %d is outside %d-%d", port, firstPort, lastPort)
	}
	if lock, err := lockPort(port); err == nil {
		lock.Close()
		t.Errorf("port %d of a killed server can be locked again", port)
	}
	s.Close()
	lock, err := lockPort(port)
	if err != nil {
		t.Fatalf("port %d of a closed server: %v", port, err)
	}
	lock.Close()
}

func TestStartErrors(t *testing.T) {
	Memcached(t) // skips or fails where memcached is missing
	s, err := StartMemcached("--no-such-option")
	if err == nil {
		s.Close()
		t.Fatal("memcached started with an unknown option")
	}
	for _, want := range []string{"memcached", "exit status", "no-such-option"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	for _, servers := range [][]string{nil, {"127.0.0.1:1*0"}, {"127.0.0.1:1*x"}, {"a b@127.0.0.1:1"}} {
		if b, err := (Pool{Servers: servers}).config("127.0.0.1:2"); err == nil {
			t.Errorf("pool %q gives the config %q, want an error", servers, b)
		}
	}
}

func TestPoolServer(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1:11211":       "127.0.0.1:11211:1",
		"127.0.0.1:11211*5":     "127.0.0.1:11211:5",
		"c2@127.0.0.1:11211*2":  "127.0.0.1:11211:2 c2",
		"c3@unix:/run/x.sock":   "/run/x.sock:1 c3",
		"unix:/run/x.sock*3":    "/run/x.sock:3",
		"cache4@10.0.0.1:11211": "10.0.0.1:11211:1 cache4",
	} {
		if got, err := poolServer(in); got != want || err != nil {
			t.Errorf("poolServer(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

// fakeTB records what the helpers do to a test.
type fakeTB struct{ did string }

func (f *fakeTB) Helper()        {}
func (f *fakeTB) Cleanup(func()) { f.did += "cleanup" }
func (f *fakeTB) Skip(...any)    { f.did += "skip" }
func (f *fakeTB) Fatal(...any)   { f.did += "fatal" }

func TestMissingProgram(t *testing.T) {
	_, err := start(program{name: "ringside-no-such-server", pkg: "no-such-package"})
	if !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), "no-such-package") {
		t.Fatalf("start of a missing program: %v, want ErrNotInstalled and the package", err)
	}
	for ci, want := range map[string]string{"": "skip", "true": "fatal"} {
		t.Setenv("CI", ci)
		var tb fakeTB
		owned(&tb, nil, err)
		if tb.did != want {
			t.Errorf("CI=%q: the helper did %q, want %q", ci, tb.did, want)
		}
	}
}
