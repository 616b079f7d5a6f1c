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
	{"reserved bits", "internal/frame/sequence.go", "b[0]&0x30 != 0", "b[0]&0x20 != 0"},
	{"RSV1 without an extension", "internal/frame/sequence.go", "f.RSV1 && (!l.Compression ||", "f.RSV1 && (false ||"},
	{"RSV1 on control frames", "internal/frame/sequence.go", "|| f.Control() || f.Opcode == Continuation)", "|| f.Opcode == Continuation)"},
	{"RSV1 on continuations", "internal/frame/sequence.go", "|| f.Control() || f.Opcode == Continuation)", "|| f.Control())"},
	{"reserved data opcodes", "internal/frame/sequence.go", "f.Opcode > Binary && f.Opcode < Close ||", "f.Opcode > Binary+1 && f.Opcode < Close ||"},
	{"reserved control opcodes", "internal/frame/sequence.go", "|| f.Opcode > Pong:", "|| f.Opcode > Pong+1:"},
	{"a client masks", "internal/frame/sequence.go", "case f.Masked != l.Server:\n", "case false:\n"},
	{"control frames are whole", "internal/frame/sequence.go", "case f.Control() && !f.Final:", "case f.Opcode == Close && !f.Final:"},
	{"control frames are short", "internal/frame/sequence.go", "b[1]&0x7f > MaxControl:", "b[1]&0x7f > MaxControl+1:"},
	{"shortest length in 16 bits", "internal/frame/sequence.go", "if f.Payload < 126 {", "if f.Payload < 125 {"},
	{"shortest length in 64 bits", "internal/frame/sequence.go", "if n < 1<<16 {", "if n < 1<<15 {"},
	{"highest bit of a length", "internal/frame/sequence.go", "if n > math.MaxInt64 {", "if n > math.MaxInt64 && false {"},
	{"size of a message", "internal/frame/sequence.go", "f.Payload > limit-q.length {", "f.Payload > limit {"},
	{"size of a compressed message", "internal/frame/sequence.go", "limit = compressedLimit(limit)", "limit = 0"},
	{"mask in words", "internal/frame/mask.go", "wide >>= 8", "wide >>= 7"},
	{"mask in pieces", "internal/frame/mask.go", "-8*(len(p)&3)", "-8*(len(p)&1)"},
	{"close frame of one byte", "internal/frame/header.go", "if len(p) == 0 {\n\t\treturn &PeerClose", "if len(p) <= 1 {\n\t\treturn &PeerClose"},
	{"close codes", "internal/frame/header.go", "code >= 1000 && code <= 1003", "code >= 1000 && code <= 1004"},
	{"close codes that are reserved", "internal/frame/header.go", "code >= 3000 && code <= 4999", "code >= 2999 && code <= 4999"},
	{"reason is text", "internal/frame/header.go", "if !utf8.Valid(p[2:]) {", "if !utf8.Valid(p[2:]) && false {"},
	{"nothing is read behind a close frame", "internal/wire/conn.go", "\tif h.Opcode == frame.Close {\n\t\treturn frame.ParseClose(payload)\n\t}", "\tif h.Opcode == frame.Close {\n\t\tif err := frame.ParseClose(payload); h.Payload > 0 || err == nil {\n\t\t\treturn err\n\t\t}\n\t\treturn nil\n\t}"},
	{"pings are answered", "ping.go", "s.sendControl(frame.Pong, payload,", "s.sendControl(frame.Pong, nil,"},
	{"text of one frame", "message.go", "\tif m.kind == Text && !utf8.Valid(m.p) {", "\tif false {"},
	{"text as it comes in", "message.go", "if err == nil && m.kind == Text && !m.text.valid(p[len(p):len(p)+n]) {", "if m.kind == Text && !m.text.valid(p[len(p):len(p)+n]) && false {"},
	{"compressed text as it comes in", "message.go", "case m.kind == Text && !m.text.valid(p), err == io.EOF", "case err == io.EOF"},
	{"text that ends in a character", "message.go", "\tif m.text.unfinished() {", "\tif false {"},
	{"size after decompression", "internal/frame/inflate.go", "case limit > 0 && int64(len(dst)-begin) > limit:", "case limit > 0 && int64(len(dst)-begin) > limit+1:"},
	{"size after decompression, as it comes in", "message.go", "case limit > 0 && m.size > limit:", "case false && m.size > limit:"},
	{"corrupt data", "message.go", "errCorrupt = &frame.ProtocolError{Code: int(CloseInvalidFramePayloadData)", "errCorrupt = &frame.ProtocolError{Code: 1002"},
	{"blocks behind a final one", "internal/frame/inflate.go", "case z.memory.Len() == 0:", "case true:"},
	{"the end of a compressed message", "internal/frame/inflate.go", `endOfMessage = emptyBlock + "\x01\x00\x00\xff\xff"`, `endOfMessage = "\x01\x00\x00\xff\xff"`},
	{"each message has its own window", "internal/frame/inflate.go", "\tif !d.Takeover {\n\t\treturn nil\n\t}\n", ""},
	{"a message may refer to those before it", "internal/frame/inflate.go", "\t\t\tw.add(dst[begin:])\n", ""},
	{"and so when it came in fragments", "internal/frame/inflate.go", "\t\tz.window.add(p[:n])\n", ""},
	{"the answer to a close frame", "close.go", "\ts.beginClosing(code, \"\")\n\ts.wire.Scatter()", "\ts.beginClosing(1000, \"\")\n\ts.wire.Scatter()"},
	{"a violation is told of", "close.go", "\ts.beginClosing(code, broken.Reason)", "\ts.beginClosing(1002, broken.Reason)"},
	{"the connection ends", "close.go", "\ts.finish(end, farewell)", "\ts.fate = end"},
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
			if err != nil && strings.Contains(string(out), "panic: ") {
				t.Log("noticed by a panic")
				return
			}
			caught := failed.FindAllSubmatch(out, -1)
			if err == nil || len(caught) == 0 {
				t.Fatalf("nothing has noticed: %v\n%s", err, out[max(len(out)-2000, 0):])
			}
			t.Logf("noticed by %s", caught[0][1])
		})
	}
}
