package client

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
)

// An opaque is the token that a request carries and its reply has to give
// back: a secret of its connection in the upper 36 bits, a counter in the lower
// 24. On the wire it is ten characters, six of the secret and four of the
// counter, which is what the ten digits cost that stood there before.
//
// The secret is there for checkSwallowed: a value that has it in it holds bytes
// of this connection's own replies. With a counter alone a value could be made
// that has every opaque near to the next ones: each read of it broke a
// connection, and the third ejected the node. Nobody but the two ends sees the
// secret. By accident eight given bytes, with the mark before it, stand at one
// place of random bytes once in 2^64. Who writes guesses into values gets 2^17
// of them into 1 MiB and is right once in 2^19 such values, that is 512 GiB of
// reads over one connection, which breaks that one: the next has another secret.
type opaque uint64

const (
	opaqueLen   = 10
	secretLen   = 6
	counterBits = 24
	counterMask = 1<<counterBits - 1

	// opaqueAlphabet is base64's for URLs: memcached takes any token.
	opaqueAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
)

// newOpaque gives a new secret, with a counter to begin from.
func newOpaque() opaque {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return opaque(binary.LittleEndian.Uint64(b[:]) >> (64 - 6*opaqueLen))
}

// next counts on. The counter comes round after 16 million requests, far more
// than are in flight.
func (o opaque) next() opaque { return o&^counterMask | (o+1)&counterMask }

func (o opaque) append(b []byte) []byte {
	for shift := 6 * (opaqueLen - 1); shift >= 0; shift -= 6 {
		b = append(b, opaqueAlphabet[o>>shift&63])
	}
	return b
}

// is tells whether a reply's token is this opaque.
func (o opaque) is(token []byte) bool {
	var own [opaqueLen]byte
	return string(token) == string(o.append(own[:0]))
}

// checkSwallowed finds a value that swallowed another reply. Where a server or
// proxy loses the end of a reply and goes on with a later one, that one fills
// the announced length, and now and then it ends its line just there. Then the
// whole line of that reply is inside, with an opaque of this connection: the
// next, or a later one where some were lost, or an earlier one where they came
// in the wrong order or twice.
func (o opaque) checkSwallowed(value []byte) error {
	const shortest = len(" O") + opaqueLen
	if len(value) < shortest {
		return nil
	}
	var mark [shortest]byte
	secret := o.append(append(mark[:0], " O"...))[:len(" O")+secretLen]
	if bytes.Contains(value, secret) {
		return desynchronised("a value with another reply in it")
	}
	return nil
}
