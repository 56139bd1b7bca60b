package client_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
)

func TestClose(t *testing.T) {
	c, err := client.New(client.Config{Servers: []string{newMemnode(t).Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Set(t.Context(), &client.Item{Key: "a"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Get(t.Context(), "a"); !errors.Is(err, client.ErrClosed) {
		t.Errorf("get after Close: %v, want ErrClosed", err)
	}
	var b client.Batch
	b.Get("a")
	_, err = c.ServerStats(t.Context(), "")
	for name, err := range map[string]error{
		"ping": c.Ping(t.Context()), "flush": c.FlushAll(t.Context()), "stats": err, "flush after": c.FlushAllAfter(t.Context(), 1),
	} {
		if !errors.Is(err, client.ErrClosed) {
			t.Errorf("%s after Close: %v, want ErrClosed", name, err)
		}
	}
	if err := c.Do(t.Context(), &b); !errors.Is(err, client.ErrClosed) {
		t.Errorf("batch after Close: %v, want ErrClosed", err)
	}
}

// TestCloseBesideOthers: what asks every node ends when the client is closed
// meanwhile.
func TestCloseBesideOthers(t *testing.T) {
	server := newMemnode(t).Addr()
	for range 20 {
		c, err := client.New(client.Config{Servers: []string{server}})
		if err != nil {
			t.Fatal(err)
		}
		begun, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			if err := c.Ping(t.Context()); err != nil {
				t.Error(err)
			}
			close(begun)
			for {
				if err := c.Ping(t.Context()); err != nil {
					ended <- err
					return
				}
			}
		}()
		<-begun
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, client.ErrClosed) {
				t.Errorf("it ends with %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("it does not end")
		}
	}
}
