package stampede_test

import (
	"context"
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/stampede"
)

// startCache makes a Cache on an in-process node, so that the examples run
// without a server. A service gives its servers' addresses to client.New.
func startCache(cfg stampede.Config) (cache *stampede.Cache, closeAll func()) {
	node, err := memnode.Start(memnode.Config{})
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.New(client.Config{Servers: []string{node.Addr()}})
	if err != nil {
		log.Fatal(err)
	}
	cache, err = stampede.New(c, cfg)
	if err != nil {
		log.Fatal(err)
	}
	return cache, func() {
		cache.Close() // before the client: it gives leases up
		c.Close()
		node.Close()
	}
}

// This is the README's example, on an in-process node.
func Example() {
	node, err := memnode.Start(memnode.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	c, err := client.New(client.Config{Servers: []string{node.Addr()}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	version := 1
	loadProfile := func(context.Context, string) ([]byte, error) {
		return fmt.Appendf(nil, "version %d", version), nil
	}

	cache, err := stampede.New(c, stampede.Config{TTL: 5 * time.Minute, Grace: time.Hour})
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()
	b, err := cache.Fetch(ctx, "profile:42", loadProfile) // while it loads the others get the value of before
	fmt.Printf("%s %v\n", b, err)
	version = 2
	err = cache.Invalidate(ctx, "profile:42") // after a write: readers keep an answer, one refills
	fmt.Println(err)
	b, err = cache.Refresh(ctx, "profile:42", loadProfile) // or fill on invalidate: nobody waits
	fmt.Printf("%s %v\n", b, err)
	// Output:
	// version 1 <nil>
	// <nil>
	// version 2 <nil>
}

func ExampleNew() {
	node, err := memnode.Start(memnode.Config{}) // stands for a memcached server
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	c, err := client.New(client.Config{Servers: []string{node.Addr()}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	cache, err := stampede.New(c, stampede.Config{TTL: 5 * time.Minute, Grace: time.Hour})
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close() // runs first: leases are given up over the client

	load := func(_ context.Context, key string) ([]byte, error) {
		return []byte("value of " + key), nil
	}
	b, err := cache.Fetch(context.Background(), "user:42", load)
	fmt.Printf("%s %v\n", b, err)
	// Output: value of user:42 <nil>
}

// Many callers miss the key at once. One of them loads.
func ExampleCache_Fetch() {
	cache, closeAll := startCache(stampede.Config{})
	defer closeAll()

	load := func(context.Context, string) ([]byte, error) {
		time.Sleep(50 * time.Millisecond) // a query
		return []byte("Ada"), nil
	}
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			if _, err := cache.Fetch(context.Background(), "user:42", load); err != nil {
				log.Print(err)
			}
		})
	}
	callers.Wait()
	fmt.Println("loads:", cache.Stats().Loads)
	// Output: loads: 1
}

// Keys that the origin does not have are in neither result.
func ExampleCache_FetchMulti() {
	cache, closeAll := startCache(stampede.Config{NotFoundTTL: time.Minute})
	defer closeAll()

	names := map[string][]byte{"user:1": []byte("Ada"), "user:2": []byte("Grace")}
	load := func(_ context.Context, keys []string) (map[string][]byte, error) {
		fmt.Println("load", keys)
		found := make(map[string][]byte)
		for _, key := range keys {
			if name, ok := names[key]; ok {
				found[key] = name
			}
		}
		return found, nil
	}
	for range 2 {
		users, err := cache.FetchMulti(context.Background(), []string{"user:1", "user:2", "user:3"}, load)
		fmt.Printf("%d users, Ada is %q, %v\n", len(users), users["user:1"], err)
	}
	// Output:
	// load [user:1 user:2 user:3]
	// 2 users, Ada is "Ada", <nil>
	// 2 users, Ada is "Ada", <nil>
}

// After an invalidation readers are served the old value on, while one of them
// refills it. Fresh waits for that.
func ExampleCache_Invalidate() {
	cache, closeAll := startCache(stampede.Config{})
	defer closeAll()
	ctx := context.Background()

	commit := make(chan string, 2)
	commit <- "Ada"
	load := func(context.Context, string) ([]byte, error) { return []byte(<-commit), nil }
	b, err := cache.Fetch(ctx, "user:42", load)
	fmt.Printf("%s %v\n", b, err)

	fmt.Println(cache.Invalidate(ctx, "user:42"))
	b, err = cache.Fetch(ctx, "user:42", load) // begins the refill
	fmt.Printf("%s %v\n", b, err)
	commit <- "Ada Lovelace"
	b, err = cache.Fetch(ctx, "user:42", load, stampede.Fresh())
	fmt.Printf("%s %v\n", b, err)
	// Output:
	// Ada <nil>
	// <nil>
	// Ada <nil>
	// Ada Lovelace <nil>
}

// After a Delete the next reader waits for a load: nobody is served the old
// value.
func ExampleCache_Delete() {
	cache, closeAll := startCache(stampede.Config{})
	defer closeAll()
	ctx := context.Background()

	origin := "Ada"
	load := func(context.Context, string) ([]byte, error) { return []byte(origin), nil }
	b, err := cache.Fetch(ctx, "user:42", load)
	fmt.Printf("%s %v\n", b, err)

	origin = "Ada Lovelace" // committed
	fmt.Println(cache.Delete(ctx, "user:42"))
	b, err = cache.Fetch(ctx, "user:42", load)
	fmt.Printf("%s %v\n", b, err)
	// Output:
	// Ada <nil>
	// <nil>
	// Ada Lovelace <nil>
}

// Stats are for a page or an exporter that looks now and then.
func ExampleCache_Stats() {
	cache, closeAll := startCache(stampede.Config{})
	defer closeAll()

	load := func(context.Context, string) ([]byte, error) { return []byte("Ada"), nil }
	for range 3 {
		if _, err := cache.Fetch(context.Background(), "user:42", load); err != nil {
			log.Print(err)
		}
	}
	s := cache.Stats()
	fmt.Println("hits:", s.FreshHits+s.StaleHits, "loads:", s.Loads, "errors:", s.LoadErrors, "refused:", s.Refused[stampede.RefusedChanged])
	took := uint64(0)
	for i, n := range s.LoadTimes {
		if i < len(stampede.LoadBuckets) && stampede.LoadBuckets[i] <= time.Second {
			took += n
		}
	}
	fmt.Println("within a second:", took)
	// Output:
	// hits: 2 loads: 1 errors: 0 refused: 0
	// within a second: 1
}

// Hooks are told the key, for traces, and each time, for histograms of your own.
func ExampleHooks() {
	cache, closeAll := startCache(stampede.Config{Hooks: stampede.Hooks{
		Won:    func(key string, _ bool) { fmt.Println("won", key) },
		Loaded: func(keys int, took time.Duration, err error) { fmt.Println("loaded", keys, took < time.Minute, err) },
		Filled: func(key string, err error) { fmt.Println("filled", key, err) },
		Hit:    func(key string, stale bool) { fmt.Println("hit", key, "stale:", stale) },
	}})
	defer closeAll()

	load := func(context.Context, string) ([]byte, error) { return []byte("Ada"), nil }
	for range 2 {
		if _, err := cache.Fetch(context.Background(), "user:42", load); err != nil {
			log.Print(err)
		}
	}
	// Output:
	// won user:42
	// loaded 1 true <nil>
	// filled user:42 <nil>
	// hit user:42 stale: false
}

// Fresh waits for the refill of a value that was invalidated, where others are
// served the old one.
func ExampleFresh() {
	cache, closeAll := startCache(stampede.Config{})
	defer closeAll()
	ctx := context.Background()

	origin := "Ada"
	load := func(context.Context, string) ([]byte, error) { return []byte(origin), nil }
	b, err := cache.Fetch(ctx, "user:42", load)
	fmt.Printf("%s %v\n", b, err)

	origin = "Ada Lovelace"
	fmt.Println(cache.Invalidate(ctx, "user:42"))
	b, err = cache.Fetch(ctx, "user:42", load, stampede.Fresh())
	fmt.Printf("%s %v\n", b, err)
	// Output:
	// Ada <nil>
	// <nil>
	// Ada Lovelace <nil>
}

// A call may give its value another TTL than the Cache's.
func ExampleTTL() {
	cache, closeAll := startCache(stampede.Config{TTL: time.Hour, Grace: stampede.None, Jitter: -1})
	defer closeAll()
	ctx := context.Background()

	loads := 0
	load := func(context.Context, string) ([]byte, error) {
		loads++
		return fmt.Appendf(nil, "price %d", loads), nil
	}
	b, err := cache.Fetch(ctx, "price:1", load, stampede.TTL(time.Second))
	fmt.Printf("%s %v\n", b, err)
	time.Sleep(2 * time.Second)
	b, err = cache.Fetch(ctx, "price:1", load)
	fmt.Printf("%s %v\n", b, err)
	// Output:
	// price 1 <nil>
	// price 2 <nil>
}

// Refresh is called when a write to the origin is committed. Where it returns
// no error the old value is no longer served.
func ExampleCache_Refresh() {
	cache, closeAll := startCache(stampede.Config{})
	defer closeAll()
	ctx := context.Background()

	origin := "Ada"
	load := func(context.Context, string) ([]byte, error) { return []byte(origin), nil }
	b, err := cache.Fetch(ctx, "user:42", load)
	fmt.Printf("%s %v\n", b, err)

	origin = "Ada Lovelace" // committed
	b, err = cache.Refresh(ctx, "user:42", load)
	fmt.Printf("%s %v\n", b, err)
	b, err = cache.Fetch(ctx, "user:42", load)
	fmt.Printf("%s %v\n", b, err)
	// Output:
	// Ada <nil>
	// Ada Lovelace <nil>
	// Ada Lovelace <nil>
}

// A TypedCache turns values into bytes and back.
func ExampleTyped() {
	cache, closeAll := startCache(stampede.Config{})
	defer closeAll()

	type user struct {
		Name string `json:"name"`
		Born int    `json:"born"`
	}
	users := stampede.Typed[user](cache, stampede.JSON)
	load := func(context.Context, string) (user, error) {
		return user{Name: "Ada", Born: 1815}, nil
	}
	u, err := users.Fetch(context.Background(), "user:42:v1", load)
	fmt.Println(u.Name, u.Born, err)
	u, err = users.Fetch(context.Background(), "user:42:v1", nil) // a hit calls no loader
	fmt.Println(u.Name, u.Born, err)
	// Output:
	// Ada 1815 <nil>
	// Ada 1815 <nil>
}

// A loader knows best how long its value will do.
func ExampleSetTTL() {
	cache, closeAll := startCache(stampede.Config{TTL: 5 * time.Minute})
	defer closeAll()

	load := func(ctx context.Context, key string) ([]byte, error) {
		maxAge := 30 * time.Second // the origin said so
		fmt.Println("set:", stampede.SetTTL(ctx, key, maxAge))
		return []byte("42"), nil
	}
	b, err := cache.Fetch(context.Background(), "price:1", load)
	fmt.Printf("%s %v\n", b, err)
	fmt.Println("outside of a loader:", stampede.SetTTL(context.Background(), "price:1", time.Second))
	// Output:
	// set: true
	// 42 <nil>
	// outside of a loader: false
}

// A loader may keep its value out of the cache: who asks next loads again.
func ExampleNoStore() {
	cache, closeAll := startCache(stampede.Config{})
	defer closeAll()

	load := func(ctx context.Context, key string) ([]byte, error) {
		stampede.NoStore(ctx, key) // incomplete: a part of the origin is down
		return []byte("half"), nil
	}
	for range 2 {
		b, err := cache.Fetch(context.Background(), "page:1", load)
		fmt.Printf("%s %v\n", b, err)
	}
	s := cache.Stats()
	fmt.Println("loads:", s.Loads, "fills:", s.Fills)
	// Output:
	// half <nil>
	// half <nil>
	// loads: 2 fills: 0
}
