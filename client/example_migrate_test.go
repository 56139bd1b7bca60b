package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/client/memnode"
)

// docs/migrating-from-gomemcache.md quotes these.

func startNode() *memnode.Node {
	node, err := memnode.Start(memnode.Config{})
	if err != nil {
		log.Fatal(err)
	}
	return node
}

// A service that stays with gomemcache gets the ring and auto-eject by the
// line that makes its memcache.Client.
func Example_gomemcacheOneLine() {
	node := startNode()
	defer node.Close()
	servers := []string{node.Addr()}

	c, err := client.New(client.Config{Servers: servers})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	mc := c.Gomemcache() // was: mc := memcache.New(servers...)

	err = mc.Set(&memcache.Item{Key: "user:42", Value: []byte("Ada"), Expiration: 300})
	fmt.Println(err)
	// Output: <nil>
}

// The same with a memcache.Client of one's own settings.
func Example_gomemcacheSelector() {
	node := startNode()
	defer node.Close()
	c, err := client.New(client.Config{Servers: []string{node.Addr()}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	mc := memcache.NewFromSelector(c.Selector())
	mc.DialContext = c.Selector().DialContext // lets the connections count for a node's health
	mc.Timeout = 200 * time.Millisecond
	mc.MaxIdleConns = 100

	fmt.Println(mc.Ping())
	// Output: <nil>
}

// A service that moves over changes the constructor and adds contexts.
func Example_gomemcacheToClient() {
	node := startNode()
	defer node.Close()
	servers := []string{node.Addr()}
	ctx := context.Background()

	c, err := client.New(client.Config{Servers: servers}) // was: mc := memcache.New(servers...)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	err = c.Set(ctx, &client.Item{Key: "user:42", Value: []byte("Ada"), Expiration: 300})
	if err != nil {
		log.Fatal(err)
	}
	item, err := c.Get(ctx, "user:42")
	switch {
	case errors.Is(err, memcache.ErrCacheMiss): // client.ErrCacheMiss is the same value
		fmt.Println("not there")
	case err != nil:
		fmt.Println("ask the database, and count this:", err)
	default:
		fmt.Printf("%s\n", item.Value)
	}
	// Output: Ada
}

// While some instances of a service are still on gomemcache, both have to find
// the same keys on the same servers.
func Example_gomemcachePlacement() {
	one, two := startNode(), startNode()
	defer one.Close()
	defer two.Close()
	servers := []string{one.Addr(), two.Addr()}
	ctx := context.Background()

	old := memcache.New(servers...)
	defer old.Close()
	c, err := client.New(client.Config{
		Servers: servers,  // the same list in the same order
		Dialect: "modulo", // crc32 % len(servers), as memcache.New places keys
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	found := 0
	for i := range 100 {
		key := fmt.Sprintf("user:%d", i)
		if err := old.Set(&memcache.Item{Key: key, Value: []byte("x")}); err != nil {
			log.Fatal(err)
		}
		if _, err := c.Get(ctx, key); err == nil {
			found++
		}
	}
	fmt.Println(found, "of 100 found")
	// Output: 100 of 100 found
}

// GetMulti returns what it found also when it returns an error.
func Example_gomemcacheGetMulti() {
	node := startNode()
	defer node.Close()
	c, err := client.New(client.Config{Servers: []string{node.Addr()}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	for _, key := range []string{"a", "b"} {
		if err := c.Set(ctx, &client.Item{Key: key, Value: []byte("x")}); err != nil {
			log.Fatal(err)
		}
	}

	items, err := c.GetMulti(ctx, []string{"a", "b", "gone", "not a key"})
	var failed *client.MultiError
	if errors.As(err, &failed) {
		for _, op := range failed.Errors {
			fmt.Printf("%q failed: malformed is %v\n", op.Key, errors.Is(op.Err, client.ErrMalformedKey))
		}
	}
	fmt.Println(len(items), "found")
	// Output:
	// "not a key" failed: malformed is true
	// 2 found
}

// A compare-and-swap is done with the item that Get returned.
func Example_gomemcacheCompareAndSwap() {
	node := startNode()
	defer node.Close()
	c, err := client.New(client.Config{Servers: []string{node.Addr()}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	if err := c.Set(ctx, &client.Item{Key: "cart", Value: []byte("1 pear")}); err != nil {
		log.Fatal(err)
	}

	item, err := c.Get(ctx, "cart")
	if err != nil {
		log.Fatal(err)
	}
	item.Value = []byte("2 pears") // change the item itself: it remembers where CasID came from
	switch err := c.CompareAndSwap(ctx, item); {
	case errors.Is(err, client.ErrCASConflict):
		fmt.Println("changed since, or read before a reconnect: read again")
	case errors.Is(err, client.ErrCacheMiss):
		fmt.Println("gone since")
	case err == nil:
		fmt.Println("swapped")
	}
	// Output: swapped
}

// What gomemcache does through DialContext is in the Config.
func Example_gomemcacheDialContext() {
	c, err := client.New(client.Config{
		Servers:  []string{"cache1.example:11211", "unix:/run/memcached.sock"},
		TLS:      &tls.Config{MinVersion: tls.VersionTLS13}, // certificates are verified; not on unix sockets
		Username: "service", Password: os.Getenv("CACHE_PASSWORD"),
		DialTimeout: 200 * time.Millisecond,
	})
	if err != nil {
		log.Print(err)
		return
	}
	defer c.Close()
}

// Servers may change while the client is in use.
func Example_gomemcacheSetServers() {
	one, two := startNode(), startNode()
	defer one.Close()
	defer two.Close()
	c, err := client.New(client.Config{Servers: []string{one.Addr()}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	err = c.SetServers([]string{one.Addr(), two.Addr() + "*2"}) // was: ss.SetServers(one, two, two)
	fmt.Println(len(c.Servers()), err)
	// Output: 2 <nil>
}

// cache has gomemcache's signatures, for code that has no context to give.
// Config.Timeout still bounds each call.
type cache struct{ c *client.Client }

func (m cache) Get(key string) (*client.Item, error) { return m.c.Get(context.Background(), key) }
func (m cache) Set(item *client.Item) error          { return m.c.Set(context.Background(), item) }
func (m cache) Delete(key string) error              { return m.c.Delete(context.Background(), key) }

func Example_gomemcacheWithoutContexts() {
	node := startNode()
	defer node.Close()
	c, err := client.New(client.Config{Servers: []string{node.Addr()}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	mc := cache{c}
	if err := mc.Set(&client.Item{Key: "a", Value: []byte("x")}); err != nil {
		log.Fatal(err)
	}
	item, err := mc.Get("a")
	fmt.Println(item.Key, err, mc.Delete("a"))
	// Output: a <nil> <nil>
}

// unindent gives code without its layout, to compare what stands in a page.
func unindent(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// TestReadme: each line of the README's Go code stands in an example that runs,
// in the README's order.
func TestReadme(t *testing.T) {
	read := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	// The examples' own addresses stand for those of the page.
	client := strings.ReplaceAll(read("example_test.go"), `one.Addr(), two.Addr() + "*2"`, `"10.0.0.1:11211", "10.0.0.2:11211*2"`)
	examples := []string{unindent(client), unindent(read("../stampede/example_test.go"))}
	blocks := strings.Split(read("../README.md"), "```go\n")[1:]
	if len(blocks) != len(examples) {
		t.Fatalf("%d blocks of Go, %d examples", len(blocks), len(examples))
	}
	for i, block := range blocks {
		block, _, _ = strings.Cut(block, "```")
		_, rest, found := strings.Cut(examples[i], "func Example() {")
		if !found {
			t.Fatalf("no example for block %d", i+1)
		}
		rest, _, _ = strings.Cut(rest, "\n// Output:")
		for line := range strings.Lines(unindent(block)) {
			line = strings.TrimSuffix(line, "\n")
			if _, rest, found = strings.Cut(rest, line); !found {
				t.Errorf("block %d: not in the example, or not there: %s", i+1, line)
				break
			}
		}
	}
}

// TestMigrationPage: the page's Go code is that of this file, and it has a
// word on everything that gomemcache exports.
func TestMigrationPage(t *testing.T) {
	page, err := os.ReadFile("../docs/migrating-from-gomemcache.md")
	if err != nil {
		t.Fatal(err)
	}
	examples, err := os.ReadFile("example_migrate_test.go")
	if err != nil {
		t.Fatal(err)
	}
	code := unindent(string(examples))
	blocks := strings.Split(string(page), "```go\n")[1:]
	for _, block := range blocks {
		block, _, _ = strings.Cut(block, "```")
		if !strings.Contains(code, unindent(block)) {
			t.Errorf("not in example_migrate_test.go:\n%s", block)
		}
	}
	if len(blocks) < 5 {
		t.Errorf("%d blocks of code", len(blocks))
	}
	names := []string{
		"New", "NewFromSelector", "DefaultTimeout", "DefaultMaxIdleConns", "ConnectTimeoutError", "ServerSelector", "ServerList",
		"ErrCacheMiss", "ErrCASConflict", "ErrNotStored", "ErrServerError", "ErrNoStats", "ErrMalformedKey", "ErrNoServers",
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[*memcache.Client](), reflect.TypeFor[*memcache.ServerList]()} {
		for i := range typ.NumMethod() {
			names = append(names, typ.Method(i).Name)
		}
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[memcache.Client](), reflect.TypeFor[memcache.Item](), reflect.TypeFor[memcache.ConnectTimeoutError]()} {
		for i := range typ.NumField() {
			if f := typ.Field(i); f.IsExported() {
				names = append(names, f.Name)
			}
		}
	}
	for _, name := range names {
		if !strings.Contains(string(page), "`"+name+"`") && !strings.Contains(string(page), "`"+name+"(") && !strings.Contains(string(page), "."+name) {
			t.Errorf("nothing about %s", name)
		}
	}
}
