//go:build unix

package realserver

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
)

// Ports are taken from below Linux's ephemeral range (32768-60999), not from a listener on port 0. The
// kernel gives ephemeral ports to outgoing connections, so one of them could take a killed server's
// port before Restart; worse, a client that dials a dead port in that range can be connected to itself.
const (
	firstPort = 20000
	lastPort  = 31999
)

// reservePort finds a port that is free on loopback and keeps it from other users of this package.
func reservePort() (int, io.Closer, error) {
	var errs []error
	for range 20 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		lock, err := lockPort(port)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			lock.Close()
			errs = append(errs, err)
			continue
		}
		l.Close()
		return port, lock, nil
	}
	return 0, nil, fmt.Errorf("no free port: %w", errors.Join(errs...))
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
