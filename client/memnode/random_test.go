//go:build unix

package memnode_test

import (
	"encoding/base64"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringside-cache/ringside/client/memnode"
	"github.com/ringside-cache/ringside/internal/realserver"
)

var seed = flag.Uint64("seed", 1, "of the requests of TestRandomRequests")

// TestRandomRequests sends the same random requests to a memcached and to a
// node and wants the same answers, CAS ids included.
func TestRandomRequests(t *testing.T) {
	t.Parallel()
	const requests = 1500
	// Again when the clock ticked in between.
	for range 5 {
		mc := realserver.Memcached(t, withoutThreads...)
		node := start(t, memnode.Config{})
		real, fake := newSubject(t, mc.Addr(), nil), newSubject(t, node.Addr(), nil)
		before := real.uptime()
		diff := sameAnswers(real, fake, requests)
		steady := real.uptime() == before
		mc.Close()
		node.Close()
		switch {
		case diff == "":
			return
		case steady:
			t.Fatalf("seed %d, %s", *seed, diff)
		}
	}
	t.Error("this machine is too slow for so many requests within a second")
}

// sameAnswers gives the first difference. Requests go one by one: while a reply
// is on its way memcached does not count its item up in place.
func sameAnswers(real, fake *subject, requests int) string {
	g := generator{rand: rand.New(rand.NewPCG(*seed, 0)), cas: []string{"1"}}
	for i := range requests {
		req := g.request()
		want, got := real.ask([]byte(req)), fake.ask([]byte(req))
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Sprintf("request %d, %q (-real +memnode):\n%s\nbefore it:\n%s", i, req, diff, strings.Join(g.last, ""))
		}
		g.learn(req, want)
	}
	return ""
}

// generator makes requests that make sense often enough to get deep.
type generator struct {
	rand *rand.Rand
	cas  []string // CAS ids that were shown last
	last []string // requests, for the report
}

func (g *generator) learn(req string, answer []string) {
	for _, line := range answer {
		for _, m := range regexp.MustCompile(`(?: c|^VALUE \S+ \d+ \d+ )(\d+)`).FindAllStringSubmatch(line, -1) {
			g.cas = append(g.cas, m[1])
		}
	}
	g.cas = g.cas[max(0, len(g.cas)-5):]
	g.last = append(g.last, req)
	g.last = g.last[max(0, len(g.last)-20):]
}

func (g *generator) pick(choices ...string) string { return choices[g.rand.IntN(len(choices))] }

func (g *generator) key() string { return g.pick("a", "b", "c", "foo") }

func (g *generator) exptime() string {
	return g.pick("0", "0", "100", "100", "1000", "-1", "2592000", "2592001", "4294967296")
}

// value keeps away from numbers above 1<<63. With them memcached looks for a
// minus sign, and beyond the value's end.
func (g *generator) value() string {
	return g.pick("", "0", "5", "9", "99", "007", "12 ", "999999999999", "x", "some text", "-1", strings.Repeat("v", 300))
}

func (g *generator) request() string {
	noreply := g.pick("", "", "", " noreply")
	switch cmd := g.pick("mg", "mg", "mg", "mg", "ms", "ms", "md", "md", "ma", "ma", "me", "classic", "classic", "classic"); cmd {
	case "mg", "md", "ma":
		key, flags := g.flags()
		return cmd + " " + key + flags + "\r\n"
	case "ms":
		key, flags := g.flags()
		v := g.value()
		return fmt.Sprintf("ms %s %d%s\r\n%s\r\n", key, len(v), flags, v)
	case "me":
		return "me " + g.key() + "\r\n"
	}
	switch cmd := g.pick("get", "gets", "gat", "gats", "set", "set", "add", "replace", "append", "prepend", "cas", "delete",
		"incr", "decr", "touch", "flush_all", "stats reset"); cmd {
	case "get", "gets":
		return fmt.Sprintf("%s %s %s\r\n", cmd, g.key(), g.key())
	case "gat", "gats":
		return fmt.Sprintf("%s %s %s\r\n", cmd, g.exptime(), g.key())
	case "cas":
		v := g.value()
		return fmt.Sprintf("cas %s %d %s %d %s%s\r\n%s\r\n", g.key(), g.rand.IntN(3), g.exptime(), len(v), g.pick(g.cas...), noreply, v)
	case "delete":
		return fmt.Sprintf("delete %s%s\r\n", g.key(), noreply)
	case "incr", "decr":
		return fmt.Sprintf("%s %s %s%s\r\n", cmd, g.key(), g.pick("0", "1", "91", "999999999999", "x"), noreply)
	case "touch":
		return fmt.Sprintf("touch %s %s%s\r\n", g.key(), g.exptime(), noreply)
	case "flush_all":
		if g.rand.IntN(4) > 0 {
			return "version\r\n"
		}
		return "flush_all" + noreply + "\r\n"
	case "stats reset":
		return "stats reset\r\n"
	default:
		v := g.value()
		return fmt.Sprintf("%s %s %d %s %d%s\r\n%s\r\n", cmd, g.key(), g.rand.IntN(3), g.exptime(), len(v), noreply, v)
	}
}

// flags gives a key, in base64 where the flags say so, and flags.
func (g *generator) flags() (key, flags string) {
	key = g.key()
	for range g.rand.IntN(8) {
		f := g.pick("b", "c", "f", "h", "k", "l", "s", "t", "v", "q", "u", "I", "C", "C", "F", "J", "D", "M", "N", "N", "R", "R", "T", "O", "P", "S")
		switch f {
		case "b":
			key = base64.StdEncoding.EncodeToString([]byte(key))
		case "C":
			f += g.pick(append(g.cas, "0")...)
		case "F":
			f += g.pick("0", "1", "4294967295", "4294967296", "18446744073709551615", "x")
		case "J", "D":
			f += g.pick("0", "1", "9", "123456", "x")
		case "M":
			f += g.pick("E", "A", "P", "R", "S", "I", "D", "+", "-", "", "x", "Set")
		case "N", "T":
			f += g.exptime()
		case "R":
			f += g.pick("30", "101", "1001", "-1", "0", "2592001")
		case "O":
			f += g.pick("", "1", "opaque", strings.Repeat("o", 31), strings.Repeat("o", 32))
		}
		flags += " " + f
	}
	return key, flags
}
