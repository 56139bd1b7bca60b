package ring

import (
	"crypto/md5"
	"crypto/sha1"
	"encoding/binary"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"
)

// A keyHash places a key on a ring of 32-bit values.
//
// The functions named after libmemcached's are its own, quirks included
// (libhashkit 1.1.4): they read bytes as signed, so a byte of 0x80 and above
// is sign-extended before it is added or xor-ed.
type keyHash func(key string) uint32

var keyHashes = map[string]keyHash{
	"one_at_a_time": oneAtATime,
	"md5":           md5Key,
	"crc":           crcLibmemcached,
	"fnv1_32":       fnv1x32,
	"fnv1a_32":      fnv1ax32,
	"fnv1_64":       fnv1x64,
	"fnv1a_64":      fnv1ax64,
	"crc32":         crc32Key,
	"murmur3_32":    murmur3,
	"xxhash":        xxhashKey,
}

func signed(b byte) uint32 { return uint32(int32(int8(b))) }

// oneAtATime is Bob Jenkins' hash, libmemcached's default.
func oneAtATime(key string) uint32 {
	var h uint32
	for i := range len(key) {
		h += signed(key[i])
		h += h << 10
		h ^= h >> 6
	}
	h += h << 3
	h ^= h >> 11
	h += h << 15
	return h
}

func md5Key(key string) uint32 {
	var buf [256]byte
	sum := md5.Sum(append(buf[:0], key...))
	return binary.LittleEndian.Uint32(sum[:4])
}

// crcLibmemcached keeps 15 bits of the CRC, as libmemcached does.
func crcLibmemcached(key string) uint32 {
	return crc32Key(key) >> 16 & 0x7fff
}

// crc32Key is the IEEE CRC. It walks the table itself, because
// crc32.ChecksumIEEE wants bytes and would make the key escape.
func crc32Key(key string) uint32 {
	crc := ^uint32(0)
	for i := range len(key) {
		crc = crc32.IEEETable[byte(crc)^key[i]] ^ crc>>8
	}
	return ^crc
}

const (
	fnv32Offset = 2166136261
	fnv32Prime  = 16777619
	fnv64Offset = 0xcbf29ce484222325
	fnv64Prime  = 0x100000001b3
)

func fnv1x32(key string) uint32 {
	h := uint32(fnv32Offset)
	for i := range len(key) {
		h *= fnv32Prime
		h ^= signed(key[i])
	}
	return h
}

func fnv1ax32(key string) uint32 {
	h := uint32(fnv32Offset)
	for i := range len(key) {
		h ^= signed(key[i])
		h *= fnv32Prime
	}
	return h
}

func fnv1x64(key string) uint32 {
	h := uint64(fnv64Offset)
	for i := range len(key) {
		h *= fnv64Prime
		h ^= uint64(int64(int8(key[i])))
	}
	return uint32(h)
}

// fnv1ax64 is computed in 32 bits with the low halves of the 64-bit
// constants: libmemcached's fnv1a_64 is not FNV-1a 64.
func fnv1ax64(key string) uint32 {
	h := uint32(fnv64Offset & 0xffffffff)
	for i := range len(key) {
		h ^= signed(key[i])
		h *= fnv64Prime & 0xffffffff
	}
	return h
}

// xxhashKey is the upper half of XXH64 with seed 0.
func xxhashKey(key string) uint32 { return uint32(xxhash.Sum64String(key) >> 32) }

// murmur3 is MurmurHash3_x86_32 with seed 0.
func murmur3(key string) uint32 {
	const c1, c2 = 0xcc9e2d51, 0x1b873593
	mix := func(k uint32) uint32 {
		k *= c1
		k = k<<15 | k>>17
		return k * c2
	}
	var h uint32
	i := 0
	for ; i+4 <= len(key); i += 4 {
		h ^= mix(uint32(key[i]) | uint32(key[i+1])<<8 | uint32(key[i+2])<<16 | uint32(key[i+3])<<24)
		h = (h<<13|h>>19)*5 + 0xe6546b64
	}
	var k uint32
	switch len(key) & 3 {
	case 3:
		k |= uint32(key[i+2]) << 16
		fallthrough
	case 2:
		k |= uint32(key[i+1]) << 8
		fallthrough
	case 1:
		h ^= mix(k | uint32(key[i]))
	}
	h ^= uint32(len(key))
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	return h ^ h>>16
}

func sha1Point(s string) uint32 {
	sum := sha1.Sum([]byte(s))
	return binary.BigEndian.Uint32(sum[:4])
}
