package stampede_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringside-cache/ringside/stampede"
)

// Each of these is an order of events that once went wrong.

// A hookStore shows each reply to a hook before it goes back: as long as that
// takes the reply is on the wire.
type hookStore struct {
	*moodyStore
	read  func(reads []stampede.Read, replies []stampede.Reply)
	write func(writes []stampede.Write, results []stampede.Result)
}

func (h *hookStore) ReadLeased(ctx context.Context, reads []stampede.Read) []stampede.Reply {
	replies := h.moodyStore.ReadLeased(ctx, reads)
	if h.read != nil {
		h.read(reads, replies)
	}
	if ctx.Err() != nil {
		for i := range replies {
			replies[i] = stampede.Reply{Err: ctx.Err()}
		}
	}
	return replies
}

func (h *hookStore) WriteLeased(ctx context.Context, writes []stampede.Write) []stampede.Result {
	results := h.moodyStore.WriteLeased(ctx, writes)
	if h.write != nil {
		h.write(writes, results)
	}
	return results
}

// A caller whose time is over has nothing loaded for it.
func TestFetchMultiForACallerThatLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hookStore{moodyStore: newFakeStore(), read: func([]stampede.Read, []stampede.Reply) { time.Sleep(time.Second) }}
		c, o := newCache(t, store, stampede.Config{}), &multiOrigin{}
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if _, err := c.FetchMulti(ctx, manyKeys(10), o.load); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			cancel()
			synctest.Wait()
		}
		if n := len(o.list()); n != 0 {
			t.Errorf("%d loads", n)
		}
	})
}

// A poll has seen a value and is on the wire while another process deletes
// that. A caller who comes then does not get it.
func TestPollFromBeforeADelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain := newFakeStore()
		var seen atomic.Bool
		slow := &hookStore{moodyStore: plain, read: func(_ []stampede.Read, replies []stampede.Reply) {
			if len(replies[0].Value) > 0 && !seen.Swap(true) {
				time.Sleep(10 * time.Millisecond)
			}
		}}
		a, b := newCache(t, slow, stampede.Config{}), newCache(t, plain, stampede.Config{})
		o := &origin{takes: 100 * time.Millisecond}
		go b.Fetch(t.Context(), "k", o.load)
		time.Sleep(time.Millisecond)
		go a.Fetch(t.Context(), "k", o.load)
		for !seen.Load() {
			time.Sleep(time.Millisecond)
		}
		if err := b.Delete(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		wantFetch(t, a, o, "k/2")
	})
}

// The same, but the poll has been answered and looked at already when the key
// is deleted. Those who had waited before get what it saw.
func TestDeleteBeforeALanding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &origin{takes: 100 * time.Millisecond}
		b := newCache(t, store, stampede.Config{})
		var late sync.WaitGroup
		var once sync.Once
		var a *stampede.Cache
		a = newCache(t, store, stampede.Config{Hooks: stampede.Hooks{Hit: func(string, bool) {
			once.Do(func() {
				if err := b.Delete(t.Context(), "k"); err != nil {
					t.Error(err)
				}
				go b.Fetch(t.Context(), "k", o.load)
				time.Sleep(time.Millisecond) // it has the lease
				late.Go(func() { wantFetch(t, a, o, "k/2") })
				time.Sleep(time.Millisecond) // it has joined
			})
		}}})
		go b.Fetch(t.Context(), "k", o.load)
		time.Sleep(time.Millisecond)
		began := time.Now()
		wantFetch(t, a, o, "k/1")
		if took := time.Since(began); took > 130*time.Millisecond {
			t.Errorf("who had waited before waited on for %v", took)
		}
		late.Wait()
		if n := o.calls.Load(); n != 2 {
			t.Errorf("%d loads", n)
		}
	})
}

