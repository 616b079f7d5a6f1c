package frame

import (
	"sync"

	"github.com/klauspost/compress/flate"
)

// keptHistory is how many bytes of its own messages an end keeps for a direction with context takeover. More of them hardly makes
// messages shorter, and costs time for each message and memory for each socket.
const keptHistory = 4 << 10

// A Window is the last bytes of the messages that went in one direction. Nil keeps nothing.
type Window struct {
	bytes []byte
	size  int
}

// add takes in what follows.
func (w *Window) add(p []byte) {
	if w == nil {
		return
	}
	if len(p) > w.size {
		p = p[len(p)-w.size:]
	}
	if drop := len(w.bytes) + len(p) - w.size; drop > 0 {
		w.bytes = w.bytes[:copy(w.bytes, w.bytes[drop:])]
	}
	if need := len(w.bytes) + len(p); need > cap(w.bytes) {
		grown := make([]byte, len(w.bytes), min(max(need, 2*cap(w.bytes)), w.size))
		copy(grown, w.bytes)
		w.bytes = grown
	}
	w.bytes = append(w.bytes, p...)
}

// Forget gives up what is kept.
func (w *Window) Forget() {
	if w != nil {
		w.bytes = nil
	}
}

// dictionary returns what compression may refer to.
func (w *Window) dictionary() []byte {
	if w == nil {
		return nil
	}
	return w.bytes
}

// Memory returns how many bytes an end keeps for its socket in the long run, which is the server or not.
func (a Agreement) Memory(server bool) int64 {
	out, in := a.Client, a.Server
	if server {
		out, in = in, out
	}
	var n int64
	if out.Takeover {
		n += int64(min(1<<out.Bits, keptHistory))
	}
	if in.Takeover {
		n += 1 << in.Bits
	}
	return n
}

// A Deflater compresses the messages that one end sends, RFC 7692 section 7.2.1. Without context takeover any number of goroutines
// may use it; with it, one at a time.
type Deflater struct {
	pool   *sync.Pool
	window *Window // nil without context takeover
}

// NewDeflater returns a Deflater for a direction. level is 1 to 9; windows smaller than the largest have one level of their own.
func NewDeflater(d Direction, level int) Deflater {
	z := Deflater{pool: &byLevel[level]}
	if d.Bits < maxBits {
		z.pool = &byBits[d.Bits]
	}
	if d.Takeover {
		z.window = &Window{size: min(1<<d.Bits, keptHistory)}
	}
	return z
}

// byLevel and byBits hold compressors, which take about a MiB each while a message is being written.
var byLevel, byBits = newPools(9, func(level int) (*flate.Writer, error) { return flate.NewWriter(nil, level) }),
	newPools(maxBits-1, func(bits int) (*flate.Writer, error) { return flate.NewWriterWindow(nil, 1<<bits) })

func newPools(last int, compressor func(key int) (*flate.Writer, error)) []sync.Pool {
	pools := make([]sync.Pool, last+1)
	for key := range pools {
		pools[key].New = func() any {
			w, err := compressor(key)
			if err != nil {
				panic("frame: " + err.Error())
			}
			return &Deflation{flate: w}
		}
	}
	return pools
}

// Takeover reports whether a message may refer to those before it, so that it is good for one socket only.
func (d Deflater) Takeover() bool { return d.window != nil }

// Deflate returns the compressed form of the message p.
func (d Deflater) Deflate(p []byte) []byte {
	z := d.Begin()
	defer z.Release()
	z.Write(p)
	z.End()
	return append([]byte(nil), z.Out...)
}

// A Deflation is the compression of one message.
type Deflation struct {
	Out   []byte // what has come out, for the caller to take
	flate *flate.Writer
	by    Deflater
}

// Begin begins a message. End and Release must follow.
func (d Deflater) Begin() *Deflation {
	z := d.pool.Get().(*Deflation)
	z.by = d
	z.flate.ResetDict((*sink)(z), d.window.dictionary()) // Reset would keep the one of the message before
	return z
}

// Write compresses p. What comes out of it may come later.
func (z *Deflation) Write(p []byte) {
	z.flate.Write(p) // into memory, which cannot fail
	z.by.window.add(p)
}

// End ends the message: Out has the rest of it then.
func (z *Deflation) End() {
	z.flate.Flush()
	z.Out = z.Out[:len(z.Out)-len(emptyBlock)]
}

// Release gives back what the compression has used, Out among it.
func (z *Deflation) Release() {
	pool := z.by.pool
	z.by = Deflater{}
	if z.Out = z.Out[:0]; cap(z.Out) > maxPooled {
		z.Out = nil
	}
	pool.Put(z)
}

// maxPooled is the longest buffer that is kept for other messages.
const maxPooled = 64 << 10

// A sink is where a compressor writes to.
type sink Deflation

func (s *sink) Write(p []byte) (int, error) {
	s.Out = append(s.Out, p...)
	return len(p), nil
}
