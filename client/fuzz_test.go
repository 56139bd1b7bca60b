package client

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringside-cache/ringside/ring"
)

// An envelope is read as it was written, and nothing else is taken for one.
func FuzzEnvelope(f *testing.F) {
	f.Add([]byte{}, uint32(0))
	f.Add((&envelope{hasValue: true, stale: true, owner: newOwner(), deadline: time.UnixMilli(1), expires: time.UnixMilli(2), flags: 3, value: []byte("v")}).append(nil), envelopeFlags)
	f.Fuzz(func(t *testing.T, b []byte, flags uint32) {
		e, ok := parseEnvelope(seen{value: b, flags: flags})
		if !ok {
			return
		}
		again, ok := parseEnvelope(seen{value: e.append(nil), flags: envelopeFlags})
		if !ok || !bytes.Equal(again.value, e.value) {
			t.Fatalf("%+v became %+v", e, again)
		}
		again.value, e.value = nil, nil
		if fmt.Sprint(again) != fmt.Sprint(e) {
			t.Fatalf("%+v became %+v", e, again)
		}
	})
}

// A file of servers is read line by line: each is a server as it stands there,
// and without its comments and empty lines the file says the same.
func FuzzServersFile(f *testing.F) {
	for _, s := range []string{"", "a:1\nb:2\n", "# none\n\n a:1 # first\r\n", "x@a:1*2\n/run/mc.sock", "a:1 b:2", "]0\n", "a:1\x00\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseServers(strings.NewReader(text), "servers")
		if err != nil {
			return
		}
		for _, server := range list {
			if _, err := ring.ParseNode(server); err != nil || !strings.Contains(text, server) || strings.ContainsAny(server, "#\n") {
				t.Errorf("%q has the server %q, %v", text, server, err)
			}
		}
		again, err := parseServers(strings.NewReader(strings.Join(list, "\n")), "servers")
		if err != nil || !slices.Equal(again, list) {
			t.Errorf("%q has %q, and that has %q, %v", text, list, again, err)
		}
	})
}

// What comes behind the three numbers of a version never counts, and with plain
// numbers the comparison is theirs.
func FuzzVersion(f *testing.F) {
	for _, s := range []string{"", "1.6.18", "1.6.9_12_gabcdef", "1.4.39", "2.0.0", "yrmcds version 1.1.9", "1.6", "1.6.x", "01.6.10", "1.6.99999999999999999999"} {
		f.Add(s, uint16(1), uint16(6), uint16(10))
	}
	f.Fuzz(func(t *testing.T, text string, major, minor, patch uint16) {
		plain := fmt.Sprintf("%d.%d.%d", major, minor, patch)
		want := slices.Compare([]int{int(major), int(minor), int(patch)}, []int{1, 6, 10}) >= 0
		if got := hasMeta(plain); got != want {
			t.Errorf("hasMeta(%q) = %v", plain, got)
		}
		if got := hasMeta(plain + "-" + text); got != want {
			t.Errorf("hasMeta(%q) = %v", plain+"-"+text, got)
		}
		if atLeast(text, 1, 6, 18) && !hasMeta(text) {
			t.Errorf("%q is at least 1.6.18 and not 1.6.10", text)
		}
	})
}
