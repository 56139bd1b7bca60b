package stampede_test

import (
	"context"
	"sync"
	"time"

	"github.com/ringside-cache/ringside/stampede"
)

// A fakeStore is a Store in memory, with memcached's rules: win tokens that
// never end by themselves, and a new CAS id with each change.
type fakeStore struct {
	mu      sync.Mutex
	items   map[string]*fakeItem
	cas     uint64
	err     error // of everything
	standIn bool
	reads   int // keys that were read
	trips   int
}

type fakeItem struct {
	value        []byte
	flags        uint32
	cas          uint64
	expires      time.Time
	token, stale bool
}

func newFakeStore() *fakeStore { return &fakeStore{items: make(map[string]*fakeItem)} }

func (f *fakeStore) get(key string) *fakeItem {
	i := f.items[key]
	if i != nil && !time.Now().Before(i.expires) {
		delete(f.items, key)
		return nil
	}
	return i
}

func (f *fakeStore) put(key string, i fakeItem) *fakeItem {
	f.cas++
	i.cas = f.cas
	f.items[key] = &i
	return &i
}

func (f *fakeStore) reopen(i *fakeItem) {
	f.cas++
	i.cas, i.token, i.stale = f.cas, false, true
}

func (f *fakeStore) ReadLeased(ctx context.Context, reads []stampede.Read) []stampede.Reply {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trips++
	replies := make([]stampede.Reply, len(reads))
	for n, r := range reads {
		f.reads++
		p := &replies[n]
		if p.Err = f.err; ctx.Err() != nil {
			p.Err = ctx.Err()
		}
		if p.Err != nil {
			continue
		}
		p.StandIn = f.standIn
		i := f.get(r.Key)
		if i != nil && r.Reopen.CAS == i.cas {
			f.reopen(i)
		}
		due := r.Grace + r.Early
		switch {
		case i == nil && r.Lease == 0:
			continue
		case i == nil:
			i = f.put(r.Key, fakeItem{expires: time.Now().Add(r.Lease), token: true})
			p.Won = true
		case i.token:
			p.Taken = true
		case i.stale || time.Until(i.expires) < due && !f.standIn:
			i.token, p.Won = true, true
		}
		p.Found, p.Value, p.Flags, p.Left, p.Stale = true, i.value, i.flags, time.Until(i.expires), i.stale
		p.Lease = stampede.Lease{Key: r.Key, CAS: i.cas}
	}
	return replies
}

func (f *fakeStore) WriteLeased(_ context.Context, writes []stampede.Write) []stampede.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trips++
	results := make([]stampede.Result, len(writes))
	for n, w := range writes {
		p := &results[n]
		if p.Err = f.err; p.Err != nil {
			continue
		}
		key := w.Key + w.Lease.Key // one of them
		i := f.get(key)
		fenced := w.Kind == stampede.Fill || w.Kind == stampede.Reopen || w.Kind == stampede.Remove
		switch {
		case fenced && i == nil:
			p.Err = stampede.ErrGone
		case fenced && i.cas != w.Lease.CAS, w.Kind == stampede.Add && i != nil:
			p.Err = stampede.ErrChanged
		case w.Kind == stampede.Fill, w.Kind == stampede.Add:
			i = f.put(key, fakeItem{value: w.Value, flags: w.Flags, expires: time.Now().Add(w.TTL + w.Grace)})
			p.Lease = stampede.Lease{Key: key, CAS: i.cas}
		case w.Kind == stampede.Remove, w.Kind == stampede.Delete:
			delete(f.items, key)
		case i != nil: // Reopen, Invalidate
			f.reopen(i)
			if w.Kind == stampede.Invalidate {
				i.expires = time.Now().Add(w.TTL)
			}
		}
		if p.Err == nil && f.standIn && (w.Kind == stampede.Invalidate || w.Kind == stampede.Delete) {
			p.Err = stampede.ErrOwnerDown
		}
	}
	return results
}
