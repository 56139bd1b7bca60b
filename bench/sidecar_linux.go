package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/ringside-cache/ringside/internal/realserver"
)

// run is the loop of a slot. Sockets and epoll are called directly: the
// runtime's poller would wake a goroutine for each reply.
func (r *wireRun) run() (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	conns := make([]*wireConn, r.conns)
	defer func() {
		for _, c := range conns {
			if c != nil {
				syscall.Close(c.fd)
			}
		}
	}()
	for i := range conns {
		fd, err := dialRaw(r.addrs[i%len(r.addrs)], i)
		if err != nil {
			return err
		}
		conns[i] = r.newConn(i, fd)
	}
	if r.conns == 1 {
		return r.alone(conns[0])
	}
	return r.many(conns)
}

// alone sleeps in read, which is one system call less than epoll.
func (r *wireRun) alone(c *wireConn) error {
	patience := syscall.NsecToTimeval(int64(wirePatience))
	if err := syscall.SetsockoptTimeval(c.fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &patience); err != nil {
		return err
	}
	var out []byte
	for {
		on, err := r.goesOn()
		if err != nil || !on {
			return err
		}
		out = r.next(c, out)
		if err := writeRaw(c.fd, out); err != nil {
			return err
		}
		for complete := false; !complete; {
			n, err := readRaw(c.fd, c.in[c.got:])
			if errors.Is(err, syscall.EAGAIN) {
				err = errNoReply
			}
			if err != nil {
				return err
			}
			if complete, err = r.took(c, n); err != nil {
				return err
			}
		}
		r.answered(c)
	}
}

func (r *wireRun) many(conns []*wireConn) error {
	poll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	defer syscall.Close(poll)
	var out []byte
	for i, c := range conns {
		if err := syscall.SetNonblock(c.fd, true); err != nil {
			return err
		}
		event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(i)}
		if err := syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, c.fd, &event); err != nil {
			return err
		}
		if err := writeRaw(c.fd, r.next(c, out)); err != nil {
			return err
		}
	}
	events := make([]syscall.EpollEvent, len(conns))
	for {
		on, err := r.goesOn()
		if err != nil || !on {
			return err
		}
		n, err := syscall.EpollWait(poll, events, int(wirePatience.Milliseconds()))
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			return errNoReply
		}
		for _, event := range events[:n] {
			c := conns[event.Fd]
			n, err := readRaw(c.fd, c.in[c.got:])
			if err != nil {
				return err
			}
			complete, err := r.took(c, n)
			if err != nil {
				return err
			}
			if !complete {
				continue
			}
			r.answered(c)
			out = r.next(c, out)
			if err := writeRaw(c.fd, out); err != nil {
				return err
			}
		}
	}
}

// sources is how many addresses of loopback connections come from, so that the
// ports suffice for tens of thousands.
const sources = 4

// dialRaw connects to a loopback address over a blocking socket. Closing it
// resets the connection: a port in TIME-WAIT could not be used for a minute.
func dialRaw(addr string, i int) (fd int, err error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil || !to.Addr().Is4() {
		return 0, fmt.Errorf("%q is no IPv4 address with a port", addr)
	}
	fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	const bindAddressNoPort = 24 // IP_BIND_ADDRESS_NO_PORT: connect chooses it
	err = errors.Join(
		syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, bindAddressNoPort, 1),
		syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1),
		syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1}),
		syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + i%sources)}}),
	)
	if err == nil {
		err = syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	}
	if err != nil {
		syscall.Close(fd)
		return 0, fmt.Errorf("connection %d to %s: %w", i, addr, err)
	}
	return fd, nil
}

func readRaw(fd int, b []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, b)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return 0, fmt.Errorf("read: %w", err)
		case n == 0:
			return 0, errors.New("the connection was closed")
		}
		return n, nil
	}
}

// writeRaw writes what always fits the socket's buffer.
func writeRaw(fd int, b []byte) error {
	for {
		n, err := syscall.Write(fd, b)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("write: %w", err)
		case n < len(b):
			return errors.New("write: the socket's buffer is full")
		}
		return nil
	}
}

// startSidecar runs a command, as "ringside serve", in front of servers.
func startSidecar(command, servers []string) (*proxy, error) {
	p := &proxy{name: nameSidecar}
	s, err := realserver.StartCommand(command[0], 3, func(ports []int) []string {
		addr := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
		p.grpc, p.admin = addr(1), addr(2)
		return append(command[1:len(command):len(command)],
			"--servers", strings.Join(servers, ","), "--memcached", addr(0), "--grpc", p.grpc, "--admin", p.admin,
			// One more than the idle connections that it is to hold.
			"--max-conns", strconv.Itoa(2*idleConns))
	})
	if err != nil {
		return nil, err
	}
	p.server, p.pid = s, s.PID()
	return p, nil
}

func startNutcracker(servers []string) (*proxy, error) {
	s, err := realserver.StartNutcracker(realserver.Pool{Servers: servers})
	if err != nil {
		return nil, err
	}
	return &proxy{server: s, name: nameNutcracker, pid: s.PID()}, nil
}

func notInstalled(err error) bool { return errors.Is(err, realserver.ErrNotInstalled) }

// processCPU is the CPU time of all threads of a process, those that have ended
// too. The clock has nanoseconds where /proc/PID/stat has ticks of 10 ms, and
// a window is some hundred milliseconds.
func processCPU(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED
	var ts syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(^pid<<3|sched), uintptr(unsafe.Pointer(&ts)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, errno)
	}
	return time.Duration(ts.Nano()), nil
}

// processMemory is the resident memory of a process in bytes.
func processMemory(pid int) (int64, error) {
	words := strings.Fields(lineValue(fmt.Sprintf("/proc/%d/status", pid), "VmRSS", ":"))
	if len(words) != 2 || words[1] != "kB" {
		return 0, fmt.Errorf("the memory of process %d is not known", pid)
	}
	kib, err := strconv.ParseInt(words[0], 10, 64)
	return kib << 10, err
}

// needFiles raises the limit of open files, also for what is started
// afterwards, or tells why n can not be had.
func needFiles(n int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Max < uint64(n) {
		return fmt.Errorf("%d open files are needed, the hard limit (ulimit -Hn) is %d", n, limit.Max)
	}
	limit.Cur = limit.Max
	return os.NewSyscallError("setrlimit", syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
}

// openIdle opens n connections and gives what closes them.
func openIdle(addr string, n int) (fds []int, end func(), err error) {
	end = func() {
		for _, fd := range fds {
			syscall.Close(fd)
		}
	}
	for i := range n {
		fd, err := dialRaw(addr, i)
		if err != nil {
			end()
			return nil, nil, err
		}
		fds = append(fds, fd)
	}
	return fds, end, nil
}
