package ring

import (
	"cmp"
	"fmt"
	"iter"
	"math/bits"
	"slices"
)

// Ring tells which node owns a key. It is immutable and safe for concurrent
// use.
type Ring struct {
	nodes   []Node
	dialect Dialect
	layout  layout
	hash    keyHash
	// points are sorted; the upper half is the point's value, the lower half
	// its owner's rank. Ranks order the owners of equal points.
	points []uint64
	// table[b] is the first point whose value has the top bits b or more.
	table []uint32
	shift uint
	// byRank turns a rank into the node's index; nil where they are equal.
	byRank []uint32
	// scored are the nodes' strings for a rendezvous dialect.
	scored []string
}

// New builds the ring of the nodes in a dialect. It reports every problem of
// the nodes at once; the slice is copied.
func New(nodes []Node, dialect Dialect) (*Ring, error) {
	l, hash, err := dialect.resolve()
	if err != nil {
		return nil, err
	}
	if err := validateNodes(nodes, false); err != nil {
		return nil, err
	}
	if l.unweighted && anyWeight(nodes) {
		return nil, fmt.Errorf("dialect %q has no weights: leave *weight out", l.name)
	}
	r := &Ring{nodes: slices.Clone(nodes), dialect: dialect, layout: l, hash: keyHashes[hash]}
	if dialect == "" {
		r.dialect = Ketama
	}
	if l.name == Ketama {
		total := 0
		for _, n := range nodes {
			total += n.Weight
		}
		if total > maxPoints/pointsPerWeight {
			return nil, fmt.Errorf("the weights add up to %d, dialect %q allows %d: use smaller weights", total, l.name, maxPoints/pointsPerWeight)
		}
	}
	switch {
	case l.score != nil:
		for _, n := range r.nodes {
			r.scored = append(r.scored, l.score(n))
		}
	case l.points != nil:
		r.build(l.points(r.nodes, r.hash))
		if len(r.points) == 0 {
			return nil, fmt.Errorf("dialect %q gives none of these nodes a point", l.name)
		}
	}
	return r, nil
}

// Len is the number of nodes.
func (r *Ring) Len() int { return len(r.nodes) }

// Node gives the node of an index that Lookup or Successors returned.
func (r *Ring) Node(i int) Node { return r.nodes[i] }

// Nodes gives a copy of the nodes in their configured order.
func (r *Ring) Nodes() []Node { return slices.Clone(r.nodes) }

// Dialect gives the dialect that the ring was built in.
func (r *Ring) Dialect() Dialect { return r.dialect }

// Points is the number of points on the continuum, 0 for a dialect that has
// none.
func (r *Ring) Points() int { return len(r.points) }

// Bytes is the memory that the continuum and its table take.
func (r *Ring) Bytes() int { return 8*len(r.points) + 4*len(r.table) + 4*len(r.byRank) }

// Hash gives the 32-bit value that the dialect's key hash has for the key.
func (r *Ring) Hash(key string) uint32 { return r.hash(key) }

// Lookup gives the index of the key's owner, whether that node is up or not.
// It takes no longer for more nodes, except in a rendezvous dialect, and
// allocates nothing.
func (r *Ring) Lookup(key string) int {
	switch {
	case len(r.nodes) == 1:
		return 0
	case r.points != nil:
		return r.owner(r.find(r.hash(key)))
	case r.scored != nil:
		return r.highest(key)
	default:
		return int(r.hash(key) % uint32(len(r.nodes)))
	}
}

// Successors walks the distinct nodes after the key's owner, clockwise: the
// stand-ins, in the order in which they are asked when the owner is ejected.
// It yields every node but the owner once; a node without points comes last.
func (r *Ring) Successors(key string) iter.Seq[int] {
	return func(yield func(int) bool) {
		switch {
		case len(r.nodes) == 1:
		case r.points != nil:
			r.walk(r.find(r.hash(key)), yield)
		case r.scored != nil:
			for _, i := range r.ranking(key)[1:] {
				if !yield(i) {
					return
				}
			}
		default:
			n := len(r.nodes)
			owner := r.Lookup(key)
			for i := 1; i < n; i++ {
				if !yield((owner + i) % n) {
					return
				}
			}
		}
	}
}

