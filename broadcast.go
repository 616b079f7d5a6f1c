package foyer

import (
	"iter"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/wire"
)

// A Dropped is a socket that got no message.
type Dropped struct {
	Socket *Socket
	Err    error // ErrWriteBufferFull, ErrWriterOpen, ErrMessageTooBig, or ErrClosed
}

// Broadcast is TryWrite to many sockets, encoded once except for context takeover. It returns those that could not take
// p. They stay open.
func Broadcast(sockets iter.Seq[*Socket], t MessageType, p []byte) []Dropped {
	var dropped []Dropped
	m := broadcast{kind: t, payload: p}
	for s := range sockets {
		if err := m.post(s); err != nil {
			dropped = append(dropped, Dropped{s, err})
		}
	}
	return dropped
}

// A broadcast is a message for many sockets.
type broadcast struct {
	kind       MessageType
	payload    []byte
	compressed []compressedPayload // for sockets without context takeover, one for each way to compress
}

type compressedPayload struct {
	by      frame.Deflater
	payload []byte
}

// post sends the message to s, or returns why it cannot. It does not wait.
func (m *broadcast) post(s *Socket) error {
	f := wire.Frame{First: frame.Final | byte(m.kind), Payload: m.payload, Leave: wire.Batched, Room: s.room(false)}
	compresses := s.compresses(len(m.payload))
	if m.kind != Text && m.kind != Binary || s.splits(len(m.payload)) || compresses && s.deflate.out.Takeover() {
		return s.TryWrite(m.kind, m.payload)
	}
	if compresses {
		f.First |= frame.RSV1
		f.Payload = m.compressedBy(s.deflate.out)
	}
	_, err := s.sendFrame(background, &f)
	return err
}

// compressedBy returns the compressed message.
func (m *broadcast) compressedBy(d frame.Deflater) []byte {
	for _, c := range m.compressed {
		if c.by == d {
			return c.payload
		}
	}
	c := compressedPayload{d, d.Deflate(m.payload)}
	m.compressed = append(m.compressed, c)
	return c.payload
}
