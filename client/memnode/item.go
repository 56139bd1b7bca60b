package memnode

import (
	"bytes"
	"math"
	"strconv"
)

// What memcached 1.6.18 on a 64 bit machine adds to a key and a value.
const (
	itemHeader = 48 + 8 // the header and the CAS id
	itemEnds   = 1 + 2  // the key's zero byte, the value's line end
	itemFlags  = 4      // client flags, where they are not 0
)

// itemOverhead is what an item costs the Go heap beyond itemSize.
// BenchmarkItemMemory measured 61, 75 and 71 bytes for values of 10, 100 and
// 1000.
const itemOverhead = 72

// bits are an item's marks.
type bits uint8

const (
	fetched   bits = 1 << iota // was read once
	active                     // was read again, so that its time is recent
	stale                      // marked by md I: replies show X
	leased                     // somebody was told W: replies show Z
	binaryKey                  // stored with the flag b: shown in base64
)

// item is one item. It is changed in place, under its shard's lock only.
type item struct {
	data        []byte // the key and the value behind it
	cas         uint64
	exptime     uint32 // on the store's clock; 0 never
	time        uint32 // of the last use, roughly
	clientFlags uint32
	nkey        uint8
	bits        bits
}

// newItem copies key and the parts of the value.
func newItem(key []byte, clientFlags, exptime uint32, value ...[]byte) *item {
	size := len(key)
	for _, part := range value {
		size += len(part)
	}
	data := append(make([]byte, 0, size), key...)
	for _, part := range value {
		data = append(data, part...)
	}
	return &item{data: data, nkey: uint8(len(key)), clientFlags: clientFlags, exptime: exptime}
}

func (it *item) key() []byte   { return it.data[:it.nkey] }
func (it *item) value() []byte { return it.data[it.nkey:] }

// size is the item's size as memcached counts it.
func (it *item) size() int { return itemSize(len(it.key()), len(it.value()), it.clientFlags) }

func itemSize(nkey, nvalue int, clientFlags uint32) int {
	size := itemHeader + nkey + nvalue + itemEnds
	if clientFlags != 0 {
		size += itemFlags
	}
	return size
}

// slabClass is the class that memcached with its default settings keeps an
// item of this size in. There are none here; me shows it.
func slabClass(size int) int {
	const (
		chunkMax = 512 << 10
		factor   = 1.25
	)
	class, chunk := 1, 96
	for ; float64(chunk) < chunkMax/factor; class++ {
		chunk = (chunk + 7) &^ 7
		if size <= chunk {
			return class
		}
		chunk = int(float64(chunk) * factor)
	}
	return class
}

// parseNumber reads a number as memcached does for incr and decr, by C's
// strtoull: after blanks and a sign, and whatever follows it behind a blank.
func parseNumber(b []byte) (uint64, bool) {
	i := 0
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	negative := false
	if i < len(b) && (b[i] == '-' || b[i] == '+') {
		negative = b[i] == '-'
		i++
	}
	first := i
	var v uint64
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		d := uint64(b[i] - '0')
		if v > (math.MaxUint64-d)/10 {
			return 0, false
		}
		v = v*10 + d
	}
	if i == first || (i < len(b) && !isSpace(b[i]) && b[i] != 0) {
		return 0, false
	}
	if negative {
		v = -v
	}
	if int64(v) < 0 && bytes.IndexByte(b, '-') >= 0 {
		return 0, false
	}
	return v, true
}

func isSpace(c byte) bool { return c == ' ' || (c >= '\t' && c <= '\r') }

// setNumber writes v over the value where it fits, padded with blanks as
// memcached does, and tells whether it did.
func (it *item) setNumber(v uint64) bool {
	var digits [20]byte
	text := strconv.AppendUint(digits[:0], v, 10)
	value := it.value()
	if len(text) > len(value) {
		return false
	}
	n := copy(value, text)
	for i := n; i < len(value); i++ {
		value[i] = ' '
	}
	return true
}
