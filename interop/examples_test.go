//go:build interop && unix

package interop

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// exampleTimeout is for one example, npm included.
const exampleTimeout = 2 * time.Minute

// examples lists the directories of ../examples and what each needs.
var examples = []struct {
	name  string
	needs []string // a command that fails where it is missing
}{
	{"python-grpc", pythonGRPC},
	{"node-grpc", []string{"npm", "--version"}},
	{"python-web", pythonGRPC},
}

var pythonGRPC = []string{"sh", "-c", "protoc --version && " + python + " -c 'import grpc, google.protobuf'"}

// Each example prints what its README says, by the commands that it shows.
func TestExamples(t *testing.T) {
	s := startSidecar(t, "--servers", strings.Join(startFleet(t, 3), ","))
	dirs, err := filepath.Glob("../examples/*/README.md")
	if err != nil || len(dirs) != len(examples) {
		t.Errorf("there are %d READMEs, and %d examples here: %v", len(dirs), len(examples), err)
	}
	for _, e := range examples {
		t.Run(e.name, func(t *testing.T) {
			root := copyExamples(t, e.needs)
			readme, err := os.ReadFile(filepath.Join(root, "examples", e.name, "README.md"))
			if err != nil {
				t.Fatal(err)
			}
			commands, want := fenced(string(readme), "```sh\n"), fenced(string(readme), "```\n")
			if commands == "" || want == "" {
				t.Fatal("the README has no commands, or not what they print")
			}
			cmd := exampleCommand(t, "bash", "-e", "-o", "pipefail", "-c", commands)
			cmd.Dir = root
			cmd.Env = append(cmd.Env, "RINGSIDE_GRPC="+s.grpc, "PORT="+freePort(t), "QUERY_SECONDS=3") // a busy machine is slow
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Run(); err != nil || stdout.String() != want {
				t.Errorf("%v. The commands\n%s\nprint\n%s\nand the README says\n%s\nstderr:\n%s", err, commands, stdout.String(), want, stderr.String())
			}
		})
	}
}

// fenced gives what stands in the blocks that begin with the fence.
func fenced(text, fence string) string {
	var b strings.Builder
	inside, wanted := false, false
	for line := range strings.Lines(text) {
		switch {
		case inside && line == "```\n":
			inside = false
		case inside && wanted:
			b.WriteString(line)
		case !inside && strings.HasPrefix(line, "```"):
			inside, wanted = true, line == fence
		}
	}
	return b.String()
}

// copyExamples copies what the examples need, since their commands leave files behind.
func copyExamples(t *testing.T, needs []string) (root string) {
	t.Helper()
	if exec.Command(needs[0], needs[1:]...).Run() != nil {
		missing(t, strings.Join(needs, " "))
	}
	root = t.TempDir()
	for _, dir := range []string{"examples", "proto/ringside/v1"} {
		if err := os.CopyFS(filepath.Join(root, dir), os.DirFS("../"+dir)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// exampleCommand makes a command that ends with the test, and all that it has started too.
func exampleCommand(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), exampleTimeout)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = os.Environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	end := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel = end
	cmd.WaitDelay = stopTimeout
	t.Cleanup(func() {
		if cmd.Process != nil {
			_ = end() // an error says that nobody is left
		}
	})
	return cmd
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// Both examples in Python have the same connection, since each is to be copied on its own.
func TestExamplesShareTheirConnection(t *testing.T) {
	a, errA := os.ReadFile("../examples/python-grpc/sidecar.py")
	b, errB := os.ReadFile("../examples/python-web/sidecar.py")
	if err := errors.Join(errA, errB); err != nil || !bytes.Equal(a, b) {
		t.Errorf("sidecar.py is not the same in python-grpc and python-web, %v", err)
	}
}
