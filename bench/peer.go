package bench

import (
	"context"
	"errors"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"github.com/ringside-cache/ringside/client"
)

// A peer is a cache client as the scenarios use it: ringside, or one that
// people use today.
type peer struct {
	name string
	get  func(ctx context.Context, key string) ([]byte, error)
	set  func(ctx context.Context, key string, value []byte) error
	// multi gives the number of values and the one of keys[0].
	multi func(ctx context.Context, keys []string) (int, []byte, error)
	// sent tells how many requests went out in how many writes; nil where
	// the client does not say.
	sent  func() (requests, writes uint64)
	close func() error
}

// The names of the contenders.
const (
	nameRingside   = "ringside"
	nameTwoConns   = "ringside, 2 connections"
	nameCancel     = "ringside, cancellable"
	nameGomemcache = "gomemcache"
	nameWire       = "wire limit"
)

// manyConns is gomemcache's MaxIdleConns. Its documentation asks for more than
// the peak of parallel requests; with less it dials anew all the time.
const manyConns = 1024

// errMissing is returned for a key that was stored and is not there.
var errMissing = errors.New("a key that was stored is missing")

// newRingside gives the client with its defaults but for what cfg says.
func newRingside(name string, cfg client.Config) (*peer, error) {
	c, err := client.New(cfg)
	if err != nil {
		return nil, err
	}
	return ringsidePeer(name, c), nil
}

func ringsidePeer(name string, c *client.Client) *peer {
	return &peer{
		name: name,
		get: func(ctx context.Context, key string) ([]byte, error) {
			item, err := c.Get(ctx, key)
			if err != nil {
				return nil, err
			}
			return item.Value, nil
		},
		set: func(ctx context.Context, key string, value []byte) error {
			return c.Set(ctx, &client.Item{Key: key, Value: value})
		},
		multi: func(ctx context.Context, keys []string) (int, []byte, error) {
			items, err := c.GetMulti(ctx, keys)
			if err != nil {
				return 0, nil, err
			}
			if items[keys[0]] == nil {
				return 0, nil, errMissing
			}
			return len(items), items[keys[0]].Value, nil
		},
		sent: func() (requests, writes uint64) {
			for _, n := range c.Stats().Nodes {
				requests += n.Requests
				writes += n.Writes
			}
			return requests, writes
		},
		close: c.Close,
	}
}

// newGomemcache gives gomemcache with its own selector. A timeout of 0 is its
// default, which is ringside's too.
func newGomemcache(addrs []string, timeout time.Duration) (*peer, error) {
	servers := new(memcache.ServerList)
	if err := servers.SetServers(addrs...); err != nil {
		return nil, err
	}
	return gomemcachePeer(servers, timeout), nil
}

func gomemcachePeer(servers memcache.ServerSelector, timeout time.Duration) *peer {
	c := memcache.NewFromSelector(servers)
	c.MaxIdleConns = manyConns
	c.Timeout = timeout
	return &peer{
		name: nameGomemcache,
		get: func(_ context.Context, key string) ([]byte, error) {
			item, err := c.Get(key)
			if err != nil {
				return nil, err
			}
			return item.Value, nil
		},
		set: func(_ context.Context, key string, value []byte) error {
			return c.Set(&memcache.Item{Key: key, Value: value})
		},
		multi: func(_ context.Context, keys []string) (int, []byte, error) {
			items, err := c.GetMulti(keys)
			if err != nil {
				return 0, nil, err
			}
			if items[keys[0]] == nil {
				return 0, nil, errMissing
			}
			return len(items), items[keys[0]].Value, nil
		},
		close: c.Close,
	}
}

// contender lets the peer carry a load, and notes how requests shared writes.
func (p *peer) contender(name string, load Load) Contender {
	return Contender{Name: name, Run: func(ctx context.Context, slot Slot) (Sample, error) {
		if p.sent == nil {
			return load.Run(ctx, slot)
		}
		requests, writes := p.sent()
		s, err := load.Run(ctx, slot)
		if err != nil {
			return nil, err
		}
		moreRequests, moreWrites := p.sent()
		if moreWrites > writes {
			s[OpsPerWrite] = float64(moreRequests-requests) / float64(moreWrites-writes)
		}
		return s, nil
	}}
}
