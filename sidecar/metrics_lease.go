package sidecar

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringside-cache/ringside/stampede"
)

// leaseCollector reads the broker's own counters when it is asked.
type leaseCollector struct{ b *stampede.Broker }

var (
	leaseAnswers = prometheus.NewDesc("ringside_lease_answers_total",
		"What leased keys had: a fresh or stale value, or a marker that there is none.", []string{"state"}, nil)
	leaseFills = prometheus.NewDesc("ringside_lease_fills_total",
		"Fills by what became of them: stored, or refused for a reason.", []string{"result"}, nil)
	leaseCounters = []leaseCounter{
		{"wins_total", "Leases lent to callers.", func(s *stampede.Stats) uint64 { return s.Wins }},
		{"early_refreshes_total", "Of these, before the value was due.", func(s *stampede.Stats) uint64 { return s.EarlyRefreshes }},
		{"waits_total", "Callers that waited for another's fill.", func(s *stampede.Stats) uint64 { return s.Waits }},
		{"takeovers_total", "Leases taken from holders believed dead.", func(s *stampede.Stats) uint64 { return s.Takeovers }},
		{"failed_loads_total", "Loads that their callers reported as failed.", func(s *stampede.Stats) uint64 { return s.LoadErrors }},
		{"shed_total", "Callers refused because too many leases were lent.", func(s *stampede.Stats) uint64 { return s.Shed }},
		{"stale_on_error_total", "Failed refills of a value that goes on being served.", func(s *stampede.Stats) uint64 { return s.StaleOnError }},
	}
	leaseLent    = prometheus.NewDesc("ringside_lease_lent", "Leases that callers have now.", nil, nil)
	leaseWaiting = prometheus.NewDesc("ringside_lease_waiting", "Callers that wait for another's fill now.", nil, nil)
	leaseLoads   = prometheus.NewDesc("ringside_lease_load_seconds",
		"Time from lending a lease to its fill or failure.", nil, nil)
)

type leaseCounter struct {
	name, help string
	get        func(*stampede.Stats) uint64
}

func (c *leaseCounter) desc() *prometheus.Desc {
	return prometheus.NewDesc("ringside_lease_"+c.name, c.help, nil, nil)
}

func (lc leaseCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{leaseAnswers, leaseFills, leaseLent, leaseWaiting, leaseLoads} {
		ch <- d
	}
	for i := range leaseCounters {
		ch <- leaseCounters[i].desc()
	}
}

func (lc leaseCollector) Collect(ch chan<- prometheus.Metric) {
	s := lc.b.Stats()
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	counter(leaseAnswers, s.FreshHits, "fresh")
	counter(leaseAnswers, s.StaleHits, "stale")
	counter(leaseAnswers, s.NotFoundHits, "not_found")
	counter(leaseAnswers, s.FailedHits, "failed")
	counter(leaseFills, s.Fills, "stored")
	for r, n := range s.Refused {
		counter(leaseFills, n, strings.ReplaceAll(stampede.Refusal(r).String(), " ", "_"))
	}
	for i := range leaseCounters {
		counter(leaseCounters[i].desc(), leaseCounters[i].get(&s))
	}
	ch <- prometheus.MustNewConstMetric(leaseLent, prometheus.GaugeValue, float64(s.Loading))
	ch <- prometheus.MustNewConstMetric(leaseWaiting, prometheus.GaugeValue, float64(lc.b.Waiting()))
	ch <- histogram(leaseLoads, stampede.LoadBuckets[:], s.LoadTimes[:], s.LoadTime)
}

// histogram turns counts by bucket into the cumulative ones of Prometheus.
func histogram(d *prometheus.Desc, bounds []time.Duration, counts []uint64, sum time.Duration, labels ...string) prometheus.Metric {
	buckets := make(map[float64]uint64, len(bounds))
	var count uint64
	for i, n := range counts {
		count += n
		if i < len(bounds) {
			buckets[bounds[i].Seconds()] = count
		}
	}
	return prometheus.MustNewConstHistogram(d, count, sum.Seconds(), buckets, labels...)
}
