package sidecar_test

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/client"
	"github.com/ringside-cache/ringside/ring"
	"github.com/ringside-cache/ringside/sidecar"
)

// TestExplainByGet: where a key goes, by any memcached client.
func TestExplainByGet(t *testing.T) {
	t.Parallel()
	s := startPair(t, sidecar.Config{
		Client: client.Config{Health: ring.HealthConfig{FailureLimit: 1, RetryTimeout: time.Hour}}, Memcached: "on",
	})
	p := dial(t, s.addr("memcached"))
	dead := s.key(t, "dead", 0)
	explain := "__ringside__.explain(" + dead + ")"
	got := p.ask("get " + explain + "\r\n")
	text := func(state, asked string) string {
		return `key: ` + regexp.QuoteMeta(dead) + `\ndialect: ketama\nkey hash: \w+\nhash: \d+ \(0x[0-9a-f]{8}\)\nowner: dead\nowner state: ` +
			state + `\nasked now: ` + asked + `\nstand-ins: live\n`
	}
	if !regexp.MustCompile(`^VALUE ` + regexp.QuoteMeta(explain) + ` 0 \d+\r\n` + text("up", "dead") + `\r\nEND\r\n$`).MatchString(got) {
		t.Errorf("get is answered %q", got)
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(explain))
	for send, want := range map[string]string{
		"mg " + explain + " v O7 k\r\n":                     `^VA \d+ O7 k` + regexp.QuoteMeta(explain) + `\r\n` + text("up", "dead") + `\r\n$`,
		"mg " + explain + " t\r\n":                          `^HD t-1\r\n$`,
		"mg " + encoded + " b v\r\n":                        `^VA \d+ b\r\n` + text("up", "dead") + `\r\n$`,
		"mg __ringside__.nothing v O1\r\n":                  `^EN O1\r\n$`,
		"mg __ringside__.nothing v q\r\n":                   `^$`,
		"get __ringside__.nothing __ringside__.explain\r\n": `^END\r\n$`,
		"gets __ringside__.explain()\r\n":                   `^VALUE __ringside__.explain\(\) 0 \d+ 0\r\nerror: .*empty\n\r\nEND\r\n$`,
	} {
		if got := p.ask(send); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%q is answered %q, want %s", send, got, want)
		}
	}
	// Among others each value stands with its own key.
	live := s.key(t, "live", 0)
	p.want("set "+live+" 5 0 1\r\nx\r\n", "STORED\r\n")
	got = p.ask(fmt.Sprintf("get missing __ringside__.x %s %s %s\r\n", live, explain, live))
	if strings.Count(got, "VALUE "+live+" 5 1\r\nx\r\n") != 2 || strings.Count(got, "VALUE ") != 3 || !strings.Contains(got, "owner: dead\n") {
		t.Errorf("get of many is answered %q", got)
	}
	// Nothing goes to a node, whatever is asked.
	eject(t, s)
	before := s.live.Items()
	requests := s.Client().Stats().Nodes
	refused := "CLIENT_ERROR keys that begin with __ringside__. can not be written\r\n"
	for _, send := range []string{
		"set __ringside__.a 0 0 1\r\nx\r\n", "append __ringside__.a 0 0 1\r\nx\r\n", "delete __ringside__.a\r\n", "incr __ringside__.a 1\r\n",
		"touch __ringside__.a 0\r\n", "ms __ringside__.a 1\r\nx\r\n", "md __ringside__.a\r\n", "ma __ringside__.a\r\n", "me __ringside__.a\r\n",
	} {
		p.want(send, refused)
	}
	p.want("set __ringside__.a 0 0 1 noreply\r\nx\r\ngat 0 __ringside__.a\r\n", "END\r\n")
	for i, n := range s.Client().Stats().Nodes {
		if n.Requests != requests[i].Requests {
			t.Errorf("%s had %d requests", n.Name, n.Requests-requests[i].Requests)
		}
	}
	if s.live.Items() != before {
		t.Error("something was stored")
	}
	if got := p.ask("get " + explain + "\r\n"); !regexp.MustCompile(text("ejected", "live")).MatchString(got) {
		t.Errorf("with its owner out: %q", got)
	}
}
