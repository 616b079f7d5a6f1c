package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"
)

func TestSequenceJudgesHeaders(t *testing.T) {
	server := Limits{Server: true, MaxFrame: 1000, MaxMessage: 1500}
	deflate := Limits{Server: true, Compression: true}
	client := Limits{}
	type held struct {
		limits Limits
		seq    Sequence
	}
	fresh := func(l Limits) held { return held{limits: l} }
	begun := func(l Limits, f Header) held { h := held{limits: l}; h.seq.Accept(&f); return h }
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
		{"RSV1 on a continuation", begun(deflate, Header{Opcode: 1, RSV1: true}), []byte{0xc0, 0x80}, 1002},
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
		{"continuation", begun(server, Header{Opcode: 1}), []byte{0x80, 0x80, 1, 2, 3, 4}, 0},
		{"continuation behind the last", begun(server, Header{Opcode: 1, Final: true}), []byte{0x80, 0x80}, 1002},
		{"text in a message", begun(server, Header{Opcode: 1}), []byte{0x81, 0x80}, 1002},
		{"binary in a message", begun(server, Header{Opcode: 2}), []byte{0x02, 0x80}, 1002},
		{"ping in a message", begun(server, Header{Opcode: 2}), []byte{0x89, 0x80, 1, 2, 3, 4}, 0},
		{"frame of the limit", fresh(server), []byte{0x82, 0xfe, 0x03, 0xe8, 1, 2, 3, 4}, 0},
		{"frame above the limit", fresh(server), []byte{0x82, 0xfe, 0x03, 0xe9}, 1009},
		{"message of the limit", begun(server, Header{Opcode: 2, Payload: 1000}), []byte{0x80, 0xfe, 0x01, 0xf4, 1, 2, 3, 4}, 0},
		{"message above the limit", begun(server, Header{Opcode: 2, Payload: 1000}), []byte{0x80, 0xfe, 0x01, 0xf5}, 1009},
		{"compressed message above the limit", begun(Limits{Server: true, Compression: true, MaxMessage: 10}, Header{Opcode: 2, RSV1: true, Payload: 1000}),
			[]byte{0x80, 0x81, 1, 2, 3, 4}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, ok, err := tt.held.seq.Parse(&tt.held.limits, tt.input)
			var broken *ProtocolError
			switch {
			case tt.code == 0 && (!ok || err != nil):
				t.Errorf("%v, %v", ok, err)
			case tt.code != 0 && (!errors.As(err, &broken) || broken.Code != tt.code || broken.Error() == ""):
				t.Errorf("%v, want code %d", err, tt.code)
			}
			// What is fine as a whole is fine, and not complete, at any length before.
			for n := range tt.input {
				if _, ok, err := tt.held.seq.Parse(&tt.held.limits, tt.input[:n]); tt.code == 0 && (ok || err != nil) {
					t.Errorf("%d bytes: %v, %v", n, ok, err)
				}
			}
		})
	}
}

func TestSequenceCountsWithoutOverflow(t *testing.T) {
	seq := Sequence{}
	for range 3 {
		seq.Accept(&Header{Opcode: Continuation, Payload: math.MaxInt64})
		if seq.length < 0 {
			t.Fatal("negative length")
		}
	}
}

// TestEmptyFragmentsHaveAnEnd: no limit of bytes ends a message of them.
func TestEmptyFragmentsHaveAnEnd(t *testing.T) {
	var seq Sequence
	take := func(first, length byte) error {
		b := []byte{first, length}
		f, ok, err := seq.Parse(&Limits{}, b)
		if err != nil {
			return err
		}
		if !ok {
			t.Fatal("incomplete")
		}
		if !f.Control() {
			seq.Accept(&f)
		}
		return nil
	}
	for range 3 { // each message has its own
		for i := range maxEmpty {
			if err := take([]byte{0x01, 0x00}[min(i, 1)], 0); err != nil {
				t.Fatal(i, err)
			}
		}
		for _, fine := range [][]byte{{0x89, 0}, {0x00, 1}} { // a ping, and a byte
			if err := take(fine[0], fine[1]); err != nil {
				t.Fatal(err)
			}
		}
		if err := take(0x00, 0); err == nil || err.(*ProtocolError).Code != 1008 {
			t.Fatal(err)
		}
		if err := take(0x80, 0); err != nil { // the last one ends it
			t.Fatal(err)
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

// FuzzSequence feeds a Sequence a stream of bytes as frames, whole and in pieces: it must come to the same verdict, and let nothing
// pass that is against the rules.
func FuzzSequence(f *testing.F) {
	f.Add([]byte{0x81, 0x85, 1, 2, 3, 4, 'h', 'e', 'l', 'l', 'o'}, true, false)
	f.Add([]byte{0x01, 0x00, 0x89, 0x00, 0x80, 0x00}, false, false)
	f.Add([]byte{0xc1, 0x81, 0, 0, 0, 0, 0}, true, true)
	f.Add([]byte{0x82, 0xfe, 0, 125}, true, false)
	f.Fuzz(func(t *testing.T, input []byte, server, compression bool) {
		var seq Sequence
		limits := &Limits{Server: server, Compression: compression, MaxFrame: 1 << 20, MaxMessage: 1 << 21}
		open := false
		for len(input) > 0 {
			f, ok, err := seq.Parse(limits, input)
			var failed error
			for n := range min(len(input), MaxHeader) + 1 {
				g, okPiece, errPiece := seq.Parse(limits, input[:n])
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
			if f.Masked != server || f.RSV1 && !compression || f.Control() && (!f.Final || f.Payload > MaxControl || f.RSV1) ||
				f.Payload < 0 || f.Payload > 1<<20 || f.Size > MaxHeader || !f.Control() && (f.Opcode == Continuation) != open {
				t.Fatalf("%x passed as %+v", input[:f.Size], f)
			}
			if !f.Control() {
				seq.Accept(&f)
				open = !f.Final
			}
			skip := min(int64(f.Size)+f.Payload, int64(len(input)))
			if f.Opcode == Close {
				payload := bytes.Clone(input[f.Size:skip])
				Mask(payload, f.Key)
				var closed *PeerClose
				if errors.As(ParseClose(payload), &closed) && len(payload) > 0 &&
					(!ValidCloseCode(closed.Code) || closed.Code != int(binary.BigEndian.Uint16(payload)) || !bytes.Equal([]byte(closed.Reason), payload[2:])) {
					t.Fatalf("%x passed as %v", payload, closed)
				}
			}
			input = input[skip:]
		}
	})
}
