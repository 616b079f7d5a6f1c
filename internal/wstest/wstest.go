// Package wstest builds frames for tests: right ones, and wrong ones.
package wstest

import "encoding/binary"

// Key masks the frames that tests send as a client.
var Key = []byte{0xa1, 0x05, 0xf3, 0x00}

// A Frame is one to be built, RFC 6455 section 5.2.
type Frame struct {
	First   byte   // FIN, reserved bits and opcode
	Payload string // before it is masked
	Mask    []byte // four bytes; nil: not masked
	Length  int    // bits of the length field: 7, 16 or 64; 0: as many as it takes
	Claims  uint64 // the length that the frame claims to have; 0: that of the payload
}

// Bytes returns the frame as it goes over the wire.
func (f Frame) Bytes() []byte {
	n := uint64(len(f.Payload))
	if f.Claims > 0 {
		n = f.Claims
	}
	length := f.Length
	switch {
	case length != 0:
	case n < 126:
		length = 7
	case n < 1<<16:
		length = 16
	default:
		length = 64
	}
	b := []byte{f.First}
	switch length {
	case 7:
		b = append(b, byte(n))
	case 16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), n)
	}
	if f.Mask == nil {
		return append(b, f.Payload...)
	}
	b[1] |= 0x80
	b = append(b, f.Mask...)
	for i := range len(f.Payload) {
		b = append(b, f.Payload[i]^f.Mask[i&3])
	}
	return b
}

// Masked returns a frame as a client sends it.
func Masked(first byte, payload string) []byte {
	return Frame{First: first, Payload: payload, Mask: Key}.Bytes()
}

// Plain returns a frame as a server sends it.
func Plain(first byte, payload string) []byte {
	return Frame{First: first, Payload: payload}.Bytes()
}
