package stampede_test

import (
	"context"
	"sync"
	"time"

	"github.com/ringside-cache/ringside/stampede"
)

// A fakeStore is a Store in memory with memcached's rules.
type fakeStore struct {
	mu    sync.Mutex
	items map[string]*fakeItem
	cas   uint64
}

type fakeItem struct {
	value        []byte
	flags        uint32
	cas          uint64
	expires      time.Time
	token, stale bool
}

func (i *fakeItem) left() time.Duration { return time.Until(i.expires).Truncate(time.Second) }

func (f *fakeStore) get(key string) *fakeItem {
	if i := f.items[key]; i != nil && time.Now().Before(i.expires) {
		return i
	}
	delete(f.items, key)
	return nil
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

func (f *fakeStore) ReadLeased(_ context.Context, reads []stampede.Read) []stampede.Reply {
	f.mu.Lock()
	defer f.mu.Unlock()
	replies := make([]stampede.Reply, len(reads))
	for n, r := range reads {
		p, i := &replies[n], f.get(r.Key)
		if i != nil && r.Reopen.CAS == i.cas {
			f.reopen(i)
		}
		switch {
		case i == nil && r.Lease == 0:
			continue
		case i == nil:
			i = f.put(r.Key, fakeItem{expires: time.Now().Add(r.Lease), token: true})
			p.Won = true
		case i.token:
			p.Taken = true
		case i.stale || i.left() < r.Grace+r.Early:
			i.token, p.Won = true, true
		}
		p.Found, p.Value, p.Flags, p.Left, p.Stale = true, i.value, i.flags, i.left(), i.stale
		p.Lease = stampede.Lease{Key: r.Key, CAS: i.cas}
	}
	return replies
}

func (f *fakeStore) WriteLeased(_ context.Context, writes []stampede.Write) []stampede.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	results := make([]stampede.Result, len(writes))
	for n, w := range writes {
		key, fenced := w.Key+w.Lease.Key, w.Lease.CAS != 0 // one of them
		i := f.get(key)
		switch {
		case fenced && i == nil:
			results[n].Err = stampede.ErrGone
		case fenced && i.cas != w.Lease.CAS, w.Kind == stampede.Add && i != nil:
			results[n].Err = stampede.ErrChanged
		case w.Kind == stampede.Fill, w.Kind == stampede.Add:
			i = f.put(key, fakeItem{value: w.Value, flags: w.Flags, expires: time.Now().Add(w.TTL + w.Grace)})
			results[n].Lease = stampede.Lease{Key: key, CAS: i.cas}
		case w.Kind == stampede.Remove, w.Kind == stampede.Delete:
			delete(f.items, key)
		case i != nil: // Reopen, Invalidate
			f.reopen(i)
			if w.Kind == stampede.Invalidate {
				i.expires = time.Now().Add(w.TTL)
			}
		}
	}
	return results
}
