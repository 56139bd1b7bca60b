// Package ring decides where a key lives and which nodes are out.
//
// A [Ring] is an immutable continuum of points made from the configured
// nodes in one [Dialect]. It never changes because a node is down: an ejected
// node is skipped by walking on to its successors, so the keys of healthy
// nodes stay where they are. [Health] is the auto-eject state machine and
// [Plan] tells what a change of nodes would move.
//
// The package is pure. It does no I/O, starts no goroutine and reads no
// clock; whoever needs time passes it in. A Ring is safe for concurrent use,
// a Health is not.
//
//	nodes, err := ring.ParseNodes([]string{"10.0.0.1:11211", "cache2@10.0.0.2:11211*2"})
//	r, err := ring.New(nodes, ring.Ketama)
//	owner := r.Node(r.Lookup("user:42"))
package ring
