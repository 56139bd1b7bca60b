package bench

import (
	"runtime"
	"time"
)

// usage is what this process has used until a moment, or between two.
type usage struct {
	at       time.Time
	wall     time.Duration // between two
	cpu      time.Duration
	cpuKnown bool
	mallocs  uint64
	bytes    uint64
}

func readUsage() usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := usage{mallocs: m.Mallocs, bytes: m.TotalAlloc}
	u.cpu, u.cpuKnown = cpuTime()
	u.at = time.Now()
	return u
}

func (u usage) since(before usage) usage {
	return usage{
		wall: u.at.Sub(before.at),
		cpu:  u.cpu - before.cpu, cpuKnown: u.cpuKnown && before.cpuKnown,
		mallocs: u.mallocs - before.mallocs,
		bytes:   u.bytes - before.bytes,
	}
}

// sample spreads what was used over the operations.
func (u usage) sample(ops int64) Sample {
	n := float64(ops)
	s := Sample{
		Throughput:  n / u.wall.Seconds(),
		AllocsPerOp: float64(u.mallocs) / n,
		BytesPerOp:  float64(u.bytes) / n,
	}
	if u.cpuKnown {
		s[CPUPerOp] = float64(u.cpu) / n
	}
	return s
}

// countAllocs does an operation n times and tells what that allocated. Time
// plays no part in it.
func countAllocs(n int, op func() error) (Sample, error) {
	for range n/10 + 1 {
		if err := op(); err != nil {
			return nil, err
		}
	}
	runtime.GC()
	before := readUsage()
	for range n {
		if err := op(); err != nil {
			return nil, err
		}
	}
	s := readUsage().since(before).sample(int64(n))
	return Sample{AllocsPerOp: s[AllocsPerOp], BytesPerOp: s[BytesPerOp]}, nil
}
