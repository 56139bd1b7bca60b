package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"
)

// A workerProcess is the parent's side of a worker.
type workerProcess struct {
	index  int
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr tail
	ended  chan struct{} // closed when the process has been waited for

	mu      sync.Mutex // guards what follows, and writes to stdin
	next    uint64
	waiting map[uint64]chan response
}

// startWorker runs command, which is to call StampedeWorker.
func startWorker(command []string, index int) (*workerProcess, error) {
	w := &workerProcess{
		index: index, cmd: exec.Command(command[0], command[1:]...),
		ended: make(chan struct{}), waiting: map[uint64]chan response{},
	}
	w.cmd.Stderr = &w.stderr
	stdin, err := w.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	w.stdin = stdin
	go w.replies(stdout)
	return w, nil
}

// replies hands out what the worker says, until it ends.
func (w *workerProcess) replies(stdout io.Reader) {
	for replies := json.NewDecoder(bufio.NewReader(stdout)); ; {
		var r response
		if replies.Decode(&r) != nil {
			break
		}
		w.mu.Lock()
		if waiting, ok := w.waiting[r.ID]; ok {
			delete(w.waiting, r.ID)
			waiting <- r
		}
		w.mu.Unlock()
	}
	_ = w.cmd.Wait() // how it ended does not matter: it was asked or killed
	close(w.ended)
}

var errWorkerEnded = errors.New("the worker process has ended")

// ask sends a request and waits for the answer.
func (w *workerProcess) ask(ctx context.Context, r request) (response, error) {
	answered := make(chan response, 1)
	w.mu.Lock()
	w.next++
	r.ID = w.next
	w.waiting[r.ID] = answered
	b, err := json.Marshal(r)
	if err == nil {
		_, err = w.stdin.Write(append(b, '\n'))
	}
	w.mu.Unlock()
	if err != nil {
		return response{}, fmt.Errorf("worker %d: %w", w.index, err)
	}
	select {
	case a := <-answered:
		if a.Error != "" {
			return a, fmt.Errorf("worker %d: %s", w.index, a.Error)
		}
		return a, nil
	case <-w.ended:
		return response{}, fmt.Errorf("worker %d: %w %s", w.index, errWorkerEnded, w.stderr.String())
	case <-ctx.Done():
		return response{}, ctx.Err()
	}
}

// kill ends the process with SIGKILL and waits for that.
func (w *workerProcess) kill() {
	_ = w.cmd.Process.Kill() // an error means that it has ended already
	<-w.ended
}

// stop asks the process to end, and kills it if it does not.
func (w *workerProcess) stop() {
	w.stdin.Close()
	timer := time.NewTimer(3 * time.Second)
	defer timer.Stop()
	select {
	case <-w.ended:
	case <-timer.C:
		w.kill()
	}
}

// tail keeps the end of what a process says on stderr.
type tail struct {
	mu sync.Mutex // guards b
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const most = 4096
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-most):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

// A fleet is the workers of one contender.
type fleet struct {
	command []string
	setup   workerSetup // but for the index

	mu      sync.Mutex // guards the elements of workers
	workers []*workerProcess
}

func (f *fleet) worker(i int) *workerProcess {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.workers[i]
}

func startFleet(ctx context.Context, command []string, n int, setup workerSetup) (*fleet, error) {
	f := &fleet{command: command, setup: setup, workers: make([]*workerProcess, n)}
	err := f.each(func(i int) error { return f.restart(ctx, i) })
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// restart starts the i-th worker, in place of one that has ended.
func (f *fleet) restart(ctx context.Context, i int) error {
	w, err := startWorker(f.command, i)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.workers[i] = w
	f.mu.Unlock()
	setup := f.setup
	setup.Index = i
	_, err = w.ask(ctx, request{Setup: &setup})
	return err
}

func (f *fleet) close() {
	f.each(func(i int) error { //nolint:errcheck // it gives none
		if w := f.worker(i); w != nil {
			w.stop()
		}
		return nil
	})
}

// each calls do for all workers side by side.
func (f *fleet) each(do func(i int) error) error {
	errs := make([]error, len(f.workers))
	var wg sync.WaitGroup
	for i := range f.workers {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// ask asks all workers at once and waits for all their answers.
func (f *fleet) ask(ctx context.Context, r func(i int) request) ([]response, error) {
	answers := make([]response, len(f.workers))
	err := f.each(func(i int) (err error) {
		answers[i], err = f.worker(i).ask(ctx, r(i))
		return err
	})
	return answers, err
}

// warmCallers is how many loads each worker has under way while it warms up.
const warmCallers = 64

// warm has the keys read once, so that all are in the cache.
func (f *fleet) warm(ctx context.Context, keys keyspace, hotTTL time.Duration) error {
	spec := warmSpec{Keys: keys, Of: len(f.workers), Callers: warmCallers, HotTTL: hotTTL}
	if f.setup.Cache.MaxLoads > 0 {
		// Not all of them: a slot is free a little after its caller goes on.
		spec.Callers = min(spec.Callers, max(1, f.setup.Cache.MaxLoads/2))
	}
	_, err := f.ask(ctx, func(int) request { return request{Warm: &spec} })
	return err
}

// leadIn is how long before its start a drive is announced: the time that the
// message and the schedule take.
const leadIn = 250 * time.Millisecond

// drive has all workers read, and gives when that began and a function that
// waits for what became of it.
func (f *fleet) drive(ctx context.Context, spec driveSpec) (start time.Time, wait func() (driven, error)) {
	start = time.Now().Add(leadIn)
	spec.Start = start.UnixNano()
	spec.Rate /= float64(len(f.workers))
	type result struct {
		answers []response
		err     error
	}
	done := make(chan result, 1)
	go func() {
		answers, err := f.ask(ctx, func(int) request { return request{Drive: &spec} })
		done <- result{answers, err}
	}()
	return start, func() (driven, error) {
		r := <-done
		total := driven{Errors: map[string]int{}}
		for _, a := range r.answers {
			if a.Drive == nil {
				continue
			}
			total.Reads += a.Drive.Reads
			total.Failed += a.Drive.Failed
			for text, n := range a.Drive.Errors {
				total.Errors[text] += n
			}
		}
		return total, r.err
	}
}

// stats adds up what the workers have counted.
func (f *fleet) stats(ctx context.Context) (workerStats, error) {
	answers, err := f.ask(ctx, func(int) request { return request{Stats: &struct{}{}} })
	if err != nil {
		return workerStats{}, err
	}
	var total workerStats
	for _, a := range answers {
		total.HotStale += a.Stats.HotStale
		total.Cache.Takeovers += a.Stats.Cache.Takeovers
		total.Cache.EarlyRefreshes += a.Stats.Cache.EarlyRefreshes
		total.Cache.StaleHits += a.Stats.Cache.StaleHits
		total.Cache.Shed += a.Stats.Cache.Shed
		total.Cache.Loads += a.Stats.Cache.Loads
	}
	return total, nil
}
