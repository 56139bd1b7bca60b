package deploy

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/sidecar"
)

// buildOnce builds the binary as the Dockerfile does, for those tests that ask.
var buildOnce = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "ringside")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "ringside")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/ringside")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	built = dir
	return path, nil
})

var built string // the directory of the binary, once there is one

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

func build(t *testing.T) string {
	t.Helper()
	path, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// tool finds a program, or skips the test on a laptop and fails it in CI.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		const text = "%s is not installed (Debian's package %s)"
		if os.Getenv("CI") != "" {
			t.Fatalf(text, name, pkg)
		}
		t.Skipf(text, name, pkg)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// unit gives the values of each name of the unit, in order.
func unit(t *testing.T) map[string][]string {
	t.Helper()
	values := make(map[string][]string)
	for line := range strings.Lines(read(t, "systemd/ringside.service")) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(name, "#") {
			values[name] = append(values[name], value)
		}
	}
	return values
}

// TestSystemd: systemd takes the unit, and leaves little to who breaks in.
func TestSystemd(t *testing.T) {
	analyze := tool(t, "systemd-analyze", "systemd")
	// What ExecStart and ExecReload name must be there to be taken.
	text := strings.ReplaceAll(read(t, "systemd/ringside.service"), "/usr/local/bin/ringside", build(t))
	if _, err := os.Stat("/bin/kill"); err != nil {
		t.Log("/bin/kill is not installed (Debian's package procps)")
		text = strings.ReplaceAll(text, "/bin/kill", "/bin/sh")
	}
	path := filepath.Join(t.TempDir(), "ringside.service")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	// A name that it does not know is a warning and no failure.
	out, err := exec.Command(analyze, "verify", "--man=no", path).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("ringside.service")) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// 0 is locked in, 10 is open; an ordinary service has 9.6. It was 1.2 with systemd 252.
	out, err = exec.Command(analyze, "security", "--offline=yes", "--no-pager", "--threshold=15", path).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

// TestUnit: what the unit says fits to the config beside it.
func TestUnit(t *testing.T) {
	values := unit(t)
	set, err := sidecar.ParseSettings("ringside.yaml", []byte(read(t, "ringside.yaml")), nil)
	if err != nil {
		t.Fatal(err)
	}
	full := set.WithDefaults()
	stop, err := time.ParseDuration(values["TimeoutStopSec"][0] + "s")
	if err != nil || stop < full.DrainTimeout+5*time.Second {
		t.Errorf("TimeoutStopSec is %v, %v: the drain takes up to %v", stop, err, full.DrainTimeout)
	}
	for name, want := range map[string]string{
		"ExecStart":  "/usr/local/bin/ringside serve --config /etc/ringside/ringside.yaml",
		"KillSignal": "SIGTERM", "Restart": "on-failure", "ProtectSystem": "strict", "CapabilityBoundingSet": "",
	} {
		if got := values[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// TestExampleConfig: ringside check takes it.
func TestExampleConfig(t *testing.T) {
	out, err := exec.Command(build(t), "check", "ringside.yaml").CombinedOutput()
	if err != nil || string(out) != "ringside.yaml is valid\n" {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestStatic: a binary without C needs nothing but itself in its image.
func TestStatic(t *testing.T) {
	out, err := exec.Command(build(t), "version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), sidecar.Version) {
		t.Errorf("%v\n%s", err, out)
	}
	if text := read(t, "Dockerfile"); !strings.Contains(text, "CGO_ENABLED=0") || !strings.Contains(text, "./cmd/ringside") {
		t.Error("the Dockerfile builds something else")
	}
}
