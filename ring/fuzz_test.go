package ring

import (
	"slices"
	"strings"
	"testing"
)

// FuzzParseNodes: what a list is read as can be written and read again, and is
// fit for a ring.
func FuzzParseNodes(f *testing.F) {
	for _, s := range []string{
		"10.0.0.1", "cache2@10.0.0.2:11211*2", "unix:/run/mc.sock", "/x*2*1", "]0", "[::1]", "[::1]:1*65535", "::1", "[::1", "a@b@c",
		"fe80::1%eth0", "n*2@h:1*1", "n@/a b", "h:011211", "a:1\nb:1", "a:1\na:01", "x@a\nx@b", "@a", "a*", "a:65536", "unix:unix:/x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		nodes, err := ParseNodes(strings.Split(list, "\n"))
		if err != nil {
			return
		}
		again := make([]string, len(nodes))
		for i, n := range nodes {
			again[i] = n.String()
		}
		if got, err := ParseNodes(again); err != nil || !slices.Equal(got, nodes) {
			t.Errorf("%q is %+v, written %q, and that is %+v, %v", list, nodes, again, got, err)
		}
		for _, n := range nodes {
			if host, _ := split(n.Address); host == "" {
				t.Errorf("%q: %+v has no host", list, n)
			}
		}
	})
}

// FuzzDialect: a name that is taken has a key hash, and is the same dialect
// with that written out.
func FuzzDialect(f *testing.F) {
	for _, d := range Dialects() {
		f.Add(string(d))
		f.Add(string(d) + ":md5")
	}
	for _, s := range []string{"", ":", ":md5", "ketama:", "ketama:md5:md5", "kettle", "KETAMA"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, hash, err := Dialect(s).resolve()
		if (err == nil) != (Dialect(s).Validate() == nil) {
			t.Fatalf("%q: %v is not what Validate says", s, err)
		}
		if err != nil {
			return
		}
		if !slices.Contains(KeyHashes(), hash) || !slices.Contains(Dialects(), l.name) {
			t.Fatalf("%q is dialect %q with the key hash %q", s, l.name, hash)
		}
		again, sameHash, err := Dialect(string(l.name) + ":" + hash).resolve()
		if err != nil || again.name != l.name || sameHash != hash {
			t.Errorf("%q is %q:%q, and that is %q:%q, %v", s, l.name, hash, again.name, sameHash, err)
		}
	})
}
