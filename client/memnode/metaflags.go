package memnode

import (
	"encoding/base64"

	"github.com/ringside-cache/ringside/proto/memcached"
)

// memcached's bounds on a meta line, and what it says beyond them.
const (
	maxMetaWords = 19 // the command, the key and a length included
	maxOpaque    = 31

	badFormat     = "CLIENT_ERROR bad command line format"
	flagInvalid   = "CLIENT_ERROR invalid flag"
	flagTwice     = "CLIENT_ERROR duplicate flag"
	flagBad       = "CLIENT_ERROR invalid or duplicate flag" // md and ma
	tokenBad      = "CLIENT_ERROR bad token in command line format"
	keyNotBase64  = "CLIENT_ERROR error decoding key"
	modeLength    = "CLIENT_ERROR incorrect length for M token"
	initialBad    = "CLIENT_ERROR invalid numeric initial value"
	deltaBad      = "CLIENT_ERROR invalid numeric delta value"
	opaqueTooLong = "CLIENT_ERROR opaque token too long"
	tooManyFlags  = "CLIENT_ERROR options flags too long"
	tooManyMg     = "CLIENT_ERROR options flags are too long"
)

// metaFlags is what the flags of a meta request say, in the protocol's terms.
// Every command takes every flag and leaves alone what means nothing to it.
type metaFlags struct {
	key         []byte // decoded where it came in base64
	binaryKey   bool   // b
	vivify      bool   // N
	stale       bool   // I
	value       bool   // v
	quiet       bool   // q
	noBump      bool   // u
	lateBump    bool   // N, T, R, l or h: what the item was like is looked at first
	hasCAS      bool   // C
	newTTL      bool   // T
	mode        byte   // M
	vivifyTTL   int64  // N
	exptime     int64  // T
	recache     int64  // R
	clientFlags uint32 // F
	cas         uint64 // C
	delta       uint64 // D
	initial     uint64 // J
}

// parseFlags reads the flags of the request. The complaint is empty, or what
// memcached says: of a letter at once, of arguments only when all were read,
// and then of the last one that was wrong.
func (c *conn) parseFlags() (m metaFlags, complaint string) {
	m.key, m.delta = c.req.Key, 1
	var seen [2]uint64
	failed := false
	complaint = badFormat
	wrong := func(why string) { failed, complaint = true, why }
	for _, f := range c.req.Meta {
		if f.Letter >= 127 || seen[f.Letter/64]&(1<<(f.Letter%64)) != 0 {
			return m, flagTwice
		}
		seen[f.Letter/64] |= 1 << (f.Letter % 64)
		switch f.Letter {
		case 'b':
			m.binaryKey = true
			if m.key = c.decodeKey(m.key); m.key == nil {
				wrong(keyNotBase64)
			}
		case 'N', 'T', 'R':
			m.lateBump = true
			n, err := f.Int()
			if err != nil {
				wrong(tokenBad)
				break
			}
			switch f.Letter {
			case 'N':
				m.vivify, m.vivifyTTL = true, n
			case 'T':
				m.newTTL, m.exptime = true, n
			case 'R':
				m.recache = n
			}
		case 'F':
			n, err := f.Uint()
			if err != nil {
				failed = true // and the complaint stays what it was
			}
			m.clientFlags = uint32(n)
		case 'C':
			n, err := f.Uint()
			if err != nil {
				wrong(tokenBad)
				break
			}
			m.hasCAS, m.cas = true, n
		case 'M':
			if len(f.Arg) != 1 {
				wrong(modeLength)
				break
			}
			m.mode = f.Arg[0]
		case 'J':
			n, err := f.Uint()
			if err != nil {
				wrong(initialBad)
			}
			m.initial = n
		case 'D':
			n, err := f.Uint()
			if err != nil {
				wrong(deltaBad)
			}
			m.delta = n
		case 'v':
			m.value = true
		case 'u':
			m.noBump = true
		case 'q':
			m.quiet = true
		case 'I':
			m.stale = true
		case 'l', 'h':
			m.lateBump = true
		case 'O', 'P', 'L', 'k', 's', 't', 'c', 'f':
		default:
			return m, flagInvalid
		}
	}
	if failed {
		return m, complaint
	}
	return m, ""
}

// decodeKey reads a base64 key as memcached does: bytes that are none of its
// alphabet are passed over, and what follows the padding does not count. It
// gives nil for what can not be decoded.
func (c *conn) decodeKey(text []byte) []byte {
	count := 0
	for _, b := range text {
		if _, ok := base64Value(b); ok {
			count++
		}
	}
	if count%4 != 0 {
		return nil
	}
	key := c.binary[:0]
	var block uint32
	count, padding := 0, 0
	for _, b := range text {
		v, ok := base64Value(b)
		if !ok {
			continue
		}
		if b == '=' {
			padding++
		}
		block = block<<6 | v
		if count++; count%4 > 0 {
			continue
		}
		if padding > 2 {
			return nil
		}
		key = append(key, byte(block>>16), byte(block>>8), byte(block))
		if padding > 0 {
			return key[:len(key)-padding]
		}
	}
	if len(key) == 0 {
		return nil
	}
	return key
}

// base64Value gives a byte's six bits; those of the padding are 0.
func base64Value(b byte) (v uint32, ok bool) {
	switch {
	case b >= 'A' && b <= 'Z':
		return uint32(b - 'A'), true
	case b >= 'a' && b <= 'z':
		return uint32(b-'a') + 26, true
	case b >= '0' && b <= '9':
		return uint32(b-'0') + 52, true
	case b == '+':
		return 62, true
	case b == '/':
		return 63, true
	}
	return 0, b == '='
}

// flag appends a flag of the reply.
func (c *conn) flag(letter byte) { c.rep.Meta = append(c.rep.Meta, memcached.MetaFlag{Letter: letter}) }

func (c *conn) flagBytes(letter byte, arg []byte) {
	c.rep.Meta = append(c.rep.Meta, memcached.MetaFlag{Letter: letter, Arg: arg})
}

func (c *conn) flagUint(letter byte, v uint64) {
	// A larger array leaves the arguments before it where they are.
	first := len(c.args)
	c.args = appendUint(c.args, v)
	c.flagBytes(letter, c.args[first:])
}

// flagTTL appends the time that is left, -1 for ever. A time that is over shows
// as memcached shows it, as a very large number.
func (c *conn) flagTTL(it *item, now uint32) {
	if it.exptime == 0 {
		first := len(c.args)
		c.args = append(c.args, "-1"...)
		c.flagBytes('t', c.args[first:])
		return
	}
	c.flagUint('t', uint64(it.exptime-now))
}

func (c *conn) flagKey(key []byte, binaryKey bool) {
	if !binaryKey {
		c.flagBytes('k', key)
		return
	}
	first := len(c.args)
	c.args = base64.StdEncoding.AppendEncode(c.args, key)
	c.flagBytes('k', c.args[first:])
	c.flag('b')
}

// echo appends the flags that every reply gives back, opaque and key, and tells
// whether the opaque was short enough.
func (c *conn) echo(f memcached.MetaFlag, key []byte, binaryKey bool) bool {
	switch f.Letter {
	case 'O':
		if len(f.Arg) > maxOpaque {
			return false
		}
		c.flagBytes('O', f.Arg)
	case 'k':
		c.flagKey(key, binaryKey)
	}
	return true
}
