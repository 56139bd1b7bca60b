package client

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
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
