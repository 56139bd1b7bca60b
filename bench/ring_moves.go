package bench

import (
	"context"

	"github.com/ringside-cache/ringside/ring"
)

// moves counts keys whose owner changes.
type moves struct {
	keys, join, needlessJoin, leave, needlessLeave int
	perNode                                        []int // before the change
}

// countMoves looks n keys up before a change, with one more node, and with one
// less.
func countMoves(ctx context.Context, p placer, nodes, n int) (moves, error) {
	m := moves{perNode: make([]int, nodes)}
	names := nodeNames(nodes + 1)
	// One from the middle leaves: in a list it renumbers those behind it.
	gone := nodes / 2
	if p.onlyLast {
		gone = nodes - 1
	}
	before, err := p.build(names[:nodes])
	if err != nil {
		return m, err
	}
	more, err := p.build(names)
	if err != nil {
		return m, err
	}
	fewer, err := p.build(append(append([]string{}, names[:gone]...), names[gone+1:nodes]...))
	if err != nil {
		return m, err
	}
	for key := range ring.SampleKeys(n) {
		if m.keys%(1<<16) == 0 && ctx.Err() != nil {
			return m, ctx.Err()
		}
		m.keys++
		owner := before.Lookup(key)
		m.perNode[owner]++
		if joined := more.Lookup(key); joined != owner {
			m.join++
			if joined != nodes { // not to the node that is new
				m.needlessJoin++
			}
		}
		left := fewer.Lookup(key)
		if left >= gone {
			left++ // its number before the change
		}
		if left != owner {
			m.leave++
			if owner != gone {
				m.needlessLeave++
			}
		}
	}
	return m, nil
}

// leastPerNode is how many keys each node must have on average for the largest
// and smallest share to say something about the placement and not about the
// choice of keys.
const leastPerNode = 100

func (m moves) sample() Sample {
	of := func(n int) float64 { return float64(n) / float64(m.keys) }
	nodes := len(m.perNode)
	s := Sample{
		KeysPlaced:      float64(m.keys),
		MovedByJoin:     of(m.join),
		MovedByLeave:    of(m.leave),
		NeedlessByJoin:  of(m.needlessJoin),
		NeedlessByLeave: of(m.needlessLeave),
		JoinToIdeal:     of(m.join) * float64(nodes+1),
		LeaveToIdeal:    of(m.leave) * float64(nodes),
	}
	if m.keys < leastPerNode*nodes {
		return s
	}
	mean := float64(m.keys) / float64(nodes)
	smallest, largest := m.perNode[0], m.perNode[0]
	for _, n := range m.perNode {
		smallest, largest = min(smallest, n), max(largest, n)
	}
	s[LargestShare], s[SmallestShare] = float64(largest)/mean, float64(smallest)/mean
	return s
}
