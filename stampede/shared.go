package stampede

import (
	"context"
	"errors"
)

// shared is a Store for keys that classic clients read too. They take a stub
// for an empty value and a value marked stale for a fresh one, so neither is
// ever left on such a key. The lease of a missing key is that of another, the
// companion, which nobody else reads. A value that is due early has its lease
// on itself, as that is not to be seen by a plain get.
//
// The fence is in two steps. A fill adds the value, then looks whether the
// companion still stands as it was won; where it does not it removes what it
// added. An invalidation removes the companion first and the key after. So an
// old value that lands is removed, by the one or by the other, but for a
// moment it can be read.
type shared struct{ Store }

// companionPrefix is short, as it counts towards the 250 bytes of a key.
const companionPrefix = "__ringside__.lease:"

func companion(key string) string { return companionPrefix + key }

// ReadLeased asks for the values first, and for the companions of those that
// are missing where their leases are wanted.
func (s shared) ReadLeased(ctx context.Context, reads []Read) []Reply {
	plain := make([]Read, len(reads))
	for i, r := range reads {
		plain[i] = Read{Key: r.Key, Early: r.Early}
	}
	replies := s.Store.ReadLeased(ctx, plain)
	var asks []Read
	var of []int // the place in replies of each ask
	for i := range replies {
		r := &replies[i]
		if r.Found {
			// There are no stubs here, so an empty value is one.
			r.Flags = flagValue
		}
		if r.Err != nil || r.Found || reads[i].Lease <= 0 {
			continue
		}
		ask := reads[i]
		ask.Key, ask.Early, ask.Grace = companion(ask.Key), 0, 0
		asks, of = append(asks, ask), append(of, i)
	}
	if len(asks) == 0 {
		return replies
	}
	for j, lease := range s.Store.ReadLeased(ctx, asks) {
		r := &replies[of[j]]
		r.Err, r.Won, r.Taken, r.Lease, r.StandIn = lease.Err, lease.Won, lease.Taken, lease.Lease, lease.StandIn
		if errors.Is(r.Err, ErrBadKey) {
			// The companion's is too long. The key itself was fine.
			r.Err = nil
		}
	}
	return replies
}

// WriteLeased turns writes under a companion's lease into the two steps.
func (s shared) WriteLeased(ctx context.Context, writes []Write) []Result {
	results := make([]Result, len(writes))
	for i := range writes {
		results[i] = s.write(ctx, writes[i])
	}
	return results
}

func (s shared) one(ctx context.Context, w Write) Result {
	return s.Store.WriteLeased(ctx, []Write{w})[0]
}

func (s shared) write(ctx context.Context, w Write) Result {
	switch w.Kind {
	case Delete, Invalidate:
		first := s.one(ctx, Write{Kind: Delete, Key: companion(w.Key)})
		second := s.one(ctx, Write{Kind: Delete, Key: w.Key})
		if second.Err == nil && !errors.Is(first.Err, ErrBadKey) {
			second.Err = first.Err
		}
		return second
	case Fill:
		if key, ok := mainKey(w.Lease.Key); ok {
			return s.fill(ctx, key, w)
		}
	case Reopen:
		if _, ok := mainKey(w.Lease.Key); !ok {
			// The win token of a value that is due early. To give it back would
			// mark the value stale; it expires soon, and without a lease.
			return Result{}
		}
	}
	return s.one(ctx, w)
}

// mainKey is the key of which another is the companion.
func mainKey(key string) (string, bool) {
	if len(key) > len(companionPrefix) && key[:len(companionPrefix)] == companionPrefix {
		return key[len(companionPrefix):], true
	}
	return "", false
}

func (s shared) fill(ctx context.Context, key string, w Write) Result {
	added := s.one(ctx, Write{Kind: Add, Key: key, Value: w.Value, Flags: w.Flags, TTL: w.TTL})
	if added.Err != nil {
		s.one(ctx, Write{Kind: Remove, Lease: w.Lease})
		return added
	}
	now := s.Store.ReadLeased(ctx, []Read{{Key: w.Lease.Key}})[0]
	if now.Err == nil && now.Found && now.Lease == w.Lease {
		s.one(ctx, Write{Kind: Remove, Lease: w.Lease})
		return added
	}
	s.one(ctx, Write{Kind: Remove, Lease: added.Lease})
	if now.Err != nil {
		return Result{Err: now.Err}
	}
	return Result{Err: ErrChanged}
}
