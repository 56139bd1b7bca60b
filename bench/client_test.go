package bench

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/internal/realserver"
)

// Every row of the scenario is measured by an experiment that is there, on
// real servers, in windows too short to say anything else.
func TestClientScenario(t *testing.T) {
	b, err := newClientBench(t.Context())
	if errors.Is(err, realserver.ErrNotInstalled) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	b.idle = idleSetting{nodes: 6, callers: 4, rounds: 2, size: 64 << 10, settle: 10 * time.Millisecond, fixed: time.Second}
	// Two rounds more, since a busy machine may cost a contender its turn.
	runner := Runner{Rounds: MinRounds + 2, Warmup: 5 * time.Millisecond, Measure: 25 * time.Millisecond}
	results, err := runner.Run(t.Context(), b.experiments())
	if err != nil {
		t.Fatal(err)
	}
	r := &Report{Groups: clientGroups(), Experiments: results, Versions: b.versions("test")}
	r.fill()
	for _, g := range r.Groups {
		for _, row := range g.Rows {
			if !row.Figure.Measured() {
				t.Errorf("%s: %s is not measured", g.Title, row.What)
			}
		}
	}
	for _, problem := range r.Problems() {
		t.Log(problem)
	}
	if v := r.Versions; v.Memcached == "unknown" || v.Go == "" || !strings.HasPrefix(v.Ringside, "test") {
		t.Errorf("versions %+v", v)
	}
	if t.Failed() {
		var table bytes.Buffer
		if err := r.WriteTable(&table); err != nil {
			t.Error(err)
		}
		t.Log(table.String())
	}
}

func TestClientOptions(t *testing.T) {
	for name, opts := range map[string]Options{
		"too few rounds": {Rounds: 4},
		"no time":        {Duration: -1},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Client(t.Context(), opts); !errors.Is(err, ErrOptions) {
				t.Errorf("got %v", err)
			}
		})
	}
	all := []Experiment{{Name: "get/1"}, {Name: "get/64"}, {Name: "idle"}}
	for only, want := range map[string]string{"": "get/1 get/64 idle", "get": "get/1 get/64", "get/64,idle": "get/64 idle", "get/6": "?", "ge": "?"} {
		var o Options
		if only != "" {
			o.Only = strings.Split(only, ",")
		}
		chosen, err := o.choose(all)
		var names []string
		for _, e := range chosen {
			names = append(names, e.Name)
		}
		if got := strings.Join(names, " "); err != nil && want != "?" || err == nil && got != want {
			t.Errorf("only %q: %q, %v", only, got, err)
		}
	}
}

