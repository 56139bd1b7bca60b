//go:build unix

package realserver

import (
	"errors"
	"os"
)

// TB is the part of testing.TB that the helpers need. Every *testing.T, B and F is one.
type TB interface {
	Helper()
	Cleanup(func())
	Skip(args ...any)
	Fatal(args ...any)
}

// Memcached is [StartMemcached] for a test: the server is gone when the test has ended. Where memcached
// is not installed the test is skipped, or fails if the environment variable CI is set.
func Memcached(tb TB, args ...string) *Server {
	tb.Helper()
	s, err := StartMemcached(args...)
	return owned(tb, s, err)
}

// MemcachedUnix is [StartMemcachedUnix] for a test, as [Memcached] is for StartMemcached.
func MemcachedUnix(tb TB, args ...string) *Server {
	tb.Helper()
	s, err := StartMemcachedUnix(args...)
	return owned(tb, s, err)
}

// Nutcracker is [StartNutcracker] for a test, as [Memcached] is for StartMemcached.
func Nutcracker(tb TB, pool Pool) *Server {
	tb.Helper()
	s, err := StartNutcracker(pool)
	return owned(tb, s, err)
}

// Yrmcds is [StartYrmcds] for a test, as [Memcached] is for StartMemcached.
func Yrmcds(tb TB) *Server {
	tb.Helper()
	s, err := StartYrmcds()
	return owned(tb, s, err)
}

func owned(tb TB, s *Server, err error) *Server {
	tb.Helper()
	switch {
	case err == nil:
		tb.Cleanup(s.Close)
	case errors.Is(err, ErrNotInstalled) && os.Getenv("CI") == "":
		tb.Skip(err)
	default:
		tb.Fatal(err)
	}
	return s
}
