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
	"time"
)

// origin is the slow service behind the caches: a server on a unix socket that
// many processes load from. It takes its time for each call, and counts them.
//
// A connection begins with a line that has the worker's index. After it each
// line is "ID KEY", answered by "ID + VALUE" or "ID - ERROR" in any order, so
// that one connection has any number of calls under way.
type origin struct {
	listener net.Listener
	serving  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	conns    map[net.Conn]bool
	delay    time.Duration
	failing  bool
	hangs    map[string]time.Duration // of the key's next call only
	versions map[string]uint64
	calls    []originCall
	inFlight map[int]int // by worker
	most     map[int]int // the highest of inFlight
}

// An originCall is a load as the origin saw it.
type originCall struct {
	Key    string
	Worker int
	Begin  time.Time
	// End is zero while the call is under way. It stays zero if its caller
	// dies meanwhile.
	End    time.Time
	Failed bool
}

func startOrigin(socket string, delay time.Duration) (*origin, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	o := &origin{
		listener: l, delay: delay,
		conns: map[net.Conn]bool{}, hangs: map[string]time.Duration{}, versions: map[string]uint64{},
		inFlight: map[int]int{}, most: map[int]int{},
	}
	o.serving.Go(o.accept)
	return o, nil
}

func (o *origin) close() {
	o.listener.Close()
	o.mu.Lock()
	for conn := range o.conns {
		conn.Close()
	}
	o.mu.Unlock()
	o.serving.Wait()
}

func (o *origin) accept() {
	for {
		conn, err := o.listener.Accept()
		if err != nil {
			return
		}
		o.mu.Lock()
		o.conns[conn] = true
		o.mu.Unlock()
		o.serving.Go(func() { o.serve(conn) })
	}
}

func (o *origin) serve(conn net.Conn) {
	defer func() {
		o.mu.Lock()
		delete(o.conns, conn)
		o.mu.Unlock()
		conn.Close()
	}()
	lines := bufio.NewScanner(conn)
	if !lines.Scan() {
		return
	}
	worker, err := strconv.Atoi(lines.Text())
	if err != nil {
		return
	}
	var writing sync.Mutex
	pending := map[int]*time.Timer{} // by the call's place, guarded by o.mu
	for lines.Scan() {
		id, key, ok := strings.Cut(lines.Text(), " ")
		if !ok {
			break
		}
		o.begin(worker, key, pending, func(answer string) error {
			writing.Lock()
			defer writing.Unlock()
			_, err := fmt.Fprintf(conn, "%s %s\n", id, answer)
			return err
		})
	}
	// Nobody is there any more to be answered.
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, timer := range pending {
		if timer.Stop() {
			o.inFlight[worker]--
		}
	}
}

// begin counts a call and answers it when its time has passed. The version is
// read now, as a query that takes long works on what was there when it began.
func (o *origin) begin(worker int, key string, pending map[int]*time.Timer, answer func(string) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := len(o.calls)
	o.calls = append(o.calls, originCall{Key: key, Worker: worker, Begin: time.Now(), Failed: o.failing})
	o.inFlight[worker]++
	o.most[worker] = max(o.most[worker], o.inFlight[worker])
	text := "+ " + originValue(key, o.versions[key])
	if o.failing {
		text = "- the origin is down"
	}
	delay := o.delay
	if d, ok := o.hangs[key]; ok {
		delete(o.hangs, key)
		delay = d
	}
	pending[i] = time.AfterFunc(delay, func() {
		o.mu.Lock()
		delete(pending, i)
		o.inFlight[worker]--
		// Before the answer: what it leads to must not seem to come earlier.
		o.calls[i].End = time.Now()
		o.mu.Unlock()
		_ = answer(text) // without a caller nobody is left to be told
	})
}

// originPadding makes values about 100 bytes long.
const originPadding = "................................................................................"

func originValue(key string, version uint64) string {
	return fmt.Sprintf("%d %s %s", version, key, originPadding)
}

// commit gives a key a new version.
func (o *origin) commit(key string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.versions[key]++
}

// fail has every call fail from now on, or none.
func (o *origin) fail(failing bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failing = failing
}

// take has calls from now on take so long.
func (o *origin) take(delay time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.delay = delay
}

// hang has the next call of key take so long.
func (o *origin) hang(key string, d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hangs[key] = d
}

// of gives the calls of keys with a prefix that began at or after a moment, in
// the order in which they began.
func (o *origin) of(prefix string, since time.Time) []originCall {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []originCall
	for _, c := range o.calls {
		if strings.HasPrefix(c.Key, prefix) && !c.Begin.Before(since) {
			list = append(list, c)
		}
	}
	return list
}

// forget drops the calls that were counted, and starts the gauges again. It
// may be called while no call is under way.
func (o *origin) forget() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for worker, n := range o.inFlight {
		if n != 0 {
			return fmt.Errorf("worker %d has %d calls under way", worker, n)
		}
	}
	o.calls = nil
	clear(o.most)
	return nil
}

// mostInFlight is the highest number of calls that a worker had under way.
func (o *origin) mostInFlight() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, m := range o.most {
		n = max(n, m)
	}
	return n
}

var errNotInTime = errors.New("it did not happen in time")

// await waits until holds does, and gives errNotInTime after limit.
func await(ctx context.Context, limit time.Duration, holds func() bool) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return errNotInTime
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// rest waits for d.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
