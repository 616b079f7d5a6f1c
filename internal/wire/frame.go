package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

// The opcodes of RFC 6455 section 11.8.
const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	OpPing         = 9
	OpPong         = 10
)

// maxControl is the longest payload of a control frame, RFC 6455 section 5.5.
const maxControl = 125

// maxHeader is the longest frame header: two bytes, eight of length, four of mask.
const maxHeader = 14

// A ProtocolError says that the peer broke a rule, and the close code to answer with.
type ProtocolError struct {
	Code   int // 1002, 1007, 1008 or 1009
	Reason string
}

func (e *ProtocolError) Error() string { return e.Reason }

func violation(format string, args ...any) error {
	return &ProtocolError{Code: 1002, Reason: fmt.Sprintf(format, args...)}
}

// A PeerClose is the close frame the peer sent. Nothing behind it is read.
type PeerClose struct {
	Code   int // 1005 when the frame was empty
	Reason string
}

func (e *PeerClose) Error() string { return fmt.Sprintf("close frame %d %s", e.Code, e.Reason) }

// A frame is a parsed frame header, RFC 6455 section 5.2.
type frame struct {
	final   bool
	rsv1    bool
	opcode  byte
	masked  bool
	mask    [4]byte
	header  int   // bytes of the header itself
	payload int64 // bytes behind it
}

func (f *frame) control() bool { return f.opcode >= opClose }

// A tap reads the frame headers that pass by and enforces every rule that a header can break, so that gorilla's Conn
// only ever sees well-formed data frames. It does no I/O.
type tap struct {
	fragmented bool   // a message has begun and its last frame has not come
	compressed bool   // that message is compressed
	empty      uint16 // fragments of that message without payload so far
	length     int64  // payload bytes of that message so far
}

// maxEmpty is how many fragments of a message may be empty: they have no end otherwise, because no size counts them.
const maxEmpty = 1000

// peek parses the header at the start of b and holds it to l. It returns false while b is too short to tell; b is judged as early as
// its bytes allow, so a peer cannot make anybody wait for the rest of a frame that is wrong already.
func (t *tap) peek(l *Limits, b []byte) (f frame, ok bool, err error) {
	if len(b) < 2 {
		return f, false, nil
	}
	f.final = b[0]&0x80 != 0
	f.rsv1 = b[0]&0x40 != 0
	f.opcode = b[0] & 0x0f
	f.masked = b[1]&0x80 != 0
	if err := t.check(l, &f, b); err != nil {
		return f, false, err
	}

	f.header = 2
	switch short := b[1] & 0x7f; short {
	case 126:
		if len(b) < 4 {
			return f, false, nil
		}
		f.header, f.payload = 4, int64(binary.BigEndian.Uint16(b[2:]))
		if f.payload < 126 {
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
		f.header, f.payload = 10, int64(n)
	default:
		f.payload = int64(short)
	}
	if err := t.checkSize(l, &f); err != nil {
		return f, false, err
	}
	if f.masked {
		if len(b) < f.header+4 {
			return f, false, nil
		}
		f.mask = [4]byte(b[f.header:])
		f.header += 4
	}
	return f, true, nil
}

// check judges the first two bytes of a header.
func (t *tap) check(l *Limits, f *frame, b []byte) error {
	switch {
	case b[0]&0x30 != 0:
		return violation("reserved bit set (RFC 6455 section 5.2)")
	case f.rsv1 && (!l.Compression || f.control() || f.opcode == opContinuation):
		return violation("RSV1 set where no compressed message begins (RFC 7692 section 6)")
	case f.opcode > opBinary && f.opcode < opClose || f.opcode > OpPong:
		return violation("reserved opcode %d (RFC 6455 section 5.2)", f.opcode)
	case f.masked != l.Server && f.masked:
		return violation("masked frame from a server (RFC 6455 section 5.1)")
	case f.masked != l.Server:
		return violation("unmasked frame from a client (RFC 6455 section 5.1)")
	case f.control() && !f.final:
		return violation("fragmented control frame (RFC 6455 section 5.4)")
	case f.control() && b[1]&0x7f > maxControl:
		return violation("control frame longer than 125 bytes (RFC 6455 section 5.5)")
	case f.opcode == opContinuation && !t.fragmented:
		return violation("continuation of nothing (RFC 6455 section 5.4)")
	case (f.opcode == opText || f.opcode == opBinary) && t.fragmented:
		return violation("new message inside a fragmented one (RFC 6455 section 5.4)")
	}
	return nil
}

// checkSize refuses a frame that is too long before any of its payload is taken in. What comes out of a compressed message
// is counted by its reader.
func (t *tap) checkSize(l *Limits, f *frame) error {
	if f.control() {
		return nil
	}
	if f.payload == 0 && !f.final && f.opcode == opContinuation && t.empty >= maxEmpty {
		return &ProtocolError{Code: 1008, Reason: "too many empty fragments"}
	}
	if l.MaxFrame > 0 && f.payload > l.MaxFrame {
		return &ProtocolError{Code: 1009, Reason: "frame too big"}
	}
	limit := l.MaxMessage
	if f.rsv1 || f.opcode == opContinuation && t.compressed {
		limit = compressedLimit(limit)
	}
	if limit > 0 && f.payload > limit-t.length {
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

// accept records that the data frame f is taken in.
func (t *tap) accept(f *frame) {
	if f.opcode != opContinuation {
		t.compressed, t.length, t.empty = f.rsv1, 0, 0
	}
	if f.payload == 0 && t.empty < maxEmpty {
		t.empty++
	}
	t.fragmented = !f.final
	t.length += f.payload
	if t.length < 0 || f.final {
		// Only a program that lifted MaxMessage gets to 2^63 bytes; the count is not used then.
		t.length = 0
	}
}

// unmask takes the mask off p, RFC 6455 section 5.3.
func unmask(p []byte, mask [4]byte) { applyMask(p, binary.LittleEndian.Uint32(mask[:])) }

// applyMask puts a mask on p, or takes it off. Its lowest byte is the first.
func applyMask(p []byte, mask uint32) {
	key := uint64(mask) | uint64(mask)<<32
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^key)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= byte(key)
		key >>= 8
	}
}

// parseClose reads the payload of a close frame, RFC 6455 section 5.5.1.
func parseClose(p []byte) error {
	if len(p) == 0 {
		return &PeerClose{Code: 1005}
	}
	if len(p) == 1 {
		return violation("close frame with one byte (RFC 6455 section 5.5.1)")
	}
	code := int(binary.BigEndian.Uint16(p))
	if !ValidCloseCode(code) {
		return violation("close code %d (RFC 6455 section 7.4)", code)
	}
	if !utf8.Valid(p[2:]) {
		return &ProtocolError{Code: 1007, Reason: "close reason is not UTF-8 (RFC 6455 section 5.5.1)"}
	}
	return &PeerClose{Code: code, Reason: string(p[2:])}
}

// ValidCloseCode reports whether code may stand in a close frame: the codes of RFC 6455 section 7.4.1 and of IANA's
// registry but for those that are only ever reported (1005, 1006, 1015), and the ranges of libraries (3000 to 3999)
// and programs (4000 to 4999).
func ValidCloseCode(code int) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
		return true
	}
	return false
}
