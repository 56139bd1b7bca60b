package stampede

import (
	"fmt"
	"strings"
	"time"
)

// The client flags tell what an item is. An empty item without them is the
// stub of a lease, or a stub that was invalidated: no value.
const (
	flagMask       uint32 = 0xfffffff0
	flagBase       uint32 = 0x52534400
	flagValue             = flagBase | 1
	flagNotFound          = flagBase | 2 // a marker: the origin has nothing
	flagFailed            = flagBase | 3 // a marker: the load failed, with the error's text
	flagUncachable        = flagBase | 4 // a marker: loaded, and not to be kept
)

// A verdict is what a reply means to a reader.
type verdict uint8

const (
	fresh      verdict = iota // serve the value
	stale                     // serve the value, which is due or was invalidated
	missing                   // there is no value
	notFound                  // a marker says that the origin has none
	failed                    // a marker says that the load failed
	uncachable                // a marker says that the value is not kept
	unknown                   // the store could not be asked
)

// judge tells what a reply means where values have grace. It is the state
// diagram of docs/stampede.md.
func judge(r *Reply, grace time.Duration) verdict {
	if r.Err != nil {
		return unknown
	}
	if !r.Found {
		return missing
	}
	if r.StandIn {
		grace = 0
	}
	// As memcached compares R, or a marker would be nobody's to replace for a
	// second, and all who read it would load.
	due := r.Stale || r.Left >= 0 && r.Left < grace
	if r.Flags&flagMask != flagBase {
		if len(r.Value) == 0 && (r.Won || r.Taken || r.Stale) {
			return missing // a stub
		}
		return value(due) // not stored by this package
	}
	switch {
	case r.Flags == flagValue:
		return value(due)
	case due:
		return missing // a marker is not served past its time
	case r.Flags == flagNotFound:
		return notFound
	case r.Flags == flagFailed:
		return failed
	case r.Flags == flagUncachable:
		return uncachable
	}
	return missing
}

func value(due bool) verdict {
	if due {
		return stale
	}
	return fresh
}

// isStub tells that the item is a lease without a value.
func (r *Reply) isStub() bool { return len(r.Value) == 0 && r.Flags&flagMask != flagBase }

// IsMarker tells by an item's client flags that it is no value, but tells that
// there is none: for those who read keys of a Cache without one.
func IsMarker(flags uint32) bool {
	return flags == flagNotFound || flags == flagFailed || flags == flagUncachable
}

// has tells whether there is a value to be served.
func (v verdict) has() bool { return v == fresh || v == stale }

// remoteFailure is the error for a marker of a failed load.
func remoteFailure(r *Reply) error { return fmt.Errorf("%w: %s", ErrLoadFailed, r.Value) }

// failureText is what a marker keeps of an error.
func failureText(err error) []byte {
	const limit = 200
	text, _, _ := strings.Cut(err.Error(), "\n") // a panic's stack follows
	return []byte(strings.ToValidUTF8(text[:min(len(text), limit)], ""))
}

// nonNil is the value as callers get it.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
