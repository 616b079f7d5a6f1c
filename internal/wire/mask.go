package wire

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
)

// A masker masks a client's frames on their way out, RFC 6455 section 5.3. Frames that gorilla has not masked, because it
// built them as a server does, get a mask; those that it has get another, which nobody can foresee.
type masker struct {
	generate func() uint32
	left     uint64 // of the payload of the frame that is going by
	key      uint32 // for it, turned to its next byte; little-endian
	header   [maxHeader]byte
}

// Mask has the frames of a client masked. generate makes the masks. It must be called before Frame.
func (c *Conn) Mask(generate func() uint32) { c.masker = &masker{generate: generate} }

// RandomMask returns a mask that nobody can foresee.
func RandomMask() uint32 {
	var random [4]byte
	rand.Read(random[:])
	return binary.LittleEndian.Uint32(random[:])
}

// next returns what is to be sent for the start of p, the next piece of a sequence of frames, how much of p that stands
// for, and the mask to put on it. The header of a frame comes in one piece.
func (m *masker) next(p []byte) (out []byte, n int, mask uint32) {
	if m.left == 0 {
		out, n = m.begin(p)
		return out, n, 0
	}
	n = len(p)
	if uint64(n) > m.left {
		n = int(m.left)
	}
	mask = m.key
	m.key = bits.RotateLeft32(mask, -8*(n&3))
	m.left -= uint64(n)
	return p[:n], n, mask
}

// begin returns the header for the frame whose header is at the start of p, and how long that was. What it returns is
// valid until the next call.
func (m *masker) begin(p []byte) (header []byte, n int) {
	n = 2
	switch short := p[1] & 0x7f; short {
	case 126:
		n, m.left = 4, uint64(binary.BigEndian.Uint16(p[2:]))
	case 127:
		n, m.left = 10, binary.BigEndian.Uint64(p[2:])
	default:
		m.left = uint64(short)
	}
	header = append(m.header[:0], p[:n]...)
	header[1] |= 0x80
	old := uint32(0)
	if masked := p[1]&0x80 != 0; masked {
		old = binary.LittleEndian.Uint32(p[n:])
		n += 4
	}
	mask := m.generate()
	m.key = old ^ mask
	return binary.LittleEndian.AppendUint32(header, mask), n
}
