package foyer

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/foyerws/foyer/internal/wstest"
)

// These files hold foyer to RFC 6455 and RFC 7692: each case is bytes that a peer sends, and what it must get back from a
// program that echoes. Names begin with the section.

// A sent is a frame, well-formed or not, as a peer sends it.
type sent struct {
	first   byte // FIN, RSV and opcode
	payload string
	length  int  // of the length field in bits: 7, 16 or 64; 0: as it has to be
	unmask  bool // masked where it must not be, or the other way round
	claims  uint64
	raw     string // instead of all that
}

// bytes returns what goes over the wire.
func (f sent) bytes(masked bool) []byte {
	if f.raw != "" {
		return []byte(f.raw)
	}
	built := wstest.Frame{First: f.first, Payload: f.payload, Length: f.length, Claims: f.claims}
	if masked != f.unmask {
		built.Mask = wstest.Key
	}
	return built.Bytes()
}

// A conformanceCase is frames, and what the other side must say to them.
type conformanceCase struct {
	name    string
	frames  []sent
	want    []string // "text hello", "binary 3 bytes", "pong x", "close 1002"
	deflate extension
}

// An extension says with which connections a case has to do.
type extension int

func (e extension) fits(mode CompressionMode) bool {
	switch e {
	case with:
		return mode != CompressionDisabled
	case without:
		return mode == CompressionDisabled
	case withTakeover:
		return mode == CompressionContextTakeover
	case withoutTakeover:
		return mode == CompressionNoContextTakeover
	}
	return true
}

func text(p string) sent { return sent{first: 0x81, payload: p} }

func binary2(p string) sent { return sent{first: 0x82, payload: p} }

func frameOf(first byte, p string) sent { return sent{first: first, payload: p} }

