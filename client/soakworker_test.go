package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ringside-cache/ringside/client"
)

// A soakWorker is one goroutine of a soak.
type soakWorker struct {
	*soak
	c        *client.Client
	i        int
	random   *rand.Rand
	kept     []*soakKey // that this one writes
	log      *soakKey
	logged   int // records in log, more or less
	buf      []byte
	deadline atomic.Int64 // Unix nanoseconds, 0 while no call is under way
	before   atomic.Int64 // soak.frozen as the call began
	sawClose bool
}

// call makes a call of n operations with a patience of its own.
func (w *soakWorker) call(n int, do func(ctx context.Context) error) error {
	ctx, cancel, patience := context.Background(), context.CancelFunc(func() {}), soakTimeout
	switch w.random.IntN(8) {
	case 0:
		patience = time.Duration(w.random.IntN(3000)) * time.Microsecond
		ctx, cancel = context.WithTimeout(ctx, patience)
	case 1:
		patience = time.Duration(w.random.IntN(3000)) * time.Microsecond
		ctx, cancel = context.WithCancel(ctx)
		time.AfterFunc(patience, cancel)
	}
	deadline := time.Now().Add(patience).UnixNano()
	w.before.Store(w.frozen.Load())
	w.deadline.Store(deadline)
	err := do(ctx)
	over := time.Now().UnixNano() - deadline
	cancel()
	if over > int64(soakTimeout) {
		time.Sleep(200 * time.Millisecond) // for the metronome to tell why
		over -= w.frozenSince()
	}
	if w.deadline.Swap(0) != 0 && over > int64(soakLate) {
		w.late.Add(1)
	}
	for worst := w.worst.Load(); over > worst && !w.worst.CompareAndSwap(worst, over); worst = w.worst.Load() {
	}
	w.calls.Add(1)
	switch {
	case err == nil:
		w.ops.Add(int64(n))
	case errors.Is(err, client.ErrClosed):
		w.sawClose = true
	case errors.Is(err, client.ErrDial):
		w.unsent.Add(int64(n))
		time.Sleep(time.Millisecond) // the client backs off
	default:
		w.ops.Add(int64(n))
	}
	return err
}

// frozenSince is for how long nothing ran since the call began.
func (w *soakWorker) frozenSince() int64 { return w.frozen.Load() - w.before.Load() }

// failed looks at an error that is no result. It must be one that a caller can
// tell from others, and name no key.
func (w *soakWorker) failed(what string, key string, err error) {
	if errors.Is(err, client.ErrDial) || errors.Is(err, client.ErrClosed) {
		return
	}
	w.failures.Add(1)
	known := []error{
		context.Canceled, context.DeadlineExceeded, client.ErrTimeout, client.ErrConnLost, client.ErrDesynchronised,
		client.ErrServerError,
	}
	for _, k := range known {
		var op *client.OpError
		if errors.Is(err, k) && errors.As(err, &op) && op.Node != "" && !strings.Contains(err.Error(), key) {
			return
		}
	}
	w.wrongf("%s: an error that does not belong here: %v", what, err)
}

// read checks what was read of a key that is never deleted.
func (w *soakWorker) read(what string, k *soakKey, value []byte, least int64, err error) {
	switch {
	case errors.Is(err, client.ErrCacheMiss) && least > 0:
		w.wrongf("%s: lost, although write %d was confirmed", what, least)
	case errors.Is(err, client.ErrCacheMiss):
		w.misses.Add(1)
	case err != nil:
		w.failed(what, k.name, err)
	default:
		w.hits.Add(1)
		seq, rest, err := readRecord(value, k.name)
		if err == nil && len(rest) > 0 {
			err = fmt.Errorf("mixed: %d bytes behind the value, %.60q", len(rest), rest)
		}
		if err == nil {
			err = k.check(seq, least)
		}
		if err != nil {
			w.wrongf("%s: %v", what, err)
		}
	}
}

// record makes the next value of a key.
func (w *soakWorker) record(k *soakKey) (item *client.Item, seq int64) {
	size := 40 + w.random.IntN(300)
	switch w.random.IntN(2000) {
	case 0:
		size = 200_000 + w.random.IntN(700_000)
	default:
		if w.random.IntN(50) == 0 {
			size = 4_000 + w.random.IntN(60_000)
		}
	}
	seq = k.tried.Add(1)
	return &client.Item{Key: k.name, Value: appendRecord(nil, k.name, seq, size)}, seq
}

