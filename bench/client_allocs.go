package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"github.com/ringside-cache/ringside/client"
)

const (
	allocGets   = 2000
	allocMultis = 200
	// allocTime is about how long a turn of counting takes.
	allocTime = 120 * time.Millisecond
)

// allocs counts what single operations of one caller allocate. They are called
// on the clients themselves: a wrapper's own allocations would be counted too.
// The clients are made and closed by each turn, so that none is in the way of
// the other experiments.
func (b *clientBench) allocs() []Experiment {
	one, many := addresses(b.running[:1]), addresses(b.running[1:1+multiNodes])
	return []Experiment{
		counted("Get", b.countRingside(one, allocGets, ringsideGet), b.countGomemcache(one, allocGets, gomemcacheGet)),
		counted("GetInto", b.countRingside(one, allocGets, ringsideGetInto)),
		counted("Set", b.countRingside(one, allocGets, ringsideSet), b.countGomemcache(one, allocGets, gomemcacheSet)),
		counted("GetMulti", b.countRingside(many, allocMultis, ringsideMulti), b.countGomemcache(many, allocMultis, gomemcacheMulti)),
	}
}

func counted(what string, contenders ...Contender) Experiment {
	about := "what a " + what + " allocates"
	if what == "GetMulti" {
		about += fmt.Sprintf(", %d hits over %d memcacheds", multiKeys, multiNodes)
	}
	return Experiment{Name: "allocs/" + what, About: about, Contenders: contenders, Fixed: allocTime, Rounds: MinRounds}
}

func (b *clientBench) countRingside(addrs []string, n int, op func(*client.Client, corpus) func() error) Contender {
	return Contender{Name: nameRingside, Run: func(context.Context, Slot) (Sample, error) {
		c, err := client.New(client.Config{Servers: addrs})
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return countAllocs(n, op(c, b.corpus))
	}}
}

func (b *clientBench) countGomemcache(addrs []string, n int, op func(*memcache.Client, corpus) func() error) Contender {
	return Contender{Name: nameGomemcache, Run: func(context.Context, Slot) (Sample, error) {
		c := memcache.New(addrs...)
		defer c.Close()
		return countAllocs(n, op(c, b.corpus))
	}}
}

func ringsideGet(c *client.Client, in corpus) func() error {
	ctx, pick := context.Background(), newPicker(0)
	return func() error {
		key := in.keys[pick.intn(len(in.keys))]
		item, err := c.Get(ctx, key)
		if err != nil {
			return err
		}
		return in.check(key, item.Value)
	}
}

func gomemcacheGet(c *memcache.Client, in corpus) func() error {
	pick := newPicker(0)
	return func() error {
		key := in.keys[pick.intn(len(in.keys))]
		item, err := c.Get(key)
		if err != nil {
			return err
		}
		return in.check(key, item.Value)
	}
}

func ringsideGetInto(c *client.Client, in corpus) func() error {
	ctx, pick := context.Background(), newPicker(0)
	buf := make([]byte, 0, 2*in.valueSize)
	return func() error {
		key := in.keys[pick.intn(len(in.keys))]
		value, _, err := c.GetInto(ctx, key, buf)
		if err != nil {
			return err
		}
		return in.check(key, value)
	}
}

func ringsideSet(c *client.Client, in corpus) func() error {
	ctx := context.Background()
	item := &client.Item{Key: in.keys[0], Value: in.value(in.keys[0])}
	return func() error { return c.Set(ctx, item) }
}

func gomemcacheSet(c *memcache.Client, in corpus) func() error {
	item := &memcache.Item{Key: in.keys[0], Value: in.value(in.keys[0])}
	return func() error { return c.Set(item) }
}

func ringsideMulti(c *client.Client, in corpus) func() error {
	ctx, keys := context.Background(), in.keys[:multiKeys]
	return func() error {
		items, err := c.GetMulti(ctx, keys)
		if err == nil && len(items) != len(keys) {
			err = errMissing
		}
		return err
	}
}

func gomemcacheMulti(c *memcache.Client, in corpus) func() error {
	keys := in.keys[:multiKeys]
	return func() error {
		items, err := c.GetMulti(keys)
		if err == nil && len(items) != len(keys) {
			err = errMissing
		}
		return err
	}
}