// walk yields the distinct owners of the points after the one at place p,
// but for that point's own.
func (r *Ring) walk(p int, yield func(int) bool) {
	seen := make([]bool, len(r.nodes))
	seen[r.owner(p)] = true
	left := len(r.nodes) - 1
	step := 1
	if r.layout.before {
		step = len(r.points) - 1
	}
	for range len(r.points) - 1 {
		if left == 0 {
			return
		}
		p = (p + step) % len(r.points)
		if i := r.owner(p); !seen[i] {
			seen[i] = true
			left--
			if !yield(i) {
				return
			}
		}
	}
	for i := range seen {
		if !seen[i] && !yield(i) {
			return
		}
	}
}

// find gives the place of the point that owns the hash value h.
func (r *Ring) find(h uint32) int {
	b := int(h >> r.shift)
	if b >= len(r.table) {
		b = len(r.table) - 1
	}
	i := int(r.table[b])
	if r.layout.before {
		// One past the last point <= h, then back by one. Of equal points
		// that is the last listed; Dalli's own choice depends on an unstable
		// sort.
		limit := uint64(h)<<32 | 0xffffffff
		for i < len(r.points) && r.points[i] <= limit {
			i++
		}
		if i == 0 {
			i = len(r.points)
		}
		return i - 1
	}
	limit := uint64(h) << 32
	for i < len(r.points) && r.points[i] < limit {
		i++
	}
	if i == len(r.points) {
		return 0
	}
	return i
}

func (r *Ring) owner(p int) int {
	rank := uint32(r.points[p])
	if r.byRank != nil {
		return int(r.byRank[rank])
	}
	return int(rank)
}

// build sorts the points with a counting sort over their top bits, which
// makes the lookup table on the way: the points are evenly spread, so each
// bucket holds about one. The table spans the values in use only, as some key
// hashes have 15 bits.
func (r *Ring) build(raw []rawPoint) {
	rank := r.ranks()
	var highest uint32
	for _, p := range raw {
		highest = max(highest, p.value)
	}
	r.shift = uint(max(0, bits.Len32(highest)-bits.Len(uint(len(raw)))+1))
	// One bucket more than there are values, for hashes past the last point.
	r.table = make([]uint32, int(highest>>r.shift)+2)
	for _, p := range raw {
		r.table[p.value>>r.shift]++
	}
	sum := uint32(0)
	for b, count := range r.table {
		r.table[b] = sum
		sum += count
	}
	next := slices.Clone(r.table)
	r.points = make([]uint64, len(raw))
	for _, p := range raw {
		b := p.value >> r.shift
		node := p.node
		if rank != nil {
			node = rank[node]
		}
		r.points[next[b]] = uint64(p.value)<<32 | uint64(node)
		next[b]++
	}
	for b := range len(r.table) - 1 {
		slices.Sort(r.points[r.table[b]:r.table[b+1]])
	}
}

// ranks gives each node's rank among owners of equal points, nil for the
// listed order; byRank is its inverse.
func (r *Ring) ranks() []uint32 {
	if r.layout.ties == tieFirstListed {
		return nil
	}
	order := make([]uint32, len(r.nodes))
	for i := range order {
		order[i] = uint32(i)
	}
	switch r.layout.ties {
	case tieLastListed:
		slices.Reverse(order)
	case tieByLabel:
		slices.SortStableFunc(order, func(a, b uint32) int {
			la, lb := r.tieLabel(a), r.tieLabel(b)
			return cmp.Or(cmp.Compare(len(la), len(lb)), cmp.Compare(la, lb))
		})
	}
	r.byRank = order
	rank := make([]uint32, len(order))
	for place, node := range order {
		rank[node] = uint32(place)
	}
	return rank
}

func (r *Ring) tieLabel(node uint32) string {
	if r.layout.name == Twemproxy {
		return twemproxyLabel(r.nodes[node])
	}
	return r.nodes[node].Name
}

// highest is the rendezvous winner: the node whose "node-key" hashes
// highest; of equals the one whose string is greater.
func (r *Ring) highest(key string) int {
	best, bestScore := 0, uint32(0)
	for i := range r.scored {
		score := r.score(i, key)
		if i == 0 || score > bestScore || (score == bestScore && r.scored[i] > r.scored[best]) {
			best, bestScore = i, score
		}
	}
	return best
}

func (r *Ring) score(i int, key string) uint32 {
	return r.hash(r.scored[i] + "-" + key)
}

func (r *Ring) ranking(key string) []int {
	order := make([]int, len(r.nodes))
	scores := make([]uint32, len(r.nodes))
	for i := range order {
		order[i], scores[i] = i, r.score(i, key)
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(scores[b], scores[a]), cmp.Compare(r.scored[b], r.scored[a]))
	})
	return order
}
