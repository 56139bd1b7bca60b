package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/ringside-cache/ringside/internal/nonblock"
	"github.com/ringside-cache/ringside/proto/memcached"
)

const (
	wireConns = 4
	wireBatch = 32
)

// wire is the raw loop that says what the server and the loopback can do: on
// each of a few connections a batch of requests goes out in one write, and the
// bytes of the replies are counted, not looked at. What a client does beyond
// that is its own cost.
//
// The request is the shortest that gives the value, "mg KEY v". The classic
// get would be no limit: memcached 1.6.18 answers each get of a batch with a
// write of its own, and then does a fifth as many.
type wire struct {
	addr   string
	corpus corpus
	// replySize is the length of one reply; all keys and values have the
	// same.
	replySize int
}

// newWire looks at one whole reply, so that counting bytes is enough after it.
func newWire(addr string, in corpus) (wire, error) {
	w := wire{addr: addr, corpus: in}
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return w, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return w, err
	}
	key := in.keys[0]
	if _, err := conn.Write(appendGet(nil, key)); err != nil {
		return w, err
	}
	buf := make([]byte, 0, 2*in.valueSize+100)
	for {
		var rep memcached.Reply
		size, err := memcached.ParseReply(buf, &rep)
		switch {
		case err != nil:
			return w, err
		case size > len(buf):
			n, err := io.ReadAtLeast(conn, buf[len(buf):cap(buf)], 1)
			if err != nil {
				return w, err
			}
			buf = buf[:len(buf)+n]
			continue
		case rep.Kind != memcached.MetaValue:
			return w, fmt.Errorf("%v in answer to a get", rep.Kind)
		}
		w.replySize = size
		return w, in.check(key, rep.Value)
	}
}

func appendGet(b []byte, key string) []byte {
	return append(append(append(b, "mg "...), key...), " v\r\n"...)
}

// Run is one turn of the raw loop, on new connections.
func (w wire) Run(ctx context.Context, slot Slot) (Sample, error) {
	var (
		mu    sync.Mutex // guards conns
		conns []net.Conn
	)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	return Load{Callers: wireConns, Caller: func(i int) func() (int, error) {
		conn, err := net.Dial("tcp", w.addr)
		if err == nil {
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			err = conn.SetDeadline(time.Now().Add(slot.Warmup + slot.Measure + 10*time.Second))
		}
		if err != nil {
			return func() (int, error) { return 0, err }
		}
		return w.batches(&rawSockets(conn)[0], newPicker(i))
	}}.Run(ctx, slot)
}

// batches gives the loop of one connection.
func (w wire) batches(conn *nonblock.Socket, pick *picker) func() (int, error) {
	requests := make([]byte, 0, 4<<10)
	buf := make([]byte, 64<<10)
	return func() (int, error) {
		requests = requests[:0]
		for range wireBatch {
			requests = appendGet(requests, w.corpus.keys[pick.intn(len(w.corpus.keys))])
		}
		if err := writeWhole(conn, requests); err != nil {
			return 0, err
		}
		for got := 0; got < wireBatch*w.replySize; {
			n, err := conn.Await(buf)
			if err != nil {
				return 0, err
			}
			if got += n; got > wireBatch*w.replySize {
				return 0, errors.New("more bytes than the replies have")
			}
		}
		return wireBatch, nil
	}
}

// rawSockets are what the limit is measured on: what ringside has too.
func rawSockets(conns ...net.Conn) []nonblock.Socket {
	sockets := make([]nonblock.Socket, len(conns))
	for i := range sockets {
		sockets[i].Init(conns[i])
	}
	return sockets
}

// writeWhole writes what a socket with nothing under way always takes at once.
func writeWhole(s *nonblock.Socket, b []byte) error {
	n, err := s.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}
