package memnode

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// Injection is a fault that was injected. Its methods are safe for concurrent
// use.
type Injection struct {
	fault Fault
	match []func(*memcached.Request) bool
	first int // the requests that match and pass before it strikes
	times int // how often it strikes from then on; negative for ever

	script   *script
	seen     int // requests that matched; guarded by script.mu
	struck   int // guarded by script.mu
	hit      chan struct{}
	hitOnce  sync.Once
	released chan struct{}
	freeOnce sync.Once
}

// When says which requests a fault strikes. Without any it strikes the next
// request, once.
type When func(*Injection)

// On limits the fault to these commands.
func On(commands ...memcached.Command) When {
	return Matching(func(r *memcached.Request) bool { return slices.Contains(commands, r.Command) })
}

// Key limits the fault to requests of this key, alone or among others. A key in
// base64 counts as it is written.
func Key(key string) When {
	return Matching(func(r *memcached.Request) bool {
		return string(r.Key) == key || slices.ContainsFunc(r.Keys, func(k []byte) bool { return string(k) == key })
	})
}

// Matching limits the fault to requests that f holds true. f is called from the
// connections' goroutines, one call at a time. It must not keep the request,
// nor call the node.
func Matching(f func(*memcached.Request) bool) When {
	return func(in *Injection) { in.match = append(in.match, f) }
}

// Nth lets n-1 requests pass that would be struck. Nth(1) is the next one.
func Nth(n int) When { return func(in *Injection) { in.first = n - 1 } }

// Times makes the fault strike n requests in a row, of those it is limited to,
// where n is at least 1.
func Times(n int) When { return func(in *Injection) { in.times = max(1, n) } }

// Always makes the fault strike until it is removed.
func Always() When { return func(in *Injection) { in.times = -1 } }

// Inject makes requests suffer a fault. Of several faults that would strike a
// request the one that was injected first does.
func (n *Node) Inject(f Fault, when ...When) *Injection {
	in := &Injection{fault: f, times: 1, script: &n.script, hit: make(chan struct{}), released: make(chan struct{})}
	for _, w := range when {
		w(in)
	}
	n.script.add(in)
	return in
}

// Hit is closed when the fault has struck for the first time, its request
// carried out and its reply not sent yet.
func (in *Injection) Hit() <-chan struct{} { return in.hit }

// Struck tells how many requests the fault has struck.
func (in *Injection) Struck() int {
	in.script.mu.Lock()
	defer in.script.mu.Unlock()
	return in.struck
}

// Release lets go of the replies that Stall and Slow hold, and of those they
// will strike from now on.
func (in *Injection) Release() { in.freeOnce.Do(func() { close(in.released) }) }

// Remove ends the injection, and releases.
func (in *Injection) Remove() {
	in.script.remove(in)
	in.Release()
}

func (in *Injection) note() { in.hitOnce.Do(func() { close(in.hit) }) }

// script is the list of faults of a node.
type script struct {
	active atomic.Bool // there are any: without them a request takes no lock

	mu   sync.Mutex // guards what follows and the counts of the injections
	list []*Injection
}

func (s *script) add(in *Injection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, in)
	s.active.Store(true)
}

func (s *script) remove(in *Injection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(s.list, func(other *Injection) bool { return other == in })
	s.active.Store(len(s.list) > 0)
}

// match gives the injection that strikes the request, or nil.
func (s *script) match(r *memcached.Request) *Injection {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, in := range s.list {
		if !in.strikes(r) {
			continue
		}
		if in.struck == in.times { // spent
			s.list = slices.Delete(s.list, i, i+1)
			s.active.Store(len(s.list) > 0)
		}
		return in
	}
	return nil
}

// strikes counts the request if it matches.
func (in *Injection) strikes(r *memcached.Request) bool {
	for _, m := range in.match {
		if !m(r) {
			return false
		}
	}
	in.seen++
	if in.seen <= in.first {
		return false
	}
	in.struck++
	return true
}
