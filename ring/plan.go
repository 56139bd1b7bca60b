package ring

import (
	"iter"
	"strconv"
)

// Change tells what replacing one ring by another does to a sample of keys.
type Change struct {
	// Keys is the size of the sample.
	Keys int `json:"keys"`
	// Moved counts the keys whose owner changes.
	Moved int `json:"moved"`
	// Needless counts those of them whose old and new owner both are in
	// both rings: they had no reason to move.
	Needless int `json:"needless"`
	// Nodes lists the nodes of the new ring, then those that leave.
	Nodes []NodeChange `json:"nodes"`
}

// NodeChange is one node's part in a Change. Before and After count keys of
// the sample.
type NodeChange struct {
	Name   string `json:"name"`
	Before int    `json:"before"`
	After  int    `json:"after"`
	Gained int    `json:"gained"`
	Lost   int    `json:"lost"`
	Joins  bool   `json:"joins,omitempty"`
	Leaves bool   `json:"leaves,omitempty"`
}

// MovedShare is the share of the sample that moves, 0 to 1.
func (c Change) MovedShare() float64 {
	if c.Keys == 0 {
		return 0
	}
	return float64(c.Moved) / float64(c.Keys)
}

// Plan looks every key of the sample up in both rings. Nodes are the same
// where their names are.
func Plan(from, to *Ring, sample iter.Seq[string]) Change {
	var c Change
	at := make(map[string]int)
	for _, n := range to.nodes {
		at[n.Name] = len(c.Nodes)
		c.Nodes = append(c.Nodes, NodeChange{Name: n.Name, Joins: true})
	}
	for _, n := range from.nodes {
		if i, stays := at[n.Name]; stays {
			c.Nodes[i].Joins = false
			continue
		}
		at[n.Name] = len(c.Nodes)
		c.Nodes = append(c.Nodes, NodeChange{Name: n.Name, Leaves: true})
	}
	places := func(r *Ring) []int {
		p := make([]int, r.Len())
		for i, n := range r.nodes {
			p[i] = at[n.Name]
		}
		return p
	}
	fromAt, toAt := places(from), places(to)
	for key := range sample {
		c.Keys++
		i, j := fromAt[from.Lookup(key)], toAt[to.Lookup(key)]
		c.Nodes[i].Before++
		c.Nodes[j].After++
		if i == j {
			continue
		}
		c.Moved++
		c.Nodes[i].Lost++
		c.Nodes[j].Gained++
		if !c.Nodes[i].Leaves && !c.Nodes[j].Joins {
			c.Needless++
		}
	}
	return c
}

// SampleKeys yields n different keys, the same ones each time, for a Plan
// where no real keys are at hand.
func SampleKeys(n int) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range n {
			if !yield("sample:" + strconv.Itoa(i)) {
				return
			}
		}
	}
}
