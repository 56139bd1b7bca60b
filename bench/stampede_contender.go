package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/stampede"
)

// The ways to read through a cache that are compared. All of them use the same
// client, so that what differs is who loads, and when.
const (
	nameNaive  = "naive"        // get, load, set
	nameSingle = "singleflight" // the same, one load at a time in each process
)

// A readThrough is a cache in front of an origin.
type readThrough interface {
	// read gives the value; ttl 0 is the cache's own.
	read(ctx context.Context, key string, ttl time.Duration) ([]byte, error)
	// invalidate is called after a write to the origin.
	invalidate(ctx context.Context, key string) error
	// refresh is called after a write to the origin by one who wants the new
	// value to be served from then on.
	refresh(ctx context.Context, key string) error
	remove(ctx context.Context, key string) error
	stats() stampede.Stats
	close() error
}

// cacheConfig is a stampede.Config as it goes to a worker. Zero is the default.
type cacheConfig struct {
	TTL, Grace, Lease, LoadTimeout time.Duration
	MaxLoads                       int
}

func newReadThrough(contender string, c *client.Client, cfg cacheConfig, load stampede.Loader, hooks stampede.Hooks) (readThrough, error) {
	plain := getLoadSet{client: c, load: load, ttl: cfg.TTL}
	switch contender {
	case nameRingside:
		cache, err := stampede.New(c, stampede.Config{
			TTL: cfg.TTL, Grace: cfg.Grace, Lease: cfg.Lease, LoadTimeout: cfg.LoadTimeout,
			MaxLoads: cfg.MaxLoads, Hooks: hooks,
		})
		if err != nil {
			return nil, err
		}
		return leased{cache, load}, nil
	case nameNaive:
		return plain, nil
	case nameSingle:
		return &oneFlight{getLoadSet: plain}, nil
	}
	return nil, fmt.Errorf("there is no contender %q", contender)
}

// leased is ringside.
type leased struct {
	*stampede.Cache
	load stampede.Loader
}

func (l leased) read(ctx context.Context, key string, ttl time.Duration) ([]byte, error) {
	if ttl > 0 {
		return l.Fetch(ctx, key, l.load, stampede.TTL(ttl))
	}
	return l.Fetch(ctx, key, l.load)
}

func (l leased) invalidate(ctx context.Context, key string) error { return l.Invalidate(ctx, key) }

func (l leased) refresh(ctx context.Context, key string) error {
	_, err := l.Refresh(ctx, key, l.load)
	return err
}

func (l leased) remove(ctx context.Context, key string) error { return l.Delete(ctx, key) }
func (l leased) stats() stampede.Stats                        { return l.Stats() }
func (l leased) close() error                                 { return l.Close() }

// getLoadSet is what most services do.
type getLoadSet struct {
	client *client.Client
	load   stampede.Loader
	ttl    time.Duration
}

func (n getLoadSet) read(ctx context.Context, key string, ttl time.Duration) ([]byte, error) {
	item, err := n.client.Get(ctx, key)
	if err == nil {
		return item.Value, nil
	}
	// A cache that does not answer is a miss to them too.
	return n.fill(ctx, key, ttl)
}

func (n getLoadSet) fill(ctx context.Context, key string, ttl time.Duration) ([]byte, error) {
	value, err := n.load(ctx, key)
	if err != nil {
		return nil, err
	}
	if ttl == 0 {
		ttl = n.ttl
	}
	// The caller has its value, whether it could be kept or not.
	_ = n.client.Set(ctx, &client.Item{Key: key, Value: value, Expiration: int32(ttl.Seconds())})
	return value, nil
}

func (n getLoadSet) invalidate(ctx context.Context, key string) error {
	err := n.client.Delete(ctx, key)
	if errors.Is(err, client.ErrCacheMiss) {
		return nil
	}
	return err
}

func (n getLoadSet) refresh(ctx context.Context, key string) error { return n.invalidate(ctx, key) }
func (n getLoadSet) remove(ctx context.Context, key string) error  { return n.invalidate(ctx, key) }
func (n getLoadSet) stats() stampede.Stats                         { return stampede.Stats{} }
func (n getLoadSet) close() error                                  { return nil }

// oneFlight is getLoadSet with the loads of a process coalesced.
type oneFlight struct {
	getLoadSet
	group singleflight.Group
}

func (s *oneFlight) read(ctx context.Context, key string, ttl time.Duration) ([]byte, error) {
	item, err := s.client.Get(ctx, key)
	if err == nil {
		return item.Value, nil
	}
	value, err, _ := s.group.Do(key, func() (any, error) { return s.fill(ctx, key, ttl) })
	if err != nil {
		return nil, err
	}
	return value.([]byte), nil
}
