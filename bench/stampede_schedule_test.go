package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// The shares are those of Zipf's law: rank r has 1/(1+r)^s of the hot key's.
func TestKeyspaceZipf(t *testing.T) {
	k := keyspace{Prefix: "p:", Count: 2000, Skew: 1.2}
	rank := k.ranks(rand.New(rand.NewPCG(1, 2)))
	const draws = 400_000
	counts := make([]float64, k.Count)
	for range draws {
		counts[rank()]++
	}
	total := 0.0
	for r := range k.Count {
		total += math.Pow(float64(1+r), -k.Skew)
	}
	for _, r := range []int{0, 1, 9, 99} {
		want := draws * math.Pow(float64(1+r), -k.Skew) / total
		if math.Abs(counts[r]-want) > 5*math.Sqrt(want) {
			t.Errorf("rank %d has %v of the reads, want %.0f", r, counts[r], want)
		}
	}
	if counts[k.Count-1] > counts[99] {
		t.Errorf("the last key is read %v times, the 100th %v", counts[k.Count-1], counts[99])
	}
	names := k.names()
	if names[0] != k.hot() || len(slices.Compact(slices.Sorted(slices.Values(names)))) != k.Count {
		t.Error("the keys are not all different")
	}
}

func TestArrivals(t *testing.T) {
	draw := func(seed uint64) []time.Duration {
		return arrivals(rand.New(rand.NewPCG(seed, 0)), 2000, 10*time.Second)
	}
	list := draw(1)
	if !slices.IsSorted(list) || list[len(list)-1] >= 10*time.Second {
		t.Error("they are out of order or too late")
	}
	// Poisson: the number has the deviation of its root, and the gaps that of
	// their mean. Five deviations do not happen by chance.
	if n := float64(len(list)); math.Abs(n-20_000) > 5*math.Sqrt(20_000) {
		t.Errorf("%v arrivals, want about 20000", n)
	}
	over := 0.0 // gaps above the mean, 1/e of all
	for i := range list[1:] {
		if list[i+1]-list[i] > 500*time.Microsecond {
			over++
		}
	}
	if got := over / float64(len(list)); math.Abs(got-1/math.E) > 0.02 {
		t.Errorf("%.3f of the gaps are above the mean, want %.3f", got, 1/math.E)
	}
	if !slices.Equal(list, draw(1)) || slices.Equal(list, draw(2)) {
		t.Error("the seed does not decide")
	}
	if got := arrivals(rand.New(rand.NewPCG(1, 0)), 0, time.Second); got != nil {
		t.Errorf("a rate of 0 has arrivals %v", got)
	}
}
