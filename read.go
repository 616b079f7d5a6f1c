package foyer

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync/atomic"
	"unicode/utf8"

	"github.com/foyerws/foyer/internal/wire"
)

// Read waits for the next message and returns it. The slice is the caller's. Text is valid UTF-8.
//
// When ctx ends while no message has begun, Read returns its error and the socket stays as it is; when it ends in the
// middle of a message, the connection is broken. Any other error is final: a *CloseError, or ErrReading if another
// goroutine reads already.
func (s *Socket) Read(ctx context.Context) (MessageType, []byte, error) {
	if err := s.lockRead(ctx); err != nil {
		return 0, nil, err
	}
	defer s.unlockRead()
	ctx = s.readContext(ctx)
	if err := s.nextMessage(ctx); err != nil {
		return 0, nil, err
	}
	if t, p, ok, err := s.plain(); ok {
		p = append(make([]byte, 0, len(p)), p...)
		s.tookPlain(err)
		if s.wire.Unread() {
			s.wire.Gather()
		}
		return t, p, err
	}
	t, m, err := s.openMessage(ctx)
	if err != nil {
		return 0, nil, err
	}
	p, err := m.readAll(nil)
	if err != nil {
		return 0, nil, err
	}
	return t, p, nil
}

// Reader waits for the next message and returns a reader of it, which tells io.EOF at its end and returns the bytes as
// they come in. It is valid until the next call of Read or Reader, which drops what was not read of it; it fails then. ctx counts for
// the reader as well: when it ends before the message does, the connection is broken. Errors are those of Read.
func (s *Socket) Reader(ctx context.Context) (MessageType, io.Reader, error) {
	if err := s.lockRead(ctx); err != nil {
		return 0, nil, err
	}
	defer s.unlockRead()
	ctx = s.readContext(ctx)
	if err := s.nextMessage(ctx); err != nil {
		return 0, nil, err
	}
	t, m, err := s.openMessage(ctx)
	if err != nil {
		return 0, nil, err
	}
	return t, &lockedReader{m, ctx}, nil
}

