package stampede_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringside-cache/ringside/stampede"
)

// A broking is a Broker over a Store in memory, and what its callers do.
type broking struct {
	t     *testing.T
	store *moodyStore
	b     *stampede.Broker
}

func newBroking(t *testing.T, cfg stampede.Config) *broking {
	t.Helper()
	cfg.EarlyRefresh = -1
	return newBrokingOn(t, newFakeStore(), cfg)
}

func newBrokingOn(t *testing.T, store *moodyStore, cfg stampede.Config) *broking {
	t.Helper()
	b, err := stampede.NewBroker(store, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return &broking{t, store, b}
}

func (b *broking) ask(a stampede.Ask, want stampede.State) stampede.Answer {
	b.t.Helper()
	a.Key = "k"
	answer, err := b.b.Lease(b.t.Context(), a)
	if err != nil {
		b.t.Fatal(err)
	}
	if answer.State != want {
		b.t.Fatalf("state %d with %q, want state %d", answer.State, answer.Value, want)
	}
	return answer
}

func (b *broking) fill(token, value string, want error) {
	b.t.Helper()
	if err := b.b.Fill(b.t.Context(), token, []byte(value), 0); !errors.Is(err, want) {
		b.t.Errorf("fill: %v, want %v", err, want)
	}
}

// waiting asks on a goroutine of its own.
func (b *broking) waiting(ctx context.Context, a stampede.Ask) (result func() (stampede.Answer, time.Duration, error)) {
	a.Key = "k"
	var answer stampede.Answer
	var err error
	var took time.Duration
	done := make(chan struct{})
	began := time.Now()
	go func() {
		answer, err = b.b.Lease(ctx, a)
		took = time.Since(began)
		close(done)
	}()
	return func() (stampede.Answer, time.Duration, error) {
		<-done
		return answer, took, err
	}
}

func TestBrokerLendsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroking(t, stampede.Config{})
		won := b.ask(stampede.Ask{}, stampede.StateWon)
		if won.Value != nil || won.Token == "" {
			t.Errorf("%+v", won)
		}
		b.ask(stampede.Ask{}, stampede.StateWait)
		b.fill(won.Token, "v", nil)
		if a := b.ask(stampede.Ask{}, stampede.StateFresh); string(a.Value) != "v" {
			t.Errorf("%q", a.Value)
		}
		b.fill(won.Token, "again", stampede.ErrUnbound)
		s := b.b.Stats()
		if s.Wins != 1 || s.Loads != 1 || s.Fills != 1 || s.FreshHits != 1 || s.Loading != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// An empty value is a value.
func TestBrokerEmptyValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroking(t, stampede.Config{})
		b.fill(b.ask(stampede.Ask{}, stampede.StateWon).Token, "", nil)
		if a := b.ask(stampede.Ask{}, stampede.StateFresh); a.Value == nil || len(a.Value) != 0 {
			t.Errorf("%#v", a.Value)
		}
	})
}

// Those who wait on this host are woken by the fill and not by their next look,
// which after a while is 25 ms away.
func TestBrokerFillWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroking(t, stampede.Config{})
		won := b.ask(stampede.Ask{}, stampede.StateWon)
		var results []func() (stampede.Answer, time.Duration, error)
		for range 20 {
			results = append(results, b.waiting(t.Context(), stampede.Ask{Wait: time.Minute}))
		}
		const load = 1001 * time.Millisecond
		time.Sleep(load)
		trips := b.store.trips.Load()
		b.fill(won.Token, "v", nil)
		for _, result := range results {
			a, took, err := result()
			if err != nil || a.State != stampede.StateFresh || string(a.Value) != "v" || took != load {
				t.Errorf("%+v after %v, %v", a, took, err)
			}
		}
		// The fill and one read for all of them.
		if n := b.store.trips.Load() - trips; n != 2 {
			t.Errorf("%d round trips", n)
		}
		if s := b.b.Stats(); s.Waits != 20 || s.Loads != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A fill by another process is seen at the next look.
func TestBrokerSeesOthersFills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroking(t, stampede.Config{})
		other := newBrokingOn(t, b.store, stampede.Config{})
		won := other.ask(stampede.Ask{}, stampede.StateWon)
		result := b.waiting(t.Context(), stampede.Ask{Wait: time.Minute})
		time.Sleep(time.Second)
		other.fill(won.Token, "v", nil)
		if a, took, err := result(); err != nil || string(a.Value) != "v" || took > time.Second+25*time.Millisecond {
			t.Errorf("%+v after %v, %v", a, took, err)
		}
	})
}

