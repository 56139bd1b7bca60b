package client

import (
	"context"
	"slices"
	"sync"
	"time"
)

// A Cork holds the requests of calls that have it in their context, see
// [WithCork], until it is released: those of many goroutines then go to a node
// in one write. It is for a server that reads many requests at a time and hands
// each to a goroutine of its own, and holds while it does that. The zero Cork
// is ready for use.
type Cork struct {
	mu    sync.Mutex
	on    bool
	conns []*conn // that have requests of it
	timer *time.Timer
}

const (
	// maxCork is the longest time that a Cork holds.
	maxCork = time.Millisecond
	// fullCork is how many bytes for a node are held at most.
	fullCork = 4 << 10
)

type corkKey struct{}

// WithCork gives a context whose calls are held by k. Without
// [Config.ShareWrites] it has no effect.
func WithCork(ctx context.Context, k *Cork) context.Context {
	return context.WithValue(ctx, corkKey{}, k)
}

func (c *Client) corkOf(ctx context.Context) *Cork {
	if !c.cfg.ShareWrites {
		return nil
	}
	k, _ := ctx.Value(corkKey{}).(*Cork)
	return k
}

// Hold holds requests from now on, until Release, or for a millisecond if that
// does not come sooner. Whoever has called it waits for no call before Release.
func (k *Cork) Hold() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.on = true
	if k.timer == nil {
		k.timer = time.AfterFunc(maxCork, k.Release)
	} else {
		k.timer.Reset(maxCork)
	}
}

// Release has what was held written, and holds nothing more.
func (k *Cork) Release() {
	k.mu.Lock()
	k.on = false
	conns := k.conns
	k.conns = nil
	if k.timer != nil {
		k.timer.Stop()
	}
	k.mu.Unlock()
	for _, c := range conns {
		c.mu.Lock()
		c.unlockAndWrite()
	}
}

// takes tells whether a connection's requests are held, which it is asked where
// somebody would have to write them. c.mu is held.
func (k *Cork) takes(c *conn) bool {
	if k == nil || len(c.wbuf) > fullCork {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.on && !slices.Contains(k.conns, c) {
		k.conns = append(k.conns, c)
	}
	return k.on
}