// lockRead takes the reading side.
func (s *Socket) lockRead(ctx context.Context) error {
	if s.takeReading() {
		if s.State() == StateClosed {
			s.unlockRead()
			return s.Err()
		}
		return nil
	}
	if s.State() == StateOpen {
		return ErrReading
	}
	// The close handshake has the reading side, to wait for the peer's close frame.
	select {
	case <-s.Done():
		return s.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unlockRead gives the reading side back, or passes it on to what a close handshake still has to do there.
func (s *Socket) unlockRead() {
	s.reading.release()
	s.afterRead()
	if s.wire.SeenHungUp() && s.State() != StateClosed {
		s.checkPeer() // what was read may have been all that there was
	}
}

// A readingSide is one end of a socket's input. One goroutine at a time has it: to read, or to look whether the peer is
// still there, which takes a system call or two, or a millisecond of TLS.
type readingSide struct{ state atomic.Int32 }

const (
	unread int32 = iota // nobody has it
	readBy
	lookedAt
	lookedAtLong // and the socket's extra has a channel that is closed at the end
)

// takeReading takes the side to read, and reports false if another goroutine reads. It waits for one that looks.
func (s *Socket) takeReading() bool {
	for !s.reading.tryTake() {
		switch s.reading.state.Load() {
		case readBy:
			return false
		case lookedAtLong:
			if ends := s.lookEnds(); ends != nil {
				<-ends
			}
		default:
			runtime.Gosched()
		}
	}
	return true
}

// lookEnds returns the channel that is closed when a long look ends, nil if none is under way.
func (s *Socket) lookEnds() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.extra == nil {
		return nil
	}
	return s.extra.looked
}

// tryTake is takeReading for a caller that must not wait. What it wanted to do is left to the goroutine that looks.
func (r *readingSide) tryTake() bool { return r.state.CompareAndSwap(unread, readBy) }

func (r *readingSide) release() { r.state.Store(unread) }

// look takes the side to look, and reports false if another goroutine has it. endLook gives it back.
func (r *readingSide) look() bool { return r.state.CompareAndSwap(unread, lookedAt) }

// afterRead does what is left to do on the reading side of a socket that is closing or closed, if nobody has that side.
func (s *Socket) afterRead() {
	switch s.State() {
	case StateClosing:
		if s.reading.tryTake() {
			go s.drain()
		}
	case StateClosed:
		if s.reading.tryTake() {
			s.message = nil
			s.wire.Forget()
			s.reading.release()
		}
	}
}

// nextMessage waits for the next message and drops what was not read of the last. The caller has the reading side.
func (s *Socket) nextMessage(ctx context.Context) error {
	if m := s.message; m != nil {
		if err := s.wire.Within(ctx); err != nil {
			return s.waitFailed(ctx, err)
		}
		m.ctx, m.dropped = ctx, true
		if _, err := io.Copy(io.Discard, m); err != nil {
			return err
		}
	}
	if err := s.wire.Wait(ctx); err != nil {
		return s.waitFailed(ctx, err)
	}
	return nil
}

// plain returns the message at hand if gorilla is not needed to read it, see wire.Conn.Message. An error has ended the
// socket. Where it is ok, tookPlain must be called when the message was taken.
func (s *Socket) plain() (t MessageType, p []byte, ok bool, err error) {
	opcode, p, ok := s.wire.Message()
	if !ok {
		return 0, nil, false, nil
	}
	if opcode == byte(Text) && !utf8.Valid(p) {
		return 0, nil, true, s.violated(errNotUTF8)
	}
	return MessageType(opcode), p, true, nil
}

func (s *Socket) tookPlain(err error) {
	s.wire.Taken()
	if err == nil {
		s.messagesIn.Add(1)
	}
}

// openMessage returns a reader of the message at hand.
func (s *Socket) openMessage(ctx context.Context) (MessageType, *messageReader, error) {
	size := s.wire.FrameLeft()
	deflated := s.wire.TakeCompressed()
	t, r, err := s.engine().NextReader()
	if err != nil {
		return 0, nil, s.readFailed(ctx)
	}
	m := &messageReader{socket: s, ctx: ctx, from: r, text: t == int(Text), first: size}
	switch {
	case deflated:
		m.inflater = newInflater(r)
		m.from = m.inflater
	case s.wire.MidMessage():
		m.frame.end = s.wire.FrameEnd()
	}
	s.message = m
	return MessageType(t), m, nil
}

var errNotUTF8 = &wire.ProtocolError{Code: int(CloseInvalidFramePayloadData), Reason: "text is not UTF-8 (RFC 6455 section 8.1)"}

// waitFailed returns the error of a wait that nothing was lost in, if ctx ended it, and ends the socket otherwise.
func (s *Socket) waitFailed(ctx context.Context, err error) error {
	if err == wire.ErrInterrupted && s.wire.Err() == nil {
		return ctx.Err()
	}
	return s.readFailed(ctx)
}

// A messageReader reads one message and holds it to what gorilla does not: its size after decompression, and UTF-8
// (RFC 6455 section 8.1), both as the bytes come in.
type messageReader struct {
	socket *Socket
	ctx    context.Context
	from   io.Reader // gorilla's, or inflater
	text   bool
	utf8   utf8Checker
	first  int64 // length of the first frame
	size   int64
	frame  span // at hand, unless the message is compressed

	inflater *inflater                 // nil if the message is not compressed
	onFrame  func(p []byte, last bool) // gets each frame, if not nil

	dropped  bool        // a later call of Read or Reader reads the rest
	complete atomic.Bool // read to its end
}

// Read reads; the caller has the reading side.
func (m *messageReader) Read(p []byte) (int, error) {
	s := m.socket
	n, err := m.from.Read(p)
	m.size += int64(n)
	if err = m.check(p[:n], err); err != nil {
		s.message = nil
		if m.inflater != nil {
			m.inflater.giveBack()
			m.inflater = nil
		}
	}
	return n, err
}

// check judges p, which was read, and err, with which the reading ended. What it returns ends the message.
func (m *messageReader) check(p []byte, err error) error {
	s := m.socket
	switch limit := s.config.maxMessage; {
	case limit > 0 && m.size > limit:
		return s.violated(&wire.ProtocolError{Code: int(CloseMessageTooBig), Reason: "message too big"})
	case m.text && !m.utf8.valid(p), err == io.EOF && m.text && m.utf8.n > 0:
		return s.violated(errNotUTF8)
	case err == nil:
		return nil
	case err == errTooManyBlocks:
		return s.violated(errTooManyBlocks)
	case err != io.EOF:
		return s.readFailed(m.ctx)
	}
	m.complete.Store(!m.dropped)
	s.messagesIn.Add(1)
	return io.EOF
}

// readAll returns the whole message, behind what is in p.
func (m *messageReader) readAll(p []byte) ([]byte, error) {
	// What a peer claims to send is believed as far as it has sent a part of it.
	const most, believed = 64<<10 + 64, 8
	p = slices.Grow(p, int(max(min(m.first, most, int64(believed*len(m.socket.wire.Peek()))), 512)))
	for {
		n, err := m.Read(p[len(p):cap(p)])
		p = p[:len(p)+n]
		if err == io.EOF {
			m.tellFrame(p[m.frame.begin:], true)
			return p, nil
		}
		if err != nil {
			return p, err
		}
		if n > 0 && m.size == m.frame.end {
			m.tellFrame(p[m.frame.begin:], false)
		}
		if len(p) == cap(p) {
			p = append(p, 0)[:len(p)]
		}
	}
}

// A span is where a frame that is not the last of its message lies in it.
type span struct{ begin, end int64 }

// continues notes that the frame at hand is over and another begins.
func (s *Socket) continues() {
	m := s.message
	if m == nil || s.wire.Compressed() {
		return
	}
	if m.frame.begin == m.frame.end { // it was empty; others were told of with their last byte
		m.tellFrame(nil, false)
	}
	m.frame = span{m.frame.end, s.wire.FrameEnd()}
}

func (m *messageReader) tellFrame(p []byte, last bool) {
	if m.onFrame != nil {
		m.onFrame(p, last)
	}
}

// A lockedReader is what Reader hands out: it takes the reading side for each call.
type lockedReader struct {
	m   *messageReader
	ctx context.Context
}

func (r *lockedReader) Read(p []byte) (int, error) {
	s := r.m.socket
	if r.m.complete.Load() {
		return 0, io.EOF
	}
	if err := s.lockRead(r.ctx); err != nil {
		return 0, err
	}
	defer s.unlockRead()
	ctx := s.readContext(r.ctx)
	switch {
	case r.m.complete.Load():
		return 0, io.EOF
	case s.message != r.m:
		return 0, errDropped
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.wire.Within(ctx); err != nil {
		if err == wire.ErrInterrupted {
			s.abort(ctx.Err())
			return 0, s.Err()
		}
		return 0, s.readFailed(ctx)
	}
	return r.m.Read(p)
}

// readFailed ends the socket over what ended its input, and returns how it ended. gorilla may have its own words for
// it; those of the wire count.
func (s *Socket) readFailed(ctx context.Context) error {
	cause := s.wire.Err()
	var peer *wire.PeerClose
	var broken *wire.ProtocolError
	switch {
	case cause == nil:
		// The input is fine, its compression is not.
		broken = &wire.ProtocolError{Code: int(CloseInvalidFramePayloadData), Reason: "corrupt compressed data (RFC 7692 section 7.2.2)"}
		return s.violated(broken)
	case errors.As(cause, &peer):
		s.peerClosed(CloseCode(peer.Code), peer.Reason)
	case errors.As(cause, &broken):
		return s.violated(broken)
	case cause == wire.ErrInterrupted:
		s.abort(ctx.Err())
	case cause == io.EOF:
		s.abort(io.ErrUnexpectedEOF) // without a close frame
	default:
		s.abort(cause)
	}
	return s.Err()
}

// A utf8Checker validates text that comes in pieces. It keeps the bytes of a character that is not complete yet.
type utf8Checker struct {
	tail [utf8.UTFMax]byte
	n    int
}

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
