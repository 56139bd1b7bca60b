//go:build interop && unix

package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	workDir      string // for what is made once for a run of the tests
	ringsidePath string // the command, in workDir
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ringside-interop")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	workDir, ringsidePath = dir, filepath.Join(dir, "ringside")
	// Else a command that was built with -race sleeps for a second before it exits.
	os.Setenv("GORACE", "atexit_sleep_ms=20")
	args := append([]string{"build", "-o", ringsidePath}, raceFlags...)
	build := exec.Command("go", append(args, "github.com/ringside-cache/ringside/cmd/ringside")...)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: %v\n%s", build, err, out)
		return 1
	}
	return m.Run()
}

const (
	commandTimeout = 20 * time.Second // for one run of a command
	startTimeout   = 10 * time.Second // for a sidecar to say where it listens
	stopTimeout    = 15 * time.Second // for a sidecar to drain and end
	patience       = "10s"            // for one operation: a busy machine is no failure
)

// missing skips the test, or fails it where CI is set, since there everything is to be installed.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is missing", what)
	}
	t.Skipf("%s is missing", what)
}

// ringside runs the command and gives what it printed and its exit code.
func ringside(t *testing.T, stdin []byte, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, ringsidePath, args...)
	var out, diagnostics bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &diagnostics
	err := cmd.Run()
	var exit *exec.ExitError
	if ctx.Err() != nil || err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v, %v", cmd, err, ctx.Err())
	}
	return out.String(), diagnostics.String(), cmd.ProcessState.ExitCode()
}

// A sidecar is a running `ringside serve`. The addresses of its listeners are host:port or unix:/path.
type sidecar struct{ memcached, grpc, admin string }

// startSidecar runs `ringside serve` on free ports of loopback; flags come behind those that say so and
// can override them. When the test ends the sidecar gets SIGTERM, and has to drain and exit 0.
func startSidecar(t *testing.T, flags ...string) *sidecar {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "sidecar.log"))
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"serve", "--memcached", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--timeout", patience}
	cmd := exec.Command(ringsidePath, append(args, flags...)...)
	cmd.Stderr = log
	cmd.SysProcAttr = endWithParent()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}

	started := make(chan error)
	addresses := make(chan map[string]string, 1)
	ended := make(chan error, 1)
	go func() {
		// The kernel ties a child's life to the thread that forked it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		readAddresses(stdout, addresses)
		ended <- cmd.Wait()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// An error means that it has ended already, which the exit code shows.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err = <-ended:
		case <-time.After(stopTimeout):
			_ = cmd.Process.Kill()
			err = fmt.Errorf("still there %v after SIGTERM: %w", stopTimeout, <-ended)
		}
		if err != nil {
			t.Errorf("the sidecar ended with %v", err)
		}
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("the sidecar's log:\n%s", b[max(0, len(b)-8000):])
		}
		log.Close()
	})
	select {
	case a := <-addresses:
		if a == nil {
			t.Fatal("the sidecar ended before it said where it listens")
		}
		return &sidecar{memcached: a["memcached"], grpc: a["grpc"], admin: a["admin"]}
	case <-time.After(startTimeout):
		t.Fatalf("the sidecar did not say where it listens within %v", startTimeout)
	}
	return nil
}

// readAddresses reads what a sidecar prints to its end, and sends the listeners' addresses as soon as
// it has seen all three.
func readAddresses(stdout io.Reader, addresses chan<- map[string]string) {
	defer close(addresses)
	found := map[string]string{}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 2 && slices.Contains([]string{"memcached", "grpc", "admin"}, fields[0]) && found[fields[0]] == "" {
			if found[fields[0]] = strings.TrimPrefix(fields[1], "http://"); len(found) == 3 {
				addresses <- found
			}
		}
	}
}

// nodeState asks the sidecar's admin listener for a node's state.
func (s *sidecar) nodeState(t *testing.T, name string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.admin+"/api/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var status struct {
		Nodes []struct{ Name, State string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		t.Fatal(err)
	}
	for _, n := range status.Nodes {
		if n.Name == name {
			return n.State
		}
	}
	t.Fatalf("no node %q in %+v", name, status)
	return ""
}

// eventually waits until ok, for at most limit.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, limit)
		}
	}
}
