package stampede

import (
	"sync"
	"sync/atomic"
	"time"
)

// A watch remembers since when leases that others hold have stood. A lease
// never ends by itself, so where its holder died somebody has to see that
// nothing changes.
type watch struct {
	// n is the number of entries, to pass by the lock while there are none.
	n atomic.Int64

	// mu guards seen and swept.
	mu    sync.Mutex
	seen  map[string]*sighting
	swept time.Time
}

// A sighting is a lease in the state that it was first seen in.
type sighting struct {
	lease Lease
	since time.Time
	last  time.Time
}

// maxWatched bounds the table. A process that sees more leases of others than
// this within Lease leaves takeovers of the rest to other processes.
const maxWatched = 16384

// taken notes that somebody else has the lease. overdue tells that it has
// stood for limit, to one caller for each time it passes.
func (w *watch) taken(lease Lease, now time.Time, limit time.Duration) (overdue bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.seen[lease.Key]
	if s == nil {
		if len(w.seen) >= maxWatched && !w.sweep(now, 2*limit) {
			return false
		}
		if w.seen == nil {
			w.seen = make(map[string]*sighting)
		}
		s = &sighting{}
		w.seen[lease.Key] = s
		w.n.Store(int64(len(w.seen)))
	}
	s.last = now
	if s.lease != lease {
		s.lease, s.since = lease, now
		return false
	}
	if now.Sub(s.since) < limit {
		return false
	}
	s.since = now // should the attempt be lost, another comes after limit
	return true
}

// sweep removes what was not seen for age, and tells whether there is room. It
// does so once a second, as it looks at everything.
func (w *watch) sweep(now time.Time, age time.Duration) bool {
	if now.Sub(w.swept) < time.Second {
		return false
	}
	w.swept = now
	for key, s := range w.seen {
		if now.Sub(s.last) > age {
			delete(w.seen, key)
		}
	}
	w.n.Store(int64(len(w.seen)))
	return len(w.seen) < maxWatched
}

// free notes that nobody has the lease.
func (w *watch) free(key string) {
	if w.n.Load() == 0 {
		return
	}
	w.mu.Lock()
	delete(w.seen, key)
	w.n.Store(int64(len(w.seen)))
	w.mu.Unlock()
}
