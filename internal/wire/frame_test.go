package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"
)

func TestTapJudgesHeaders(t *testing.T) {
	server := Limits{Server: true, MaxFrame: 1000, MaxMessage: 1500}
	deflate := Limits{Server: true, Compression: true}
	client := Limits{}
	type held struct {
		limits Limits
		tap    tap
	}
	fresh := func(l Limits) held { return held{limits: l} }
	begun := func(l Limits, f frame) held { h := held{limits: l}; h.tap.accept(&f); return h }
	tests := []struct {
		name  string
		held  held
		input []byte
		code  int // 0: fine
	}{
		{"short", fresh(server), []byte{0x81, 0x80, 1, 2, 3, 4}, 0},
		{"125 bytes", fresh(server), []byte{0x82, 0xfd, 1, 2, 3, 4}, 0},
		{"126 bytes", fresh(server), []byte{0x82, 0xfe, 0, 126, 1, 2, 3, 4}, 0},
		{"65536 bytes", fresh(client), []byte{0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0}, 0},
		{"largest", fresh(client), []byte{0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 0},
		{"too large for the sign", fresh(client), []byte{0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0}, 1002},
		{"125 bytes in two", fresh(server), []byte{0x82, 0xfe, 0, 125}, 1002},
		{"65535 bytes in eight", fresh(client), []byte{0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, 1002},
		{"RSV2", fresh(server), []byte{0xa1, 0x80}, 1002},
		{"RSV3", fresh(server), []byte{0x91, 0x80}, 1002},
		{"RSV1", fresh(server), []byte{0xc1, 0x80}, 1002},
		{"RSV1 with compression", fresh(deflate), []byte{0xc1, 0x80, 1, 2, 3, 4}, 0},
		{"RSV1 on a ping", fresh(deflate), []byte{0xc9, 0x80}, 1002},
		{"RSV1 on a continuation", begun(deflate, frame{opcode: 1, rsv1: true}), []byte{0xc0, 0x80}, 1002},
		{"opcode 3", fresh(server), []byte{0x83, 0x80}, 1002},
		{"opcode 7", fresh(server), []byte{0x87, 0x80}, 1002},
		{"opcode 11", fresh(server), []byte{0x8b, 0x80}, 1002},
		{"opcode 15", fresh(server), []byte{0x8f, 0x80}, 1002},
		{"unmasked from a client", fresh(server), []byte{0x81, 0}, 1002},
		{"masked from a server", fresh(client), []byte{0x81, 0x80}, 1002},
		{"fragmented ping", fresh(server), []byte{0x09, 0x80}, 1002},
		{"fragmented close", fresh(server), []byte{0x08, 0x80}, 1002},
		{"ping of 126 bytes", fresh(server), []byte{0x89, 0xfe}, 1002},
		{"close of 2^16 bytes", fresh(server), []byte{0x88, 0xff}, 1002},
		{"continuation of nothing", fresh(server), []byte{0x80, 0x80}, 1002},
		{"continuation", begun(server, frame{opcode: 1}), []byte{0x80, 0x80, 1, 2, 3, 4}, 0},
		{"continuation behind the last", begun(server, frame{opcode: 1, final: true}), []byte{0x80, 0x80}, 1002},
		{"text in a message", begun(server, frame{opcode: 1}), []byte{0x81, 0x80}, 1002},
		{"binary in a message", begun(server, frame{opcode: 2}), []byte{0x02, 0x80}, 1002},
		{"ping in a message", begun(server, frame{opcode: 2}), []byte{0x89, 0x80, 1, 2, 3, 4}, 0},
		{"frame of the limit", fresh(server), []byte{0x82, 0xfe, 0x03, 0xe8, 1, 2, 3, 4}, 0},
		{"frame above the limit", fresh(server), []byte{0x82, 0xfe, 0x03, 0xe9}, 1009},
		{"message of the limit", begun(server, frame{opcode: 2, payload: 1000}), []byte{0x80, 0xfe, 0x01, 0xf4, 1, 2, 3, 4}, 0},
		{"message above the limit", begun(server, frame{opcode: 2, payload: 1000}), []byte{0x80, 0xfe, 0x01, 0xf5}, 1009},
		{"compressed message above the limit", begun(Limits{Server: true, Compression: true, MaxMessage: 10}, frame{opcode: 2, rsv1: true, payload: 1000}),
			[]byte{0x80, 0x81, 1, 2, 3, 4}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, ok, err := tt.held.tap.peek(&tt.held.limits, tt.input)
			var broken *ProtocolError
			switch {
			case tt.code == 0 && (!ok || err != nil):
				t.Errorf("%v, %v", ok, err)
			case tt.code != 0 && (!errors.As(err, &broken) || broken.Code != tt.code || broken.Error() == ""):
				t.Errorf("%v, want code %d", err, tt.code)
			}
			// What is fine as a whole is fine, and not complete, at any length before.
			for n := range tt.input {
				if _, ok, err := tt.held.tap.peek(&tt.held.limits, tt.input[:n]); tt.code == 0 && (ok || err != nil) {
					t.Errorf("%d bytes: %v, %v", n, ok, err)
				}
			}
		})
	}
}

func TestTapCountsWithoutOverflow(t *testing.T) {
	tap := tap{}
	for range 3 {
		tap.accept(&frame{opcode: opContinuation, payload: math.MaxInt64})
		if tap.length < 0 {
			t.Fatal("negative length")
		}
	}
}

func TestCloseCodes(t *testing.T) {
	valid := map[int]bool{1000: true, 1001: true, 1002: true, 1003: true, 1007: true, 1008: true, 1009: true, 1010: true, 1011: true, 1012: true, 1013: true, 1014: true}
	for code := range 70000 {
		want := valid[code] || code >= 3000 && code < 5000
		if ValidCloseCode(code) != want {
			t.Errorf("code %d: %v", code, !want)
		}
	}
}

// FuzzTap feeds a tap a stream of bytes as frames, whole and in pieces: it must come to the same verdict, and let nothing
// pass that is against the rules.
func FuzzTap(f *testing.F) {
	f.Add([]byte{0x81, 0x85, 1, 2, 3, 4, 'h', 'e', 'l', 'l', 'o'}, true, false)
	f.Add([]byte{0x01, 0x00, 0x89, 0x00, 0x80, 0x00}, false, false)
	f.Add([]byte{0xc1, 0x81, 0, 0, 0, 0, 0}, true, true)
	f.Add([]byte{0x82, 0xfe, 0, 125}, true, false)
	f.Fuzz(func(t *testing.T, input []byte, server, compression bool) {
		var tap tap
		limits := &Limits{Server: server, Compression: compression, MaxFrame: 1 << 20, MaxMessage: 1 << 21}
		open := false
		for len(input) > 0 {
			f, ok, err := tap.peek(limits, input)
			var failed error
			for n := range min(len(input), maxHeader) + 1 {
				g, okPiece, errPiece := tap.peek(limits, input[:n])
				if okPiece && (!ok || g != f) {
					t.Fatalf("%x: %+v, whole %+v", input[:n], g, f)
				}
				if failed = errPiece; failed != nil {
					break
				}
			}
			if (err == nil) != (failed == nil) {
				t.Fatalf("%x: whole %v, in pieces %v", input, err, failed)
			}
			if !ok {
				return
			}
			if f.masked != server || f.rsv1 && !compression || f.control() && (!f.final || f.payload > maxControl || f.rsv1) ||
				f.payload < 0 || f.payload > 1<<20 || f.header > maxHeader || !f.control() && (f.opcode == opContinuation) != open {
				t.Fatalf("%x passed as %+v", input[:f.header], f)
			}
			if !f.control() {
				tap.accept(&f)
				open = !f.final
			}
			skip := min(int64(f.header)+f.payload, int64(len(input)))
			if f.opcode == opClose {
				payload := bytes.Clone(input[f.header:skip])
				unmask(payload, f.mask)
				var closed *PeerClose
				if errors.As(parseClose(payload), &closed) && len(payload) > 0 &&
					(!ValidCloseCode(closed.Code) || closed.Code != int(binary.BigEndian.Uint16(payload)) || !bytes.Equal([]byte(closed.Reason), payload[2:])) {
					t.Fatalf("%x passed as %v", payload, closed)
				}
			}
			input = input[skip:]
		}
	})
}
