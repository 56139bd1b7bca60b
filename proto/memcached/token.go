package memcached

import (
	"errors"
	"fmt"
	"math"
)

const (
	// MaxKey is the longest key in bytes.
	MaxKey = 250
	// MaxLine is the longest line that is parsed, in bytes, but for the
	// request of a retrieval.
	MaxLine = 64 << 10
	// MaxRetrieval is the longest line of get, gets, gat and gats: 4,000 keys
	// of full length. Memcached itself has no bound there.
	MaxRetrieval = 1 << 20
	// MaxRelative is the largest exptime in seconds that is relative; above
	// it is an absolute Unix time.
	MaxRelative = 30 * 24 * 60 * 60
)

// KeyError says what is wrong with a key, without its text: keys carry user
// ids.
type KeyError struct {
	// Len is the key's length in bytes.
	Len int
	// Pos is the place of the byte that is not allowed, or -1.
	Pos int
	// Byte is that byte.
	Byte byte
}

func (e *KeyError) Error() string {
	switch {
	case e.Len == 0:
		return "the key is empty"
	case e.Pos >= 0:
		return fmt.Sprintf("the key has the byte 0x%02x at place %d, spaces and control bytes are not allowed", e.Byte, e.Pos)
	default:
		return fmt.Sprintf("the key has %d bytes, at most %d are allowed", e.Len, MaxKey)
	}
}

// CheckKey gives nil, or a *KeyError for a key that is empty, longer than
// MaxKey or has a space or control byte in it.
func CheckKey[K ~string | ~[]byte](key K) error {
	if len(key) == 0 || len(key) > MaxKey {
		return &KeyError{Len: len(key), Pos: -1}
	}
	for i := range len(key) {
		if c := key[i]; c <= ' ' || c == 0x7f {
			return &KeyError{Len: len(key), Pos: i, Byte: c}
		}
	}
	return nil
}

// tokens walks the space-separated words of a line.
type tokens struct {
	line []byte
	i    int
}

// next gives the next word, nil at the end.
func (t *tokens) next() []byte {
	for t.i < len(t.line) && t.line[t.i] == ' ' {
		t.i++
	}
	start := t.i
	for t.i < len(t.line) && t.line[t.i] != ' ' {
		t.i++
	}
	if start == t.i {
		return nil
	}
	return t.line[start:t.i]
}

// rest gives what was not read yet.
func (t *tokens) rest() []byte { return t.line[t.i:] }

var errNumber = errors.New("not a number in range")

func parseUint(b []byte, highest uint64) (uint64, error) {
	if len(b) == 0 || len(b) > 20 {
		return 0, errNumber
	}
	var v uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, errNumber
		}
		d := uint64(c - '0')
		if v > (math.MaxUint64-d)/10 {
			return 0, errNumber
		}
		v = v*10 + d
	}
	if v > highest {
		return 0, errNumber
	}
	return v, nil
}

func parseInt(b []byte) (int64, error) {
	if len(b) > 0 && b[0] == '-' {
		v, err := parseUint(b[1:], math.MaxInt64)
		return -int64(v), err
	}
	v, err := parseUint(b, math.MaxInt64)
	return int64(v), err
}

// parseExptime reads a time. memcached keeps the lower 32 bits of one, and libmemcached relies on that: it
// writes -1 as 4294967295 (tried with pylibmc; Django's timeout=0 is such a -1). What does not fit into 32 bits
// is left as it is, for memcached makes another time of it than was meant.
func parseExptime(b []byte) (int64, error) {
	v, err := parseInt(b)
	if v > math.MaxInt32 && v <= math.MaxUint32 {
		v = int64(int32(v))
	}
	return v, err
}

// MetaFlag is one flag of a meta request or reply: a letter and what stands
// behind it, empty for a bare letter.
type MetaFlag struct {
	Letter byte
	Arg    []byte
}

// Uint reads the flag's argument as a number.
func (f MetaFlag) Uint() (uint64, error) { return parseUint(f.Arg, math.MaxUint64) }

// Int reads the flag's argument as a number that may be negative.
func (f MetaFlag) Int() (int64, error) { return parseInt(f.Arg) }

func findFlag(flags []MetaFlag, letter byte) (MetaFlag, bool) {
	for _, f := range flags {
		if f.Letter == letter {
			return f, true
		}
	}
	return MetaFlag{}, false
}

func appendFlags(b []byte, flags []MetaFlag) []byte {
	for _, f := range flags {
		b = append(b, ' ', f.Letter)
		b = append(b, f.Arg...)
	}
	return b
}

// parseFlags reads the remaining words of a meta line.
func parseFlags(t *tokens, flags []MetaFlag) []MetaFlag {
	for w := t.next(); w != nil; w = t.next() {
		flags = append(flags, MetaFlag{Letter: w[0], Arg: w[1:]})
	}
	return flags
}
