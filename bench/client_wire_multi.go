package bench

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/ringside-cache/ringside/internal/nonblock"
)

const (
	// multiEach is how many of a GetMulti's keys are on each node, on average.
	multiEach = multiKeys / multiNodes
	// preparedEach is how many requests to each node are made beforehand.
	preparedEach = 64
)

// wireMulti is the wire for a GetMulti over many nodes: a call writes a request
// of ten keys to each of ten connections, all of them made beforehand, and then
// reads and counts the bytes of the replies. One thread does all of it, as many
// times as there are callers. A client that does ten writes and ten reads for a
// call can not be faster, unless it shares them between callers.
type wireMulti struct {
	nodes     []wire
	prepared  [][][]byte // by node
	replySize int
}

// newWireMulti stores keys of its own on every node, as the others' are where
// their client puts them.
func newWireMulti(ctx context.Context, addrs []string, in corpus) (*wireMulti, error) {
	own := in
	own.keys = in.keys[:preparedEach*multiEach]
	w := &wireMulti{}
	for _, addr := range addrs {
		p, err := newGomemcache([]string{addr}, 0)
		if err != nil {
			return nil, err
		}
		err = errors.Join(own.store(ctx, p), p.close())
		if err != nil {
			return nil, err
		}
		one, err := newWire(addr, own)
		if err != nil {
			return nil, err
		}
		w.nodes = append(w.nodes, one)
		w.replySize = one.replySize
		requests := make([][]byte, preparedEach)
		for i, key := range own.keys {
			requests[i/multiEach] = appendGet(requests[i/multiEach], key)
		}
		w.prepared = append(w.prepared, requests)
	}
	return w, nil
}

// contender is the raw loop with so many callers, on new connections each turn.
func (w *wireMulti) contender(callers int) Contender {
	return Contender{Name: nameWire, Run: func(ctx context.Context, slot Slot) (Sample, error) {
		var (
			mu   sync.Mutex // guards open
			open []net.Conn
		)
		defer func() {
			for _, c := range open {
				c.Close()
			}
		}()
		return Load{Callers: callers, SampleEvery: 1, Caller: func(i int) func() (int, error) {
			conns, err := w.dial(slot)
			mu.Lock()
			open = append(open, conns...)
			mu.Unlock()
			if err != nil {
				return func() (int, error) { return 0, err }
			}
			return w.calls(rawSockets(conns...), newPicker(i))
		}}.Run(ctx, slot)
	}}
}

func (w *wireMulti) dial(slot Slot) (conns []net.Conn, err error) {
	for _, n := range w.nodes {
		c, err := net.Dial("tcp", n.addr)
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
		if err := c.SetDeadline(time.Now().Add(slot.Warmup + slot.Measure + 10*time.Second)); err != nil {
			return conns, err
		}
	}
	return conns, nil
}

// calls gives the loop of one caller.
func (w *wireMulti) calls(conns []nonblock.Socket, pick *picker) func() (int, error) {
	buf := make([]byte, 16<<10)
	return func() (int, error) {
		for i := range conns {
			if err := writeWhole(&conns[i], w.prepared[i][pick.intn(preparedEach)]); err != nil {
				return 0, err
			}
		}
		for i := range conns {
			for got := 0; got < multiEach*w.replySize; {
				n, err := conns[i].Await(buf)
				if err != nil {
					return 0, err
				}
				if got += n; got > multiEach*w.replySize {
					return 0, errors.New("more bytes than the replies have")
				}
			}
		}
		return 1, nil
	}
}