// node starts an in-process node with the corpus on it.
func node(t *testing.T, in corpus) (*peer, string) {
	t.Helper()
	n, err := memnode.Start(memnode.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	p, err := newRingside(nameRingside, client.Config{Servers: []string{n.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.close() })
	if err := in.store(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p, n.Addr()
}

// A client that is slowed by a busy loop of 100 us a Get is seen to be slower,
// and to need more CPU.
func TestSlowedClient(t *testing.T) {
	in := newCorpus(100, 100)
	p, _ := node(t, in)
	slowed := *p
	slowed.get = func(ctx context.Context, key string) ([]byte, error) {
		for start := time.Now(); time.Since(start) < 100*time.Microsecond; {
		}
		return p.get(ctx, key)
	}
	r := Runner{Rounds: MinRounds, Warmup: 5 * time.Millisecond, Measure: 60 * time.Millisecond}
	results, err := r.Run(t.Context(), []Experiment{{Name: "get/8", Contenders: []Contender{
		p.contender("plain", in.gets(p, 8)), p.contender("slowed", in.gets(&slowed, 8)),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if f := results[0].Ratio("slowed", "plain", Throughput); !(f.Median() < 0.8) {
		t.Errorf("throughput %v of the plain one's", f)
	}
	if f := results[0].Ratio("slowed", "plain", CPUPerOp); cpuKnown() && !(f.Median() > 1.2) {
		t.Errorf("CPU %v of the plain one's", f)
	}
	if f := results[0].Figure("plain", OpsPerWrite); !(f.Median() >= 1) {
		t.Errorf("%v requests in a write", f)
	}
}

func cpuKnown() bool { _, ok := cpuTime(); return ok }

// A client that sleeps before each Get is seen to be slower, however fast or
// busy the machine is: eight callers that sleep 5 ms can not do more than 1,600
// a second.
func TestSleepyClient(t *testing.T) {
	in := newCorpus(100, 100)
	p, _ := node(t, in)
	sleepy := *p
	sleepy.get = func(ctx context.Context, key string) ([]byte, error) {
		time.Sleep(5 * time.Millisecond)
		return p.get(ctx, key)
	}
	r := Runner{Rounds: MinRounds, Warmup: 5 * time.Millisecond, Measure: 40 * time.Millisecond}
	results, err := r.Run(t.Context(), []Experiment{{Name: "get/8", Contenders: []Contender{
		p.contender("plain", in.gets(p, 8)), p.contender("sleepy", in.gets(&sleepy, 8)),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	row := Row{What: "it", Experiment: "get/8", Quantity: Throughput, Contender: "sleepy", Baseline: "plain", Floor: bound(0.9)}
	row.fill(results[0])
	if row.Verdict != BelowFloor || !(row.Figure.Median() < 0.5) {
		t.Errorf("it is %q with %v of the plain one's throughput", row.Verdict, row.Figure)
	}
}

// What is measured is checked: a wrong or missing value is no throughput.
func TestWrongValues(t *testing.T) {
	in := newCorpus(200, 100)
	p, addr := node(t, in)
	slot := Slot{Measure: 20 * time.Millisecond}
	if _, err := in.gets(p, 2).Run(t.Context(), slot); err != nil {
		t.Fatal(err)
	}
	more := newCorpus(210, 100)
	if s, err := more.multis(p, 1, 205).Run(t.Context(), slot); !errors.Is(err, errMissing) {
		t.Errorf("a key that is not there: %v, %v", s, err)
	}
	w, err := newWire(addr, in)
	if err != nil {
		t.Fatal(err)
	}
	if want := len("VA 100\r\n") + 100 + 2; w.replySize != want {
		t.Errorf("a reply of %d bytes, want %d", w.replySize, want)
	}
	if _, err := w.Run(t.Context(), slot); err != nil {
		t.Error(err)
	}
	if _, err := newWire(addr, newCorpus(1, 99)); !errors.Is(err, errWrongValue) {
		t.Errorf("a value of another size: %v", err)
	}
	// Every key has another's value, so that the first Get finds one.
	few := newCorpus(10, 100)
	for i, key := range few.keys {
		if err := p.set(t.Context(), key, few.value(few.keys[(i+1)%len(few.keys)])); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := few.gets(p, 2).Run(t.Context(), slot); !errors.Is(err, errWrongValue) {
		t.Errorf("a value of another key: %v, %v", s, err)
	}
}

// Keys are chosen at random, and differently by each caller.
func TestPicker(t *testing.T) {
	const n = 1000
	var seen [n]int
	for caller := range 10 {
		p := newPicker(caller)
		for range n {
			seen[p.intn(n)]++
		}
	}
	unseen := 0
	for _, times := range seen {
		if times == 0 {
			unseen++
		}
	}
	if most := slices.Max(seen[:]); most > 40 || unseen > 5 {
		t.Errorf("10 picks on average, %d at most, %d keys without", most, unseen)
	}
	a, b := newPicker(1), newPicker(2)
	same := 0
	for range n {
		if a.intn(n) == b.intn(n) {
			same++
		}
	}
	if same > 20 {
		t.Errorf("two callers choose the same key %d times in %d", same, n)
	}
}

// A server that is late is waited for; what goes on failing is said once.
func TestStoreTries(t *testing.T) {
	in := newCorpus(40, 100)
	p, _ := node(t, in)
	late, tries := *p, atomic.Int64{}
	late.set = func(ctx context.Context, key string, value []byte) error {
		if tries.Add(1) <= 20 {
			return errors.New("late")
		}
		return p.set(ctx, key, value)
	}
	if err := in.store(t.Context(), &late); err != nil || tries.Load() != 60 {
		t.Errorf("%v after %d tries", err, tries.Load())
	}
	synctest.Test(t, func(t *testing.T) {
		broken := peer{name: "broken", set: func(context.Context, string, []byte) error { return errors.New("refused") }}
		err := in.store(t.Context(), &broken)
		if err == nil || strings.Count(err.Error(), "refused") != 1 {
			t.Errorf("got %v", err)
		}
	})
}
