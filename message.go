package foyer

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/wire"
)

// A message is one that came from the peer, or as much of it as has come.
type message struct {
	kind    MessageType
	p       []byte // what the program gets; valid until took is called
	own     bool   // p is nobody else's
	inPlace bool   // p lies in the buffer of the wire
	begin   int    // where the frame at hand begins in p
	text    utf8Checker
	store   []byte // memory that is used again
}

var messages = sync.Pool{New: func() any { return new(message) }}

// maxPooledMessage is the longest message whose memory is kept.
const maxPooledMessage = 1 << 20

// What a peer claims to send is believed as far as it has sent a part of it: this is how many times as much memory is set aside for a
// message, and the least.
const (
	believed    = 8
	leastMemory = 512
)

// modest returns a message without more memory than is set aside for one of which n bytes have come: the rest may be long in coming.
func (m *message) modest(n int) *message {
	if cap(m.store) <= max(8*leastMemory, believed*n) {
		return m
	}
	small := &message{kind: m.kind}
	m.release()
	return small
}

// release has m used again.
func (m *message) release() {
	if cap(m.store) > maxPooledMessage {
		m.store = nil
	}
	*m = message{store: m.store[:0]}
	messages.Put(m)
}

// What a message may break. Frame headers are judged where they are parsed.
var (
	errNotUTF8 = &frame.ProtocolError{Code: int(CloseInvalidFramePayloadData), Reason: "text is not UTF-8 (RFC 6455 section 8.1)"}
	errCorrupt = &frame.ProtocolError{Code: int(CloseInvalidFramePayloadData), Reason: "corrupt compressed data (RFC 7692 section 7.2.2)"}
	errTooLong = &frame.ProtocolError{Code: int(CloseMessageTooBig), Reason: "message too big"}
	errBlocks  = &frame.ProtocolError{Code: int(CloseMessageTooBig), Reason: frame.ErrTooManyBlocks.Error()}
)

// errLong says that a message is to be taken by a goroutine that may wait for the rest of it.
var errLong = errors.New("the rest of a compressed message has not come")

// take takes the next message and checks it. With own its bytes are the caller's where that saves a copy. onFrame, if not nil, gets
// each frame. Where the wire does not wait, wire.ErrNothing says that the message is not whole yet, and errLong that it cannot be
// taken without waiting; any other error has ended the socket. took must be called when the program is done with the message.
func (s *Socket) take(ctx context.Context, own bool, onFrame func(t MessageType, p []byte, last bool)) (*message, error) {
	if err := s.wire.Next(); err == wire.ErrNothing {
		return nil, err
	} else if err != nil {
		return nil, s.readFailed(ctx)
	}
	var err error
	m := s.partial
	switch {
	case m != nil:
		err = s.collect(ctx, m, onFrame)
	default:
		m = messages.Get().(*message)
		m.kind = MessageType(s.wire.Opcode())
		payload, whole := s.wire.Whole()
		switch {
		case whole:
			err = s.takeWhole(m, payload, onFrame)
		case !s.wire.Compressed():
			m = m.modest(s.wire.InMemory())
			m.own = own && s.wire.LastFrame()
			s.partial = m
			err = s.collect(ctx, m, onFrame)
		case s.wire.Waits():
			m = m.modest(s.wire.InMemory())
			err = s.inflateAsItComes(ctx, m, onFrame)
		default:
			err = errLong
		}
	}
	if err == wire.ErrNothing {
		return nil, err
	}
	s.partial = nil
	if err != nil {
		m.release()
		return nil, err
	}
	s.messagesIn.Add(1)
	return m, nil
}

// took gives back what a message has used.
func (s *Socket) took(m *message) {
	if m.inPlace {
		s.wire.Taken()
	}
	m.release()
}

// takeWhole takes a message of one frame that lies in memory.
func (s *Socket) takeWhole(m *message, payload []byte, onFrame func(t MessageType, p []byte, last bool)) error {
	if s.wire.Compressed() {
		var err error
		m.store, err = frame.Inflate(m.store[:0], payload, s.deflate.in, s.wire.Rules().MaxMessage)
		s.wire.Taken()
		if err != nil {
			return s.violated(brokenBy(err))
		}
		m.p = m.store
	} else {
		m.p, m.inPlace = payload, true
	}
	if m.kind == Text && !utf8.Valid(m.p) {
		return s.violated(errNotUTF8)
	}
	if onFrame != nil {
		onFrame(m.kind, m.p, true)
	}
	return nil
}

