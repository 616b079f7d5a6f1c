package frame

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// chat is messages of 151 bytes on average, as a chat program sends them.
func chat() (messages [][]byte) {
	words := strings.Fields("hello there how are you today I am fine thanks did you see the game last night yes what a goal lol see you later bye")
	for i := range 500 {
		var text []string
		for k := range 3 + i*7%9 {
			text = append(text, words[(i*5+k*3)%len(words)])
		}
		messages = append(messages, fmt.Appendf(nil, `{"type":"message","room":"general","id":%d,"user":{"id":%d,"name":"user%d"},"time":"2026-11-21T18:%02d:%02dZ","text":%q}`,
			100000+i, 1000+i%20, i%20, i/60%60, i%60, strings.Join(text, " ")))
	}
	return messages
}

// inflatedByFlate returns the message as the standard library reads it, which is all that the bytes may hold.
func inflatedByFlate(t *testing.T, compressed, dict []byte, size int) []byte {
	t.Helper()
	p := make([]byte, size)
	r := flate.NewReaderDict(io.MultiReader(bytes.NewReader(compressed), strings.NewReader(endOfMessage)), dict)
	if _, err := io.ReadFull(r, p); err != nil {
		t.Fatalf("compress/flate: %v", err)
	}
	if n, err := r.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		t.Fatal("compress/flate: more than was compressed", n, err)
	}
	return p
}

func TestDeflateInEveryWay(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	noise := make([]byte, 100000)
	for i := range noise {
		noise[i] = byte(random.IntN(256))
	}
	messages := append(chat()[:40], nil, []byte("x"), noise, bytes.Repeat([]byte("abc"), 20000), noise[:70000], []byte("y"), noise[60000:])
	for _, takeover := range []bool{true, false} { // which share compressors
		for bits := 8; bits <= maxBits; bits++ {
			levels := []int{5}
			if bits == maxBits {
				levels = []int{1, 3, 6, 9}
			}
			for _, level := range levels {
				d := Direction{takeover, bits}
				out, in := NewDeflater(d, level), NewWindow(d)
				var seen []byte // by a peer that keeps its window
				for i, m := range messages {
					z := out.Begin()
					for rest := m; len(rest) > 0; { // as a Writer does
						n := min(len(rest), 1+random.IntN(40000))
						z.Write(rest[:n])
						rest = rest[n:]
					}
					z.End()
					got, err := Inflate(nil, z.Out, in, int64(len(m)))
					if err != nil || !bytes.Equal(got, m) {
						t.Fatalf("%+v, level %d, message %d: %d bytes of %d, %v", d, level, i, len(got), len(m), err)
					}
					dict := seen[max(0, len(seen)-1<<bits):]
					if !takeover {
						dict = nil
					}
					if plain := inflatedByFlate(t, z.Out, dict, len(m)); !bytes.Equal(plain, m) {
						t.Fatalf("%+v, level %d, message %d: compress/flate reads something else", d, level, i)
					}
					seen = append(seen, m...)
					z.Release()
				}
			}
		}
	}
}

// TestNoDistanceIsLongerThanTheWindow compresses noise that comes back behind more than a window: nothing can be saved then.
func TestNoDistanceIsLongerThanTheWindow(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for bits := 9; bits < maxBits; bits++ {
		noise := make([]byte, 1<<bits+300)
		for i := range noise {
			noise[i] = byte(random.IntN(256))
		}
		d := NewDeflater(Direction{Takeover: true, Bits: bits}, 5)
		first, again := len(d.Deflate(noise)), len(d.Deflate(noise))
		if again < first {
			t.Errorf("%d bits: %d bytes, and then %d", bits, first, again)
		}
	}
}

func TestWhatTakeoverSaves(t *testing.T) {
	size := func(d Direction, level int) int {
		out, n := NewDeflater(d, level), 0
		for _, m := range chat() {
			n += len(out.Deflate(m))
		}
		return n / len(chat())
	}
	plain := 0
	for _, m := range chat() {
		plain += len(m)
	}
	for _, level := range []int{1, 3, 9} {
		alone, together := size(Direction{false, maxBits}, level), size(Direction{true, maxBits}, level)
		t.Logf("level %d: %d bytes a message; alone %d, with context takeover %d", level, plain/len(chat()), alone, together)
		if together > 65 || alone <= together {
			t.Errorf("level %d: %d and %d bytes", level, alone, together)
		}
	}
	for bits := 9; bits < maxBits; bits++ {
		t.Logf("window of %d bits: %d", bits, size(Direction{true, bits}, 3))
	}
}

