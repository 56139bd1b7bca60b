package memnode_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/proto/memcached"
)

// A service's own test: what does it do while the cache hangs?
func Example() {
	node, err := memnode.Start(memnode.Config{})
	if err != nil {
		panic(err)
	}
	defer node.Close()
	cache, err := client.New(client.Config{Servers: []string{node.Addr()}})
	if err != nil {
		panic(err)
	}
	defer cache.Close()

	// What is tested: a greeting that does without a cache.
	greet := func(user string) string {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		item, err := cache.Get(ctx, "name:"+user)
		switch {
		case errors.Is(err, client.ErrCacheMiss):
			return "hello stranger"
		case err != nil:
			return "hello"
		}
		return "hello " + string(item.Value)
	}

	fmt.Println(greet("42"))
	_ = cache.Set(context.Background(), &client.Item{Key: "name:42", Value: []byte("Ada")})
	fmt.Println(greet("42"))

	stall := node.Inject(memnode.Stall(), memnode.On(memcached.MetaGet))
	fmt.Println(greet("42"), "after", stall.Struck(), "stall")
	stall.Release()

	// Output:
	// hello stranger
	// hello Ada
	// hello after 1 stall
}

// Time passes when the test says so.
func ExampleStart_clock() {
	var hours atomic.Int64 // the node asks from its own goroutines
	began := time.Now()
	now := func() time.Time { return began.Add(time.Duration(hours.Load()) * time.Hour) }
	node, err := memnode.Start(memnode.Config{Now: now})
	if err != nil {
		panic(err)
	}
	defer node.Close()
	cache, err := client.New(client.Config{Servers: []string{node.Addr()}})
	if err != nil {
		panic(err)
	}
	defer cache.Close()

	ctx := context.Background()
	_ = cache.Set(ctx, &client.Item{Key: "session", Value: []byte("x"), Expiration: 3600})
	_, err = cache.Get(ctx, "session")
	fmt.Println("now:", err)
	hours.Add(1)
	_, err = cache.Get(ctx, "session")
	fmt.Println("an hour later:", err)

	// Output:
	// now: <nil>
	// an hour later: memcache: cache miss
}
