package client_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/ring"
)

// A keyOp is one operation on a key, as porcupine's input.
type keyOp struct {
	kind  string // get, set, add, cas, delete, incr
	value string
	cas   uint64
	delta uint64
	// fenced: the client may call it a conflict without asking. The connection may
	// have changed between the read that gave cas and now, or a write to the key
	// that was given up may be under way on another one.
	fenced bool
}

// A keyResult is what came back, as porcupine's output.
type keyResult struct {
	is     string // done, miss, not stored, conflict, no number; unknown after an error
	value  string
	cas    uint64 // of a get, 0 where it told none
	number uint64
}

// A keyState is a key as memcached holds it. Its version is the item's CAS id,
// 0 until a read has told it. Memcached counts the ids up, so that the id of a
// version is above all that were seen on the key before, oldest included.
type keyState struct {
	present bool
	value   string
	version uint64
	oldest  uint64
}

func (s keyState) changed(value string) keyState {
	return keyState{present: true, value: value, oldest: max(s.oldest, s.version)}
}

// keyModel is what memcached promises for one key. An operation whose result is
// unknown is carried out at any time after its start, or, which nobody can
// tell from it, behind all others.
var keyModel = porcupine.Model{
	Init: func() any { return keyState{} },
	Step: func(state, input, output any) (bool, any) {
		s, op, result := state.(keyState), input.(keyOp), output.(keyResult)
		got := func(is string) bool { return result.is == is || result.is == "unknown" }
		switch op.kind {
		case "get":
			if !s.present || result.is == "miss" {
				return !s.present && result.is == "miss", s
			}
			if result.cas != 0 {
				if s.version == 0 && result.cas > s.oldest {
					s.version = result.cas
				}
				if s.version != result.cas {
					return false, s
				}
			}
			return s.value == result.value, s
		case "set":
			return got("done"), s.changed(op.value)
		case "add":
			if s.present {
				return got("not stored"), s
			}
			return got("done"), s.changed(op.value)
		case "cas":
			switch {
			case op.fenced && result.is == "conflict":
				return true, s
			case !s.present:
				return got("miss"), s
			case s.version != op.cas:
				return got("conflict"), s
			}
			return got("done"), s.changed(op.value)
		case "delete":
			if !s.present {
				return got("miss"), s
			}
			return got("done"), keyState{oldest: max(s.oldest, s.version)}
		case "incr":
			n, err := strconv.ParseUint(s.value, 10, 64)
			switch {
			case !s.present:
				return got("miss"), s
			case err != nil:
				return got("no number"), s
			}
			n += op.delta
			return result.is == "unknown" || result.is == "done" && result.number == n, s.changed(strconv.FormatUint(n, 10))
		}
		panic(op.kind)
	},
}

