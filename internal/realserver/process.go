//go:build unix

package realserver

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// A process is one run of a server, owned by one goroutine from fork to wait.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once the process was waited for
}

// startProcess runs the program with its output in the file at log.
//
// The goroutine that forks keeps its thread until the process has ended. PR_SET_PDEATHSIG is tied to
// the forking *thread*, not to the process: on a thread that the Go runtime ends later (because a
// goroutine that was locked to it returned) the server would be killed in the middle of a test.
// Waiting on that same goroutine means that no goroutine outlives its server either, so that a leak
// check in a test that uses this package stays clean.
func startProcess(path string, args []string, log string) (*process, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	// A file, not a buffer: exec would copy into a buffer on a goroutine of its own.
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = sysProcAttr()

	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		out.Close() // the child has its own
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// kill works on a stopped process too: SIGKILL needs no SIGCONT, and a SIGCONT before it would let the
// server answer what was sent to it meanwhile.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // an error means that it has ended already
	<-p.done
}

// state tells how the process ended. It may be asked once done is closed.
func (p *process) state() *os.ProcessState { return p.cmd.ProcessState }
