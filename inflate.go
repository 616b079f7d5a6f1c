package foyer

import (
	"compress/flate"
	"io"
	"sync"

	"github.com/foyerws/foyer/internal/wire"
)

// An inflater decompresses a message, RFC 7692 section 7.2.2. gorilla's own stops at the first final block of DEFLATE,
// behind which more may come (section 7.2.1), and would hand out half of a message as whole.
type inflater struct {
	flate io.ReadCloser
	from  compressed
	final int // blocks that called themselves final
}

// maxFinal is how many final blocks a message may have. Each costs as much time as many bytes.
const maxFinal = 4096

var errTooManyBlocks = &wire.ProtocolError{Code: int(CloseMessageTooBig), Reason: "too many final blocks of DEFLATE"}

// endOfMessage is what the sender has left out at the end of a message, and a final block for compress/flate.
const endOfMessage = "\x00\x00\xff\xff\x01\x00\x00\xff\xff"

var inflaters = sync.Pool{New: func() any {
	z := new(inflater)
	z.flate = flate.NewReader(&z.from)
	return z
}}

// newInflater returns an inflater for the compressed message that r reads. It should be given back when it has returned an
// error.
func newInflater(r io.Reader) *inflater {
	z := inflaters.Get().(*inflater)
	z.from.message, z.from.rest, z.final = r, nil, 0
	z.next()
	return z
}

func (z *inflater) giveBack() {
	z.from.message = nil
	inflaters.Put(z)
}

// next begins with the next sequence of blocks.
func (z *inflater) next() { z.flate.(flate.Resetter).Reset(&z.from, nil) }

func (z *inflater) Read(p []byte) (int, error) {
	for {
		n, err := z.flate.Read(p)
		if err != io.EOF || z.from.over() {
			return n, err
		}
		if z.final++; z.final > maxFinal {
			return n, errTooManyBlocks
		}
		z.next()
		if n > 0 {
			return n, nil
		}
	}
}

// A compressed is the message that an inflater reads, and its end. It implements io.ByteReader, so that flate does not take
// more than it needs.
type compressed struct {
	message io.Reader // nil when endOfMessage has been reached
	rest    []byte    // of what is in buffer
	buffer  [512]byte
}

func (c *compressed) over() bool { return c.message == nil && len(c.rest) == 0 }

func (c *compressed) fill() error {
	for len(c.rest) == 0 {
		if c.message == nil {
			return io.EOF
		}
		n, err := c.message.Read(c.buffer[:len(c.buffer)-len(endOfMessage)]) // which must fit behind it
		if err == io.EOF {
			c.message = nil
			n += copy(c.buffer[n:], endOfMessage)
		} else if err != nil {
			return err
		}
		c.rest = c.buffer[:n]
	}
	return nil
}

func (c *compressed) ReadByte() (byte, error) {
	if err := c.fill(); err != nil {
		return 0, err
	}
	b := c.rest[0]
	c.rest = c.rest[1:]
	return b, nil
}

func (c *compressed) Read(p []byte) (int, error) {
	if err := c.fill(); err != nil {
		return 0, err
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}
