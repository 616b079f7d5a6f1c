package frame

import (
	"encoding/binary"
	"math"
)

// Limits are what a peer is held to.
type Limits struct {
	Server      bool  // this end is the server: frames must be masked
	Compression bool  // permessage-deflate was negotiated: RSV1 may be set
	MaxFrame    int64 // bytes of payload; 0: no limit
	MaxMessage  int64 // bytes of payload of a message, a few more if it is compressed; 0: no limit
}

// A Sequence enforces every rule that the headers of a sequence of frames can break.
type Sequence struct {
	Fragmented bool   // a message has begun and its last frame has not come
	Compressed bool   // the message at hand is compressed
	empty      uint16 // fragments of that message without payload so far
	length     int64  // payload bytes of that message so far
}

// maxEmpty is how many fragments of a message may be empty: they have no end otherwise, because no size counts them.
const maxEmpty = 1000

// Parse parses the header at the start of b and holds it to l. It returns false while b is too short to tell; b is judged as
// early as its bytes allow, so a peer cannot make anybody wait for the rest of a frame that is wrong already.
func (q *Sequence) Parse(l *Limits, b []byte) (f Header, ok bool, err error) {
	if len(b) < 2 {
		return f, false, nil
	}
	f.Final = b[0]&0x80 != 0
	f.RSV1 = b[0]&0x40 != 0
	f.Opcode = b[0] & 0x0f
	f.Masked = b[1]&0x80 != 0
	if err := q.check(l, &f, b); err != nil {
		return f, false, err
	}

	f.Size = 2
	switch short := b[1] & 0x7f; short {
	case 126:
		if len(b) < 4 {
			return f, false, nil
		}
		f.Size, f.Payload = 4, int64(binary.BigEndian.Uint16(b[2:]))
		if f.Payload < 126 {
			return f, false, violation("frame length not in its shortest form (RFC 6455 section 5.2)")
		}
	case 127:
		if len(b) < 10 {
			return f, false, nil
		}
		n := binary.BigEndian.Uint64(b[2:])
		if n > math.MaxInt64 {
			return f, false, violation("frame length with its highest bit set (RFC 6455 section 5.2)")
		}
		if n < 1<<16 {
			return f, false, violation("frame length not in its shortest form (RFC 6455 section 5.2)")
		}
		f.Size, f.Payload = 10, int64(n)
	default:
		f.Payload = int64(short)
	}
	if err := q.checkSize(l, &f); err != nil {
		return f, false, err
	}
	if f.Masked {
		if len(b) < f.Size+4 {
			return f, false, nil
		}
		f.Key = binary.LittleEndian.Uint32(b[f.Size:])
		f.Size += 4
	}
	return f, true, nil
}

// check judges the first two bytes of a header.
func (q *Sequence) check(l *Limits, f *Header, b []byte) error {
	switch {
	case b[0]&0x30 != 0:
		return violation("reserved bit set (RFC 6455 section 5.2)")
	case f.RSV1 && (!l.Compression || f.Control() || f.Opcode == Continuation):
		return violation("RSV1 set where no compressed message begins (RFC 7692 section 6)")
	case f.Opcode > Binary && f.Opcode < Close || f.Opcode > Pong:
		return violation("reserved opcode %d (RFC 6455 section 5.2)", f.Opcode)
	case f.Masked != l.Server && f.Masked:
		return violation("masked frame from a server (RFC 6455 section 5.1)")
	case f.Masked != l.Server:
		return violation("unmasked frame from a client (RFC 6455 section 5.1)")
	case f.Control() && !f.Final:
		return violation("fragmented control frame (RFC 6455 section 5.4)")
	case f.Control() && b[1]&0x7f > MaxControl:
		return violation("control frame longer than 125 bytes (RFC 6455 section 5.5)")
	case f.Opcode == Continuation && !q.Fragmented:
		return violation("continuation of nothing (RFC 6455 section 5.4)")
	case (f.Opcode == Text || f.Opcode == Binary) && q.Fragmented:
		return violation("new message inside a fragmented one (RFC 6455 section 5.4)")
	}
	return nil
}

// checkSize refuses a frame that is too long before any of its payload is taken in. What comes out of a compressed message
// is counted by its reader.
func (q *Sequence) checkSize(l *Limits, f *Header) error {
	if f.Control() {
		return nil
	}
	if f.Payload == 0 && !f.Final && f.Opcode == Continuation && q.empty >= maxEmpty {
		return &ProtocolError{Code: 1008, Reason: "too many empty fragments"}
	}
	if l.MaxFrame > 0 && f.Payload > l.MaxFrame {
		return &ProtocolError{Code: 1009, Reason: "frame too big"}
	}
	limit := l.MaxMessage
	if f.RSV1 || f.Opcode == Continuation && q.Compressed {
		limit = compressedLimit(limit)
	}
	if limit > 0 && f.Payload > limit-q.length {
		return &ProtocolError{Code: 1009, Reason: "message too big"}
	}
	return nil
}

// compressedLimit returns how long a compressed message may be that has no more than limit bytes: some get longer by
// compression, and one of empty blocks would never come to an end.
func compressedLimit(limit int64) int64 {
	if limit <= 0 || limit > math.MaxInt64/2 {
		return 0
	}
	return limit + limit/8 + 1<<10
}

// Accept records that the data frame f is taken in.
func (q *Sequence) Accept(f *Header) {
	if f.Opcode != Continuation {
		q.Compressed, q.length, q.empty = f.RSV1, 0, 0
	}
	if f.Payload == 0 && q.empty < maxEmpty {
		q.empty++
	}
	q.Fragmented = !f.Final
	q.length += f.Payload
	if q.length < 0 || f.Final {
		// Only a program that lifted MaxMessage gets to 2^63 bytes; the count is not used then.
		q.length = 0
	}
}
