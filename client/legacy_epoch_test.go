package client_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/internal/realserver"
	"github.com/ringside-cache/ringside/ring"
)

// TestLegacyRestart: CAS ids begin again when a node without meta commands is
// restarted. An item from before must never replace one that has its id by
// chance, however little of the restart the client has noticed.
func TestLegacyRestart(t *testing.T) {
	for _, tt := range []struct {
		name string
		// meanwhile is called with the server down or, where after, up again.
		meanwhile func(t *testing.T, c *client.Client)
		after     bool
	}{
		{"unnoticed", func(*testing.T, *client.Client) {}, false},
		{"while the node is out", func(_ *testing.T, c *client.Client) { c.Eject(0) }, false},
		{"the node was out", func(t *testing.T, c *client.Client) {
			c.Eject(0)
			eventually(t, 5*time.Second, "the node is back", func() bool { return c.Stats().Nodes[0].State == ring.Up })
			// A new connection, and nothing that fails.
			if _, err := c.Get(t.Context(), "other"); !errors.Is(err, client.ErrCacheMiss) {
				t.Fatal(err)
			}
		}, true},
		{"a dial fails", func(t *testing.T, c *client.Client) { c.Get(t.Context(), "other") }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := realserver.Memcached(t)
			c := newClient(t, client.Config{
				Servers: []string{makeOld(t, s.Addr(), versionOf("1.4.39"))}, Timeout: 2 * time.Second,
				Health: ring.HealthConfig{RetryTimeout: 20 * time.Millisecond, MaxRetryTimeout: 20 * time.Millisecond, MaxEjectedShare: 1},
			})
			for range 100 { // so that probes do not use up the id
				if err := c.Set(t.Context(), &client.Item{Key: "a", Value: []byte("old")}); err != nil {
					t.Fatal(err)
				}
			}
			item, err := c.Get(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			if tt.name == "the node was out" {
				c.Eject(0)
			}
			s.Kill()
			if !tt.after {
				tt.meanwhile(t, c)
			}
			if err := s.Restart(); err != nil {
				t.Fatal(err)
			}
			if tt.after {
				tt.meanwhile(t, c)
			}
			id := fmt.Sprintf(" c%d", item.CasID)
			for range 1000 {
				if strings.Contains(raw(t, s.Addr(), "set a 0 0 5\r\nnewer\r\nmg a c\r\n"), id) {
					break
				}
			}
			if got := raw(t, s.Addr(), "mg a c\r\n"); !strings.Contains(got, id) {
				t.Fatalf("the newer value has %q, the older had%s", got, id)
			}
			item.Value = []byte("from an older read")
			eventually(t, 10*time.Second, "the item of before is a conflict", func() bool {
				err := c.CompareAndSwap(t.Context(), item)
				if err == nil {
					t.Fatalf("the item of before replaced a newer one")
				}
				return errors.Is(err, client.ErrCASConflict)
			})
			if got := raw(t, s.Addr(), "mg a v\r\n"); !strings.Contains(got, "newer") {
				t.Errorf("the node has %q", got)
			}
		})
	}
}
