package bench

import (
	"context"
	"time"
)

// A Scenario is a subcommand of "ringside bench", and a part of [All].
type Scenario struct {
	Name string
	// Short and Long are its help.
	Short, Long string
	// Duration is the default of Options.Duration.
	Duration time.Duration
	// Least is the shortest Duration that it can run with under its default
	// rounds.
	Least time.Duration
	// HasRounds tells whether Options.Rounds means something to it.
	HasRounds bool
	// Run gives ErrOptions for options that it can not run with.
	Run func(ctx context.Context, opts Options) (*Report, error)
}

// Scenarios are all there are, in the order in which All runs them.
func Scenarios() []Scenario {
	return []Scenario{
		ringScenario(),
		clientScenario(),
		stampedeScenario(),
		rebalanceScenario(),
		failoverScenario(),
		sidecarScenario(),
	}
}

func clientScenario() Scenario {
	return Scenario{
		Name: "client", Short: "The client library beside gomemcache and the limit of the wire",
		Long: `Measure the client library beside gomemcache and a raw loop that shows the
limit of the wire: throughput, latency, CPU, allocations, and what an idle
client holds. It needs memcached in PATH and takes less than three minutes.`,
		Duration: clientDuration, Least: 60 * time.Second, HasRounds: true, Run: Client,
	}
}

func stampedeScenario() Scenario {
	return Scenario{
		Name: "stampede", Short: "How often the origin is asked, beside get-load-set and singleflight",
		Long: `Measure how often an origin is asked, and who waits for it, when popular keys
expire, are invalidated, or lose their loader or their node. A fleet of real
processes reads through real memcacheds at about 30% of its capacity: with
ringside, with naive get-load-set, and with singleflight in each process. It
needs memcached in PATH and takes less than four minutes.`,
		Duration: stampedeDuration, Least: 90 * time.Second, Run: Stampede,
	}
}

func sidecarScenario() Scenario {
	return Scenario{
		Name: "sidecar", Short: "The sidecar beside twemproxy, and its gRPC beside an empty call",
		Long: `Measure the sidecar, a process of its own in front of three memcacheds, beside
twemproxy (nutcracker) and memcached itself: throughput, latency and CPU of the
memcached protocol, gRPC beside an empty call, and memory of 10,000 idle
connections. It needs memcached in PATH, and nutcracker for what is compared
with it, and takes less than three minutes.`,
		Duration: sidecarDuration, Least: 60 * time.Second, HasRounds: true, Run: Sidecar,
	}
}
