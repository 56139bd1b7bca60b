package bench

import (
	"context"
	"slices"
	"sync"
	"time"
)

// limited is an origin that does so many calls at a time and has the others
// wait in a line: a database with a pool of connections.
type limited struct {
	slots chan struct{}
	delay time.Duration
	value func(key string) []byte

	mu    sync.Mutex // guards calls
	calls []time.Time
}

func newLimited(atOnce int, delay time.Duration, value func(string) []byte) *limited {
	return &limited{slots: make(chan struct{}, atOnce), delay: delay, value: value}
}

// perSecond is its capacity.
func (o *limited) perSecond() float64 { return float64(cap(o.slots)) / o.delay.Seconds() }

func (o *limited) load(ctx context.Context, key string) ([]byte, error) {
	select {
	case o.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-o.slots }()
	o.mu.Lock()
	o.calls = append(o.calls, time.Now())
	o.mu.Unlock()
	if err := rest(ctx, o.delay); err != nil {
		return nil, err
	}
	return o.value(key), nil
}

// since gives when calls began after a moment, counted from it.
func (o *limited) since(start time.Time) (moments []time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.calls {
		if d := c.Sub(start); d >= 0 {
			moments = append(moments, d)
		}
	}
	slices.Sort(moments)
	return moments
}

func countBetween(moments []time.Duration, from, to time.Duration) float64 {
	n := 0.0
	for _, m := range moments {
		if m >= from && m < to {
			n++
		}
	}
	return n
}
