package sidecar

import (
	"errors"
	"sync"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/proto/memcached"
)

// A collapser has concurrent gets of one key share requests to its node.
//
// A get may not join a request that was sent before it came: a set may have
// been acknowledged in between, by this sidecar or by anybody else, and the
// node may have answered that request before the set. The get would then miss
// a write that had ended before it began. So a get joins only what has not
// been sent: while a request for its key is under way, all that come wait for
// the next one, which one of them sends when the first is back. What each is
// told was read from the node after it had come. A key has at most one request
// under way, however many ask for it; a get waits at most two round trips.
//
// Only an exchange of nothing but gets of one key takes part. One with a write
// in it has its own order to keep, and one with other keys could be held up by
// their nodes and hold up all those who wait for it.
type collapser struct {
	// mu guards busy: the keys with a request under way, each with those that
	// wait for the next one, nil if nobody does.
	mu   sync.Mutex
	busy map[string]*sharedGet
}

// A sharedGet is a request that was not sent when it was joined.
type sharedGet struct {
	lead   chan struct{} // has a token for the one who is to send it
	done   chan struct{} // closed when result is there
	result getResult
}

type getResult struct {
	value []byte
	flags uint32
	casID uint64
	found bool
	err   error
}

// get gives what fetch gave to this caller or to another.
func (c *collapser) get(key string, fetch func() getResult) (r getResult, joined bool) {
	c.mu.Lock()
	next, busy := c.busy[key]
	if !busy {
		c.busy[key] = nil
		c.mu.Unlock()
		defer c.pass(key)
		return fetch(), false
	}
	if next == nil {
		next = &sharedGet{lead: make(chan struct{}, 1), done: make(chan struct{})}
		c.busy[key] = next
	}
	c.mu.Unlock()
	select {
	case <-next.lead:
		defer c.pass(key)
		defer close(next.done)
		next.result = fetch()
		return next.result, false
	case <-next.done:
		return next.result, true
	}
}

// pass has those who wait for a key send their request. From here on nobody
// joins it.
func (c *collapser) pass(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.busy[key]
	if next == nil {
		delete(c.busy, key)
		return
	}
	c.busy[key] = nil
	next.lead <- struct{}{}
}

// onlyKey is the one key that an exchange of gets is about.
func (x *exchange) onlyKey() (string, bool) {
	if x.batch.Len() == 0 {
		return "", false
	}
	key := x.batch.Key(0)
	for i := range x.steps {
		if x.steps[i].req.Command != memcached.Get || x.steps[i].refused != "" {
			return "", false
		}
	}
	for i := range x.batch.Len() {
		if x.batch.Key(i) != key {
			return "", false
		}
	}
	return key, true
}

// collapse carries out an exchange that can share its request. It gives false
// for others.
func (x *exchange) collapse(m *memcachedServer) bool {
	if !m.s.cfg.CollapseGets {
		return false
	}
	key, ok := x.onlyKey()
	if !ok {
		return false
	}
	r, joined := m.collapser.get(key, func() (r getResult) {
		var b client.Batch
		b.Get(key)
		_ = m.s.client.Do(m.life, &b) // Err has it
		if r.value, r.flags, r.casID, r.found = b.Read(0); !r.found {
			r.err = b.Err(0)
		}
		return r
	})
	if joined {
		m.s.metrics.collapsed.Inc()
	}
	x.shared = &r
	return true
}

// read is the result of a get of the batch, or of what was sent in its place.
func (x *exchange) read(i int) (r getResult) {
	if x.shared != nil {
		return *x.shared
	}
	if r.value, r.flags, r.casID, r.found = x.batch.Read(i); !r.found {
		r.err = x.batch.Err(i)
	}
	return r
}

func (r *getResult) failed() bool { return !r.found && !errors.Is(r.err, client.ErrCacheMiss) }
