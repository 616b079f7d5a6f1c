package foyer

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// mutations break one rule each.
var mutations = []struct{ rule, file, old, broken string }{
	{"reserved bits", "internal/wire/frame.go", "b[0]&0x30 != 0", "b[0]&0x20 != 0"},
	{"RSV1 without an extension", "internal/wire/frame.go", "f.rsv1 && (!l.Compression ||", "f.rsv1 && (false ||"},
	{"RSV1 on control frames", "internal/wire/frame.go", "|| f.control() || f.opcode == opContinuation)", "|| f.opcode == opContinuation)"},
	{"RSV1 on continuations", "internal/wire/frame.go", "|| f.control() || f.opcode == opContinuation)", "|| f.control())"},
	{"reserved data opcodes", "internal/wire/frame.go", "f.opcode > opBinary && f.opcode < opClose ||", "f.opcode > opBinary+1 && f.opcode < opClose ||"},
	{"reserved control opcodes", "internal/wire/frame.go", "|| f.opcode > OpPong:", "|| f.opcode > OpPong+1:"},
	{"a client masks", "internal/wire/frame.go", "case f.masked != l.Server:\n", "case false:\n"},
	{"control frames are whole", "internal/wire/frame.go", "case f.control() && !f.final:", "case f.opcode == opClose && !f.final:"},
	{"control frames are short", "internal/wire/frame.go", "b[1]&0x7f > maxControl:", "b[1]&0x7f > maxControl+1:"},
	{"shortest length in 16 bits", "internal/wire/frame.go", "if f.payload < 126 {", "if f.payload < 125 {"},
	{"shortest length in 64 bits", "internal/wire/frame.go", "if n < 1<<16 {", "if n < 1<<15 {"},
	{"highest bit of a length", "internal/wire/frame.go", "if n > math.MaxInt64 {", "if n > math.MaxInt64 && false {"},
	{"size of a message", "internal/wire/frame.go", "f.payload > limit-t.length {", "f.payload > limit {"},
	{"size of a compressed message", "internal/wire/frame.go", "limit = compressedLimit(limit)", "limit = 0"},
	{"mask in words", "internal/wire/frame.go", "key >>= 8", "key >>= 7"},
	{"close frame of one byte", "internal/wire/frame.go", "if len(p) == 0 {\n\t\treturn &PeerClose", "if len(p) <= 1 {\n\t\treturn &PeerClose"},
	{"close codes", "internal/wire/frame.go", "code >= 1000 && code <= 1003", "code >= 1000 && code <= 1004"},
	{"close codes that are reserved", "internal/wire/frame.go", "code >= 3000 && code <= 4999", "code >= 2999 && code <= 4999"},
	{"reason is text", "internal/wire/frame.go", "if !utf8.Valid(p[2:]) {", "if !utf8.Valid(p[2:]) && false {"},
	{"nothing is read behind a close frame", "internal/wire/conn.go", "\tif f.opcode == opClose {\n\t\treturn parseClose(payload)\n\t}", "\tif f.opcode == opClose {\n\t\tif err := parseClose(payload); f.payload > 0 || err == nil {\n\t\t\treturn err\n\t\t}\n\t\treturn nil\n\t}"},
	{"pings are answered", "ping.go", "s.writeControl(websocket.PongMessage, payload)", "s.writeControl(websocket.PongMessage, nil)"},
	{"text of one frame", "read.go", "opcode == byte(Text) && !utf8.Valid(p)", "false"},
	{"text as it comes in", "read.go", "case m.text && !m.utf8.valid(p), err == io.EOF && m.text && m.utf8.n > 0:", "case err == io.EOF && m.text && m.utf8.n > 0:"},
	{"text that ends in a character", "read.go", "err == io.EOF && m.text && m.utf8.n > 0:", "false:"},
	{"size after decompression", "read.go", "case limit > 0 && m.size > limit:", "case limit > 0 && m.size > limit+1:"},
	{"corrupt data", "read.go", `broken = &wire.ProtocolError{Code: int(CloseInvalidFramePayloadData), Reason: "corrupt`, `broken = &wire.ProtocolError{Code: 1002, Reason: "corrupt`},
	{"blocks behind a final one", "inflate.go", "\t\tz.next()\n\t\tif n > 0", "\t\tio.Copy(io.Discard, &z.from)\n\t\tif n > 0"},
	{"the end of a compressed message", "inflate.go", `"\x00\x00\xff\xff\x01\x00\x00\xff\xff"`, `"\x01\x00\x00\xff\xff"`},
	{"each message has its own window", "inflate.go", "func (z *inflater) next() { z.flate.(flate.Resetter).Reset(&z.from, nil) }", "func (z *inflater) next() { z.flate.(flate.Resetter).Reset(&z.from, []byte(\"Hello\")) }"},
	{"the answer to a close frame", "close.go", "\ts.beginClosing(code, \"\")\n\ts.wire.Scatter()", "\ts.beginClosing(1000, \"\")\n\ts.wire.Scatter()"},
	{"a violation is told of", "close.go", "\ts.beginClosing(code, broken.Reason)", "\ts.beginClosing(1002, broken.Reason)"},
	{"the connection ends", "close.go", "\ts.finish(end, farewell)", "\ts.ended = end"},
}

// TestMutations breaks a rule after the other in a copy of the source, and sees to it that the conformance suite notices.
// It takes minutes and runs where FOYER_MUTATE is set.
func TestMutations(t *testing.T) {
	if os.Getenv("FOYER_MUTATE") == "" {
		t.Skip("FOYER_MUTATE is not set")
	}
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	failed := regexp.MustCompile(`--- FAIL: TestConformance/(.*) \(`)
	for _, m := range mutations {
		t.Run(m.rule, func(t *testing.T) {
			file := filepath.Join(copied, m.file)
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			defer os.WriteFile(file, source, 0o600)
			if strings.Count(string(source), m.old) != 1 {
				t.Fatalf("%q is in %s %d times", m.old, m.file, strings.Count(string(source), m.old))
			}
			if err := os.WriteFile(file, []byte(strings.Replace(string(source), m.old, m.broken, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("go", "test", "-vet=off", "-timeout", "60s", "-failfast", "-run", "^TestConformance$", ".")
			cmd.Dir = copied
			cmd.Env = append(os.Environ(), "GOWORK=off", "FOYER_CONFORMANCE_PATIENCE=200ms")
			out, err := cmd.CombinedOutput()
			caught := failed.FindAllSubmatch(out, -1)
			if err == nil || len(caught) == 0 {
				t.Fatalf("nothing has noticed: %v\n%s", err, out[max(len(out)-2000, 0):])
			}
			t.Logf("noticed by %s", caught[0][1])
		})
	}
}
