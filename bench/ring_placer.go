package bench

import (
	"fmt"
	"runtime"

	"github.com/cespare/xxhash/v2"

	"github.com/ringside-cache/ringside/ring"
)

// A placer is a way to place keys on nodes.
type placer struct {
	name string
	// build makes a placement on nodes of these names.
	build func(nodes []string) (placement, error)
	// onlyLast: only the last node can leave without the others being numbered
	// anew.
	onlyLast bool
	// perNode: a lookup looks at every node.
	perNode bool
}

// A placement gives the index of a key's owner.
type placement interface{ Lookup(key string) int }

// The names of the placers; ringside's own is nameRingside.
const (
	nameModulo     = "modulo"
	nameRendezvous = "rendezvous (pymemcache)"
	nameJump       = "jump hash, last one leaves"
	nameJumpAny    = "jump hash, any one leaves"
)

func placers() []placer {
	return []placer{
		dialectPlacer(nameRingside, ring.Ketama),
		dialectPlacer(nameModulo, ring.Modulo),
		dialectPlacer("libmemcached", ring.Libmemcached),
		dialectPlacer("libmemcached-weighted", ring.LibmemcachedWeighted),
		dialectPlacer("twemproxy", ring.Twemproxy),
		rendezvousPlacer(),
		{name: nameJump, build: newJump, onlyLast: true},
		{name: nameJumpAny, build: newJump},
	}
}

func rendezvousPlacer() placer {
	p := dialectPlacer(nameRendezvous, ring.Pymemcache)
	p.perNode = true
	return p
}

func dialectPlacer(name string, d ring.Dialect) placer {
	return placer{name: name, build: func(names []string) (placement, error) {
		nodes, err := ring.ParseNodes(names)
		if err != nil {
			return nil, err
		}
		return ring.New(nodes, d)
	}}
}

// nodeNames gives n nodes as people have them.
func nodeNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("10.0.%d.%d:11211", i/250, 1+i%250)
	}
	return names
}

// jump is jump consistent hash by John Lamping and Eric Veach, "A Fast, Minimal
// Memory, Consistent Hash Algorithm", 2014 (arXiv:1406.2294), figure 1. It knows
// numbers, not nodes: a node can be added or removed at the end only. It has no
// stand-ins and no weights either.
type jump struct{ buckets int64 }

func newJump(nodes []string) (placement, error) { return &jump{int64(len(nodes))}, nil }

func (j *jump) Lookup(key string) int {
	h := xxhash.Sum64String(key)
	var b, next int64 = -1, 0
	for next < j.buckets {
		b = next
		h = h*2862933555777941757 + 1
		next = int64(float64(b+1) * (float64(int64(1)<<31) / float64((h>>33)+1)))
	}
	return int(b)
}

// heldBy measures what a placement holds, in bytes.
func heldBy(build func() (placement, error)) (float64, error) {
	before := heldNow().bytes
	p, err := build()
	if err != nil {
		return 0, err
	}
	after := heldNow().bytes
	runtime.KeepAlive(p)
	// What else the process lets go of meanwhile can exceed little.
	return float64(max(0, after-before)), nil
}
