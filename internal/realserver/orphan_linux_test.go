package realserver

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// orphanEnv makes this test binary start a server and wait to be killed.
const orphanEnv = "RINGSIDE_REALSERVER_ORPHAN"

func TestMain(m *testing.M) {
	if os.Getenv(orphanEnv) != "" {
		s, err := StartMemcached()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(s.PID())
		time.Sleep(time.Minute)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// A test binary that is killed takes its servers with it.
func TestNoOrphan(t *testing.T) {
	Memcached(t) // skips or fails where memcached is missing
	parent := exec.Command(os.Args[0])
	// What the killed process cannot remove goes with the test.
	parent.Env = append(os.Environ(), orphanEnv+"=1", "TMPDIR="+t.TempDir())
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	killed := parent.Process.Kill()
	_ = parent.Wait() // it was killed
	if err != nil || killed != nil {
		t.Fatal(err, killed)
	}
	var pid int
	if _, err := fmt.Sscan(strings.TrimSpace(line), &pid); err != nil {
		t.Fatalf("the child says %q", line)
	}
	for deadline := time.Now().Add(5 * time.Second); !gone(t, pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("server %d outlives the process that started it", pid)
		}
	}
}
