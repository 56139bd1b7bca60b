package memnode

import (
	"errors"
	"fmt"
	"time"
)

const (
	defaultAddr        = "127.0.0.1:0"
	defaultMaxBytes    = 64 << 20
	defaultMaxItemSize = 1 << 20
	defaultMaxConns    = 1024

	// memcached's own bounds of -I.
	leastItemSize = 1 << 10
	mostItemSize  = 1 << 30
)

// Config says how a node runs. The zero value is the production default.
type Config struct {
	// Addr is where the node listens: "host:port" or "unix:/path". Port 0
	// takes a free one, which Node.Addr tells. A unix socket gets mode 0600,
	// and one that a dead process left behind is taken over. Default
	// "127.0.0.1:0".
	Addr string

	// MaxBytes bounds the memory of all items, their keys and bookkeeping
	// included. Over it the least valuable items are evicted. In bytes, at
	// least twice MaxItemSize. Default 64 MiB.
	MaxBytes int64

	// MaxItemSize is the largest item, counted as memcached counts it: the
	// value and its line end, the key and a zero byte, 4 bytes for client
	// flags that are not 0, and 56 bytes of header. A larger one is answered
	// "SERVER_ERROR object too large for cache". In bytes, from 1 KiB to
	// 1 GiB. Default 1 MiB, or half of MaxBytes if that is less.
	MaxItemSize int

	// MaxConns is the number of connections at a time. One more is answered
	// "ERROR Too many open connections" and closed. Default 1024.
	MaxConns int

	// Now is the clock that items age by. It is called from many goroutines.
	// Default time.Now.
	Now func() time.Time
}

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	if c.Addr == "" {
		c.Addr = defaultAddr
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultMaxBytes
	}
	if c.MaxItemSize == 0 {
		c.MaxItemSize = int(min(defaultMaxItemSize, c.MaxBytes/2))
	}
	if c.MaxConns == 0 {
		c.MaxConns = defaultMaxConns
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Validate reports every field that is out of its bounds.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if _, _, err := splitAddr(c.Addr); err != nil {
		errs = append(errs, err)
	}
	if c.MaxItemSize < leastItemSize || c.MaxItemSize > mostItemSize {
		errs = append(errs, fmt.Errorf("MaxItemSize is %d, it must be from %d to %d", c.MaxItemSize, leastItemSize, mostItemSize))
	}
	if c.MaxBytes/2 < int64(c.MaxItemSize) {
		errs = append(errs, fmt.Errorf("MaxBytes is %d, less than twice MaxItemSize, %d", c.MaxBytes, c.MaxItemSize))
	}
	if c.MaxConns < 0 {
		errs = append(errs, fmt.Errorf("MaxConns is %d, it must not be negative", c.MaxConns))
	}
	return errors.Join(errs...)
}
