package stampede_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringside-cache/ringside/stampede"
)

// A teller notes what the hooks of a Cache are told.
type teller struct {
	mu   sync.Mutex
	told map[string]int
}

func (n *teller) note(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told[fmt.Sprintf(format, args...)]++
}

func (n *teller) hooks() stampede.Hooks {
	return stampede.Hooks{
		Hit:    func(key string, stale bool) { n.note("Hit %s %v", key, stale) },
		Marker: func(key string, err error) { n.note("Marker %s %v", key, err) },
		Won:    func(key string, early bool) { n.note("Won %s %v", key, early) },
		Waited: func(key string, took time.Duration, err error) {
			n.note("Waited %s %v %v", key, took.Round(50*time.Millisecond), err)
		},
		TookOver: func(key string) { n.note("TookOver %s", key) },
		Filled:   func(key string, err error) { n.note("Filled %s %v", key, err) },
		Loaded:   func(keys int, took time.Duration, err error) { n.note("Loaded %d %v %v", keys, took, err) },
		Shed:     func(key string) { n.note("Shed %s", key) },
		ServedOnError: func(key string, err error) {
			n.note("ServedOnError %s %v", key, err)
		},
	}
}

// Each hook is called in the situation that its comment names, and in no other.
func TestHooks(t *testing.T) {
	broken := errors.New("broken")
	never := &origin{}
	for name, tt := range map[string]struct {
		cfg  stampede.Config
		do   func(t *testing.T, c, other *stampede.Cache, store *moodyStore, o *origin)
		want []string
	}{
		"a value is loaded, and served": {
			do: func(t *testing.T, c, _ *stampede.Cache, _ *moodyStore, o *origin) {
				c.Fetch(t.Context(), "k", o.load)
				c.Fetch(t.Context(), "k", o.load)
			},
			want: []string{"Won k false", "Loaded 1 100ms <nil>", "Filled k <nil>", "Hit k false"},
		},
		"a stale value is served and refilled": {
			do: func(t *testing.T, c, other *stampede.Cache, _ *moodyStore, o *origin) {
				other.Fetch(t.Context(), "k", o.load)
				c.Invalidate(t.Context(), "k")
				c.Fetch(t.Context(), "k", o.load)
			},
			want: []string{"Hit k true", "Won k false", "Loaded 1 100ms <nil>", "Filled k <nil>"},
		},
		"a value is refilled before it is due": {
			cfg: stampede.Config{TTL: 100 * time.Second, EarlyRefresh: 1000, Lease: time.Hour},
			do: func(t *testing.T, c, _ *stampede.Cache, _ *moodyStore, o *origin) {
				o.takes = 1000 * time.Second
				c.Fetch(t.Context(), "k", o.load)
				time.Sleep(90 * time.Second)
				c.Fetch(t.Context(), "k", o.load)
				time.Sleep(o.takes)
			},
			want: []string{"Won k false", "Hit k false", "Won k true", "Loaded 1 16m40s <nil> 2", "Filled k <nil> 2"},
		},
		"a marker is served": {
			do: func(t *testing.T, c, other *stampede.Cache, _ *moodyStore, o *origin) {
				o.fails(broken)
				other.Fetch(t.Context(), "k", o.load)
				o.fails(stampede.ErrNotFound)
				other.Fetch(t.Context(), "none", o.load)
				c.FetchMulti(t.Context(), []string{"k", "none"}, nil)
			},
			want: []string{
				"Marker k " + stampede.ErrLoadFailed.Error() + ": broken", "Marker none " + stampede.ErrNotFound.Error(),
			},
		},
		"another loads": {
			do: func(t *testing.T, c, other *stampede.Cache, _ *moodyStore, o *origin) {
				go other.Fetch(t.Context(), "k", o.load)
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
				defer cancel()
				c.Fetch(ctx, "k", o.load)
				c.FetchMulti(t.Context(), []string{"k"}, nil)
			},
			want: []string{
				"Waited k 0s context deadline exceeded", "Hit k false", "Waited k 100ms <nil>",
			},
		},
		"a holder is dead": {
			cfg: stampede.Config{Lease: 2 * time.Second},
			do: func(t *testing.T, c, _ *stampede.Cache, store *moodyStore, o *origin) {
				win(t, store, "k")
				c.Fetch(t.Context(), "k", o.load)
			},
			want: []string{"TookOver k", "Won k false", "Loaded 1 100ms <nil>", "Filled k <nil>", "Waited k 2.1s <nil>"},
		},
		"a fill is refused": {
			do: func(t *testing.T, c, other *stampede.Cache, _ *moodyStore, o *origin) {
				go c.Fetch(t.Context(), "k", o.load)
				time.Sleep(50 * time.Millisecond)
				other.Invalidate(t.Context(), "k")
			},
			want: []string{"Won k false", "Loaded 1 100ms <nil>", "Filled k " + stampede.ErrChanged.Error()},
		},
		"there is no slot": {
			cfg: stampede.Config{MaxLoads: 1},
			do: func(t *testing.T, c, _ *stampede.Cache, _ *moodyStore, o *origin) {
				go c.Fetch(t.Context(), "k", o.load)
				synctest.Wait()
				c.Fetch(t.Context(), "another", never.load)
			},
			want: []string{"Won k false", "Shed another", "Loaded 1 100ms <nil>", "Filled k <nil>"},
		},
		"a refill fails": {
			do: func(t *testing.T, c, other *stampede.Cache, _ *moodyStore, o *origin) {
				other.Fetch(t.Context(), "k", o.load)
				c.Invalidate(t.Context(), "k")
				o.fails(broken)
				c.Fetch(t.Context(), "k", o.load)
			},
			want: []string{"Hit k true", "Won k false", "Loaded 1 100ms broken", "ServedOnError k broken"},
		},
		"a batch is loaded": {
			do: func(t *testing.T, c, _ *stampede.Cache, _ *moodyStore, _ *origin) {
				c.FetchMulti(t.Context(), []string{"a", "b"}, (&multiOrigin{}).load)
			},
			want: []string{"Won a false", "Won b false", "Loaded 2 0s <nil>", "Filled a <nil>", "Filled b <nil>"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, o, n := newFakeStore(), &origin{takes: 100 * time.Millisecond}, &teller{told: make(map[string]int)}
				tt.cfg.Hooks = n.hooks()
				tt.do(t, newCache(t, store, tt.cfg), newCache(t, store, stampede.Config{}), store, o)
				time.Sleep(time.Second) // what is in the background ends
				synctest.Wait()
				want := make(map[string]int)
				for _, w := range tt.want {
					want[w] = 1
					if len(w) > 2 && w[len(w)-2:] == " 2" {
						delete(want, w)
						want[w[:len(w)-2]] = 2
					}
				}
				if !maps.Equal(n.told, want) {
					t.Errorf("told %v\nwant %v", n.told, want)
				}
			})
		})
	}
	hooks := reflect.ValueOf((&teller{}).hooks())
	for i := range hooks.NumField() {
		if hooks.Field(i).IsNil() {
			t.Errorf("the hook %s has no test", hooks.Type().Field(i).Name)
		}
	}
}

// LoadTimes counts each load once, by how long it took: a bound belongs to the
// bucket below it.
func TestLoadTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, newFakeStore(), stampede.Config{Lease: time.Minute})
		var want [len(stampede.LoadBuckets) + 1]uint64
		var total time.Duration
		n := 0
		for i, bound := range stampede.LoadBuckets {
			for _, takes := range []time.Duration{bound, bound + 1} {
				o := &origin{takes: takes}
				if n%3 == 0 {
					o.fails(errors.New("broken")) // counts too
				}
				c.Fetch(t.Context(), fmt.Sprint(n), o.load)
				total += takes
				n++
			}
			want[i]++
			want[i+1]++
		}
		if s := c.Stats(); s.LoadTimes != want || s.LoadTime != total || s.Loads != uint64(n) || s.LoadErrors != 9 {
			t.Errorf("%+v, want %v in %v", s, want, total)
		}
	})
}
