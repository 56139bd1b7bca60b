package sidecar_test

import (
	"context"
	"fmt"
	"log"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/sidecar"
)

// A sidecar inside a program: it serves until its context ends.
func ExampleStart() {
	s, err := sidecar.Start(sidecar.Config{Embedded: 2, Memcached: "127.0.0.1:0", GRPC: sidecar.Off, Admin: sidecar.Off})
	if err != nil {
		log.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()

	// Any memcached client will do.
	c, err := client.New(client.Config{Servers: []string{s.Addresses()["memcached"]}})
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Set(ctx, &client.Item{Key: "hello", Value: []byte("world")}); err != nil {
		log.Fatal(err)
	}
	item, err := c.Get(ctx, "hello")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", item.Value)
	c.Close()

	end() // as SIGTERM would: what is under way is answered first
	fmt.Println(<-ended)
	// Output:
	// world
	// <nil>
}
