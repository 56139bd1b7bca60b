package stampede

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

var (
	// ErrNotFound is what a loader returns, as it is or wrapped, when the
	// origin has nothing under the key. Callers get it back, and for
	// Config.NotFoundTTL from the cache.
	ErrNotFound = errors.New("stampede: the origin has no such key")
	// ErrOriginBusy is returned when Config.MaxLoads loads are running and no
	// stale value is there to be served.
	ErrOriginBusy = errors.New("stampede: too many loads at a time")
	// ErrLoadFailed is returned for Config.ErrorTTL after a load that failed, in
	// this process or another, with the first line of that failure's text.
	ErrLoadFailed = errors.New("stampede: the load failed elsewhere")
	// ErrLoadTimeout is returned when a loader took longer than
	// Config.LoadTimeout. It is context.DeadlineExceeded to errors.Is too.
	ErrLoadTimeout error = loadTimeout{}
	// ErrLoadPanicked is returned when a loader panicked, with its message and
	// its stack.
	ErrLoadPanicked = errors.New("stampede: the loader panicked")
	// ErrOwnerDown is returned by Invalidate, Delete and Refresh when the
	// key's owner is out. What was asked for was done on the stand-in, if there
	// is one, but the owner will come back with the old value.
	ErrOwnerDown = errors.New("stampede: the key's owner is out, its old value may come back with it")
	// ErrStillStale is returned by Refresh when others changed the item again
	// and again, and its old value may still be served.
	ErrStillStale = errors.New("stampede: the old value may still be served")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("stampede: the cache is closed")
	// ErrDecode is returned by a TypedCache for a cached value that its codec
	// can not read.
	ErrDecode = errors.New("stampede: can not decode the cached value")
)

// What a Store answers with.
var (
	// ErrChanged: the item is no longer in the state that the Lease names.
	ErrChanged = errors.New("stampede: the item has changed")
	// ErrGone: the item is not there any more.
	ErrGone = errors.New("stampede: the item is gone")
	// ErrUnbound: the node or the connection that the Lease came from is not
	// in use any more, so nothing was sent.
	ErrUnbound = errors.New("stampede: the lease's node or connection is gone")
	// ErrTooLarge: the value is larger than the node takes.
	ErrTooLarge = errors.New("stampede: the value is too large")
	// ErrBadKey: no cache could take this key. Fetch returns it and loads
	// nothing.
	ErrBadKey = errors.New("stampede: the key can not be cached")
)

type loadTimeout struct{}

func (loadTimeout) Error() string        { return "stampede: the loader took longer than LoadTimeout" }
func (loadTimeout) Timeout() bool        { return true }
func (loadTimeout) Is(target error) bool { return target == context.DeadlineExceeded }

// MultiError lists the keys of a FetchMulti that have no value, and why. Those
// that the origin does not have are not in it.
type MultiError struct {
	// Errors has the reason for each key.
	Errors map[string]error
	// Total is the number of different keys that were asked for.
	Total int
}

// Error tells how many keys failed and up to three different reasons. It names
// no key, since keys carry user ids; the reasons may.
func (e *MultiError) Error() string {
	count := make(map[string]int)
	for _, err := range e.Errors {
		count[err.Error()]++
	}
	reasons := make([]string, 0, len(count))
	for text, n := range count {
		reasons = append(reasons, fmt.Sprintf("%d: %s", n, text))
	}
	slices.Sort(reasons)
	const most = 3
	if more := len(reasons) - most; more > 0 {
		reasons = append(reasons[:most], fmt.Sprintf("and %d other reasons", more))
	}
	return fmt.Sprintf("stampede: %d of %d keys failed; %s", len(e.Errors), e.Total, strings.Join(reasons, "; "))
}

// Unwrap gives every failure to errors.Is and errors.As.
func (e *MultiError) Unwrap() []error {
	errs := make([]error, 0, len(e.Errors))
	for _, err := range e.Errors {
		errs = append(errs, err)
	}
	return errs
}