// TestHistoryCheckerCanFail feeds keyModel with histories by hand, lawful ones
// and others.
func TestHistoryCheckerCanFail(t *testing.T) {
	type op = porcupine.Operation
	done := keyResult{is: "done"}
	// run puts operations one behind the other.
	run := func(ops ...op) []op {
		for i := range ops {
			ops[i].Call, ops[i].Return = int64(10*i), int64(10*i+5)
		}
		return ops
	}
	// beside makes the last two overlap.
	beside := func(ops []op) []op {
		ops[len(ops)-1].Call = ops[len(ops)-2].Call + 1
		return ops
	}
	// never makes the first one end behind all others.
	never := func(ops []op) []op { ops[0].Return = math.MaxInt64; return ops }
	set := func(v string, r keyResult) op { return op{Input: keyOp{kind: "set", value: v}, Output: r} }
	add := func(v, is string) op { return op{Input: keyOp{kind: "add", value: v}, Output: keyResult{is: is}} }
	get := func(v string, cas uint64) op {
		return op{Input: keyOp{kind: "get"}, Output: keyResult{is: "done", value: v, cas: cas}}
	}
	miss := op{Input: keyOp{kind: "get"}, Output: keyResult{is: "miss"}}
	swap := func(v string, cas uint64, is string) op {
		return op{Input: keyOp{kind: "cas", value: v, cas: cas}, Output: keyResult{is: is}}
	}
	del := op{Input: keyOp{kind: "delete"}, Output: done}
	incr := func(n uint64) op {
		return op{Input: keyOp{kind: "incr", delta: 1}, Output: keyResult{is: "done", number: n}}
	}
	unknown := keyResult{is: "unknown"}
	tests := []struct {
		name string
		ops  []op
		want porcupine.CheckResult
	}{
		{"all is well", run(miss, set("1", done), get("1", 7), swap("2", 7, "done"), get("2", 9), incr(3), add("x", "not stored"), del, add("y", "done"), get("y", 12)), porcupine.Ok},
		{"two sets at a time, in the other order", append(beside(run(set("1", done), set("2", done))), run(op{}, op{}, get("1", 1))[2]), porcupine.Ok},
		{"a stale read", run(set("1", done), set("2", done), get("1", 0)), porcupine.Illegal},
		{"another key's value", run(set("1", done), get("other", 0)), porcupine.Illegal},
		{"a miss of what is there", run(set("1", done), miss), porcupine.Illegal},
		{"a hit of what was deleted", run(set("1", done), del, get("1", 0)), porcupine.Illegal},
		{"two swaps of one version", beside(run(set("1", done), get("1", 7), swap("2", 7, "done"), swap("3", 7, "done"))), porcupine.Illegal},
		{"a swap over a change", run(set("1", done), get("1", 7), set("1", done), swap("3", 7, "done")), porcupine.Illegal},
		{"a conflict without a change", run(set("1", done), get("1", 7), swap("3", 7, "conflict")), porcupine.Illegal},
		{"a version that comes back", run(set("1", done), get("1", 7), set("1", done), get("1", 7)), porcupine.Illegal},
		{"a lost increment", beside(run(set("1", done), incr(2), incr(2))), porcupine.Illegal},
		{"two adds that both stored", beside(run(add("1", "done"), add("2", "done"))), porcupine.Illegal},
		{"a late set whose result is unknown", never(run(set("1", unknown), set("2", done), get("2", 0), get("1", 0))), porcupine.Ok},
		{"an unknown set that never happened", never(run(set("1", unknown), set("2", done), get("2", 0))), porcupine.Ok},
		{"an unknown set that happened twice", never(run(set("1", unknown), get("1", 0), set("2", done), get("1", 0))), porcupine.Illegal},
		{"what was safe to retry, and happened", run(set("2", done), get("1", 0)), porcupine.Illegal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := porcupine.CheckOperationsTimeout(keyModel, tt.ops, time.Minute); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

// A recorder makes histories, one for each key.
type recorder struct {
	c     *client.Client
	began time.Time
	// faults has every compare-and-swap fenced: connections end at any time,
	// and that of large values without a dial that would tell.
	faults bool

	mu      sync.Mutex // guards what follows
	history map[string][]porcupine.Operation
	unknown map[string]int

	refused atomic.Int64
}

func newRecorder(c *client.Client) *recorder {
	return &recorder{c: c, began: time.Now(), history: make(map[string][]porcupine.Operation), unknown: make(map[string]int)}
}

// tooMuchUnknown tells that a key's history has to come to its end: each
// result that is unknown may double the checker's work.
func (r *recorder) tooMuchUnknown(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unknown[key] >= 6
}

// dials counts the connections that were ever made.
func (r *recorder) dials() uint64 {
	n := uint64(0)
	for _, node := range r.c.Stats().Nodes {
		n += node.Dials
	}
	return n
}

// add notes an operation that was called at start. A failed read is left out,
// as it says nothing, and so is what is safe to retry: if it was carried out
// after all, nothing in the history explains what is read later.
func (r *recorder) add(key string, worker int, op keyOp, start time.Duration, result keyResult, err error) (refused bool) {
	o := porcupine.Operation{ClientId: worker, Input: op, Call: int64(start), Return: int64(time.Since(r.began))}
	switch {
	case err == nil:
		result.is = "done"
	case errors.Is(err, client.ErrCacheMiss):
		result.is = "miss"
	case errors.Is(err, client.ErrNotStored):
		result.is = "not stored"
	case errors.Is(err, client.ErrCASConflict):
		result.is = "conflict"
	case errors.Is(err, client.ErrClientError) && op.kind == "incr":
		result.is = "no number"
	case client.SafeToRetry(err):
		r.refused.Add(1)
		return true
	case op.kind == "get":
		return false
	default:
		result.is = "unknown"
		o.Return = math.MaxInt64
	}
	o.Output = result
	r.mu.Lock()
	defer r.mu.Unlock()
	if result.is == "unknown" {
		r.unknown[key]++
	}
	r.history[key] = append(r.history[key], o)
	return false
}

// patience gives an operation its context.
type patience func(*rand.Rand) (context.Context, context.CancelFunc)

// work does n random operations on a key.
func (r *recorder) work(key string, worker, n int, random *rand.Rand, p patience) {
	var read *client.Item // the last that was read, and the connections until then
	var readDials uint64
	for i, tries := 0, 0; i < n && tries < 100*n; i, tries = i+1, tries+1 {
		// A number or not, and no two are equal.
		value := strconv.Itoa((worker+1)*10_000_000 + tries*1000)
		if random.IntN(4) == 0 {
			value = "w" + value
		}
		ctx, cancel := p(random)
		start := time.Since(r.began)
		refused := false
		add := func(op keyOp, result keyResult, err error) {
			refused = r.add(key, worker, op, start, result, err) || refused
		}
		got := func(item *client.Item, dials uint64, err error) {
			if err != nil {
				add(keyOp{kind: "get"}, keyResult{}, err)
				return
			}
			read, readDials = item, dials
			add(keyOp{kind: "get"}, keyResult{value: string(item.Value), cas: item.CasID}, nil)
		}
		what := random.IntN(12)
		if r.tooMuchUnknown(key) {
			i, what = max(i, n-3), random.IntN(3) // but look at what has come of it
		}
		switch what {
		case 0, 1:
			dials := r.dials()
			item, err := r.c.Get(ctx, key)
			got(item, dials, err)
		case 2:
			buf, _, err := r.c.GetInto(ctx, key, nil)
			add(keyOp{kind: "get"}, keyResult{value: string(buf)}, err)
		case 3: // together with a write, in one round trip
			var b client.Batch
			dials := r.dials()
			set, get := b.Set(&client.Item{Key: key, Value: []byte(value)}), b.Get(key)
			r.c.Do(ctx, &b)
			add(keyOp{kind: "set", value: value}, keyResult{}, b.Err(set))
			item, err := b.Item(get)
			got(item, dials, err)
		case 4, 5:
			err := r.c.Set(ctx, &client.Item{Key: key, Value: []byte(value)})
			add(keyOp{kind: "set", value: value}, keyResult{}, err)
		case 6:
			err := r.c.Add(ctx, &client.Item{Key: key, Value: []byte(value)})
			add(keyOp{kind: "add", value: value}, keyResult{}, err)
		case 7, 8:
			if read == nil {
				break
			}
			swap := *read
			swap.Value = []byte(value)
			err := r.c.CompareAndSwap(ctx, &swap)
			add(keyOp{kind: "cas", value: value, cas: read.CasID, fenced: r.faults || readDials != r.dials()}, keyResult{}, err)
		case 9:
			err := r.c.Delete(ctx, key)
			add(keyOp{kind: "delete"}, keyResult{}, err)
		default:
			number, err := r.c.Increment(ctx, key, 1)
			add(keyOp{kind: "incr", delta: 1}, keyResult{number: number}, err)
		}
		cancel()
		if refused {
			i--
			time.Sleep(time.Millisecond) // the client may back off
		}
	}
}

// run has keys written by so many workers each, some keys at a time.
func (r *recorder) run(keys, together, workers, each int, p patience) {
	next := atomic.Int64{}
	var groups sync.WaitGroup
	for range together {
		groups.Go(func() {
			for k := next.Add(1) - 1; k < int64(keys); k = next.Add(1) - 1 {
				var wg sync.WaitGroup
				for w := range workers {
					wg.Go(func() {
						random := rand.New(rand.NewPCG(uint64(k), uint64(w)))
						r.work(fmt.Sprintf("key:%d", k), w, each, random, p)
					})
				}
				wg.Wait()
			}
		})
	}
	groups.Wait()
}

// check gives the history of every key to porcupine.
func (r *recorder) check(t *testing.T) (operations int) {
	t.Helper()
	var wg sync.WaitGroup
	places := make(chan struct{}, 2)
	for key, ops := range r.history {
		operations += len(ops)
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			if got := porcupine.CheckOperationsTimeout(keyModel, ops, 30*time.Second); got != porcupine.Ok {
				t.Errorf("%s: %v\n%s", key, got, describe(ops))
			}
		})
	}
	wg.Wait()
	return operations
}

// describe prints a history in the order of its calls.
func describe(ops []porcupine.Operation) string {
	ops = slices.SortedFunc(slices.Values(ops), func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var b strings.Builder
	for _, o := range ops {
		end := "never"
		if o.Return != math.MaxInt64 {
			end = time.Duration(o.Return).String()
		}
		fmt.Fprintf(&b, "  %d: %12v to %12v  %+v: %+v\n", o.ClientId, time.Duration(o.Call), end, o.Input, o.Output)
	}
	return b.String()
}

// largeInHistory has words go in the lane for large values, and numbers not.
const largeInHistory = len("w10000000")

// TestHistory: what many goroutines do to keys of one memcached is
// linearizable, and none of it fails.
func TestHistory(t *testing.T) {
	c := newClient(t, client.Config{Servers: []string{realserver.Memcached(t).Addr()}, ConnsPerNode: 2, LargeValue: largeInHistory, Timeout: 20 * time.Second})
	r := newRecorder(c)
	r.run(200, 10, 8, 15, func(*rand.Rand) (context.Context, context.CancelFunc) { return t.Context(), func() {} })
	operations := r.check(t)
	t.Logf("%d operations on %d keys", operations, len(r.history))
	if len(r.unknown) > 0 || r.refused.Load() > 0 {
		t.Errorf("%v operations failed and %d were refused", r.unknown, r.refused.Load())
	}
}

// TestHistoryWithFaults: with a network and a server that do their worst, and
// callers that lose their patience, it still is. What failed may have happened
// at any time after its start, except where the error says that it has not.
func TestHistoryWithFaults(t *testing.T) {
	p := newFaultProxy(t, 5, everyFault)
	c := newClient(t, client.Config{
		Servers: []string{p.addr()}, ConnsPerNode: 2, LargeValue: largeInHistory, Timeout: 50 * time.Millisecond,
		Health: ring.HealthConfig{FailureLimit: 1_000_000},
	})
	p.every.Store(60)
	r := newRecorder(c)
	r.faults = true
	r.run(300, 20, 4, 15, func(random *rand.Rand) (context.Context, context.CancelFunc) {
		d := time.Duration(random.IntN(2000)) * time.Microsecond
		if random.IntN(12) == 0 {
			return context.WithTimeout(t.Context(), d)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if random.IntN(12) == 0 {
			time.AfterFunc(d, cancel)
		}
		return ctx, cancel
	})
	operations := r.check(t)
	unknown := 0
	for _, n := range r.unknown {
		unknown += n
	}
	struck, faults := struckBy([]*faultProxy{p})
	lost := c.Stats().Nodes[0].ConnectionsLost
	t.Logf("%d operations on %d keys, %d of unknown result, %d more refused; %d connections lost; faults: %s", operations, len(r.history), unknown, r.refused.Load(), lost, faults)
	if unknown < 200 || lost < 30 || struck < 80 {
		t.Error("too little went wrong to test anything")
	}
}
