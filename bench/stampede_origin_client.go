package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
)

// originConn is a worker's connection to the origin.
type originConn struct {
	conn net.Conn
	read sync.WaitGroup

	mu      sync.Mutex // guards what follows, and writes
	next    uint64
	waiting map[uint64]chan string
	broken  bool
}

var (
	errOriginGone   = errors.New("the connection to the origin is broken")
	errOriginFailed = errors.New("the origin failed")
)

func dialOrigin(socket string, worker int) (*originConn, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, "%d\n", worker); err != nil {
		conn.Close()
		return nil, err
	}
	c := &originConn{conn: conn, waiting: map[uint64]chan string{}}
	c.read.Go(c.answers)
	return c, nil
}

func (c *originConn) close() {
	c.conn.Close()
	c.read.Wait()
}

func (c *originConn) answers() {
	for lines := bufio.NewScanner(c.conn); lines.Scan(); {
		head, answer, _ := strings.Cut(lines.Text(), " ")
		id, err := strconv.ParseUint(head, 10, 64)
		if err != nil {
			break
		}
		c.mu.Lock()
		if waiting, ok := c.waiting[id]; ok {
			delete(c.waiting, id)
			waiting <- answer
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = true
	for _, waiting := range c.waiting {
		close(waiting)
	}
	clear(c.waiting)
}

// load is a stampede.Loader.
func (c *originConn) load(ctx context.Context, key string) ([]byte, error) {
	answered := make(chan string, 1)
	c.mu.Lock()
	if c.broken {
		c.mu.Unlock()
		return nil, errOriginGone
	}
	id := c.next
	c.next++
	c.waiting[id] = answered
	_, err := fmt.Fprintf(c.conn, "%d %s\n", id, key)
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case answer, ok := <-answered:
		value, good := strings.CutPrefix(answer, "+ ")
		switch {
		case !ok:
			return nil, errOriginGone
		case !good:
			return nil, errOriginFailed
		}
		return []byte(value), nil
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
		return nil, ctx.Err()
	}
}
