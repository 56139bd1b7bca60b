// Package client is a memcached client for a fleet of nodes: a ring decides
// which node a key belongs to, a few pipelined connections per node carry the
// requests of all goroutines, and a node that fails is ejected, probed and
// taken back.
//
// The method set is gomemcache's with a context in front. Nothing is retried
// but a request of which no byte was written. A miss is [ErrCacheMiss], not a
// failure; every failure is an [*OpError] that names the node and never the
// key.
//
// A Client is safe for concurrent use and is meant to live as long as its
// process. It prints nothing. [Client.Close] ends every connection and
// goroutine that it started.
//
//	c, err := client.New(client.Config{Servers: []string{"10.0.0.1:11211", "10.0.0.2:11211"}})
//	defer c.Close()
//	err = c.Set(ctx, &client.Item{Key: "user:42", Value: []byte("…"), Expiration: 300})
//	item, err := c.Get(ctx, "user:42")
package client