func TestBrokerHandsTheLeaseOn(t *testing.T) {
	for name, end := range map[string]func(b *broking, token string, h *stampede.Holder){
		"released":           func(b *broking, token string, _ *stampede.Holder) { b.b.Release(b.t.Context(), token) },
		"its holder is gone": func(b *broking, _ string, h *stampede.Holder) { b.b.Gone(h) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroking(t, stampede.Config{})
				var h stampede.Holder
				won := b.ask(stampede.Ask{Holder: &h}, stampede.StateWon)
				first := b.waiting(t.Context(), stampede.Ask{Wait: time.Minute})
				time.Sleep(time.Second)
				second := b.waiting(t.Context(), stampede.Ask{Wait: time.Minute})
				time.Sleep(time.Second)
				end(b, won.Token, &h)
				a, took, err := first()
				if err != nil || a.State != stampede.StateWon || took != 2*time.Second {
					t.Fatalf("the first: %+v after %v, %v", a, took, err)
				}
				b.fill(won.Token, "late", stampede.ErrUnbound)
				b.fill(a.Token, "v", nil)
				if a, took, err := second(); err != nil || a.State != stampede.StateFresh || took != time.Second {
					t.Errorf("the second: %+v after %v, %v", a, took, err)
				}
			})
		})
	}
}

// One whose connection is gone while it waits is lent nothing, and neither is
// one that has stopped waiting.
func TestBrokerLendsNothingToTheGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroking(t, stampede.Config{})
		won := b.ask(stampede.Ask{}, stampede.StateWon)
		var h stampede.Holder
		ctx, cancel := context.WithCancel(t.Context())
		gone := b.waiting(t.Context(), stampede.Ask{Wait: 30 * time.Second, Holder: &h})
		time.Sleep(time.Millisecond)
		left := b.waiting(ctx, stampede.Ask{Wait: time.Minute})
		time.Sleep(time.Millisecond)
		third := b.waiting(t.Context(), stampede.Ask{Wait: time.Minute})
		time.Sleep(time.Second)
		b.b.Gone(&h)
		cancel()
		if _, _, err := left(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		b.b.Release(t.Context(), won.Token)
		if a, _, err := third(); err != nil || a.State != stampede.StateWon {
			t.Errorf("%+v, %v", a, err)
		}
		if a, took, err := gone(); err != nil || a.State != stampede.StateWait || took > 2*time.Second {
			t.Errorf("%+v after %v, %v", a, took, err)
		}
		if a, err := b.b.Lease(t.Context(), stampede.Ask{Key: "other", Holder: &h}); !errors.Is(err, stampede.ErrOriginBusy) {
			t.Errorf("%+v, %v", a, err)
		}
	})
}

func TestBrokerStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroking(t, stampede.Config{TTL: time.Minute, Jitter: -1})
		b.fill(b.ask(stampede.Ask{}, stampede.StateWon).Token, "old", nil)
		time.Sleep(61 * time.Second)
		won := b.ask(stampede.Ask{}, stampede.StateWon)
		if string(won.Value) != "old" {
			t.Errorf("the winner has %q", won.Value)
		}
		if a := b.ask(stampede.Ask{}, stampede.StateStale); string(a.Value) != "old" {
			t.Errorf("%q", a.Value)
		}
		b.ask(stampede.Ask{Fresh: true}, stampede.StateWait)
		fresh := b.waiting(t.Context(), stampede.Ask{Fresh: true, Wait: time.Minute})
		time.Sleep(time.Second)
		b.fill(won.Token, "new", nil)
		if a, _, err := fresh(); err != nil || string(a.Value) != "new" {
			t.Errorf("%+v, %v", a, err)
		}
		if a := b.ask(stampede.Ask{}, stampede.StateFresh); string(a.Value) != "new" {
			t.Errorf("%q", a.Value)
		}
	})
}

func TestBrokerInvalidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroking(t, stampede.Config{})
		invalidate := func(want bool) stampede.Answer {
			t.Helper()
			a, err := b.b.Invalidate(t.Context(), stampede.Ask{Key: "k"}, want)
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		b.fill(b.ask(stampede.Ask{}, stampede.StateWon).Token, "old", nil)
		// The load of a reader began before the next change.
		invalidate(false)
		reader := b.ask(stampede.Ask{}, stampede.StateWon)
		writer := invalidate(true)
		if writer.State != stampede.StateWon || string(writer.Value) != "old" {
			t.Errorf("%+v", writer)
		}
		b.fill(reader.Token, "old load", stampede.ErrChanged)
		b.ask(stampede.Ask{}, stampede.StateStale)
		b.fill(writer.Token, "new", nil)
		if a := b.ask(stampede.Ask{}, stampede.StateFresh); string(a.Value) != "new" {
			t.Errorf("%q", a.Value)
		}
		// Without grace nothing is served meanwhile.
		if _, err := b.b.Invalidate(t.Context(), stampede.Ask{Key: "k", Grace: stampede.None}, false); err != nil {
			t.Error(err)
		}
		if a := b.ask(stampede.Ask{}, stampede.StateWon); a.Value != nil {
			t.Errorf("%q", a.Value)
		}
		b.store.standIn = true
		if a, err := b.b.Invalidate(t.Context(), stampede.Ask{Key: "down"}, true); !errors.Is(err, stampede.ErrOwnerDown) || a.State != stampede.StateWon {
			t.Errorf("%+v, %v", a, err)
		}
	})
}

func TestBrokerFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroking(t, stampede.Config{TTL: time.Minute, Jitter: -1})
		fail := func(token string, reason error, ttl time.Duration) {
			t.Helper()
			if err := b.b.Fail(t.Context(), token, reason, ttl); err != nil {
				t.Error(err)
			}
		}
		fail(b.ask(stampede.Ask{}, stampede.StateWon).Token, errors.New("the origin\nis away"), 5*time.Second)
		if a := b.ask(stampede.Ask{}, stampede.StateFailed); !errors.Is(a.Err, stampede.ErrLoadFailed) || a.Err.Error() != "stampede: the load failed elsewhere: the origin" {
			t.Error(a.Err)
		}
		time.Sleep(4 * time.Second)
		b.ask(stampede.Ask{}, stampede.StateFailed)
		time.Sleep(2 * time.Second)
		fail(b.ask(stampede.Ask{}, stampede.StateWon).Token, fmt.Errorf("no row: %w", stampede.ErrNotFound), 0)
		b.ask(stampede.Ask{}, stampede.StateNotFound)
		time.Sleep(2 * time.Second)
		b.fill(b.ask(stampede.Ask{}, stampede.StateWon).Token, "v", nil)
		time.Sleep(61 * time.Second)
		// An old value is served on, and nobody loads before the lease is over.
		fail(b.ask(stampede.Ask{}, stampede.StateWon).Token, errors.New("again"), 0)
		b.ask(stampede.Ask{}, stampede.StateStale)
		time.Sleep(9 * time.Second)
		b.ask(stampede.Ask{}, stampede.StateStale)
		time.Sleep(2 * time.Second)
		b.ask(stampede.Ask{}, stampede.StateWon)
	})
}

// A caller who does not come back is replaced after the lease, and its place
// among MaxLoads is free again.
func TestBrokerTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroking(t, stampede.Config{MaxLoads: 2})
		dead := b.ask(stampede.Ask{Lease: 4 * time.Second}, stampede.StateWon)
		result := b.waiting(t.Context(), stampede.Ask{Lease: 4 * time.Second, Wait: time.Minute})
		a, took, err := result()
		if err != nil || a.State != stampede.StateWon || took < 4*time.Second || took > 4800*time.Millisecond {
			t.Fatalf("%+v after %v, %v", a, took, err)
		}
		b.fill(dead.Token, "late", stampede.ErrChanged)
		b.fill(a.Token, "v", nil)
		if s := b.b.Stats(); s.Takeovers != 1 || s.Loading != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A caller has the time that it asked for, whatever those who wait believe.
func TestBrokerKeepsToTheHoldersLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroking(t, stampede.Config{})
		slow := b.ask(stampede.Ask{Lease: time.Minute}, stampede.StateWon)
		result := b.waiting(t.Context(), stampede.Ask{Lease: 4 * time.Second, Wait: time.Minute})
		time.Sleep(30 * time.Second)
		b.fill(slow.Token, "v", nil)
		if a, took, err := result(); err != nil || string(a.Value) != "v" || took != 30*time.Second {
			t.Errorf("%+v after %v, %v", a, took, err)
		}
	})
}

// A wait ends when the caller says so, and that is no error.
func TestBrokerUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroking(t, stampede.Config{})
		b.ask(stampede.Ask{}, stampede.StateWon)
		until := make(chan struct{})
		result := b.waiting(t.Context(), stampede.Ask{Wait: time.Minute, Until: until})
		time.Sleep(2 * time.Second)
		close(until)
		if a, took, err := result(); err != nil || a.State != stampede.StateWait || took != 2*time.Second {
			t.Errorf("%+v after %v, %v", a, took, err)
		}
	})
}