// Callers who want a fresh value keep coming, always one while a read is under
// way, and the holder is dead. They wait for LoadTimeout at most, and one of them
// takes over after Lease all the same.
func TestTakeoverWhileCallersKeepComing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain := newFakeStore()
		slow := &hookStore{moodyStore: plain, read: func([]stampede.Read, []stampede.Reply) { time.Sleep(10 * time.Millisecond) }}
		c, o := newCache(t, slow, stampede.Config{Lease: 3 * time.Second, LoadTimeout: time.Second}), &origin{}
		wantFetch(t, c, o, "k/1")
		if err := c.Invalidate(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		win(t, plain, "k")
		began := time.Now()
		var wg sync.WaitGroup
		for ; o.calls.Load() == 1 && time.Since(began) < 10*time.Second; time.Sleep(3 * time.Millisecond) {
			wg.Go(func() {
				came := time.Now()
				b, err := c.Fetch(t.Context(), "k", o.load, stampede.Fresh())
				waited := time.Since(came)
				if err != nil || waited > 1100*time.Millisecond {
					t.Errorf("%q, %v after %v", b, err, waited)
				}
			})
		}
		if took := time.Since(began); took < 3*time.Second || took > 3600*time.Millisecond {
			t.Errorf("taken over after %v", took)
		}
		wg.Wait()
	})
}

// Two callers of a process win one after the other, and join a flight in the
// other order. The newer lease counts, and neither is lost.
func TestLeasesOfferedInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain := newFakeStore()
		var slowPoll, slowX atomic.Bool
		poll, x := make(chan struct{}), make(chan struct{})
		a := newCache(t, &hookStore{moodyStore: plain, read: func(_ []stampede.Read, replies []stampede.Reply) {
			switch r := replies[0]; {
			case r.Taken && slowPoll.Swap(false):
				<-poll
			case r.Won && slowX.Swap(false):
				<-x
			}
		}}, stampede.Config{})
		o := &origin{takes: 50 * time.Millisecond}
		holder := plain.ReadLeased(t.Context(), []stampede.Read{{Key: "k", Lease: time.Minute}})[0]
		go a.Fetch(t.Context(), "k", o.load)
		time.Sleep(40 * time.Millisecond)
		slowPoll.Store(true)
		slowX.Store(true)
		time.Sleep(30 * time.Millisecond) // a poll is on the wire now
		plain.WriteLeased(t.Context(), []stampede.Write{{Kind: stampede.Remove, Lease: holder.Lease}})
		go a.Fetch(t.Context(), "k", o.load) // X wins, and hears of it late
		synctest.Wait()
		plain.WriteLeased(t.Context(), []stampede.Write{{Kind: stampede.Delete, Key: "k"}})
		go a.Fetch(t.Context(), "k", o.load) // Y wins and offers
		synctest.Wait()
		close(x)
		synctest.Wait()
		close(poll)
		time.Sleep(200 * time.Millisecond)
		began := time.Now()
		if _, err := a.Fetch(t.Context(), "k", o.load); err != nil || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// The owner acknowledges the invalidation and is ejected right after. What the
// stand-in has from before is not what Refresh brings.
func TestRefreshOnTheMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		owner, other := newFakeStore(), newFakeStore()
		other.standIn = true
		both := &flappingStore{owner: owner, other: other}
		c, o := newCache(t, both, stampede.Config{}), &origin{}
		both.out = true
		wantFetch(t, c, o, "k/1")
		both.out = false
		wantFetch(t, c, o, "k/2")
		both.flaps = true
		if b, err := c.Refresh(t.Context(), "k", o.load); string(b) != "k/3" || !errors.Is(err, stampede.ErrOwnerDown) {
			t.Errorf("Refresh gave %q, %v", b, err)
		}
	})
}

// A flappingStore asks the other while its owner is out, which it is after the
// next invalidation if it flaps.
type flappingStore struct {
	owner, other *moodyStore
	out, flaps   bool
}

func (f *flappingStore) now() *moodyStore {
	if f.out {
		return f.other
	}
	return f.owner
}