// wrote notes the result of a write.
func (w *soakWorker) wrote(what string, k *soakKey, seq int64, err error) {
	if wrong := k.wrote(seq, err); wrong != nil {
		w.wrongf("%s: %v", what, wrong)
	}
	switch {
	case err == nil, errors.Is(err, client.ErrCASConflict), errors.Is(err, client.ErrNotStored), errors.Is(err, client.ErrCacheMiss):
	default:
		w.failed(what, k.name, err)
	}
}

// counted checks the result of an increment.
func (w *soakWorker) counted(n *soakCounter, number uint64, least int64, err error) {
	if err != nil {
		w.failed("increment", n.name, err)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if number <= uint64(least) || number > uint64(n.tried.Load()) || n.got[number] {
		w.wrongf("increment: %d, where %d to %d are left, or it was had before", number, least+1, n.tried.Load())
	}
	n.got[number] = true
	n.done.Add(1)
}

// step makes one call.
func (w *soakWorker) step() {
	any := w.soak.kept[w.random.IntN(len(w.soak.kept))]
	own := w.kept[w.random.IntN(len(w.kept))]
	least := any.acked.Load()
	switch n := w.random.IntN(100); {
	case n < 30:
		var item *client.Item
		err := w.call(1, func(ctx context.Context) (err error) { item, err = w.c.Get(ctx, any.name); return err })
		if err != nil {
			w.read("get", any, nil, least, err)
			break
		}
		w.read("get", any, item.Value, least, nil)
	case n < 45:
		err := w.call(1, func(ctx context.Context) (err error) {
			w.buf, _, err = w.c.GetInto(ctx, any.name, w.buf[:0])
			return err
		})
		w.read("get into", any, w.buf, least, err)
	case n < 53:
		w.getMulti()
	case n < 73:
		item, seq := w.record(own)
		w.wrote("set", own, seq, w.call(1, func(ctx context.Context) error { return w.c.Set(ctx, item) }))
	case n < 80:
		w.batch(own)
	case n < 84:
		w.swap(own)
	case n < 89:
		w.append()
	case n < 94:
		w.looseKeys()
	case n < 98:
		counter := w.counters[w.random.IntN(len(w.counters))]
		least := counter.done.Load()
		counter.tried.Add(1)
		var number uint64
		err := w.call(1, func(ctx context.Context) (err error) { number, err = w.c.Increment(ctx, counter.name, 1); return err })
		w.counted(counter, number, least, err)
	default:
		w.badIncrement(w.call(1, func(ctx context.Context) error { _, err := w.c.Increment(ctx, "word", 1); return err }))
	}
}

// badIncrement checks the result of an increment of what is no number.
func (w *soakWorker) badIncrement(err error) {
	switch {
	case err == nil || errors.Is(err, client.ErrCacheMiss):
		w.wrongf("increment of a word: %v", err)
	case !errors.Is(err, client.ErrClientError):
		w.failed("increment of a word", "word", err)
	}
}

func (w *soakWorker) getMulti() {
	var keys []string
	known := make(map[string]*soakKey)
	least := make(map[string]int64)
	n := 2 + w.random.IntN(19)
	if w.random.IntN(1000) == 0 {
		n = 2500 // more than one round to a node, and keys that come again
	}
	for range n {
		k := w.soak.kept[w.random.IntN(len(w.soak.kept))]
		keys = append(keys, k.name)
		known[k.name], least[k.name] = k, k.acked.Load()
	}
	var items map[string]*client.Item
	err := w.call(len(keys), func(ctx context.Context) (err error) { items, err = w.c.GetMulti(ctx, keys); return err })
	var multi *client.MultiError
	if err != nil && !errors.As(err, &multi) {
		w.wrongf("multi-get: %v", err)
		return
	}
	for key, item := range items {
		if known[key] == nil || item.Key != key {
			w.wrongf("multi-get: %s, which was not asked for", key)
			continue
		}
		w.read("multi-get", known[key], item.Value, least[key], nil)
	}
	failed := make(map[string]bool)
	if multi != nil {
		for _, op := range multi.Errors {
			failed[op.Key] = true
			w.failed("multi-get", op.Key, op)
		}
	}
	for key := range known {
		if items[key] == nil && !failed[key] {
			w.read("multi-get", known[key], nil, least[key], client.ErrCacheMiss)
		}
	}
}

// batch mixes reads, writes, an increment and a bad request in one round trip.
func (w *soakWorker) batch(own *soakKey) {
	var b client.Batch
	var reads []*soakKey
	var places []int
	var least []int64
	for range 1 + w.random.IntN(6) {
		k := w.soak.kept[w.random.IntN(len(w.soak.kept))]
		reads, places, least = append(reads, k), append(places, b.Get(k.name)), append(least, k.acked.Load())
	}
	item, seq := w.record(own)
	set, get := b.Set(item), b.Get(own.name)
	counter := w.counters[w.random.IntN(len(w.counters))]
	leastNumber := counter.done.Load()
	counter.tried.Add(1)
	number, bad := b.Increment(counter.name, 1), b.Increment("word", 1)
	_ = w.call(b.Len(), func(ctx context.Context) error { return w.c.Do(ctx, &b) })
	value := func(i int) []byte {
		if item, err := b.Item(i); err == nil {
			return item.Value
		}
		return nil
	}
	for i, k := range reads {
		w.read("get in a batch", k, value(places[i]), least[i], b.Err(places[i]))
	}
	before := own.acked.Load()
	w.wrote("set in a batch", own, seq, b.Err(set))
	if b.Err(set) == nil {
		before = seq // they keep their order
	}
	w.read("get behind a set in a batch", own, value(get), before, b.Err(get))
	n, err := b.Number(number)
	w.counted(counter, n, leastNumber, err)
	w.badIncrement(b.Err(bad))
}

func (w *soakWorker) swap(own *soakKey) {
	var item *client.Item
	least := own.acked.Load()
	err := w.call(1, func(ctx context.Context) (err error) { item, err = w.c.Get(ctx, own.name); return err })
	if err != nil {
		w.read("get before a swap", own, nil, least, err)
		return
	}
	w.read("get before a swap", own, item.Value, least, nil)
	next, seq := w.record(own)
	item.Value = next.Value
	w.wrote("swap", own, seq, w.call(1, func(ctx context.Context) error { return w.c.CompareAndSwap(ctx, item) }))
}

// append makes a log longer or begins it anew, and reads it.
func (w *soakWorker) append() {
	item, seq := w.record(w.log)
	what, write := "append", w.c.Append
	switch w.logged++; {
	case w.logged > 8:
		w.logged, what, write = 0, "set of a log", w.c.Set
	case seq%4 == 0:
		what, write = "prepend", w.c.Prepend
	}
	err := w.call(1, func(ctx context.Context) error { return write(ctx, item) })
	w.wrote(what, w.log, seq, err)
	if errors.Is(err, client.ErrNotStored) {
		w.logged = 8
	}
	k := w.logs[w.random.IntN(len(w.logs))]
	err = w.call(1, func(ctx context.Context) (err error) { item, err = w.c.Get(ctx, k.name); return err })
	w.records("get of a log", k, item, err)
}

// records checks a value of any number of records.
func (w *soakWorker) records(what string, k *soakKey, item *client.Item, err error) {
	if err != nil {
		if !errors.Is(err, client.ErrCacheMiss) {
			w.failed(what, k.name, err)
		}
		return
	}
	w.hits.Add(1)
	for rest := item.Value; len(rest) > 0; {
		var seq int64
		var err error
		if seq, rest, err = readRecord(rest, k.name); err == nil {
			err = k.check(seq, 0)
		}
		if err != nil {
			w.wrongf("%s: %v", what, err)
			return
		}
	}
}

// looseKeys does to keys of all workers what removes them and what does not.
func (w *soakWorker) looseKeys() {
	k := w.loose[w.random.IntN(len(w.loose))]
	var item *client.Item
	switch w.random.IntN(7) {
	case 0:
		item, seq := w.record(k)
		w.wrote("add", k, seq, w.call(1, func(ctx context.Context) error { return w.c.Add(ctx, item) }))
	case 1:
		item, seq := w.record(k)
		item.Expiration = 1000
		w.wrote("replace", k, seq, w.call(1, func(ctx context.Context) error { return w.c.Replace(ctx, item) }))
	case 2:
		err := w.call(1, func(ctx context.Context) error { return w.c.Delete(ctx, k.name) })
		if err != nil && !errors.Is(err, client.ErrCacheMiss) {
			w.failed("delete", k.name, err)
		}
	case 3:
		err := w.call(1, func(ctx context.Context) error { return w.c.Touch(ctx, k.name, 1000) })
		if err != nil && !errors.Is(err, client.ErrCacheMiss) {
			w.failed("touch", k.name, err)
		}
	case 4:
		err := w.call(1, func(ctx context.Context) (err error) { item, err = w.c.GetAndTouch(ctx, k.name, 1000); return err })
		w.records("get and touch", k, item, err)
	default:
		err := w.call(1, func(ctx context.Context) (err error) { item, err = w.c.Get(ctx, k.name); return err })
		w.records("get of a loose key", k, item, err)
	}
}
