package ring

import (
	"fmt"
	"slices"
	"strings"
)

// Dialect is one exact way to build points and hash keys, written
// "NAME[:KEYHASH]". The zero value is [Ketama]. What a name means never
// changes: golden files in testdata pin each one.
type Dialect string

// The names of the dialects. Docs/dialects.md tells which library's map each
// of them is.
const (
	// Ketama is ringside's own: xxhash, pointsPerWeight points a weight unit.
	Ketama Dialect = "ketama"
	// Libmemcached is pylibmc's {"ketama": True}.
	Libmemcached Dialect = "libmemcached"
	// LibmemcachedWeighted is pylibmc's {"ketama_weighted": True}.
	LibmemcachedWeighted Dialect = "libmemcached-weighted"
	// LibmemcachedSpy is libmemcached's distribution "consistent ketama spy".
	LibmemcachedSpy Dialect = "libmemcached-spy"
	// LibmemcachedSpyWeighted is the same together with ketama_weighted.
	LibmemcachedSpyWeighted Dialect = "libmemcached-spy-weighted"
	// Twemproxy is nutcracker's "distribution: ketama".
	Twemproxy Dialect = "twemproxy"
	// Spymemcached is the Java client's KetamaNodeLocator with KETAMA_HASH.
	Spymemcached Dialect = "spymemcached"
	// Dalli is Ruby's Dalli 3.
	Dalli Dialect = "dalli"
	// Pymemcache is the rendezvous hash of pymemcache's HashClient.
	Pymemcache Dialect = "pymemcache"
	// Modulo is hash mod n, as gomemcache does it: the naive baseline.
	Modulo Dialect = "modulo"
)

// A layout is what a dialect fixes but for the key hash.
type layout struct {
	name    Dialect
	keyHash string
	// points makes the nodes' points; nil for a dialect without a continuum.
	points func(nodes []Node, hash keyHash) []rawPoint
	ties   tieRule
	// before: a key belongs to the last point at or before its hash, and the
	// walk to the successors goes downwards.
	before bool
	// score ranks nodes per key (rendezvous); nil elsewhere.
	score func(n Node) string
	// unweighted dialects refuse a weight other than 1.
	unweighted bool
}

type tieRule int

const (
	tieFirstListed tieRule = iota
	tieLastListed
	tieByLabel
)

var layouts = []layout{
	{name: Ketama, keyHash: "xxhash", points: ketamaPoints, ties: tieByLabel},
	{name: Libmemcached, keyHash: "one_at_a_time", points: libmemcachedPoints(libmemcachedLabel, false)},
	{name: LibmemcachedWeighted, keyHash: "md5", points: libmemcachedPoints(libmemcachedLabel, true)},
	{name: LibmemcachedSpy, keyHash: "one_at_a_time", points: libmemcachedPoints(libmemcachedSpyLabel, false)},
	{name: LibmemcachedSpyWeighted, keyHash: "md5", points: libmemcachedPoints(libmemcachedSpyLabel, true)},
	{name: Twemproxy, keyHash: "fnv1a_64", points: md5Points(twemproxyLabel, shareOf160), ties: tieByLabel},
	{name: Spymemcached, keyHash: "md5", points: md5Points(spymemcachedLabel, spymemcachedCounts), ties: tieLastListed},
	{name: Dalli, keyHash: "crc32", points: dalliPoints, before: true},
	{name: Pymemcache, keyHash: "murmur3_32", score: hostPort, unweighted: true},
	{name: Modulo, keyHash: "crc32", unweighted: true},
}

// Dialects lists the names of all dialects.
func Dialects() []Dialect {
	names := make([]Dialect, len(layouts))
	for i, l := range layouts {
		names[i] = l.name
	}
	return names
}

// KeyHashes lists what may stand for KEYHASH in "NAME:KEYHASH".
func KeyHashes() []string {
	names := make([]string, 0, len(keyHashes))
	for name := range keyHashes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// KeyHash gives the name of the hash that places keys in this dialect.
func (d Dialect) KeyHash() (string, error) {
	_, name, err := d.resolve()
	return name, err
}

// Validate reports a name or key hash that does not exist.
func (d Dialect) Validate() error {
	_, _, err := d.resolve()
	return err
}

func (d Dialect) resolve() (layout, string, error) {
	name, hash, given := strings.Cut(string(d), ":")
	if name == "" {
		name = string(Ketama)
	}
	i := slices.IndexFunc(layouts, func(l layout) bool { return string(l.name) == name })
	if i < 0 {
		return layout{}, "", fmt.Errorf("unknown dialect %q; the dialects are %s", name, joinNames(Dialects()))
	}
	if !given {
		return layouts[i], layouts[i].keyHash, nil
	}
	if keyHashes[hash] == nil {
		return layout{}, "", fmt.Errorf("dialect %q: unknown key hash %q; the key hashes are %s", string(d), hash, joinNames(KeyHashes()))
	}
	return layouts[i], hash, nil
}

func joinNames[S ~string](names []S) string {
	var b strings.Builder
	for i, n := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(n))
	}
	return b.String()
}