func (f *flappingStore) ReadLeased(ctx context.Context, reads []stampede.Read) []stampede.Reply {
	return f.now().ReadLeased(ctx, reads)
}

func (f *flappingStore) WriteLeased(ctx context.Context, writes []stampede.Write) []stampede.Result {
	results := f.now().WriteLeased(ctx, writes)
	if writes[0].Kind == stampede.Invalidate && f.flaps {
		f.out = true
	}
	return results
}

// The process that fills a shared key loses the node between adding the value,
// which is old by then, and looking at its lease. The value goes by itself.
func TestSharedFillThatBreaksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain := newFakeStore()
		b := newCache(t, plain, stampede.Config{Shared: true})
		a := newCache(t, &hookStore{moodyStore: plain, write: func(writes []stampede.Write, _ []stampede.Result) {
			if writes[0].Kind == stampede.Add {
				plain.err = errors.New("connection lost")
			}
		}}, stampede.Config{Shared: true})
		o := &origin{}
		wantFetch(t, a, o, "k/1")
		plain.err = nil
		if item := plain.items["k"]; item == nil || string(item.value) != "k/1" {
			t.Fatal("nothing was left")
		}
		time.Sleep(4 * time.Second)
		wantFetch(t, b, o, "k/2")
	})
}

// Shared keys are filled in a few round trips, however many they are.
func TestSharedRoundTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), &multiOrigin{}
		c := newCache(t, store, stampede.Config{Shared: true, TTL: time.Minute})
		if values, err := c.FetchMulti(t.Context(), manyKeys(1000), o.load); err != nil || len(values) != 1000 {
			t.Errorf("%d values, %v", len(values), err)
		}
		// Values, leases; add, look, fill.
		if n := store.trips.Load(); n != 5 {
			t.Errorf("%d round trips", n)
		}
		for key, item := range store.items {
			if strings.HasPrefix(key, "__ringside__") || time.Until(item.expires) != time.Minute {
				t.Errorf("%s is there for %v", key, time.Until(item.expires))
			}
		}
	})
}

// A filler of a shared key has added its value, which is old by now, and not
// looked at its lease yet. Refresh does not bring that.
func TestSharedRefreshDuringAFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain := newFakeStore()
		slow := &hookStore{moodyStore: plain, write: func(writes []stampede.Write, _ []stampede.Result) {
			if writes[0].Kind == stampede.Add {
				time.Sleep(50 * time.Millisecond)
			}
		}}
		a, b := newCache(t, slow, stampede.Config{Shared: true}), newCache(t, plain, stampede.Config{Shared: true})
		o := &origin{}
		slow.read = func(reads []stampede.Read, replies []stampede.Reply) {
			if replies[0].Won { // the load begins after the write of the origin's
				time.Sleep(10 * time.Millisecond)
			}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.Fetch(t.Context(), "k", o.load)
		}()
		time.Sleep(20 * time.Millisecond)
		wantRefresh(t, b, o, "k/2")
		<-done
		wantFetch(t, b, o, "k/2")
	})
}

// What a caller gets is its own to write to.
func TestOwnMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o := newCache(t, newFakeStore(), stampede.Config{}), &origin{takes: time.Second}
		values := make(chan []byte, 2)
		for range 2 {
			go func() {
				b, _ := c.Fetch(t.Context(), "k", o.load)
				values <- b
			}()
		}
		x, y := <-values, <-values
		if x[0] = '!'; y[0] == '!' {
			t.Error("two callers were given the same memory")
		}
	})
}

