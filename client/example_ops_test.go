package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/ringside-cache/ringside/client"
)

// startClient makes a client of an in-process node, so that the examples run
// without a server.
func startClient(cfg client.Config) (c *client.Client, closeAll func()) {
	node := startNode()
	cfg.Servers = append(cfg.Servers, "cache1@"+node.Addr())
	c, err := client.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	return c, func() {
		c.Close()
		node.Close()
	}
}

// A buffer that is used again and again, and no allocation.
func ExampleClient_GetInto() {
	c, closeAll := startClient(client.Config{})
	defer closeAll()
	ctx := context.Background()
	for _, key := range []string{"a", "b"} {
		if err := c.Set(ctx, &client.Item{Key: key, Value: []byte("value of " + key), Flags: 7}); err != nil {
			log.Fatal(err)
		}
	}
	buf := make([]byte, 0, 1024)
	for _, key := range []string{"a", "b", "c"} {
		value, flags, err := c.GetInto(ctx, key, buf[:0])
		if errors.Is(err, client.ErrCacheMiss) {
			fmt.Println("no", key)
			continue
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s, flags %d\n", value, flags)
		buf = value
	}
	// Output:
	// value of a, flags 7
	// value of b, flags 7
	// no c
}

// A read that keeps what is in use from expiring.
func ExampleClient_GetAndTouch() {
	c, closeAll := startClient(client.Config{})
	defer closeAll()
	ctx := context.Background()
	if err := c.Set(ctx, &client.Item{Key: "session:42", Value: []byte("Ada"), Expiration: 60}); err != nil {
		log.Fatal(err)
	}
	const halfAnHour = 30 * 60
	item, err := c.GetAndTouch(ctx, "session:42", halfAnHour)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", item.Value)
	// Output: Ada
}

// A counter that is made where it is missing. Add does nothing where another
// was faster.
func ExampleClient_Increment() {
	c, closeAll := startClient(client.Config{})
	defer closeAll()
	ctx := context.Background()
	count := func(key string) (uint64, error) {
		n, err := c.Increment(ctx, key, 1)
		if !errors.Is(err, client.ErrCacheMiss) {
			return n, err
		}
		if err := c.Add(ctx, &client.Item{Key: key, Value: []byte("0"), Expiration: 3600}); err != nil && !errors.Is(err, client.ErrNotStored) {
			return 0, err
		}
		return c.Increment(ctx, key, 1)
	}
	fmt.Println(count("hits"))
	fmt.Println(count("hits"))
	// Output:
	// 1 <nil>
	// 2 <nil>
}

// Where a key goes, and why.
func ExampleClient_Explain() {
	c, err := client.New(client.Config{Servers: []string{"a@10.0.0.1", "b@10.0.0.2", "c@10.0.0.3"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	e, err := c.Explain("user:42")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s:%s puts it on %s, which is %s; then %v\n", e.Dialect, e.KeyHash, e.Owner, e.OwnerState, e.StandIns)
	// Output: ketama:xxhash puts it on c, which is up; then [a b]
}

// Hooks tell what happens at the moment, Stats how it stands.
func ExampleClient_Stats() {
	dialled := make(chan string, 1)
	c, closeAll := startClient(client.Config{Hooks: client.Hooks{
		Dialled: func(node string, took time.Duration, err error) { dialled <- fmt.Sprintf("%s: %v", node, err) },
		Ejected: func(node string) { log.Print(node, " is out") },
	}})
	defer closeAll()
	ctx := context.Background()
	for range 3 {
		if err := c.Set(ctx, &client.Item{Key: "a", Value: []byte("1")}); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(<-dialled)
	for _, n := range c.Stats().Nodes {
		fmt.Printf("%s is %v: %d requests, %d connections, %d in flight\n", n.Name, n.State, n.Requests, n.Connections, n.InFlight)
	}
	// Output:
	// cache1: <nil>
	// cache1 is up: 3 requests, 1 connections, 0 in flight
}

// The nodes' own statistics, as "stats settings" gives them.
func ExampleClient_ServerStats() {
	c, closeAll := startClient(client.Config{})
	defer closeAll()
	stats, err := c.ServerStats(context.Background(), "settings")
	if err != nil {
		log.Fatal(err) // which nodes did not answer; the others' are there
	}
	for _, s := range stats["cache1"] {
		if s.Name == "item_size_max" {
			fmt.Println(s.Name, s.Value)
		}
	}
	// Output: item_size_max 1048576
}

// What may be tried again is what was certainly not carried out.
func ExampleSafeToRetry() {
	// Nobody listens there.
	c, err := client.New(client.Config{Servers: []string{"127.0.0.1:1"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = c.Increment(context.Background(), "hits", 1)
	fmt.Println(errors.Is(err, client.ErrDial), client.SafeToRetry(err))
	// Output: true true
}
