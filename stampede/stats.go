package stampede

import (
	"errors"
	"sync/atomic"
	"time"
)

// A Refusal is why a fill was not kept.
type Refusal uint8

const (
	// RefusedChanged: the key was invalidated, filled or taken over since the
	// load began.
	RefusedChanged Refusal = iota
	// RefusedGone: the key was deleted or evicted since.
	RefusedGone
	// RefusedUnbound: the node was ejected or reconnected to since.
	RefusedUnbound
	// RefusedTooLarge: the node does not take so large a value.
	RefusedTooLarge
	// RefusedError: the node could not be reached or answered with an error.
	RefusedError
	refusals
)

var refusalNames = [refusals]string{"changed", "gone", "unbound", "too large", "error"}

func (r Refusal) String() string { return refusalNames[r] }

func refusal(err error) Refusal {
	switch {
	case errors.Is(err, ErrChanged):
		return RefusedChanged
	case errors.Is(err, ErrGone):
		return RefusedGone
	case errors.Is(err, ErrUnbound):
		return RefusedUnbound
	case errors.Is(err, ErrTooLarge):
		return RefusedTooLarge
	}
	return RefusedError
}

// LoadBuckets are the upper bounds of Stats.LoadTimes, a further bucket has
// what took longer.
var LoadBuckets = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// Stats are counts since the Cache was made.
type Stats struct {
	// FreshHits and StaleHits are values that were served from the cache.
	FreshHits, StaleHits uint64
	// NotFoundHits and FailedHits are markers that were served: of keys that
	// the origin does not have, and of loads that failed elsewhere.
	NotFoundHits, FailedHits uint64
	// Wins are leases won, Waits callers that waited for another's load, and
	// Takeovers leases that were taken from a holder believed dead.
	Wins, Waits, Takeovers uint64
	// Fills were kept, Refused were not, by Refusal.
	Fills   uint64
	Refused [refusals]uint64
	// Loads were begun, a batched one counts once. LoadErrors of them failed.
	// Shed were not begun because of MaxLoads.
	Loads, LoadErrors, Shed uint64
	// StaleOnError are failed refills of a value that goes on being served.
	StaleOnError uint64
	// EarlyRefreshes are refills before the value was due.
	EarlyRefreshes uint64
	// Loading is how many loads are running.
	Loading int
	// LoadTimes counts loads by how long they took; see LoadBuckets.
	LoadTimes [len(LoadBuckets) + 1]uint64
	// LoadTime is how long all loads together took.
	LoadTime time.Duration
}

type counters struct {
	freshHits, staleHits, notFoundHits, failedHits atomic.Uint64
	wins, waits, takeovers, fills                  atomic.Uint64
	refused                                        [refusals]atomic.Uint64
	loads, loadErrors, shed, staleOnError, early   atomic.Uint64
	loadTimes                                      [len(LoadBuckets) + 1]atomic.Uint64
	loadTime                                       atomic.Int64
}

// Stats gives the counters.
func (c *Cache) Stats() Stats {
	n := &c.counters
	s := Stats{
		FreshHits: n.freshHits.Load(), StaleHits: n.staleHits.Load(),
		NotFoundHits: n.notFoundHits.Load(), FailedHits: n.failedHits.Load(),
		Wins: n.wins.Load(), Waits: n.waits.Load(), Takeovers: n.takeovers.Load(), Fills: n.fills.Load(),
		Loads: n.loads.Load(), LoadErrors: n.loadErrors.Load(), Shed: n.shed.Load(),
		StaleOnError: n.staleOnError.Load(), EarlyRefreshes: n.early.Load(),
		Loading: len(c.slots), LoadTime: time.Duration(n.loadTime.Load()),
	}
	for i := range n.refused {
		s.Refused[i] = n.refused[i].Load()
	}
	for i := range n.loadTimes {
		s.LoadTimes[i] = n.loadTimes[i].Load()
	}
	return s
}

// Hooks are called as things happen, from the goroutine in which they do and
// with no lock held. Each may be nil. They must return quickly.
type Hooks struct {
	// Hit: a value was served from the cache.
	Hit func(key string, stale bool)
	// Marker: the cache said that there is no value. err is ErrNotFound, or
	// ErrLoadFailed with the failure's text.
	Marker func(key string, err error)
	// Won: this Cache has the lease. early tells that the value is not due.
	Won func(key string, early bool)
	// Waited: a caller waited for a load, of its own process or another.
	Waited func(key string, took time.Duration, err error)
	// TookOver: the lease was taken from a holder believed dead.
	TookOver func(key string)
	// Filled: a value was stored, or refused for the reason in err.
	Filled func(key string, err error)
	// Loaded: a loader ended.
	Loaded func(keys int, took time.Duration, err error)
	// Shed: a load was not begun because of MaxLoads.
	Shed func(key string)
	// ServedOnError: a refill failed and the stale value goes on being served.
	ServedOnError func(key string, err error)
}

func (c *Cache) noteHit(key string, v verdict) {
	if v == stale {
		c.counters.staleHits.Add(1)
	} else {
		c.counters.freshHits.Add(1)
	}
	if hook := c.cfg.Hooks.Hit; hook != nil {
		hook(key, v == stale)
	}
}

func (c *Cache) noteMarker(key string, err error) {
	if errors.Is(err, ErrNotFound) {
		c.counters.notFoundHits.Add(1)
	} else {
		c.counters.failedHits.Add(1)
	}
	if hook := c.cfg.Hooks.Marker; hook != nil {
		hook(key, err)
	}
}

func (c *Cache) noteWon(key string, early bool) {
	c.counters.wins.Add(1)
	if early {
		c.counters.early.Add(1)
	}
	if hook := c.cfg.Hooks.Won; hook != nil {
		hook(key, early)
	}
}

func (c *Cache) noteWaited(key string, began time.Time, err error) {
	c.counters.waits.Add(1)
	if hook := c.cfg.Hooks.Waited; hook != nil {
		hook(key, time.Since(began), err)
	}
}

func (c *Cache) noteTookOver(key string) {
	c.counters.takeovers.Add(1)
	if hook := c.cfg.Hooks.TookOver; hook != nil {
		hook(key)
	}
}

func (c *Cache) noteFill(key string, err error) {
	if err == nil {
		c.counters.fills.Add(1)
	} else {
		c.counters.refused[refusal(err)].Add(1)
	}
	if hook := c.cfg.Hooks.Filled; hook != nil {
		hook(key, err)
	}
}

func (c *Cache) noteLoaded(keys int, took time.Duration, err error) {
	i := 0
	for i < len(LoadBuckets) && took > LoadBuckets[i] {
		i++
	}
	c.counters.loadTimes[i].Add(1)
	c.counters.loadTime.Add(int64(took))
	if err != nil && !errors.Is(err, ErrNotFound) {
		c.counters.loadErrors.Add(1)
	} else {
		c.cost.add(took)
	}
	if hook := c.cfg.Hooks.Loaded; hook != nil {
		hook(keys, took, err)
	}
}

func (c *Cache) noteShed(key string) {
	c.counters.shed.Add(1)
	if hook := c.cfg.Hooks.Shed; hook != nil {
		hook(key)
	}
}
