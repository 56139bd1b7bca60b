//go:build unix

package realserver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrNotInstalled says that the server's program is neither in PATH nor where Debian puts it.
var ErrNotInstalled = errors.New("not installed")

// ErrNotRunning is returned when a signal is to be sent to a server that does not run.
var ErrNotRunning = errors.New("not running")

// errExited says that the process ended before it answered.
var errExited = errors.New("exited before it answered")

const (
	startTimeout = 10 * time.Second      // from the start of the process to its first answer
	startTries   = 5                     // a port can be lost between choosing it and binding it
	pollInterval = 5 * time.Millisecond  // between two probes of a starting server
	probeTimeout = 1 * time.Second       // for one probe
	maxSunPath   = 100                   // bytes; sockaddr_un holds 108 on Linux, 104 elsewhere
	logTail      = 2000                  // bytes of a server's output that an error quotes
	stopTimeout  = 2 * time.Second       // for SIGSTOP to reach every thread
	endTimeout   = 10 * time.Second      // for a server to end on a polite signal
	logName      = "output.log"          // inside the server's directory
	dirPattern   = "ringside-realserver" // of the server's directory
)

// A launch is one attempt's command line and address.
type launch struct {
	args    []string
	network string // "tcp" or "unix"
	address string // what is dialled
}

// A program is a kind of server: where to find it and how to run it.
type program struct {
	name  string                                        // of the executable
	pkg   string                                        // Debian's package that has it
	ports int                                           // how many loopback ports it needs; the first is its address
	plan  func(dir string, ports []int) (launch, error) // writes config files into dir, if it needs any
	ready func(conn net.Conn) (err error)               // nil once the server answers on conn
}

// Server is one real server, on one address for its whole life, which may see several processes.
type Server struct {
	prog   program
	path   string // of the executable
	dir    string // holds its output, its config and its socket; removed by Close
	launch launch
	locks  []io.Closer // port reservations, held until Close

	mu     sync.Mutex // guards what follows, and orders the operations on the server
	proc   *process   // nil when none was started; may have ended
	closed bool
	ended  time.Time // of the last process that ended by Terminate
}

// start finds the program and runs it. A process that ends before it answers is tried again on other
// ports, since somebody else may have taken one after it was found free.
func start(prog program) (*Server, error) {
	path, err := lookPath(prog.name)
	if err != nil {
		return nil, fmt.Errorf("realserver: %s: %w (Debian package %s)", prog.name, ErrNotInstalled, prog.pkg)
	}
	for try := 1; ; try++ {
		s, err := startOnce(prog, path)
		if err == nil {
			return s, nil
		}
		if try == startTries || !errors.Is(err, errExited) {
			return nil, fmt.Errorf("realserver: %s: %w", prog.name, err)
		}
	}
}

func startOnce(prog program, path string) (*Server, error) {
	dir, err := shortTempDir()
	if err != nil {
		return nil, err
	}
	s := &Server{prog: prog, path: path, dir: dir}
	ports := make([]int, prog.ports)
	for i := range ports {
		port, lock, err := reservePort()
		if err != nil {
			s.Close()
			return nil, err
		}
		ports[i] = port
		s.locks = append(s.locks, lock)
	}
	if s.launch, err = prog.plan(dir, ports); err != nil {
		s.Close()
		return nil, err
	}
	s.mu.Lock()
	err = s.runLocked()
	s.mu.Unlock()
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// runLocked starts a process and waits until it answers. On an error no process is left.
func (s *Server) runLocked() error {
	p, err := startProcess(s.path, s.launch.args, filepath.Join(s.dir, logName))
	if err != nil {
		return err
	}
	if err := s.awaitReady(p); err != nil {
		p.kill()
		return err
	}
	s.proc = p
	return nil
}

func (s *Server) awaitReady(p *process) error {
	deadline := time.Now().Add(startTimeout)
	for {
		err := s.probe()
		select {
		case <-p.done:
			// An answer, if there was one, came from somebody else on this address.
			return fmt.Errorf("%w: %v; its output: %s", errExited, p.state(), s.output())
		case <-time.After(pollInterval):
		}
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no answer on %s within %v: %w; its output: %s", s.launch.address, startTimeout, err, s.output())
		}
	}
}

func (s *Server) probe() error {
	conn, err := net.DialTimeout(s.launch.network, s.launch.address, probeTimeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(probeTimeout)); err != nil {
		return err
	}
	return s.prog.ready(conn)
}

// Addr is where the server listens: host:port, or unix:/path. It stays the same after Restart.
func (s *Server) Addr() string {
	if s.launch.network == "unix" {
		return "unix:" + s.launch.address
	}
	return s.launch.address
}

