package stampede

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// shared is a Store for keys that classic clients read too. They take a stub
// for an empty value and a value marked stale for a fresh one, so neither is
// ever left on such a key. The lease of a missing key is that of another, the
// companion, which nobody else reads. A value that is due early has its lease
// on itself, as that is not to be seen by a plain get.
//
// The fence is in two steps. A fill adds the value for a short time, then looks
// whether the companion still stands as it was won; where it does the value
// gets its full time, where it does not it is removed. An invalidation removes
// the companion first and the key after. So an old value that lands is removed,
// by the one or by the other, or by its short time; but until then it can be
// read.
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

// standTime is how long an added value stands before its filler has looked at
// the lease. Should that die in between, what is old is gone then.
const standTime = 3 * time.Second

// WriteLeased turns writes under a companion's lease into the two steps, and
// makes one round trip of each step for all of them.
func (s shared) WriteLeased(ctx context.Context, writes []Write) []Result {
	results := make([]Result, len(writes))
	var first, last steps
	var looks []Read
	var fills []int
	for i, w := range writes {
		key, ofCompanion := mainKey(w.Lease.Key)
		switch {
		case w.Kind == Delete, w.Kind == Invalidate:
			first.add(i, Write{Kind: Delete, Key: companion(w.Key)})
			last.add(i, Write{Kind: Delete, Key: w.Key})
		case w.Kind == Fill && ofCompanion:
			first.add(i, Write{Kind: Add, Key: key, Value: w.Value, Flags: w.Flags, TTL: min(w.TTL, standTime)})
			looks, fills = append(looks, Read{Key: w.Lease.Key}), append(fills, i)
		case w.Kind == Reopen && !ofCompanion:
			// The win token of a value that is due early. To give it back would
			// mark the value stale; it expires soon, and without a lease.
		default:
			first.add(i, w)
		}
	}
	added := make([]Lease, len(writes))
	first.run(ctx, s.Store, func(i int, r Result) {
		results[i], added[i] = r, r.Lease
		if errors.Is(r.Err, ErrBadKey) && last.has(i) {
			results[i] = Result{} // the companion's is too long, so there is none
		}
	})
	if len(looks) > 0 {
		for j, now := range s.Store.ReadLeased(ctx, looks) {
			i := fills[j]
			w := writes[i]
			stands := now.Err == nil && now.Found && now.Lease == w.Lease
			switch {
			case results[i].Err != nil: // not added
			case stands:
				last.add(i, Write{Kind: Fill, Lease: added[i], Value: w.Value, Flags: w.Flags, TTL: w.TTL})
			default:
				last.add(i, Write{Kind: Remove, Lease: added[i]})
				results[i].Err = ErrChanged
				if now.Err != nil {
					results[i].Err = now.Err
				}
			}
			if stands {
				last.add(-1, Write{Kind: Remove, Lease: w.Lease})
			}
		}
	}
	last.run(ctx, s.Store, func(i int, r Result) {
		if i >= 0 && results[i].Err == nil {
			results[i] = r
		}
	})
	return results
}

// steps are writes of one round trip, each for the write at a place; at -1 for
// none.
type steps struct {
	writes []Write
	places []int
}

func (s *steps) add(place int, w Write) {
	s.writes, s.places = append(s.writes, w), append(s.places, place)
}

func (s *steps) has(place int) bool { return slices.Contains(s.places, place) }

func (s *steps) run(ctx context.Context, store Store, each func(place int, r Result)) {
	if len(s.writes) == 0 {
		return
	}
	for i, r := range store.WriteLeased(ctx, s.writes) {
		each(s.places[i], r)
	}
}

// mainKey is the key of which another is the companion.
func mainKey(key string) (string, bool) { return strings.CutPrefix(key, companionPrefix) }
