package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
)

// This is the README's example, on two in-process nodes.
func Example() {
	one, err := memnode.Start(memnode.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer one.Close()
	two, err := memnode.Start(memnode.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer two.Close()
	ctx := context.Background()

	c, err := client.New(client.Config{Servers: []string{one.Addr(), two.Addr() + "*2"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	err = c.Set(ctx, &client.Item{Key: "user:42", Value: []byte("Ada"), Expiration: 300})
	if err != nil {
		log.Fatal(err)
	}
	item, err := c.Get(ctx, "user:42") // errors.Is(err, client.ErrCacheMiss) when it is not there
	if err == nil {
		fmt.Printf("%s\n", item.Value)
	}
	// Output: Ada
}

// A multi-get returns what it found, and an error that lists what failed.
func ExampleClient_GetMulti() {
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
	if err := c.Set(ctx, &client.Item{Key: "a", Value: []byte("1")}); err != nil {
		log.Fatal(err)
	}

	items, err := c.GetMulti(ctx, []string{"a", "b"})
	var failed *client.MultiError
	if errors.As(err, &failed) {
		for _, op := range failed.Errors {
			fmt.Println(op.Node, op.Err)
		}
	}
	fmt.Println(len(items), string(items["a"].Value))
	// Output: 1 1
}

// A batch carries different operations in one round trip to each node.
func ExampleClient_Do() {
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

	var b client.Batch
	b.Set(&client.Item{Key: "hits", Value: []byte("41")})
	hits := b.Increment("hits", 1)
	gone := b.Get("nobody")
	if err := c.Do(context.Background(), &b); err != nil {
		log.Fatal(err)
	}
	n, err := b.Number(hits)
	fmt.Println(n, err)
	fmt.Println(b.Err(gone))
	// Output:
	// 42 <nil>
	// memcache: cache miss
}
