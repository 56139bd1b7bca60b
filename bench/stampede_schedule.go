package bench

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// A keyspace is the keys of a run and how often each is read: by Zipf's law,
// the first is the hot one.
type keyspace struct {
	Prefix string `json:"prefix"`
	Count  int    `json:"count"`
	// Skew is the exponent, above 1. With 1.2 and some thousand keys a fifth
	// of the reads are of the hot key.
	Skew float64 `json:"skew"`
}

func (k keyspace) key(rank int) string { return fmt.Sprintf("%s%06d", k.Prefix, rank) }

func (k keyspace) hot() string { return k.key(0) }

func (k keyspace) names() []string {
	names := make([]string, k.Count)
	for i := range names {
		names[i] = k.key(i)
	}
	return names
}

// ranks draws keys, as numbers below Count.
func (k keyspace) ranks(r *rand.Rand) func() int {
	z := rand.NewZipf(r, k.Skew, 1, uint64(k.Count-1))
	return func() int { return int(z.Uint64()) }
}

// arrivals are the moments at which the reads of an open loop are to start,
// counted from its beginning: a Poisson process, as independent users make it.
// They do not depend on how long reads take, so a stall is met by as many as
// would meet it.
func arrivals(r *rand.Rand, rate float64, total time.Duration) []time.Duration {
	if rate <= 0 {
		return nil
	}
	list := make([]time.Duration, 0, int(rate*total.Seconds()*1.1)+16)
	at := 0.0
	for {
		at += r.ExpFloat64() / rate
		d := time.Duration(at * float64(time.Second))
		if d >= total {
			return list
		}
		list = append(list, d)
	}
}
