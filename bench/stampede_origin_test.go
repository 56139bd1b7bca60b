package bench

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func newTestOrigin(t *testing.T, delay time.Duration) (*origin, func(worker int) *originConn) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "o")
	o, err := startOrigin(socket, delay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.close)
	return o, func(worker int) *originConn {
		c, err := dialOrigin(socket, worker)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.close)
		return c
	}
}

// Calls are counted by key and worker, run side by side, and take their time.
func TestOriginCounts(t *testing.T) {
	const delay = 50 * time.Millisecond
	o, dial := newTestOrigin(t, delay)
	a, b := dial(1), dial(2)
	began := time.Now()
	var wg sync.WaitGroup
	for _, one := range []struct {
		conn *originConn
		key  string
	}{{a, "x"}, {a, "x"}, {a, "y"}, {b, "x"}} {
		wg.Go(func() {
			value, err := one.conn.load(t.Context(), one.key)
			if err != nil || !bytes.HasPrefix(value, []byte("0 "+one.key+" ")) {
				t.Errorf("%s: %q, %v", one.key, value, err)
			}
		})
	}
	wg.Wait()
	if calls := o.of("x", began); len(calls) != 3 {
		t.Errorf("%d calls of x, want 3", len(calls))
	}
	for _, c := range o.of("", began) {
		if c.Failed || c.End.Sub(c.Begin) < delay {
			t.Errorf("call %+v", c)
		}
	}
	if got := o.mostInFlight(); got < 1 || got > 3 {
		t.Errorf("%d calls of a worker at a time, want 1 to 3", got)
	}
	if len(o.of("", time.Now())) != 0 {
		t.Error("calls that begin later are there already")
	}
	if err := o.forget(); err != nil || len(o.of("", time.Time{})) != 0 || o.mostInFlight() != 0 {
		t.Errorf("after forget: %v", err)
	}
}

// A call works on the version that was there when it began.
func TestOriginVersions(t *testing.T) {
	o, dial := newTestOrigin(t, 0)
	c := dial(0)
	o.commit("x")
	value, err := c.load(t.Context(), "x")
	if err != nil || !strings.HasPrefix(string(value), "1 x ") {
		t.Errorf("%q, %v", value, err)
	}
	o.fail(true)
	if _, err := c.load(t.Context(), "x"); !errors.Is(err, errOriginFailed) {
		t.Errorf("%v, want errOriginFailed", err)
	}
	o.fail(false)
	if calls := o.of("x", time.Time{}); calls[0].Failed || !calls[1].Failed {
		t.Errorf("calls %+v", calls)
	}
}

// A call that hangs holds up no other, and ends with its caller.
func TestOriginHangs(t *testing.T) {
	o, dial := newTestOrigin(t, 0)
	c := dial(0)
	o.hang("x", time.Hour)
	hung := make(chan error, 1)
	go func() {
		_, err := c.load(t.Context(), "x")
		hung <- err
	}()
	if err := await(t.Context(), 10*time.Second, func() bool { return len(o.of("x", time.Time{})) == 1 }); err != nil {
		t.Fatal(err)
	}
	if _, err := c.load(t.Context(), "x"); err != nil {
		t.Error(err)
	}
	if err := o.forget(); err == nil {
		t.Error("calls are under way and were forgotten")
	}
	c.conn.Close()
	if err := <-hung; !errors.Is(err, errOriginGone) {
		t.Errorf("%v, want errOriginGone", err)
	}
	if _, err := c.load(t.Context(), "x"); !errors.Is(err, errOriginGone) {
		t.Errorf("%v, want errOriginGone", err)
	}
}

func TestPerInvalidation(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	calls := []originCall{
		{Begin: at(900), End: at(950)}, // before the first
		{Begin: at(1010), End: at(1200)},
		{Begin: at(1020), End: at(1230)},
		{Begin: at(3001), End: at(3201)},
	}
	loads, windows := perInvalidation(calls, []time.Time{at(1000), at(2000), at(3000)})
	if diff := cmp.Diff([]float64{2, 0, 1}, loads); diff != "" {
		t.Error(diff)
	}
	fill := fillTime.Milliseconds()
	want := []window{{at(1000), at(1230 + int(fill))}, {at(3000), at(3201 + int(fill))}}
	if diff := cmp.Diff(want, windows, cmp.AllowUnexported(window{})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]float64{2, 0, 1}, perSecond(calls, at(1000), at(4000))); diff != "" {
		t.Error(diff)
	}
}

func TestBurstsAndMostWithin(t *testing.T) {
	call := func(key string, ms int) originCall { return originCall{Key: key, Begin: time.UnixMilli(int64(ms))} }
	calls := []originCall{call("a", 0), call("a", 900), call("b", 1000), call("a", 1700), call("a", 5000)}
	if diff := cmp.Diff([]float64{4, 1}, bursts(calls, time.Second)); diff != "" {
		t.Error(diff)
	}
	for d, want := range map[time.Duration]int{
		800 * time.Millisecond: 1, 901 * time.Millisecond: 2, 1700 * time.Millisecond: 2, 1701 * time.Millisecond: 3,
	} {
		if got := mostWithin(calls, d); got != want {
			t.Errorf("%d calls within %v, want %d", got, d, want)
		}
	}
}
