package stampede

import (
	"context"
	"time"
)

// A Store is a cache, or a fleet of them, whose items carry leases. Each
// method makes one round trip for all that it is given, and answers in the
// order asked. client.Client is a Store.
type Store interface {
	// ReadLeased reads keys and asks for their leases. There is a Reply for
	// each Read, with what went wrong for this one in its Err.
	ReadLeased(ctx context.Context, reads []Read) []Reply
	// WriteLeased fills, ends leases and invalidates. There is a Result for
	// each Write.
	WriteLeased(ctx context.Context, writes []Write) []Result
}

// A Read asks for a key, and for its lease where the key is missing, stale or
// due.
type Read struct {
	Key string
	// Lease, if above 0, has a missing key leave a stub that stands for the
	// lease and goes away by itself after so long.
	Lease time.Duration
	// A value with less than Grace+Early left is due. On a stand-in neither
	// counts, as values live shorter there.
	Grace, Early time.Duration
	// Reopen, if not zero, is a lease to be taken from its holder before the
	// read. Nothing happens where the item has changed.
	Reopen Lease
	// ReopenStub, if above 0, tells that Reopen stands on a stub, which is
	// given so long to live.
	ReopenStub time.Duration
}

// A Reply is the state of an item.
type Reply struct {
	Err error
	// Found tells that there is an item: a value, or the stub of a lease,
	// which has no bytes.
	Found bool
	Value []byte
	Flags uint32
	// Left is how long the item will still be there, below 0 if for ever.
	Left time.Duration
	// Won: the lease is this reader's. Taken: it is somebody else's. Stale:
	// the item was invalidated.
	Won, Taken, Stale bool
	// StandIn: the key's owner is out, and another node answered.
	StandIn bool
	// Lease names the item in this state, won or not.
	Lease Lease
}

// A Lease names an item in one state: a write that carries it does nothing
// once the item has changed.
type Lease struct {
	Key string
	// CAS is the id of the state, never 0.
	CAS uint64
	// Node and Generation are the node and the connection that it was read
	// over. It means nothing on others, as ids repeat after a restart.
	Node       string
	Generation uint64
}

// A WriteKind is what a Write does.
type WriteKind uint8

const (
	// Fill stores Value in place of the item of Lease.
	Fill WriteKind = iota
	// Add stores Value under Key if nothing is there, and its Result has the
	// Lease that names the new item.
	Add
	// Reopen gives the Lease of a value up: the value is stale, and the next
	// reader wins.
	Reopen
	// Remove removes the item of Lease.
	Remove
	// Invalidate marks the value of Key stale and lets it live TTL from now.
	// A key that is not there is no error.
	Invalidate
	// Delete removes Key. A key that is not there is no error.
	Delete
)

// A Write changes an item. The zero Kind is Fill.
type Write struct {
	Kind  WriteKind
	Lease Lease  // of Fill, Reopen and Remove
	Key   string // of Add, Invalidate and Delete
	Value []byte
	Flags uint32
	// Fill and Add let the item live TTL+Grace. On a stand-in it is TTL, and
	// shorter if the store says so.
	TTL, Grace time.Duration
}

// A Result is what became of a Write. Err is nil, or answers errors.Is with
// ErrChanged, ErrGone, ErrUnbound, ErrTooLarge or ErrOwnerDown where that is
// the cause.
type Result struct {
	Err   error
	Lease Lease
}
