package bench

import (
	"time"

	"github.com/ringside-cache/ringside/stampede"
)

// The parent and its workers talk in lines of JSON: requests on a worker's
// stdin, replies on its stdout, in any order. The first request is the setup.
// A worker whose stdin ends has lost its parent, and exits.

// A request asks a worker for one thing: exactly one of the fields behind ID
// is set.
type request struct {
	ID         uint64
	Setup      *workerSetup `json:",omitempty"`
	Warm       *warmSpec    `json:",omitempty"`
	Drive      *driveSpec   `json:",omitempty"`
	Collect    *collectSpec `json:",omitempty"`
	Fetch      *fetchSpec   `json:",omitempty"`
	Race       *raceSpec    `json:",omitempty"`
	Invalidate string       `json:",omitempty"` // a key
	Stats      *struct{}    `json:",omitempty"`
}

// A response answers the request of the same ID.
type response struct {
	ID      uint64
	Error   string       `json:",omitempty"`
	Drive   *driven      `json:",omitempty"`
	Collect *collected   `json:",omitempty"`
	Fetch   []fetched    `json:",omitempty"`
	Stats   *workerStats `json:",omitempty"`
}

// workerSetup makes a worker what it is.
type workerSetup struct {
	Index     int
	Contender string
	Servers   []string
	Origin    string // the socket
	Cache     cacheConfig
	// Shared is the file of a race's sharedWords; empty without one.
	Shared string
}

// warmSpec has a worker read its share of the keys once, some at a time.
type warmSpec struct {
	Keys    keyspace
	Of      int // workers that share the keys
	Callers int
	HotTTL  time.Duration
}

// driveSpec is reading for some time. With Callers it is a closed loop, else
// an open one of Rate.
type driveSpec struct {
	Keys    keyspace
	Start   int64 // Unix time in nanoseconds
	For     time.Duration
	Rate    float64
	Callers int
	Seed    uint64
	// HotTTL, if above 0, is the TTL of the hot key.
	HotTTL time.Duration
}

// driven is what became of a drive.
type driven struct {
	Reads, Failed int
	// Errors counts the failed reads by text, some of them.
	Errors map[string]int `json:",omitempty"`
}

// collectSpec asks for the reads of the last drive.
type collectSpec struct {
	// HotOnly leaves the other keys out.
	HotOnly bool
}

// collected are reads, in the order in which they were to start.
type collected struct {
	At   []int64 // Unix time in microseconds
	Took []int64 // microseconds
}

// fetchSpec has callers read one key at the same moment.
type fetchSpec struct {
	Key     string
	Start   int64
	Callers int
	Timeout time.Duration
}

// fetched is one caller's read.
type fetched struct {
	Begin, End int64  // Unix nanoseconds
	Error      string `json:",omitempty"`
}

// workerStats are counts since the worker started.
type workerStats struct {
	Cache stampede.Stats
	// HotStale is how often the hot key of a drive was served stale.
	HotStale uint64
}
