package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// raceSpec has a worker write and read until so many rounds are done in all
// processes together, or until a moment.
type raceSpec struct {
	Keys             keyspace
	Until            int64 // Unix nanoseconds
	Rounds           uint64
	Writers, Readers int
}

// readsPerRound is how many reads there are at least for each round.
const readsPerRound = 2

// race writes and reads the same keys as the other workers.
func (w *fleetWorker) race(ctx context.Context, spec raceSpec) error {
	if w.shared == nil {
		return errors.New("the race has no shared words")
	}
	until := onThisClock(spec.Until)
	on := func() bool {
		return ctx.Err() == nil && w.word(wordRounds).Load() < spec.Rounds && time.Now().Before(until)
	}
	var racers sync.WaitGroup
	for range spec.Writers {
		racers.Go(func() {
			for on() {
				if w.word(wordReads).Load() < readsPerRound*w.word(wordRounds).Load() {
					// Contenders whose writes cost little would be done before
					// anybody has read.
					_ = rest(ctx, time.Millisecond)
					continue
				}
				w.raceWrite(ctx, spec.Keys)
			}
		})
	}
	for range spec.Readers {
		racers.Go(func() {
			for on() {
				w.raceRead(ctx, spec.Keys)
			}
		})
	}
	racers.Wait()
	return ctx.Err()
}

func (w *fleetWorker) word(i int) *atomic.Uint64 { return &w.shared.words[i] }

// oneIn is true once in n times.
func oneIn(n int) bool { return rand.IntN(n) == 0 }

// raceWrite is a round: commit, then Refresh.
func (w *fleetWorker) raceWrite(ctx context.Context, keys keyspace) {
	rank := rand.IntN(keys.Count)
	key := keys.key(rank)
	if oneIn(32) {
		// So that there are stubs to be taken over too.
		_ = w.cache.remove(ctx, key)
	}
	version := w.word(wordVersions + rank).Add(1)
	if oneIn(16) {
		// Another round overtakes this one between its write and its Refresh.
		_ = rest(ctx, time.Duration(rand.Int64N(int64(3*time.Millisecond))))
	}
	if err := w.cache.refresh(ctx, key); err != nil {
		w.word(wordRefreshErrors).Add(1)
		return
	}
	raise(w.word(wordFloors+rank), version)
	w.word(wordRounds).Add(1)
}

// raise makes a word at least v.
func raise(word *atomic.Uint64, v uint64) {
	for old := word.Load(); old < v && !word.CompareAndSwap(old, v); old = word.Load() {
	}
}

// raceRead reads a key and compares with what was promised before it began.
func (w *fleetWorker) raceRead(ctx context.Context, keys keyspace) {
	rank := rand.IntN(keys.Count)
	floor := w.word(wordFloors + rank).Load()
	value, err := w.cache.read(ctx, keys.key(rank), 0)
	if err != nil {
		w.word(wordFailed).Add(1)
		return
	}
	w.word(wordReads).Add(1)
	if version, err := valueVersion(value); err != nil || version < floor {
		w.word(wordOlder).Add(1)
	}
}

func valueVersion(value []byte) (uint64, error) {
	head, _, _ := bytes.Cut(value, []byte(" "))
	return strconv.ParseUint(string(head), 10, 64)
}

// loadShared is the loader of a race. The shared words are the origin: what a
// committed write has changed is seen by every load that begins after it. One
// load in eight takes so long that writes come in between: what it brings is
// old by then.
func (w *fleetWorker) loadShared(ctx context.Context, key string) ([]byte, error) {
	rank, err := strconv.Atoi(key[strings.LastIndexByte(key, ':')+1:])
	if err != nil || rank < 0 || rank >= raceKeys {
		return nil, fmt.Errorf("%q is no key of the race", key)
	}
	version := w.word(wordVersions + rank).Load()
	if oneIn(8) {
		w.word(wordDelayed).Add(1)
		if err := rest(ctx, time.Millisecond+time.Duration(rand.Int64N(int64(29*time.Millisecond)))); err != nil {
			return nil, err
		}
	}
	return []byte(originValue(key, version)), nil
}
