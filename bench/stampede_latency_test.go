package bench

import (
	"slices"
	"testing"
	"time"
)

func TestRefillRatios(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	var reads []timedRead
	for ms := range 3000 {
		took := 10 * time.Millisecond
		if ms%1000 < 200 && ms >= 1000 {
			took = 30 * time.Millisecond // during the refills
		}
		reads = append(reads, timedRead{at(ms), took})
	}
	windows := []window{{at(0), at(200)}, {at(1000), at(1200)}, {at(2000), at(2200)}}
	ratios := refillRatios(reads, windows)
	if !slices.Equal(ratios, []float64{1, 3}) {
		t.Errorf("ratios %v, want 1 and 3", ratios)
	}
	during, between := split(reads, windows)
	if len(during) != 600 || len(between) != 2400 || slow(reads) != 0 {
		t.Errorf("%d during, %d between", len(during), len(between))
	}
	if got := within(reads, windows[1]); len(got) != 200 || !got[0].at.Equal(at(1000)) {
		t.Errorf("%d reads within", len(got))
	}
	if got := within(reads, window{at(9000), at(8000)}); len(got) != 0 {
		t.Errorf("%d reads within nothing", len(got))
	}
	if refillRatios(reads, nil) != nil || refillRatios(nil, windows) != nil {
		t.Error("ratios of nothing")
	}
}

func TestP99(t *testing.T) {
	var reads []timedRead
	for i := range 200 {
		reads = append(reads, timedRead{took: time.Duration(200 - i)})
	}
	for n, want := range map[int]time.Duration{1: 200, 99: 200, 100: 199, 200: 198} {
		if got := p99(reads[:n]); got != want {
			t.Errorf("of %d reads it is %d, want %d", n, got, want)
		}
	}
	if got := median([]float64{3, 1, 2, 10}); got != 2.5 {
		t.Errorf("median %v, want 2.5", got)
	}
}