// PID is the id of the running process, or 0 when none runs.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.runningLocked() {
		return 0
	}
	return s.proc.pid()
}

// Kill ends the process with SIGKILL, stopped or not, and waits until it is gone. The server keeps no
// data and its address stays reserved for Restart. It does nothing when no process runs.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.killLocked()
}

func (s *Server) killLocked() {
	if s.proc != nil {
		s.proc.kill()
		s.proc = nil
	}
}

// Stop freezes the process with SIGSTOP and returns once all its threads stand. The kernel still
// accepts connections for it.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.signalLocked(syscall.SIGSTOP); err != nil {
		return err
	}
	deadline := time.Now().Add(stopTimeout)
	for !allStopped(s.proc.pid()) {
		if time.Now().After(deadline) {
			return fmt.Errorf("realserver: %s: threads still run %v after SIGSTOP", s.prog.name, stopTimeout)
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// Continue undoes Stop.
func (s *Server) Continue() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signalLocked(syscall.SIGCONT)
}

// Terminate sends sig and waits until the process has ended by itself; Restart may follow. memcached
// with -e FILE keeps its items when it is ended by SIGUSR1. A process that outlives 10 s is killed, and
// that is an error.
func (s *Server) Terminate(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.signalLocked(sig); err != nil {
		return err
	}
	select {
	case <-s.proc.done:
		s.proc = nil
		s.ended = time.Now()
		return nil
	case <-time.After(endTimeout):
		s.killLocked()
		return fmt.Errorf("realserver: %s: still running %v after %v", s.prog.name, endTimeout, sig)
	}
}

// Restart runs a new process with the same arguments on the same address, and waits until it answers.
// A process that still runs is killed first.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("realserver: %s: restart: closed", s.prog.name)
	}
	s.killLocked()
	// memcached -e compares whole seconds and drops its items when it is started within the second in
	// which it stopped ("restart incompatible due to setting for [stop_time]", tried on 1.6.18).
	time.Sleep(time.Until(s.ended.Truncate(time.Second).Add(time.Second)))
	deadline := time.Now().Add(startTimeout)
	for {
		err := s.runLocked()
		if err == nil {
			return nil
		}
		// The old process's connections may keep the port busy for a moment.
		if !errors.Is(err, errExited) || time.Now().After(deadline) {
			return fmt.Errorf("realserver: %s: restart: %w", s.prog.name, err)
		}
		time.Sleep(20 * pollInterval)
	}
}

// Close kills the process, waits for it, and removes the server's files. It may be called again.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.killLocked()
	for _, lock := range s.locks {
		lock.Close()
	}
	os.RemoveAll(s.dir)
}

func (s *Server) runningLocked() bool {
	if s.proc == nil {
		return false
	}
	select {
	case <-s.proc.done:
		return false
	default:
		return true
	}
}

func (s *Server) signalLocked(sig syscall.Signal) error {
	if !s.runningLocked() {
		return fmt.Errorf("realserver: %s: %v: %w", s.prog.name, sig, ErrNotRunning)
	}
	if err := s.proc.signal(sig); err != nil {
		return fmt.Errorf("realserver: %s: %v: %w", s.prog.name, sig, err)
	}
	return nil
}

// output is the end of what the server printed.
func (s *Server) output() string {
	b, err := os.ReadFile(filepath.Join(s.dir, logName))
	if err != nil {
		return err.Error()
	}
	if len(b) > logTail {
		b = b[len(b)-logTail:]
	}
	if len(b) == 0 {
		return "none"
	}
	return strings.TrimSpace(string(b))
}

// answersVersion is ready for servers that speak memcached's protocol. One whole line is enough: a
// memcached with -Y answers that the client is not authenticated, and it is up all the same.
func answersVersion(conn net.Conn) error {
	if _, err := io.WriteString(conn, "version\r\n"); err != nil {
		return err
	}
	_, err := bufio.NewReader(conn).ReadString('\n')
	return err
}

// accepts is ready for servers that can only be asked whether they accept a connection.
func accepts(net.Conn) error { return nil }

// lookPath looks in PATH and then where Debian puts servers, which is often not in a user's PATH.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/bin", "/usr/sbin", "/usr/local/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}

// shortTempDir makes a directory in which a socket's path is not too long for the kernel, as it is in
// the long temporary directories that some systems and test runners set.
func shortTempDir() (string, error) {
	parent := os.TempDir()
	if len(parent)+len(dirPattern)+len("/0123456789/socket") > maxSunPath {
		parent = "/tmp"
	}
	return os.MkdirTemp(parent, dirPattern)
}
