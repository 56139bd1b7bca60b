package sidecar

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
)

// maxAdminConns bounds the connections of the admin listener.
const maxAdminConns = 64

// A quota bounds a number of connections. Listeners may share one.
type quota struct {
	most, used atomic.Int64
}

func newQuota(most int) *quota {
	q := &quota{}
	q.most.Store(int64(most))
	return q
}

func (q *quota) take() bool {
	if q.used.Add(1) > q.most.Load() {
		q.used.Add(-1)
		return false
	}
	return true
}

func (q *quota) giveBack() { q.used.Add(-1) }

// connMetrics are those of one listener.
type connMetrics struct {
	open    prometheus.Gauge
	refused prometheus.Counter
}

func newConnMetrics(r *prometheus.Registry, listener string) connMetrics {
	m := connMetrics{
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ringside_" + listener + "_connections", Help: "Open connections of the " + listener + " listener.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ringside_" + listener + "_connections_refused_total", Help: "Connections over the limit.",
		}),
	}
	r.MustRegister(m.open, m.refused)
	return m
}

// A limitedListener closes the connections that are over its quota.
type limitedListener struct {
	net.Listener
	quota   *quota
	metrics connMetrics
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.quota.take() {
			l.metrics.open.Inc()
			return &limitedConn{Conn: nc, l: l}, nil
		}
		l.metrics.refused.Inc()
		nc.Close()
	}
}

type limitedConn struct {
	net.Conn
	l     *limitedListener
	ended sync.Once
}

// SyscallConn is for those who look for the socket.
func (c *limitedConn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.ended.Do(func() {
		c.l.metrics.open.Dec()
		c.l.quota.giveBack()
	})
	return err
}
