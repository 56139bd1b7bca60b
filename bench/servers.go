package bench

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// server is a real server that a scenario started.
type server interface {
	Addr() string
	Close()
}

// servers are the servers and clients of a scenario, to be closed together.
type servers struct {
	running []server
	peers   []*peer
}

// start starts n memcacheds with args and gives their addresses.
func (s *servers) start(n int, args ...string) ([]string, error) {
	started, err := startMemcacheds(n, args...)
	s.running = append(s.running, started...)
	if err != nil {
		return nil, err
	}
	return addresses(started), nil
}

func addresses(list []server) []string {
	addrs := make([]string, len(list))
	for i, one := range list {
		addrs[i] = one.Addr()
	}
	return addrs
}

// keep notes a peer that was made.
func (s *servers) keep(p *peer, err error) (*peer, error) {
	if err == nil {
		s.peers = append(s.peers, p)
	}
	return p, err
}

// close closes the peers, then the servers.
func (s *servers) close() {
	for _, p := range s.peers {
		p.close()
	}
	closeServers(s.running)
}

// closeServers closes them side by side; a hundred take their time.
func closeServers(list []server) {
	var wg sync.WaitGroup
	for _, one := range list {
		wg.Go(one.Close)
	}
	wg.Wait()
}

// versions asks the first server for its version.
func (s *servers) versions(own string) Versions {
	return Versions{
		Ringside:   ownVersion(own),
		Go:         goVersion(),
		Memcached:  serverVersion(s.running[0].Addr()),
		Gomemcache: moduleVersion("github.com/bradfitz/gomemcache"),
	}
}

func serverVersion(addr string) string {
	version, err := askVersion(addr)
	if err != nil {
		return "unknown"
	}
	return version
}

func askVersion(addr string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "version\r\n"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	version, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION ")
	if !ok {
		return "", fmt.Errorf("%q is no version", line)
	}
	return version, nil
}

// startManyAtOnce starts n servers, some at a time. After an error it gives
// those that did start.
func startManyAtOnce(n int, start func() (server, error)) ([]server, error) {
	const atOnce = 8
	var (
		mu      sync.Mutex // guards started and errs
		started []server
		errs    []error
		wg      sync.WaitGroup
	)
	slots := make(chan struct{}, atOnce)
	for range n {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			one, err := start()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			started = append(started, one)
		})
	}
	wg.Wait()
	return started, errors.Join(errs...)
}
