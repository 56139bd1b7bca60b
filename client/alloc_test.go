package client_test

import (
	"fmt"
	"testing"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/internal/realserver"
)

// TestAllocations: what an operation allocates in the client. The server is
// another process, so that only the client's own count.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	s := realserver.Memcached(t)
	c := newClient(t, client.Config{Servers: []string{s.Addr()}})
	ctx := t.Context()
	var keys []string
	for i := range 100 {
		keys = append(keys, fmt.Sprintf("key:%d", i))
		if err := c.Set(ctx, &client.Item{Key: keys[i], Value: make([]byte, 100)}); err != nil {
			t.Fatal(err)
		}
	}
	item := &client.Item{Key: "key:1", Value: make([]byte, 100)}
	buf := make([]byte, 0, 1024)
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		most float64
		do   func()
	}{
		{"Get", 1, func() { _, err := c.Get(ctx, "key:1"); check(err) }},
		{"GetInto", 0, func() { _, _, err := c.GetInto(ctx, "key:1", buf); check(err) }},
		{"Set", 0, func() { check(c.Set(ctx, item)) }},
		{"Increment of a missing key", 0, func() { c.Increment(ctx, "gone", 1) }},
		{"GetMulti of 100", 100 + 20, func() { _, err := c.GetMulti(ctx, keys); check(err) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if n := testing.AllocsPerRun(200, tt.do); n > tt.most {
				t.Errorf("%v allocations, want %v at most", n, tt.most)
			}
		})
	}
}
