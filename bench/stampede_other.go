//go:build !unix

package bench

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

var errNotUnix = errors.New("the scenario runs on unix systems only")

type sleeper struct{}

func newSleeper() sleeper                                     { return sleeper{} }
func (sleeper) close()                                        {}
func (sleeper) until(ctx context.Context, at time.Time) error { return rest(ctx, time.Until(at)) }

type sharedWords struct{ words []atomic.Uint64 }

func createShared(string, int) error          { return errNotUnix }
func openShared(string) (*sharedWords, error) { return nil, errNotUnix }
func (*sharedWords) close()                   {}