// closing is a close frame.
func closing(code int, reason string) sent {
	return frameOf(0x88, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

// said is how a message is described: whole if it is short.
func said(kind, p string) string {
	if len(p) > 40 || kind == "binary" {
		return fmt.Sprintf("%s %d bytes %x", kind, len(p), p[:min(len(p), 4)])
	}
	return kind + " " + p
}

func conformanceCases() (all []conformanceCase) {
	add := func(name string, want []string, frames ...sent) {
		all = append(all, conformanceCase{name, frames, want, either})
	}
	addFor := func(deflate extension, name string, want []string, frames ...sent) {
		all = append(all, conformanceCase{name, frames, want, deflate})
	}
	closes := func(code int) []string { return []string{fmt.Sprint("close ", code)} }

	// Framing.
	for _, n := range []int{0, 1, 2, 124, 125, 126, 127, 128, 255, 256, 1000, 16370, 16384, 65535, 65536, 65537, 300000} {
		p := strings.Repeat("*", n)
		add(fmt.Sprint("5.2 text of ", n), []string{said("text", p)}, text(p))
		add(fmt.Sprint("5.2 binary of ", n), []string{said("binary", strings.Repeat("\xfe", n))}, binary2(strings.Repeat("\xfe", n)))
	}
	for _, n := range []int{0, 1, 125, 126, 65535} {
		for _, bits := range []int{16, 64} {
			if bits == 16 && n > 125 {
				continue
			}
			add(fmt.Sprintf("5.2 length %d in %d bits", n, bits), closes(1002), sent{first: 0x82, payload: strings.Repeat("x", n), length: bits}, text("unheard"))
		}
	}
	add("5.2 length with its highest bit", closes(1002), sent{first: 0x82, claims: 1 << 63, length: 64})
	add("5.2 length of all bits", closes(1002), sent{first: 0x82, claims: 1<<64 - 1, length: 64})
	for rsv := byte(0x10); rsv <= 0x70; rsv += 0x10 {
		for _, opcode := range []byte{0x81, 0x82, 0x88, 0x89, 0x8a, 0x01} {
			if rsv == 0x40 && opcode&0x08 == 0 {
				continue // see RFC 7692
			}
			add(fmt.Sprintf("5.2 reserved bits %x with %x", rsv, opcode), []string{"text heard", "close 1002"}, text("heard"), frameOf(opcode|rsv, ""), text("unheard"))
		}
		add(fmt.Sprintf("5.2 reserved bits %x in a continuation", rsv), closes(1002), frameOf(0x01, "a"), frameOf(0x80|rsv, "b"))
	}
	addFor(without, "5.2 RSV1 without an extension", closes(1002), frameOf(0xc1, "x"))
	for _, opcode := range []byte{3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf} {
		for _, p := range []string{"", "x"} {
			add(fmt.Sprintf("5.2 opcode %x with %q", opcode, p), []string{"text heard", "close 1002"}, text("heard"), frameOf(0x80|opcode, p), text("unheard"))
		}
		add(fmt.Sprintf("5.2 opcode %x in a message", opcode), closes(1002), frameOf(0x01, "a"), frameOf(0x80|opcode, ""))
	}
	for _, first := range []byte{0x81, 0x82, 0x88, 0x89, 0x8a} {
		add(fmt.Sprintf("5.1 wrong mask with %x", first), closes(1002), sent{first: first, unmask: true}, text("unheard"))
	}
	add("5.1 wrong mask in a continuation", closes(1002), frameOf(0x01, "a"), sent{first: 0x80, payload: "b", unmask: true})

	// Fragmentation.
	add("5.4 two fragments", []string{"text Hello"}, frameOf(0x01, "Hel"), frameOf(0x80, "lo"))
	add("5.4 three fragments", []string{"text Hello"}, frameOf(0x01, "H"), frameOf(0x00, "el"), frameOf(0x80, "lo"))
	add("5.4 empty fragments", []string{"text "}, frameOf(0x01, ""), frameOf(0x00, ""), frameOf(0x80, ""))
	add("5.4 empty first fragment", []string{"text x"}, frameOf(0x01, ""), frameOf(0x80, "x"))
	add("5.4 empty last fragment", []string{"binary 1 bytes 78"}, frameOf(0x02, "x"), frameOf(0x80, ""))
	add("5.4 empty fragment between", []string{"text xy"}, frameOf(0x01, "x"), frameOf(0x00, ""), frameOf(0x80, "y"))
	add("5.4 ping between", []string{"pong p", "text Hello"}, frameOf(0x01, "Hel"), frameOf(0x89, "p"), frameOf(0x80, "lo"))
	add("5.4 pong between", []string{"text Hello"}, frameOf(0x01, "Hel"), frameOf(0x8a, "p"), frameOf(0x80, "lo"))
	add("5.4 several pings between", []string{"pong 1", "pong 2", "pong 3", "text Hello"}, frameOf(0x89, "1"), frameOf(0x01, "Hel"), frameOf(0x89, "2"), frameOf(0x00, "l"), frameOf(0x89, "3"), frameOf(0x80, "o"))
	add("5.4 close between", closes(1000), frameOf(0x01, "Hel"), closing(1000, ""), frameOf(0x80, "lo"))
	add("5.4 text between", closes(1002), frameOf(0x01, "Hel"), text("x"))
	add("5.4 binary between", closes(1002), frameOf(0x01, "Hel"), frameOf(0x02, "x"))
	add("5.4 continuation of nothing", closes(1002), frameOf(0x80, "x"))
	add("5.4 open continuation of nothing", closes(1002), frameOf(0x00, "x"))
	add("5.4 continuation behind a message", []string{"text a", "close 1002"}, text("a"), frameOf(0x80, "b"))
	add("5.4 continuation behind a fragmented message", []string{"text ab", "close 1002"}, frameOf(0x01, "a"), frameOf(0x80, "b"), frameOf(0x80, "c"))
	for _, opcode := range []byte{8, 9, 10} {
		add(fmt.Sprintf("5.4 fragmented control frame %x", opcode), closes(1002), frameOf(opcode, ""), frameOf(0x80, ""))
		add(fmt.Sprintf("5.4 fragmented control frame %x in a message", opcode), closes(1002), frameOf(0x01, "a"), frameOf(opcode, "x"))
	}
	var hundred []sent
	for i := range 100 {
		hundred = append(hundred, frameOf(byte(2*(1-min(i, 1))), "0123456789"))
	}
	add("5.4 hundred fragments", []string{said("binary", strings.Repeat("0123456789", 101))}, append(hundred, frameOf(0x80, "0123456789"))...)
	add("5.4 messages after fragments", []string{"text ab", "text c", "binary 1 bytes 64"}, frameOf(0x01, "a"), frameOf(0x80, "b"), text("c"), binary2("d"))

	// Control frames.
	for _, n := range []int{0, 1, 124, 125} {
		p := strings.Repeat("p", n)
		add(fmt.Sprint("5.5.2 ping of ", n), []string{said("pong", p)}, frameOf(0x89, p))
		add(fmt.Sprint("5.5.3 pong of ", n), []string{"text heard"}, frameOf(0x8a, p), text("heard"))
	}
	add("5.5.2 binary ping", []string{"pong \x00\xff\xfe\xfd"}, frameOf(0x89, "\x00\xff\xfe\xfd"))
	add("5.5.2 ten pings", []string{"pong 0", "pong 1", "pong 2", "pong 3", "pong 4", "pong 5", "pong 6", "pong 7", "pong 8", "pong 9"},
		frameOf(0x89, "0"), frameOf(0x89, "1"), frameOf(0x89, "2"), frameOf(0x89, "3"), frameOf(0x89, "4"), frameOf(0x89, "5"), frameOf(0x89, "6"), frameOf(0x89, "7"), frameOf(0x89, "8"), frameOf(0x89, "9"))
	for _, opcode := range []byte{0x88, 0x89, 0x8a} {
		add(fmt.Sprintf("5.5 control frame %x of 126", opcode), closes(1002), frameOf(opcode, strings.Repeat("p", 126)))
		add(fmt.Sprintf("5.5 control frame %x of 65536", opcode), closes(1002), frameOf(opcode, strings.Repeat("p", 65536)))
		add(fmt.Sprintf("5.5 control frame %x with a long length", opcode), closes(1002), sent{first: opcode, payload: "pp", length: 16})
	}

	// Closing.
	add("5.5.1 empty close", []string{"close"}, frameOf(0x88, ""))
	add("5.5.1 close of one byte", closes(1002), frameOf(0x88, "\x03"))
	add("5.5.1 close with the longest reason", closes(1000), closing(1000, strings.Repeat("r", 123)))
	add("5.5.1 close with too long a reason", closes(1002), closing(1000, strings.Repeat("r", 124)))
	add("5.5.1 close with a reason that is no text", closes(1007), closing(1000, "\xff"))
	add("5.5.1 close with half a character", closes(1007), closing(1000, "gr\xc3"))
	add("5.5.1 close with a reason", closes(4000), closing(4000, "grüße"))
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		add(fmt.Sprint("7.4 close code ", code), closes(code), closing(code, ""))
	}
	for _, code := range []int{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 65535} {
		add(fmt.Sprint("7.4 close code ", code), closes(1002), closing(code, ""))
	}
	add("5.5.1 data behind the close", closes(1000), closing(1000, ""), text("late"), frameOf(0x89, "late"), closing(1001, ""))
	add("5.5.1 garbage behind the close", closes(1000), closing(1000, ""), sent{raw: "\xff\xff\xff\xff"})
	add("5.5.1 message before the close", []string{"text heard", "close 1000"}, text("heard"), closing(1000, ""))
	add("7.1.2 we close", []string{"close 4001"}, text("close!"), closing(4001, ""))
	add("7.1.2 we close, and are answered otherwise", []string{"close 4001"}, text("close!"), closing(4002, "other"))
	add("7.1.2 we close, and data comes before the answer", []string{"close 4001"}, text("close!"), binary2("late"), frameOf(0x01, "frag"), frameOf(0x80, "ment"), closing(4001, ""))
	add("7.1.2 we close, and are answered with nonsense", []string{"close 4001"}, text("close!"), frameOf(0x83, "?"))

	// UTF-8.
	for _, p := range []string{"Hello-µ@ßöäüàá-UTF-8!!", "κόσμε", "\x00", "\x7f", "\u0080", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff", "\ufffd", "\ufdd0", "\U00010000", "\U0001fffe", "\U0010ffff", "😀 और 日本"} {
		add(fmt.Sprintf("8.1 valid %+q", p), []string{said("text", p)}, text(p))
		for cut := 1; cut < len(p); cut++ {
			add(fmt.Sprintf("8.1 valid %+q, cut at %d", p, cut), []string{said("text", p)}, frameOf(0x01, p[:cut]), frameOf(0x80, p[cut:]))
		}
		add(fmt.Sprintf("8.1 valid %+q in a close frame", p), closes(1000), closing(1000, p))
	}
	for _, p := range []string{
		"\x80", "\xbf", "a\x80", "\xc0\x80", "\xc1\xbf", "\xc2", "\xc2a", "\xdf", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xe0\xa0", "\xe1\x80", "\xed\xa0\x80", "\xed\xad\xbf", "\xed\xae\x80", "\xed\xbf\xbf",
		"\xef\xbf", "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf", "\xf0\x90\x80", "\xf1\x80\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xf7\xbf\xbf\xbf", "\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80",
		"\xfe", "\xff", "\xfe\xfe\xff\xff", "\xed\xa0\x80\xed\xb0\x80", "κόσμε\xed\xa0\x80edited", "\xe2\x28\xa1", "\xe2\x82\x28", "\xf0\x28\x8c\xbc", "\xf0\x90\x28\xbc", "\xf0\x28\x8c\x28",
	} {
		add(fmt.Sprintf("8.1 invalid %+q", p), closes(1007), text(p), text("unheard"))
		add(fmt.Sprintf("8.1 invalid %+q behind a message", p), []string{"text heard", "close 1007"}, text("heard"), text("x"+p))
		for cut := 1; cut < len(p); cut++ {
			add(fmt.Sprintf("8.1 invalid %+q, cut at %d", p, cut), closes(1007), frameOf(0x01, p[:cut]), frameOf(0x80, p[cut:]))
		}
		if !begins([]byte(p), false) { // it can be seen before the message is whole
			add(fmt.Sprintf("8.1 invalid %+q, at once", p), closes(1007), frameOf(0x01, "valid "+p))
			add(fmt.Sprintf("8.1 invalid %+q in the second fragment, at once", p), closes(1007), frameOf(0x01, "valid "), frameOf(0x00, p))
			add(fmt.Sprintf("8.1 invalid %+q in a long frame, at once", p), closes(1007), sent{first: 0x81, payload: "valid " + p, claims: 100000})
		}
		add(fmt.Sprintf("8.1 invalid %+q is binary", p), []string{said("binary", p)}, binary2(p))
	}

	// Limits.
	limit := 1 << 20
	add("10.4 longest message", []string{said("binary", strings.Repeat("x", limit))}, binary2(strings.Repeat("x", limit)))
	add("10.4 too long a message, at once", closes(1009), sent{first: 0x82, claims: uint64(limit + 1)})
	add("10.4 the longest length", closes(1009), sent{first: 0x82, claims: 1<<63 - 1, length: 64})
	add("10.4 longest message in fragments", []string{said("binary", strings.Repeat("x", limit))}, frameOf(0x02, strings.Repeat("x", limit-1)), frameOf(0x80, "x"))
	add("10.4 too long in fragments", closes(1009), frameOf(0x02, strings.Repeat("x", limit)), frameOf(0x00, "x"))
	add("10.4 too long in fragments, at once", closes(1009), frameOf(0x02, "x"), sent{first: 0x80, claims: uint64(limit)})

	// Compression.
	hello := "\xf2\x48\xcd\xc9\xc9\x07\x00"
	addFor(with, "7692 7.2.3.1 one block", []string{"text Hello"}, frameOf(0xc1, hello))
	addFor(with, "7692 7.2.3.1 two fragments", []string{"text Hello"}, frameOf(0x41, hello[:3]), frameOf(0x80, hello[3:]))
	addFor(withTakeover, "7692 7.2.3.2 window of the last message", []string{"text Hello", "text Hello"}, frameOf(0xc1, hello), frameOf(0xc1, "\xf2\x00\x11\x00\x00"))
	addFor(withTakeover, "7692 7.2.3.2 window of the last message, in fragments", []string{"text Hello", "text Hello"}, frameOf(0x41, hello[:3]), frameOf(0x80, hello[3:]), frameOf(0x41, "\xf2\x00"), frameOf(0x80, "\x11\x00\x00"))
	addFor(withTakeover, "7692 7.2.3.2 window of a window", []string{"text Hello", "text Hello", "text Hello"}, frameOf(0xc1, hello), frameOf(0xc1, "\xf2\x00\x11\x00\x00"), frameOf(0xc1, "\xf2\x00\x11\x00\x00"))
	addFor(withTakeover, "7692 7.2.3.2 window of no message", closes(1007), frameOf(0xc1, "\xf2\x00\x11\x00\x00"))
	addFor(withTakeover, "7692 7.2.3.2 what is not compressed is in no window", []string{"text Hello", "close 1007"}, text("Hello"), frameOf(0xc1, "\xf2\x00\x11\x00\x00"))
	addFor(withoutTakeover, "7692 7.2.3.2 window of the last message", []string{"text Hello", "close 1007"}, frameOf(0xc1, hello), frameOf(0xc1, "\xf2\x00\x11\x00\x00"))
	addFor(with, "7692 7.2.3.2 the same message again", []string{"text Hello", "text Hello"}, frameOf(0xc1, hello), frameOf(0xc1, hello))
	addFor(with, "7692 7.2.3.3 no compression", []string{"text Hello"}, frameOf(0xc1, "\x00\x05\x00\xfa\xffHello\x00"))
	addFor(with, "7692 7.2.3.4 final block", []string{"text Hello"}, frameOf(0xc1, "\xf3\x48\xcd\xc9\xc9\x07\x00\x00"))
	addFor(with, "7692 7.2.1 blocks behind a final one", []string{"text HelloHello"}, frameOf(0xc1, "\xf3\x48\xcd\xc9\xc9\x07\x00"+hello))
	addFor(with, "7692 7.2.1 and in fragments", []string{"text HelloHello"}, frameOf(0x41, "\xf3\x48\xcd\xc9\xc9\x07\x00"), frameOf(0x80, hello))
	addFor(with, "7692 7.2.3.5 two blocks", []string{"text Hello"}, frameOf(0xc1, "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"))
	addFor(with, "7692 7.2.3.6 empty", []string{"text "}, frameOf(0xc1, "\x00"))
	addFor(with, "7692 7.2.1 not compressed", []string{"text Hello", "text Hello", "text Hello"}, text("Hello"), frameOf(0xc1, hello), text("Hello"))
	addFor(with, "7692 6.1 RSV1 in a continuation", closes(1002), frameOf(0x41, hello[:3]), frameOf(0xc0, hello[3:]))
	addFor(with, "7692 6.1 RSV1 only in a continuation", closes(1002), frameOf(0x01, "Hel"), frameOf(0xc0, hello))
	for _, opcode := range []byte{0xc8, 0xc9, 0xca} {
		addFor(with, fmt.Sprintf("7692 6.1 compressed control frame %x", opcode), closes(1002), frameOf(opcode, hello))
	}
	addFor(with, "7692 6.1 ping between", []string{"pong p", "text Hello"}, frameOf(0x41, hello[:3]), frameOf(0x89, "p"), frameOf(0x80, hello[3:]))
	addFor(with, "7692 6.1 every byte a fragment", []string{"text Hello"}, frameOf(0x41, "\xf2"), frameOf(0, "\x48"), frameOf(0, "\xcd"), frameOf(0, "\xc9"), frameOf(0, "\xc9"), frameOf(0, "\x07"), frameOf(0x80, "\x00"))
	addFor(with, "7692 6.1 empty fragments", []string{"text Hello"}, frameOf(0x41, ""), frameOf(0, hello), frameOf(0x80, ""))
	for _, n := range []int{1, 100, 5000, 65536, limit} {
		p := strings.Repeat("lorem ipsum ", n/12+1)[:n]
		addFor(with, fmt.Sprint("7692 7.2.2 message of ", n), []string{said("text", p)}, frameOf(0xc1, deflated(p)))
	}
	addFor(with, "7692 8 bomb of one byte too much", closes(1009), frameOf(0xc2, deflated(strings.Repeat("\x00", limit+1))))
	bomb := 100 << 20
	if raceDetector {
		bomb = 10 << 20
	}
	addFor(with, fmt.Sprintf("7692 8 bomb of %d bytes", bomb), closes(1009), frameOf(0xc2, deflated(strings.Repeat("\x00", bomb))))
	addFor(with, "7692 8 bomb without an end", closes(1009), frameOf(0x42, deflated(strings.Repeat("\x00", 2<<20))))
	addFor(with, "7692 8 message of empty blocks", closes(1009), frameOf(0x42, strings.Repeat("\x03\x00", 1<<18)), frameOf(0, strings.Repeat("\x03\x00", 1<<18)), frameOf(0, strings.Repeat("\x03\x00", 1<<18)))
	addFor(with, "7692 8 compressed message of 1 TiB", closes(1009), sent{first: 0xc2, claims: 1 << 40})
	addFor(with, "7692 7.2.2 reserved block type", closes(1007), frameOf(0xc1, "\x06\x00"))
	addFor(with, "7692 7.2.2 garbage", closes(1007), frameOf(0xc1, "\xff\xff\xff\xff"))
	addFor(with, "7692 7.2.2 cut off", closes(1007), frameOf(0xc1, hello[:4]))
	addFor(with, "7692 7.2.2 nothing at all", closes(1007), frameOf(0xc1, ""))
	addFor(with, "7692 7.2.2 wrong length of a stored block", closes(1007), frameOf(0xc1, "\x00\x05\x00\xfa\xfeHello\x00"))
	addFor(with, "7692 7.2.2 text that is none", closes(1007), frameOf(0xc1, deflated("Hell\xff")))
	addFor(with, "7692 7.2.2 text that is none, at once", closes(1007), frameOf(0x41, deflated("Hell\xff")+"\x00\x00\xff\xff"))
	addFor(with, "7692 7.2.2 text that ends in half a character", closes(1007), frameOf(0xc1, deflated("Hell\xc3")))
	addFor(with, "7692 7.2.2 character cut by fragments", []string{"text Hellö"}, frameOf(0x41, deflated("Hellö")[:5]), frameOf(0x80, deflated("Hellö")[5:]))
	return all
}

// check runs a case in one way, with the bytes in pieces of a size.
func (c *conformanceCase) check(t *testing.T, w way, at *addresses, piece int) {
	t.Helper()
	conn, br := w.open(t, at)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(caseTimeout()))
	var out []byte
	for _, f := range c.frames {
		out = append(out, f.bytes(w.server)...)
	}
	ends := strings.HasPrefix(c.want[len(c.want)-1], "close")
	want := c.want
	if !ends { // and nothing else comes
		want = append(slices.Clone(want), "pong still there?")
		out = append(out, frameOf(0x89, "still there?").bytes(w.server)...)
	}
	go func() {
		for rest := out; len(rest) > 0; {
			n := min(piece, len(rest))
			if _, err := conn.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
	}()
	heard, err := hear(br, !w.server, len(want))
	if !slices.Equal(heard, want) {
		t.Errorf("%s, pieces of %d: heard %q instead of %q, %v", w, piece, heard, want, err)
		return
	}
	if !ends {
		return
	}
	if !w.server {
		conn.(*net.TCPConn).CloseWrite() // it is for the server to close first
	}
	if more, err := hear(br, !w.server, 1); err != io.EOF || len(more) > 0 {
		t.Errorf("%s, pieces of %d: heard %q behind the close frame, and %v", w, piece, more, err)
	}
}
