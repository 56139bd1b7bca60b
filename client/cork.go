package client

import (
	"cmp"
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
	// Longest is the longest time that it holds. Default a millisecond.
	Longest time.Duration

	mu    sync.Mutex
	on    bool
	conns []*conn // that have requests of it
	timer *time.Timer
}

const (
	longestCork = time.Millisecond
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

// Hold holds requests from now on, until Release, or for Longest if that does not
// come sooner. Whoever waits for a call between the two may wait that long.
func (k *Cork) Hold() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.on = true
	longest := cmp.Or(k.Longest, longestCork)
	if k.timer == nil {
		k.timer = time.AfterFunc(longest, k.Release)
	} else {
		k.timer.Reset(longest)
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
	rounds := maxRounds
	if len(conns) > 1 {
		rounds = 1 // the last shall not wait for others' requests to the first
	}
	for _, c := range conns {
		c.mu.Lock()
		c.unlockAndWrite(rounds)
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