func TestInflateHasLimits(t *testing.T) {
	d := Direction{Bits: maxBits}
	bomb := NewDeflater(d, 9).Deflate(make([]byte, 1<<20))
	if _, err := Inflate(nil, bomb, nil, 1<<20); err != nil {
		t.Error(err)
	}
	if p, err := Inflate(nil, bomb, nil, 1<<20-1); err != ErrTooLong || cap(p) > 4<<20 {
		t.Error(len(p), err)
	}
	var b bytes.Buffer
	z, _ := flate.NewWriter(&b, 1)
	z.Close() // an empty final block
	for n, want := range map[int]error{maxFinal: nil, maxFinal + 1: ErrTooManyBlocks, 100_000: ErrTooManyBlocks} {
		message := append(bytes.Repeat(b.Bytes(), n), 0) // RFC 7692 section 7.2.3.5
		if _, err := Inflate(nil, message, nil, 0); err != want {
			t.Errorf("%d blocks at once: %v", n, err)
		}
		if _, err := io.Copy(io.Discard, NewInflater(bytes.NewReader(message), nil)); err != want {
			t.Errorf("%d blocks: %v", n, err)
		}
	}
}

// A peer may refer to its window, and to nothing before that.
func TestWindowsThatLie(t *testing.T) {
	hello, again := "\xf2\x48\xcd\xc9\xc9\x07\x00", "\xf2\x00\x11\x00\x00" // RFC 7692 section 7.2.3.2
	for _, streamed := range []bool{false, true} {
		w := NewWindow(Direction{Takeover: true, Bits: 9})
		inflate := func(m string) (string, error) {
			if streamed {
				p, err := io.ReadAll(NewInflater(strings.NewReader(m), w))
				return string(p), err
			}
			p, err := Inflate(nil, []byte(m), w, 0)
			return string(p), err
		}
		if p, err := inflate(again); err == nil {
			t.Errorf("nothing was there: %q", p)
		}
		for _, m := range []string{hello, again, again} {
			if p, err := inflate(m); p != "Hello" || err != nil {
				t.Errorf("%q: %q, %v", m, p, err)
			}
		}
		filler := NewDeflater(Direction{Bits: 9}, 5).Deflate(bytes.Repeat([]byte("-"), 600))
		if _, err := inflate(string(filler)); err != nil {
			t.Fatal(err)
		}
		if p, err := inflate(again); p != "H----" || err != nil {
			t.Errorf("%q, %v", p, err)
		}
		if len(w.bytes) > 512 || cap(w.bytes) > 512 {
			t.Errorf("%d bytes are kept", cap(w.bytes))
		}
	}
}

// FuzzInflate compares with compress/flate what comes of bytes that claim to be compressed.
func FuzzInflate(f *testing.F) {
	for _, m := range []string{"", "\x00", "\xf2\x48\xcd\xc9\xc9\x07\x00", "\xf3\x48\xcd\xc9\xc9\x07\x00\xf2\x48\xcd\xc9\xc9\x07\x00", "\xf2\x00\x11\x00\x00", "\x00\x05\x00\xfa\xffHello\x00"} {
		f.Add([]byte(m), []byte("Hello"))
	}
	f.Fuzz(func(t *testing.T, message, dict []byte) {
		const limit = 1 << 20
		w := NewWindow(Direction{Takeover: true, Bits: maxBits})
		w.add(dict)
		got, err := Inflate(nil, message, w, limit)
		var z bytes.Buffer
		from := bytes.NewReader(append(append([]byte(nil), message...), endOfMessage...))
		r := flate.NewReaderDict(from, dict[max(0, len(dict)-32<<10):])
		_, want := io.Copy(&z, io.LimitReader(r, limit+1))
		for final := 0; want == nil && from.Len() > 0 && z.Len() <= limit; final++ {
			if final == maxFinal {
				want = ErrTooManyBlocks
				break
			}
			r.(flate.Resetter).Reset(from, nil)
			_, want = io.Copy(&z, io.LimitReader(r, int64(limit+1-z.Len())))
		}
		if z.Len() > limit {
			want = ErrTooLong
		}
		if (err == nil) != (want == nil) || err == nil && !bytes.Equal(got, z.Bytes()) {
			t.Fatalf("%q, %v; compress/flate: %q, %v", got, err, z.Bytes(), want)
		}
		streamed := NewWindow(Direction{Takeover: true, Bits: maxBits})
		streamed.add(dict)
		p, err := io.ReadAll(io.LimitReader(NewInflater(bytes.NewReader(message), streamed), limit+1))
		if want == nil && (err != nil || !bytes.Equal(p, got) || !bytes.Equal(streamed.bytes, w.bytes)) {
			t.Fatalf("in pieces: %q, %v", p, err)
		}
	})
}

// FuzzDeflate compresses messages one after the other and inflates them again.
func FuzzDeflate(f *testing.F) {
	f.Add([]byte("Hello"), []byte("Hello, Hello"), 15, 3)
	f.Add([]byte(""), []byte("x"), 8, 1)
	f.Fuzz(func(t *testing.T, first, second []byte, bits, level int) {
		if bits < 8 || bits > maxBits || level < 1 || level > 9 {
			return
		}
		d := Direction{Takeover: true, Bits: bits}
		out, in := NewDeflater(d, level), NewWindow(d)
		for _, m := range [][]byte{first, second, first, second} {
			if got, err := Inflate(nil, out.Deflate(m), in, 0); err != nil || !bytes.Equal(got, m) {
				t.Fatalf("%q: %q, %v", m, got, err)
			}
		}
	})
}
