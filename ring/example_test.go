package ring_test

import (
	"fmt"
	"log"
	"time"

	"github.com/ringside-cache/ringside/ring"
)

func newRing(servers ...string) *ring.Ring {
	nodes, err := ring.ParseNodes(servers)
	if err != nil {
		log.Fatal(err)
	}
	r, err := ring.New(nodes, ring.Ketama)
	if err != nil {
		log.Fatal(err)
	}
	return r
}

// Where a key lives, and who stands in for its owner.
func ExampleNew() {
	nodes, err := ring.ParseNodes([]string{"a@10.0.0.1", "b@10.0.0.2", "c@10.0.0.3:11311*2"})
	if err != nil {
		log.Fatal(err)
	}
	r, err := ring.New(nodes, ring.Ketama)
	if err != nil {
		log.Fatal(err)
	}
	owner := r.Node(r.Lookup("user:42"))
	fmt.Println(owner.Name, owner.Address)
	for i := range r.Successors("user:42") {
		fmt.Println("then", r.Node(i).Name)
	}
	// Output:
	// c 10.0.0.3:11311
	// then a
	// then b
}

// What a change moves, before it is made.
func ExamplePlan() {
	from := newRing("a:1", "b:1", "c:1")
	to := newRing("a:1", "b:1", "c:1", "d:1")
	change := ring.Plan(from, to, ring.SampleKeys(100_000))
	fmt.Printf("%.0f%% move, %d without need\n", 100*change.MovedShare(), change.Needless)
	// Output: 25% move, 0 without need
}

// Health is told what happens and decides who is out. It has no clock.
func ExampleHealth() {
	h, err := ring.NewHealth(4, ring.HealthConfig{FailureLimit: 2, RetryTimeout: 2 * time.Second}, 1)
	if err != nil {
		log.Fatal(err)
	}
	now := time.Now()
	fmt.Println(h.Failure(3, now), h.Node(3).State)
	fmt.Println(h.Failure(3, now), h.Node(3).State)
	if node, at, ok := h.NextProbe(); ok {
		fmt.Println("probe", node, "within 2s:", at.Sub(now) <= 2*time.Second)
		fmt.Println(h.Probed(node, true, at), h.Node(node).State)
	}
	// Output:
	// false failing
	// true ejected
	// probe 3 within 2s: true
	// true up
}