// An invalidation that is done is no error because no lease is to be had.
func TestBrokerInvalidateWithoutALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroking(t, stampede.Config{MaxLoads: 1})
		b.ask(stampede.Ask{}, stampede.StateWon)
		a, err := b.b.Invalidate(t.Context(), stampede.Ask{Key: "other", Grace: stampede.None}, true)
		if err != nil || a.State != stampede.StateNoLease || !errors.Is(a.Err, stampede.ErrOriginBusy) {
			t.Errorf("%+v, %v", a, err)
		}
		b.store.standIn = true
		if _, err := b.b.Invalidate(t.Context(), stampede.Ask{Key: "other", Grace: stampede.None}, true); !errors.Is(err, stampede.ErrOwnerDown) {
			t.Error(err)
		}
	})
}

func TestBrokerMaxLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroking(t, stampede.Config{MaxLoads: 1})
		b.ask(stampede.Ask{}, stampede.StateWon)
		busy := func() error {
			_, err := b.b.Lease(t.Context(), stampede.Ask{Key: "other"})
			return err
		}
		if err := busy(); !errors.Is(err, stampede.ErrOriginBusy) {
			t.Error(err)
		}
		time.Sleep(13 * time.Second) // nobody comes back: Lease and 2 s
		if err := busy(); err != nil {
			t.Error(err)
		}
	})
}

func TestBrokerWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroking(t, stampede.Config{})
		b.ask(stampede.Ask{}, stampede.StateWon)
		if a, took, err := b.waiting(t.Context(), stampede.Ask{Wait: 3 * time.Second})(); err != nil || a.State != stampede.StateWait || took != 3*time.Second {
			t.Errorf("%+v after %v, %v", a, took, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, took, err := b.waiting(ctx, stampede.Ask{Wait: 3 * time.Second})(); !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
			t.Errorf("after %v, %v", took, err)
		}
		last := b.waiting(t.Context(), stampede.Ask{Wait: time.Minute})
		time.Sleep(time.Second)
		b.b.Close()
		if _, took, err := last(); !errors.Is(err, stampede.ErrClosed) || took != time.Second {
			t.Errorf("after %v, %v", took, err)
		}
		if _, err := b.b.Lease(t.Context(), stampede.Ask{Key: "k"}); !errors.Is(err, stampede.ErrClosed) {
			t.Error(err)
		}
		// Close has given the lease up.
		newBrokingOn(t, b.store, stampede.Config{}).ask(stampede.Ask{}, stampede.StateWon)
	})
}

// A Broker and a Cache share keys.
func TestBrokerBesideACache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroking(t, stampede.Config{})
		c := newCache(t, b.store, stampede.Config{})
		won := b.ask(stampede.Ask{}, stampede.StateWon)
		var wg sync.WaitGroup
		wg.Go(func() {
			v, err := c.Fetch(t.Context(), "k", func(context.Context, string) ([]byte, error) { return nil, errors.New("loaded twice") })
			if err != nil || string(v) != "v" {
				t.Errorf("%q, %v", v, err)
			}
		})
		time.Sleep(time.Second)
		b.fill(won.Token, "v", nil)
		wg.Wait()
	})
}

func TestBrokerTerms(t *testing.T) {
	b := newBroking(t, stampede.Config{})
	for _, a := range []stampede.Ask{
		{Lease: time.Second}, {Lease: 2 * time.Hour}, {Grace: -5}, {Grace: 31 * 24 * time.Hour}, {Wait: -1}, {Wait: 2 * time.Minute},
	} {
		a.Key = "k"
		if _, err := b.b.Lease(t.Context(), a); !errors.Is(err, stampede.ErrTerms) {
			t.Errorf("%+v: %v", a, err)
		}
	}
	won := b.ask(stampede.Ask{}, stampede.StateWon)
	if err := b.b.Fill(t.Context(), won.Token, nil, time.Millisecond); !errors.Is(err, stampede.ErrTerms) {
		t.Error(err)
	}
	if err := b.b.Fail(t.Context(), won.Token, errors.New("x"), time.Hour); !errors.Is(err, stampede.ErrTerms) {
		t.Error(err)
	}
	b.fill(won.Token, "v", nil) // it stands
	if _, err := stampede.NewBroker(b.store, stampede.Config{Shared: true}); err == nil {
		t.Error("shared keys were taken")
	}
	b.store.err = errors.New("away")
	if a := b.ask(stampede.Ask{}, stampede.StateNoLease); a.Err == nil {
		t.Error("without a reason")
	}
}
