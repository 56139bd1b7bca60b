package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A corpus is the keys and values that a scenario works on. A value begins
// with its key, so that a reply which went to the wrong caller is seen.
type corpus struct {
	keys      []string
	valueSize int
}

// newCorpus makes n keys of 22 bytes, a usual length for "what:id", with
// values of size bytes.
func newCorpus(n, size int) corpus {
	c := corpus{keys: make([]string, n), valueSize: size}
	for i := range c.keys {
		c.keys[i] = fmt.Sprintf("user:profile:%09d", i)
	}
	return c
}

func (c corpus) value(key string) []byte {
	v := make([]byte, c.valueSize)
	for i := copy(v, key); i < len(v); i++ {
		v[i] = 'a' + byte(i%26)
	}
	return v
}

var errWrongValue = errors.New("the value is not the key's")

// check tells whether a value is the key's. It costs some nanoseconds.
func (c corpus) check(key string, value []byte) error {
	if len(value) != c.valueSize || string(value[:len(key)]) != key {
		return errWrongValue
	}
	return nil
}

// store stores every key through the peer. A key gets some tries, as servers
// that were only just started on a busy machine may be late.
func (c corpus) store(ctx context.Context, p *peer) error {
	const callers = 16
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for k := i; k < len(c.keys) && ctx.Err() == nil; k += callers {
				if err := setPatiently(ctx, p, c.keys[k], c.value(c.keys[k])); err != nil {
					cancel(err) // the first is enough
				}
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("storing the keys through %s: %w", p.name, err)
	}
	return nil
}

func setPatiently(ctx context.Context, p *peer, key string, value []byte) (err error) {
	for try := range 6 {
		if err = p.set(ctx, key, value); err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond << try)
	}
	return err
}

// picker chooses keys at random, each caller in its own order: xorshift, as a
// shared or a better generator would cost more than what is measured.
type picker struct{ state uint64 }

func newPicker(caller int) *picker {
	return &picker{state: uint64(caller)*0x9e3779b97f4a7c15 + 0x1234567}
}

func (p *picker) intn(n int) int {
	p.state ^= p.state << 13
	p.state ^= p.state >> 7
	p.state ^= p.state << 17
	return int(p.state % uint64(n))
}

// gets is a load of Gets.
func (c corpus) gets(p *peer, callers int) Load {
	return c.getsUnder(p, callers, func(int) context.Context { return context.Background() })
}

// getsUnder is gets with a context for each caller.
func (c corpus) getsUnder(p *peer, callers int, newContext func(i int) context.Context) Load {
	every := 1
	switch { // always thousands of samples
	case callers >= 64:
		every = 8
	case callers > 1:
		every = 4
	}
	return Load{Callers: callers, SampleEvery: every, Caller: func(i int) func() (int, error) {
		pick, ctx := newPicker(i), newContext(i)
		return func() (int, error) {
			key := c.keys[pick.intn(len(c.keys))]
			value, err := p.get(ctx, key)
			if err != nil {
				return 0, err
			}
			return 1, c.check(key, value)
		}
	}}
}

// multis is a load of GetMultis of n keys.
func (c corpus) multis(p *peer, callers, n int) Load {
	return Load{Callers: callers, SampleEvery: 1, Caller: func(i int) func() (int, error) {
		pick := newPicker(i)
		return func() (int, error) {
			at := pick.intn(len(c.keys) - n)
			keys := c.keys[at : at+n]
			got, first, err := p.multi(context.Background(), keys)
			switch {
			case err != nil:
				return 0, err
			case got != n:
				return 0, errMissing
			}
			return 1, c.check(keys[0], first)
		}
	}}
}