// inflateAsItComes takes a compressed message, whose rest it waits for.
func (s *Socket) inflateAsItComes(ctx context.Context, m *message, onFrame func(t MessageType, p []byte, last bool)) error {
	from := newMessageReader(s, ctx)
	from.counted = true
	for {
		if len(m.store) == cap(m.store) {
			m.store = slices.Grow(m.store, 512)
		}
		n, err := from.Read(m.store[len(m.store):cap(m.store)])
		m.store = m.store[:len(m.store)+n]
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	m.p = m.store
	if onFrame != nil {
		onFrame(m.kind, m.p, true)
	}
	return nil
}

// brokenBy returns what a peer has broken whose message could not be inflated.
func brokenBy(err error) *frame.ProtocolError {
	switch err {
	case frame.ErrTooLong:
		return errTooLong
	case frame.ErrTooManyBlocks:
		return errBlocks
	}
	return errCorrupt
}

// collect collects what comes of a message that is not compressed, frame by frame.
func (s *Socket) collect(ctx context.Context, m *message, onFrame func(t MessageType, p []byte, last bool)) error {
	into := &m.store
	if m.own {
		into = &m.p
	}
	for last := false; !last; {
		err := s.wire.Next()
		if err == nil && s.wire.Left() > 0 {
			err = s.collectSome(m, into)
		}
		switch err {
		case nil:
		case wire.ErrNothing:
			return err
		case error(errNotUTF8):
			return s.violated(errNotUTF8)
		default:
			return s.readFailed(ctx)
		}
		if s.wire.Left() > 0 {
			continue
		}
		last = s.wire.LastFrame()
		s.wire.EndFrame()
		if onFrame != nil {
			onFrame(m.kind, (*into)[m.begin:], last)
		}
		m.begin = len(*into)
	}
	m.p = *into
	if m.text.unfinished() {
		return s.violated(errNotUTF8)
	}
	return nil
}

// collectSome reads more of the frame at hand. Text is checked as it comes.
func (s *Socket) collectSome(m *message, into *[]byte) error {
	p, left := *into, s.wire.Left()
	if int64(cap(p)-len(p)) < min(left, leastMemory) {
		p = slices.Grow(p, int(min(left, max(leastMemory, int64(believed*(len(p)+s.wire.InMemory()))))))
	}
	n, err := s.wire.ReadPayload(p[len(p):cap(p)])
	*into = p[:len(p)+n]
	if err == nil && m.kind == Text && !m.text.valid(p[len(p):len(p)+n]) {
		return errNotUTF8
	}
	return err
}

// dropFrame drops the next frame. The errors are those of take.
func (s *Socket) dropFrame() error {
	s.forgetMessages()
	err := s.wire.Next()
	if err == nil {
		err = s.wire.Skip()
	}
	if err != nil && err != wire.ErrNothing {
		return s.readFailed(background)
	}
	return err
}

// forgetMessages drops what has come of a message. The caller has the reading side.
func (s *Socket) forgetMessages() {
	if s.partial != nil {
		s.partial.release()
	}
	s.partial, s.streamed = nil, nil
	if s.deflate != nil {
		s.deflate.in.Forget() // no message is delivered any more
	}
}

// A messageReader reads one message as it comes, and checks its size and its text.
type messageReader struct {
	socket   *Socket
	ctx      context.Context
	kind     MessageType
	text     utf8Checker
	size     int64
	inflater *frame.Inflater // nil if the message is not compressed

	counted  bool        // somebody else counts the message
	dropped  bool        // a later call of Read or Reader reads the rest
	complete atomic.Bool // read to its end
}

// newMessageReader returns a reader of the message at hand.
func newMessageReader(s *Socket, ctx context.Context) *messageReader {
	m := &messageReader{socket: s, ctx: ctx, kind: MessageType(s.wire.Opcode())}
	if s.wire.Compressed() {
		m.inflater = frame.NewInflater(payloadReader{s.wire}, s.deflate.in)
	}
	return m
}

// Read reads; the caller has the reading side.
func (m *messageReader) Read(p []byte) (n int, err error) {
	if m.inflater != nil {
		n, err = m.inflater.Read(p)
	} else {
		n, err = payloadReader{m.socket.wire}.Read(p)
	}
	m.size += int64(n)
	if err = m.check(p[:n], err); err != nil {
		m.socket.streamed = nil
		if m.inflater != nil {
			m.inflater.GiveBack()
			m.inflater = nil
		}
	}
	return n, err
}

// check judges p, which was read, and err, with which the reading ended. What it returns ends the message.
func (m *messageReader) check(p []byte, err error) error {
	s := m.socket
	switch limit := s.wire.Rules().MaxMessage; {
	case limit > 0 && m.size > limit:
		return s.violated(errTooLong)
	case m.kind == Text && !m.text.valid(p), err == io.EOF && m.text.unfinished():
		return s.violated(errNotUTF8)
	case err == nil:
		return nil
	case err == io.EOF:
		m.complete.Store(!m.dropped)
		if !m.counted {
			s.messagesIn.Add(1)
		}
		return io.EOF
	case s.wire.Err() != nil:
		return s.readFailed(m.ctx)
	}
	return s.violated(brokenBy(err))
}

// A payloadReader reads the payload of the message at hand.
type payloadReader struct{ wire *wire.Conn }

func (r payloadReader) Read(p []byte) (int, error) {
	for {
		if err := r.wire.Next(); err != nil {
			return 0, err
		}
		if r.wire.Left() > 0 {
			return r.wire.ReadPayload(p)
		}
		last := r.wire.LastFrame()
		if r.wire.EndFrame(); last {
			return 0, io.EOF
		}
	}
}

// A utf8Checker validates text that comes in pieces. It keeps the bytes of a character that is not complete yet.
type utf8Checker struct {
	tail [utf8.UTFMax]byte
	n    int
}

// unfinished reports whether the text so far ends in the middle of a character.
func (c *utf8Checker) unfinished() bool { return c.n > 0 }

// valid reports whether the text can still become valid with p at its end.
func (c *utf8Checker) valid(p []byte) bool {
	for c.n > 0 && len(p) > 0 {
		c.tail[c.n] = p[0]
		c.n++
		p = p[1:]
		if utf8.FullRune(c.tail[:c.n]) {
			if r, size := utf8.DecodeRune(c.tail[:c.n]); r == utf8.RuneError && size == 1 {
				return false
			}
			c.n = 0
		}
	}
	// A character that p cuts off is at most three bytes from its end.
	for i := len(p) - 1; i >= 0 && i >= len(p)-(utf8.UTFMax-1); i-- {
		if utf8.RuneStart(p[i]) {
			if !utf8.FullRune(p[i:]) {
				c.n = copy(c.tail[:], p[i:])
				p = p[:i]
			}
			break
		}
	}
	return utf8.Valid(p)
}
