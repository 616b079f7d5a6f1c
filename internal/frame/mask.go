package frame

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
)

// Mask puts a mask on p, or takes it off, RFC 6455 section 5.3. The lowest byte of key is the first of the mask. It returns the
// key for what follows p.
func Mask(p []byte, key uint32) (next uint32) {
	next = bits.RotateLeft32(key, -8*(len(p)&3))
	wide := uint64(key) | uint64(key)<<32
	for len(p) >= 32 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^wide)
		binary.LittleEndian.PutUint64(p[8:], binary.LittleEndian.Uint64(p[8:])^wide)
		binary.LittleEndian.PutUint64(p[16:], binary.LittleEndian.Uint64(p[16:])^wide)
		binary.LittleEndian.PutUint64(p[24:], binary.LittleEndian.Uint64(p[24:])^wide)
		p = p[32:]
	}
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^wide)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= byte(wide)
		wide >>= 8
	}
	return next
}

// RandomKey returns a key that nobody can foresee.
func RandomKey() uint32 {
	var random [4]byte
	rand.Read(random[:])
	return binary.LittleEndian.Uint32(random[:])
}
