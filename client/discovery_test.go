package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ringside-cache/ringside/ring"
)

// TestBadAnswerKeepsTheLast: an answer that makes no ring, by itself or
// together with the others, takes the place of no good one, and does not keep
// the others' from being used.
func TestBadAnswerKeepsTheLast(t *testing.T) {
	answers := [][]string{{"a:1", "b:1"}, {"c:1"}}
	var cfg Config
	d := &discovery{static: []string{"s:1"}, last: make([][]string, 2), check: func(servers []string) error {
		_, err := cfg.ring(servers)
		return err
	}}
	for i := range answers {
		d.sources = append(d.sources, source{fmt.Sprint("source", i), func(context.Context) ([]string, error) { return slices.Clone(answers[i]), nil }})
	}
	for _, tt := range []struct {
		name          string
		first, second string
		want, problem string
	}{
		{"at first", "a:1 b:1", "c:1", "s:1 a:1 b:1 c:1", ""},
		{"two names alike in one answer", "a:1 b:1", "x@c:1 x@d:1", "s:1 a:1 b:1 c:1", `source1`},
		{"the other's answer is used meanwhile", "a:1 b:1 e:1", "x@c:1 x@d:1", "s:1 a:1 b:1 e:1 c:1", `source1`},
		{"an SRV target of a dot", ":11211", "c:1 d:1", "s:1 a:1 b:1 e:1 c:1 d:1", `source0`},
		{"a name of the other's", "a:1", "a:1@d:1", "s:1 a:1 c:1 d:1", `source1`},
		{"the same again", "a:1", "a:1@d:1", "s:1 a:1 c:1 d:1", `source1`},
		{"good again", "a:1", "c:1", "s:1 a:1 c:1", ""},
		{"a server moves from one to the other", "a:1", "x@c:1", "s:1 a:1 x@c:1", ""},
		{"and its name to another address", "a:1 x@f:1", "c:1", "s:1 a:1 x@f:1 c:1", ""},
	} {
		answers[0], answers[1] = strings.Fields(tt.first), strings.Fields(tt.second)
		servers, err := d.refresh(t.Context())
		if got := strings.Join(servers, " "); got != tt.want {
			t.Errorf("%s: the servers are %s, want %s (%v)", tt.name, got, tt.want, err)
		}
		if (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.problem)
		}
	}
}

func TestBrake(t *testing.T) {
	fleet := func(format string, n int) []string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf(format, i))
		}
		return list
	}
	swapped := func(n int) []string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf("n%d@h%d:1", i, (i+1)%n))
		}
		return list
	}
	for _, tt := range []struct {
		name     string
		from, to []string
		// how many nodes of the fleet are as they were, after each look-up
		stay []int
		size []int
	}{
		{"nearly all leave", fleet("n%d:1", 9), fleet("n%d:1", 1), []int{6, 4, 3, 2, 1}, []int{6, 4, 3, 2, 1}},
		{"many join", fleet("n%d:1", 4), fleet("n%d:1", 20), []int{4, 6, 9, 13, 19}, []int{6, 9, 13, 19, 20}},
		{"all get new addresses", fleet("n%d@old%[1]d:1", 9), fleet("n%d@new%[1]d:1", 9), []int{6, 6, 6}, []int{9, 9, 9}},
		{"all get new names", fleet("old%d@h%[1]d:1", 6), fleet("new%d@h%[1]d:1", 6), []int{5, 5, 5, 5, 5, 5}, []int{6, 6, 6, 6, 6, 6}},
		{"all get new weights", fleet("n%d@h%[1]d:1*10", 6), fleet("n%d@h%[1]d:1*15", 6), []int{0}, []int{6}},
		{"a node by itself", []string{"a:1"}, []string{"b:1"}, []int{1, 1}, []int{2, 1}},
		{"addresses swap", swapped(9), append(swapped(9)[1:], "n0@h0:1")[:8], nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now, err := ring.ParseNodes(tt.from)
			if err != nil {
				t.Fatal(err)
			}
			to, err := ring.ParseNodes(tt.to)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; !slices.Equal(now, to); i++ {
				next := brake(now, to)
				stay := 0
				for _, n := range next {
					if slices.Contains(now, n) {
						stay++
					}
				}
				if tt.stay != nil && (i >= len(tt.stay) || stay != tt.stay[i] || len(next) != tt.size[i]) {
					t.Fatalf("look-up %d: %d of %d stay: %v", i+1, stay, len(next), next)
				}
				now = next
				if i > 100 {
					t.Fatalf("it does not get there: %v", now)
				}
			}
		})
	}
}

// TestBrakeGetsThere: whatever the fleet and the answer, each step is a list
// that makes a ring, and not many lead to what was asked for, in its order.
func TestBrakeGetsThere(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func() []ring.Node {
		names, hosts := r.Perm(12), r.Perm(12)
		list := make([]ring.Node, 1+r.IntN(11))
		for i := range list {
			list[i] = ring.Node{Name: fmt.Sprint("n", names[i]), Address: fmt.Sprintf("h%d:1", hosts[i]), Weight: 1 + r.IntN(3)}
		}
		return list
	}
	for range 2000 {
		now, to := random(), random()
		for steps := 0; !slices.Equal(now, to); steps++ {
			next := brake(now, to)
			if _, err := ring.New(next, ""); err != nil {
				t.Fatalf("from %v to %v: %v", now, to, err)
			}
			if steps > 40 {
				t.Fatalf("from %v to %v: not there", now, to)
			}
			now = next
		}
	}
}