// Who wants a fresh value gets the old one where there is no other, and waits
// no longer than a load may take.
func TestFreshThatIsNotToBeHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o := newCache(t, newFakeStore(), stampede.Config{Lease: 5 * time.Second, MaxLoads: 1}), &origin{}
		wantFetch(t, c, o, "k/1")
		c.Invalidate(t.Context(), "k")
		go c.Fetch(t.Context(), "slow", (&origin{takes: time.Second}).load)
		synctest.Wait()
		wantFetch(t, c, o, "k/1", stampede.Fresh()) // too many loads
		time.Sleep(2 * time.Second)
		o.fails(errors.New("broken"))
		wantFetch(t, c, o, "k/1", stampede.Fresh())
		began := time.Now()
		wantFetch(t, c, o, "k/1", stampede.Fresh())
		if took := time.Since(began); took > 4100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		o.fails(nil)
		time.Sleep(2 * time.Second)
		wantFetch(t, c, o, "k/3", stampede.Fresh())
	})
}

// The same for a value that is due and whose lease is not to be had: none is
// asked for while all slots are in use, and a node may give none.
func TestFreshWithoutALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hookStore{moodyStore: newFakeStore()}
		c, o := newCache(t, store, stampede.Config{TTL: 10 * time.Second, MaxLoads: 1}), &origin{}
		wantFetch(t, c, o, "k/1")
		time.Sleep(11 * time.Second)
		go c.Fetch(t.Context(), "slow", (&origin{takes: time.Second}).load)
		synctest.Wait()
		began := time.Now()
		wantFetch(t, c, o, "k/1", stampede.Fresh())
		values, err := c.FetchMulti(t.Context(), []string{"k"}, nil, stampede.Fresh())
		if string(values["k"]) != "k/1" || err != nil || time.Since(began) != 0 {
			t.Errorf("FetchMulti gave %q, %v after %v", values, err, time.Since(began))
		}
		time.Sleep(2 * time.Second)
		store.read = func(_ []stampede.Read, replies []stampede.Reply) { replies[0].Won = false }
		o.fails(errors.New("broken"))
		wantFetch(t, c, o, "k/1", stampede.Fresh())
	})
}

// Early refresh is a matter of the TTL that loaders set.
func TestEarlyRefreshOfShortValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, newFakeStore(), stampede.Config{TTL: 5 * time.Minute, EarlyRefresh: 1})
		loads := 0
		load := func(ctx context.Context, key string) ([]byte, error) {
			loads++
			stampede.SetTTL(ctx, key, 8*time.Second)
			time.Sleep(4 * time.Second)
			return []byte("v"), nil
		}
		for began := time.Now(); time.Since(began) < 120*time.Second; time.Sleep(10 * time.Millisecond) {
			c.Fetch(t.Context(), "k", load)
		}
		if loads < 9 || loads > 13 { // every 10 to 12 s
			t.Errorf("%d loads in 120s", loads)
		}
	})
}

// All slots have come into use between the read that wins a lease early and its
// load. The value stays fresh, nobody wins it over and over, and it is refilled
// when it is due.
func TestEarlyRefreshWithoutASlot(t *testing.T) {
	for _, multi := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store := &hookStore{moodyStore: newFakeStore()}
			c := newCache(t, store, stampede.Config{TTL: 100 * time.Second, EarlyRefresh: 1, MaxLoads: 1, Lease: 10 * time.Second})
			o, slow := &origin{takes: 2 * time.Second}, &origin{takes: 8 * time.Second}
			store.read = func(reads []stampede.Read, replies []stampede.Reply) {
				if replies[0].Won && len(replies[0].Value) > 0 && slow.calls.Load() == 0 {
					go c.Fetch(t.Context(), "slow", slow.load)
					time.Sleep(time.Millisecond)
				}
			}
			fetch := func(want string) {
				t.Helper()
				if !multi {
					wantFetch(t, c, o, want)
					return
				}
				values, err := c.FetchMulti(t.Context(), []string{"k"}, func(ctx context.Context, keys []string) (map[string][]byte, error) {
					b, err := o.load(ctx, "k")
					return map[string][]byte{"k": b}, err
				})
				if err != nil || string(values["k"]) != want {
					t.Errorf("FetchMulti gave %q, %v; want %q", values, err, want)
				}
			}
			fetch("k/1")
			filled := time.Now()
			for ; slow.calls.Load() == 0 && time.Since(filled) < 99*time.Second; time.Sleep(100 * time.Millisecond) {
				fetch("k/1")
			}
			synctest.Wait()
			trips := store.trips.Load()
			for ; time.Since(filled) < 100*time.Second; time.Sleep(100 * time.Millisecond) {
				fetch("k/1")
				trips++
			}
			if s := c.Stats(); s.Shed != 1 || s.EarlyRefreshes != 1 || s.StaleHits != 0 || store.trips.Load() > trips+2 {
				t.Errorf("%d round trips too many, stats %+v", store.trips.Load()-trips, s)
			}
			time.Sleep(12 * time.Second)
			fetch("k/1")
			time.Sleep(3 * time.Second)
			if multi { // it leaves the load to the one who reads next
				fetch("k/1")
				time.Sleep(3 * time.Second)
			}
			fetch("k/2")
		})
	}
}

