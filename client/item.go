package client

import (
	"fmt"
	"unsafe"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// Item is a value under a key. Its fields are gomemcache's.
type Item struct {
	// Key is 1 to 250 bytes without spaces and control bytes.
	Key string
	// Value is the value; it may be empty.
	Value []byte
	// Flags are the client flags, which memcached stores and gives back.
	Flags uint32
	// Expiration is the time to live in seconds; 0 is for ever, above 30 days
	// it is a Unix time, below 0 the item is gone at once.
	Expiration int32
	// CasID is the version that a read returned; CompareAndSwap compares it.
	CasID uint64

	// node and generation tell where CasID means something: CAS ids start
	// again after a restart, so one from another node or connection could
	// match a different item by chance.
	node       *node
	generation uint64
}

// A Version names the state in which an item was read. It is for those who
// carry it elsewhere and back, as the sidecar does for its callers. It means
// nothing to another Client.
type Version struct {
	CasID uint64
	// Generation is the connection that the item was read over.
	Generation uint64
}

// Version names the item as it was read.
func (i *Item) Version() Version { return Version{i.CasID, i.generation} }

// SetVersion has CompareAndSwap compare with an item that was read before. If
// that was over another connection than the one in use it is a conflict.
func (i *Item) SetVersion(v Version) { i.CasID, i.generation, i.node = v.CasID, v.Generation, nil }

func checkKey(key string) error {
	if err := memcached.CheckKey(key); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformedKey, err)
	}
	return nil
}

// newItem gives an item whose Value has n bytes. A small value stands behind
// the item in the same piece of memory: one allocation instead of two.
func newItem(n int) *Item {
	switch {
	case n <= 128-itemBytes:
		m := new(struct {
			Item
			b [128 - itemBytes]byte
		})
		m.Value = m.b[:n:n]
		return &m.Item
	case n <= 192-itemBytes:
		m := new(struct {
			Item
			b [192 - itemBytes]byte
		})
		m.Value = m.b[:n:n]
		return &m.Item
	case n <= 384-itemBytes:
		m := new(struct {
			Item
			b [384 - itemBytes]byte
		})
		m.Value = m.b[:n:n]
		return &m.Item
	}
	return &Item{Value: make([]byte, n)}
}

// itemBytes is the size of an Item.
const itemBytes = int(unsafe.Sizeof(Item{}))
