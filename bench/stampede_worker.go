package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/stampede"
)

// StampedeWorker is one process of the fleet of [Stampede], which runs it with
// its ends of two pipes. It returns when in ends.
func StampedeWorker(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	w := &fleetWorker{out: json.NewEncoder(out)}
	defer func() {
		cancel()
		w.busy.Wait()
		w.close()
	}()
	for requests := json.NewDecoder(bufio.NewReader(in)); ; {
		var r request
		if err := requests.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("bench: stampede worker: %w", err)
		}
		if r.Setup != nil {
			// Before what comes behind it.
			w.answer(ctx, r)
			continue
		}
		w.busy.Go(func() { w.answer(ctx, r) })
	}
}

// fleetWorker is the state of a worker.
type fleetWorker struct {
	writing sync.Mutex // guards out
	out     *json.Encoder
	busy    sync.WaitGroup // requests that are being answered

	// What follows is set by the setup.

	setup  workerSetup
	client *client.Client
	origin *originConn
	cache  readThrough
	shared *sharedWords // nil without a race

	hot      atomic.Pointer[string] // the hot key of the drive
	hotStale atomic.Uint64

	mu   sync.Mutex // guards last
	last *drive
}

func (w *fleetWorker) close() {
	if w.cache != nil {
		w.cache.close()
	}
	if w.client != nil {
		w.client.Close()
	}
	if w.origin != nil {
		w.origin.close()
	}
	if w.shared != nil {
		w.shared.close()
	}
}

func (w *fleetWorker) answer(ctx context.Context, r request) {
	a := response{ID: r.ID}
	if err := w.do(ctx, r, &a); err != nil {
		a.Error = err.Error()
	}
	w.writing.Lock()
	defer w.writing.Unlock()
	w.out.Encode(a) //nolint:errcheck // without a parent nobody is left to be told
}

func (w *fleetWorker) do(ctx context.Context, r request, a *response) (err error) {
	switch {
	case r.Setup != nil:
		return w.begin(*r.Setup)
	case w.cache == nil:
		return errors.New("the worker is not set up")
	case r.Warm != nil:
		return w.warm(ctx, *r.Warm)
	case r.Drive != nil:
		a.Drive, err = w.drive(ctx, *r.Drive)
	case r.Collect != nil:
		a.Collect, err = w.collect(*r.Collect)
	case r.Fetch != nil:
		a.Fetch = w.fetch(ctx, *r.Fetch)
	case r.Race != nil:
		return w.race(ctx, *r.Race)
	case r.Invalidate != "":
		return w.cache.invalidate(ctx, r.Invalidate)
	case r.Stats != nil:
		a.Stats = &workerStats{Cache: w.cache.stats(), HotStale: w.hotStale.Load()}
	default:
		return errors.New("the request asks for nothing")
	}
	return err
}

func (w *fleetWorker) begin(s workerSetup) (err error) {
	w.setup = s
	if w.client, err = client.New(client.Config{Servers: s.Servers}); err != nil {
		return err
	}
	if w.origin, err = dialOrigin(s.Origin, s.Index); err != nil {
		return err
	}
	load := w.origin.load
	if s.Shared != "" {
		if w.shared, err = openShared(s.Shared); err != nil {
			return err
		}
		load = w.loadShared
	}
	hooks := stampede.Hooks{Hit: func(key string, stale bool) {
		if hot := w.hot.Load(); stale && hot != nil && key == *hot {
			w.hotStale.Add(1)
		}
	}}
	if w.shared != nil {
		hooks.TookOver = func(string) { w.shared.words[wordTakeovers].Add(1) }
	}
	w.cache, err = newReadThrough(s.Contender, w.client, s.Cache, load, hooks)
	return err
}

// warm reads this worker's share of the keys.
func (w *fleetWorker) warm(ctx context.Context, spec warmSpec) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var callers sync.WaitGroup
	for range spec.Callers {
		callers.Go(func() {
			for failed.Load() == nil {
				rank := int(next.Add(1)-1)*spec.Of + w.setup.Index
				if rank >= spec.Keys.Count {
					return
				}
				ttl := time.Duration(0)
				if rank == 0 {
					ttl = spec.HotTTL
				}
				if _, err := w.cache.read(ctx, spec.Keys.key(rank), ttl); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	callers.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// fetch has callers read a key at the same moment.
func (w *fleetWorker) fetch(ctx context.Context, spec fetchSpec) []fetched {
	ctx, cancel := context.WithTimeout(ctx, spec.Timeout)
	defer cancel()
	list := make([]fetched, spec.Callers)
	var callers sync.WaitGroup
	for i := range list {
		callers.Go(func() {
			f := &list[i]
			if err := rest(ctx, time.Until(time.Unix(0, spec.Start))); err != nil {
				f.Error = err.Error()
				return
			}
			f.Begin = time.Now().UnixNano()
			if _, err := w.cache.read(ctx, spec.Key, 0); err != nil {
				f.Error = err.Error()
			}
			f.End = time.Now().UnixNano()
		})
	}
	callers.Wait()
	return list
}
