// Package frame is RFC 6455 and RFC 7692 without I/O: frame headers, the order in which frames may come, masks, close
// frames, and compression. Nothing in it waits or locks.
package frame

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// The opcodes of RFC 6455 section 11.8.
const (
	Continuation byte = 0
	Text         byte = 1
	Binary       byte = 2
	Close        byte = 8
	Ping         byte = 9
	Pong         byte = 10
)

// The other bits of a frame's first byte, RFC 6455 section 5.2.
const (
	Final = 0x80
	RSV1  = 0x40 // on the first frame of a compressed message, RFC 7692 section 6
)

// MaxControl is the longest payload of a control frame, RFC 6455 section 5.5.
const MaxControl = 125

// MaxHeader is the length of the longest header: two bytes, eight of length, four of mask.
const MaxHeader = 14

// A ProtocolError says that the peer broke a rule, and the close code to answer with.
type ProtocolError struct {
	Code   int // 1002, 1007, 1008 or 1009
	Reason string
}

func (e *ProtocolError) Error() string { return e.Reason }

func violation(format string, args ...any) error {
	return &ProtocolError{Code: 1002, Reason: fmt.Sprintf(format, args...)}
}

// A Header is a parsed frame header, RFC 6455 section 5.2.
type Header struct {
	Final   bool
	RSV1    bool
	Opcode  byte
	Masked  bool
	Key     uint32 // of the mask, see [Mask]
	Size    int    // bytes of the header itself
	Payload int64  // bytes behind it
}

// Control reports whether the frame is a ping, a pong or a close frame.
func (h *Header) Control() bool { return h.Opcode >= Close }

// AppendHeader appends the header of an unmasked frame with n bytes of payload.
func AppendHeader(b []byte, first byte, n int) []byte {
	switch {
	case n < 126:
		return append(b, first, byte(n))
	case n < 1<<16:
		return append(b, first, 126, byte(n>>8), byte(n))
	}
	return binary.BigEndian.AppendUint64(append(b, first, 127), uint64(n))
}

// AppendMaskedHeader appends the header of a frame with n bytes of payload, which are masked with key.
func AppendMaskedHeader(b []byte, first byte, n int, key uint32) []byte {
	at := len(b) + 1
	b = AppendHeader(b, first, n)
	b[at] |= 0x80
	return binary.LittleEndian.AppendUint32(b, key)
}

// A PeerClose is the close frame that the peer has sent. Nothing behind it is read.
type PeerClose struct {
	Code   int // 1005 when the frame was empty
	Reason string
}

func (e *PeerClose) Error() string { return fmt.Sprintf("close frame %d %s", e.Code, e.Reason) }

// ParseClose reads the payload of a close frame, RFC 6455 section 5.5.1. It returns a *PeerClose, or a *ProtocolError.
func ParseClose(p []byte) error {
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

// AppendClose appends the payload of a close frame. With 1005 that is empty.
func AppendClose(b []byte, code int, reason string) []byte {
	if code == 1005 {
		return b
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(code)), reason...)
}
