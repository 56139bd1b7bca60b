package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/ringside-cache/ringside/client/memnode"
)

// noLeaks is a testing.M that also proves that no goroutine is left.
type noLeaks struct{ *testing.M }

func (m noLeaks) Run() int {
	code := m.M.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

func TestMain(m *testing.M) {
	testscript.Main(noLeaks{m}, map[string]func(){"ringside": main})
}

// patience bounds every wait of these tests; none of them is meant to use it.
const patience = 20 * time.Second

// TestScripts runs testdata/script/*.txtar. Beside what testscript has they
// find in the environment
//
//	NODE1 NODE2 NODE3          addresses of three memnodes of their own
//	NODES                      the same as a list, named n1, n2, n3
//	MEMCACHED GRPC ADMIN       free addresses for a sidecar to listen on
//	SOCKETS                    a directory for unix sockets
//	LONG                       251 bytes
//
// and as commands
//
//	code N PROGRAM ARG…        runs a program, which must exit with N
//	await URL                  waits until it is answered 200
//	http CODE URL [TEXT]       it must be answered CODE, with TEXT in it
//	terminate                  sends SIGTERM to what runs in the background
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": code, "await": await, "http": httpGet, "terminate": terminate,
		},
	})
}

func setup(env *testscript.Env) error {
	var list []string
	for i := range 3 {
		n, err := memnode.Start(memnode.Config{})
		if err != nil {
			return err
		}
		env.Defer(func() { n.Close() })
		env.Setenv(fmt.Sprintf("NODE%d", i+1), n.Addr())
		list = append(list, fmt.Sprintf("n%d@%s", i+1, n.Addr()))
	}
	env.Setenv("NODES", strings.Join(list, ","))
	for _, name := range []string{"MEMCACHED", "GRPC", "ADMIN"} {
		addr, err := freeAddr()
		if err != nil {
			return err
		}
		env.Setenv(name, addr)
	}
	// The script's own directory has a path that is too long for sockets.
	dir, err := os.MkdirTemp("", "ringside")
	if err != nil {
		return err
	}
	env.Defer(func() { os.RemoveAll(dir) })
	env.Setenv("SOCKETS", dir)
	// Under the race detector each program would sleep a second at its end.
	env.Setenv("GORACE", "atexit_sleep_ms=0")
	env.Setenv("LONG", strings.Repeat("k", 251))
	return nil
}

// freeAddr finds a port below those that the kernel gives to outgoing
// connections, so that it is still free when it is needed.
func freeAddr() (string, error) {
	var errs []error
	for range 20 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(8000)))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		return l.Addr().String(), l.Close()
	}
	return "", errors.Join(errs...)
}

func code(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if err != nil || neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROGRAM ARG…")
	}
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func get(url string) (code int, body string, err error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := c.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await URL")
	}
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		code, _, err := get(args[0])
		switch {
		case err == nil && code == http.StatusOK:
			return
		case time.Now().After(deadline):
			ts.Fatalf("%s is answered %d, %v", args[0], code, err)
		}
		<-tick.C
	}
}

func httpGet(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: http CODE URL [TEXT]")
	}
	code, body, err := get(args[1])
	ts.Check(err)
	if strconv.Itoa(code) != args[0] || len(args) == 3 && !strings.Contains(body, args[2]) {
		ts.Fatalf("%s is answered %d %s", args[1], code, body)
	}
}

func terminate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: terminate")
	}
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	}
}

// TestSecondSignal: the first signal waits for a request that is under way, also
// where it comes twice at once; a second one does not.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	node, err := memnode.Start(memnode.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	stall := node.Inject(memnode.Stall(), memnode.Key("slow"))
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	exe, err := exec.LookPath("ringside") // that testscript.Main made
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd := exec.Command(exe, "serve", "--servers", node.Addr(), "--timeout", "5m", "--drain-timeout", "1h",
		"--memcached", addr, "--grpc", "off", "--admin", "off")
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	var nc net.Conn
	for end := time.Now().Add(patience); nc == nil && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		nc, _ = net.Dial("tcp", addr)
	}
	if nc == nil {
		t.Fatal("it does not listen")
	}
	defer nc.Close()
	io.WriteString(nc, "get slow\r\n")
	<-stall.Hit()
	// As one: timeout(1) sends it to the process and then to its group.
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Process.Signal(os.Interrupt)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		other, err := net.Dial("tcp", addr)
		if err != nil {
			break // it has begun to drain
		}
		other.Close()
	}
	select {
	case err := <-ended:
		t.Fatalf("the first signal ended it: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the second signal does not end it")
	}
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(stderr.String(), "a second signal") {
		t.Errorf("it exits with %d: %s", code, stderr.String())
	}
}
