package frame

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
)

// emptyBlock is what the sender leaves out at the end of a message, RFC 7692 section 7.2.1.
const emptyBlock = "\x00\x00\xff\xff"

// endOfMessage is emptyBlock, and a final block for package flate.
const endOfMessage = emptyBlock + "\x01\x00\x00\xff\xff"

// maxFinal is how many final blocks a message may have. Each costs as much time as many bytes.
const maxFinal = 4096

// Errors of inflating. Others say that what came is not compressed data.
var (
	ErrTooManyBlocks = errors.New("too many final blocks of DEFLATE")
	ErrTooLong       = errors.New("longer than the limit")
)

// NewWindow returns what has to be kept to inflate a direction, nil if nothing.
func NewWindow(d Direction) *Window {
	if !d.Takeover {
		return nil
	}
	return &Window{size: 1 << d.Bits}
}

// An Inflater decompresses a message as it is read, RFC 7692 section 7.2.2.
type Inflater struct {
	flate  io.ReadCloser
	from   source       // what is being read, or
	memory bytes.Reader // a message that lies in memory
	copied []byte       // that message and its end
	final  int          // blocks that called themselves final
	window *Window
}

var inflaters = sync.Pool{New: func() any {
	z := new(Inflater)
	z.flate = flate.NewReader(&z.from)
	return z
}}

// NewInflater returns an Inflater for the compressed message that r reads. It must be given back when it has returned an error.
func NewInflater(r io.Reader, w *Window) *Inflater {
	z := inflaters.Get().(*Inflater)
	z.from.message, z.from.rest = r, nil
	z.begin(w, &z.from)
	return z
}

// GiveBack gives back what z has used.
func (z *Inflater) GiveBack() {
	z.from.message, z.window = nil, nil
	if cap(z.copied) > maxPooled {
		z.copied = nil
	}
	inflaters.Put(z)
}

func (z *Inflater) begin(w *Window, from io.Reader) {
	z.window, z.final = w, 0
	z.flate.(flate.Resetter).Reset(from, w.dictionary())
}

// Read implements io.Reader.
func (z *Inflater) Read(p []byte) (int, error) {
	for {
		n, err := z.flate.Read(p)
		z.window.add(p[:n])
		if err != io.EOF || z.from.over() {
			return n, err
		}
		if err := z.next(&z.from); err != nil || n > 0 {
			return n, err
		}
	}
}

// next goes on behind a final block, which forgets what came before it.
func (z *Inflater) next(from io.Reader) error {
	if z.final++; z.final > maxFinal {
		return ErrTooManyBlocks
	}
	return z.flate.(flate.Resetter).Reset(from, nil)
}

// Inflate appends to dst the message whose compressed form is p. If that has more than limit bytes, unless limit is 0, it returns
// ErrTooLong and does not go on.
func Inflate(dst, p []byte, w *Window, limit int64) ([]byte, error) {
	z := inflaters.Get().(*Inflater)
	defer z.GiveBack()
	z.copied = append(append(z.copied[:0], p...), endOfMessage...)
	z.memory.Reset(z.copied)
	z.begin(w, &z.memory)
	for begin := len(dst); ; {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := z.flate.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		switch {
		case limit > 0 && int64(len(dst)-begin) > limit:
			return dst, ErrTooLong
		case err == nil:
		case err != io.EOF:
			return dst, err
		case z.memory.Len() == 0:
			w.add(dst[begin:])
			return dst, nil
		default:
			if err := z.next(&z.memory); err != nil {
				return dst, err
			}
		}
	}
}

// A source is a compressed message that is being read, and its end. It implements io.ByteReader, so that flate does not take
// more than it needs.
type source struct {
	message io.Reader // nil when endOfMessage has been reached
	rest    []byte    // of what is in buffer
	buffer  [512]byte
}

func (s *source) over() bool { return s.message == nil && len(s.rest) == 0 }

func (s *source) fill() error {
	for len(s.rest) == 0 {
		if s.message == nil {
			return io.EOF
		}
		n, err := s.message.Read(s.buffer[:len(s.buffer)-len(endOfMessage)]) // which must fit behind it
		if err == io.EOF {
			s.message = nil
			n += copy(s.buffer[n:], endOfMessage)
		} else if err != nil {
			return err
		}
		s.rest = s.buffer[:n]
	}
	return nil
}

// ReadByte implements io.ByteReader.
func (s *source) ReadByte() (byte, error) {
	if err := s.fill(); err != nil {
		return 0, err
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return b, nil
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	if err := s.fill(); err != nil {
		return 0, err
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}