// While few slots are free they are not used for what has time.
func TestNoEarlyRefreshWhileNearlyBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o := newCache(t, newFakeStore(), stampede.Config{TTL: 100 * time.Second, EarlyRefresh: 100, MaxLoads: 4, Lease: time.Minute}), &origin{takes: 2 * time.Second}
		wantFetch(t, c, o, "k/1")
		time.Sleep(74 * time.Second)
		for i := range 3 {
			go c.Fetch(t.Context(), fmt.Sprint("slow ", i), (&origin{takes: 30 * time.Second}).load)
		}
		time.Sleep(10 * time.Second)
		for range 100 {
			wantFetch(t, c, o, "k/1")
		}
		synctest.Wait()
		if n := o.calls.Load(); n != 1 {
			t.Errorf("%d loads before it was due", n)
		}
		time.Sleep(17 * time.Second) // due
		wantFetch(t, c, o, "k/1")
		time.Sleep(3 * time.Second)
		wantFetch(t, c, o, "k/2")
	})
}

// Fills are spread over a tenth of the TTL by default.
func TestJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c, err := stampede.New(store, stampede.Config{TTL: 1000 * time.Second, Grace: stampede.None})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.FetchMulti(t.Context(), manyKeys(1000), (&multiOrigin{}).load); err != nil {
			t.Fatal(err)
		}
		least, most := time.Hour, time.Duration(0)
		for _, item := range store.items {
			left := time.Until(item.expires)
			least, most = min(least, left), max(most, left)
		}
		if least < 900*time.Second || least > 910*time.Second || most > 1000*time.Second || most < 990*time.Second {
			t.Errorf("from %v to %v", least, most)
		}
	})
}

// Where no lease is to be had, as on a node that is out of memory, the value is
// loaded and not kept.
func TestNoLeaseToBeHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hookStore{moodyStore: newFakeStore(), read: func(_ []stampede.Read, replies []stampede.Reply) {
			for i := range replies {
				replies[i] = stampede.Reply{}
			}
		}}
		c, o := newCache(t, store, stampede.Config{}), &origin{}
		wantFetch(t, c, o, "k/1")
		wantFetch(t, c, o, "k/2")
		if s := c.Stats(); s.Fills != 0 || s.Loads != 2 {
			t.Errorf("stats %+v", s)
		}
	})
}

// Close waits for a caller that is in the middle of a read, and the lease that
// it wins is given up.
func TestCloseDuringARead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain := newFakeStore()
		store := &hookStore{moodyStore: plain, read: func([]stampede.Read, []stampede.Reply) { time.Sleep(100 * time.Millisecond) }}
		c := newCache(t, store, stampede.Config{})
		go c.Fetch(t.Context(), "k", (&origin{}).load)
		synctest.Wait()
		c.Close()
		before := plain.trips.Load()
		time.Sleep(time.Second)
		if n := plain.trips.Load() - before; n != 0 || len(plain.items) != 0 {
			t.Errorf("%d round trips after Close, %d items", n, len(plain.items))
		}
	})
}
