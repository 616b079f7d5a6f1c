package foyer

import (
	"context"
	"io"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/wire"
)

// Write sends a message and does not keep p. Text must be UTF-8, or peers disconnect. It returns when the kernel or the
// write buffer has p; from 16 KiB on, when the kernel has it. If ctx ends before, nothing is sent; in the middle, the
// socket is aborted. Over TLS a client can block Write for PongTimeout. Other errors are ErrClosed.
func (s *Socket) Write(ctx context.Context, t MessageType, p []byte) error {
	return s.send(ctx, t, p, waitWritten)
}

// SendText is Write for text.
func (s *Socket) SendText(ctx context.Context, m string) error {
	return s.send(ctx, Text, []byte(m), waitWritten)
}

// SendBinary is Write for binary messages.
func (s *Socket) SendBinary(ctx context.Context, p []byte) error {
	return s.send(ctx, Binary, p, waitWritten)
}

// TryWrite is Write without waiting. It buffers p, or returns ErrWriteBufferFull, ErrWriterOpen, or ErrMessageTooBig
// for more than MaxWriteBuffer.
func (s *Socket) TryWrite(t MessageType, p []byte) error {
	return s.send(background, t, p, noWait)
}

// Flush waits until the kernel has all earlier writes.
func (s *Socket) Flush(ctx context.Context) error {
	if err := s.wire.Flush(ctx); err != nil {
		return s.writeError(err)
	}
	return nil
}

// BytesToWrite returns how many bytes are buffered.
func (s *Socket) BytesToWrite() int { return s.wire.BytesToWrite() }

// A waitMode says what to wait for with a message.
type waitMode int

const (
	noWait      waitMode = iota // nothing
	waitForRoom                 // room for all of it
	waitWritten                 // room, and with a long one until the kernel has it, so that no copy need be made
)

// send sends p as one message.
func (s *Socket) send(ctx context.Context, t MessageType, p []byte, how waitMode) error {
	if t != Text && t != Binary {
		return errBadMessageType
	}
	ctx = s.plainContext(ctx)
	long := how == waitWritten && len(p) >= wire.LendSize
	f := wire.Frame{
		First:   frame.Final | byte(t),
		Payload: p,
		Lent:    long && s.isServer() && !s.splits(len(p)), // a client's is copied, because it is masked
		Leave:   wire.Inline,
		Room:    s.room(how != noWait),
	}
	if how == noWait {
		f.Leave = wire.Now
	}
	var mark uint64
	var err error
	if s.compresses(len(p)) || s.splits(len(p)) {
		mark, err = s.sendPrepared(ctx, &f)
	} else {
		mark, err = s.sendFrame(ctx, &f)
	}
	if err != nil {
		return err
	}
	if long {
		if err := s.wire.WaitWritten(ctx, mark); err != nil {
			s.wire.Break()
			s.abort(err)
			return s.closedError()
		}
	}
	return nil
}

// room returns what may wait to be written when a message is sent, by somebody who can wait for it or not.
func (s *Socket) room(canWait bool) wire.Room {
	return wire.Room{Max: s.config.maxWrite, Alone: canWait}
}

// compresses reports whether a message of n bytes is to be compressed.
func (s *Socket) compresses(n int) bool { return s.deflate != nil && n >= s.config.threshold }

// splits reports whether n bytes are sent in more than one frame.
func (s *Socket) splits(n int) bool {
	split := s.wire.Rules().Split
	return split > 0 && n > split
}

// sendFrame sends f when there is room for it and no other message is under way.
func (s *Socket) sendFrame(ctx context.Context, f *wire.Frame) (mark uint64, err error) {
	for err = ctx.Err(); err == nil; err = s.await(ctx, err, len(f.Payload), f.Room) {
		if mark, err = s.wire.Send(f); err == nil {
			return mark, nil
		}
	}
	return 0, err
}

// claim takes the right to send a message of n bytes in several steps.
func (s *Socket) claim(ctx context.Context, why wire.Claim, n int, room wire.Room) (err error) {
	for err = ctx.Err(); err == nil; err = s.await(ctx, err, n, room) {
		if err = s.wire.Claim(why, n, room); err == nil {
			return nil
		}
	}
	return err
}

// await waits until what has kept a message of n bytes from being taken in may be over, or returns the error for its sender. A caller that
// can wait may send a message that is longer than the write buffer.
func (s *Socket) await(ctx context.Context, err error, n int, room wire.Room) error {
	switch err {
	default:
		return s.writeError(err)
	case wire.ErrNoRoom, wire.ErrClaimed:
	}
	canWait := room.Alone
	switch {
	case !canWait && room.Max > 0 && n > room.Max:
		return ErrMessageTooBig
	case !canWait && err == wire.ErrNoRoom:
		return ErrWriteBufferFull
	case !canWait && s.wire.Claimed() == wire.Streaming:
		return ErrWriterOpen
	case !canWait:
		err = s.wire.WaitPrepared() // by somebody who waits for nobody
	case err == wire.ErrNoRoom:
		err = s.wire.WaitRoom(ctx, max(room.Max-n, 0))
	default:
		err = s.wire.WaitClaim(ctx)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return s.writeError(err)
}

// sendPrepared sends f compressed, or in several frames, or both.
func (s *Socket) sendPrepared(ctx context.Context, f *wire.Frame) (mark uint64, err error) {
	if err := s.claim(ctx, wire.Preparing, len(f.Payload), f.Room); err != nil {
		return 0, err
	}
	done := false
	defer func() {
		if !done { // the program's MaskGenerator has ended the goroutine, perhaps between two frames
			s.abort(nil)
		}
		s.wire.Unclaim(f.Leave)
	}()
	if s.compresses(len(f.Payload)) {
		z := s.deflate.out.Begin()
		defer z.Release()
		z.Write(f.Payload)
		z.End()
		f.First, f.Payload = f.First|frame.RSV1, z.Out
	}
	piece := wire.Frame{First: f.First &^ frame.Final, Claimed: true, Leave: wire.WithNext}
	split := s.wire.Rules().Split
	for rest := f.Payload; ; piece.First = 0 {
		piece.Payload = rest
		if split > 0 && len(rest) > split {
			piece.Payload = rest[:split]
		}
		if rest = rest[len(piece.Payload):]; len(rest) == 0 {
			piece.First |= frame.Final
		}
		if mark, err = s.wire.Send(&piece); err != nil {
			done = true
			return 0, s.writeError(err)
		}
		if len(rest) == 0 {
			done = true
			return mark, nil
		}
	}
}

// Writer returns a writer for one message, sent in frames as it is written. Other messages wait until it is closed. The
// end of ctx aborts the socket. Compression takes about 1 MiB meanwhile.
func (s *Socket) Writer(ctx context.Context, t MessageType) (io.WriteCloser, error) {
	if t != Text && t != Binary {
		return nil, errBadMessageType
	}
	ctx = s.plainContext(ctx)
	if err := s.claim(ctx, wire.Streaming, 0, s.room(true)); err != nil {
		return nil, err
	}
	w := &messageWriter{socket: s, ctx: ctx, first: byte(t), split: s.wire.Rules().Split}
	if s.deflate != nil {
		w.deflation = s.deflate.out.Begin()
		w.first |= frame.RSV1
	}
	if ctx.Done() != nil {
		w.stop = context.AfterFunc(ctx, func() { w.failed(ctx.Err()) })
	}
	return w, nil
}

// writerSize is how much of what is written to a Writer is collected to leave in one frame, pieceSize the longest frame of a Writer.
const (
	writerSize = 4 << 10
	pieceSize  = 16 << 10
)

// A messageWriter writes one message. It has the claim from its making until Close.
type messageWriter struct {
	socket    *Socket
	ctx       context.Context
	first     byte             // of the next frame
	split     int              // the longest payload of a frame; 0: no limit
	waiting   []byte           // what was written and is in no frame yet
	deflation *frame.Deflation // nil if the message is not compressed
	stop      func() bool      // has the end of ctx do nothing more; nil if ctx never ends
	closed    bool
}

func (w *messageWriter) Write(p []byte) (n int, err error) {
	if w.closed {
		return 0, io.ErrClosedPipe
	}
	if err := w.ctx.Err(); err != nil {
		return 0, w.failed(err)
	}
	if w.socket.State() != StateOpen {
		return 0, w.socket.closedError()
	}
	if w.deflation != nil {
		return w.compress(p)
	}
	for n < len(p) {
		rest := p[n:]
		size := min(w.limit(writerSize)-len(w.waiting), len(rest))
		if len(w.waiting) == 0 && len(rest) >= w.limit(writerSize) {
			size = min(w.limit(pieceSize), len(rest))
			err = w.send(rest[:size], 0)
		} else if w.waiting = append(w.waiting, rest[:size]...); len(w.waiting) == w.limit(writerSize) {
			err = w.send(w.waiting, 0)
			w.waiting = w.waiting[:0]
		}
		if err != nil {
			return n, err
		}
		n += size
	}
	return n, nil
}

// limit returns size, or the longest frame that may be sent where that is less.
func (w *messageWriter) limit(size int) int {
	if w.split > 0 {
		return min(size, w.split)
	}
	return size
}

// compress is Write for a message that is compressed. The time that it takes is bounded by pieces.
func (w *messageWriter) compress(p []byte) (n int, err error) {
	z := w.deflation
	for n < len(p) {
		piece := p[n:min(n+pieceSize, len(p))]
		z.Write(piece)
		if err := w.sendOut(); err != nil {
			return n, err
		}
		n += len(piece)
	}
	return n, nil
}

// sendOut sends what has come out of the compressor, but for less than a frame.
func (w *messageWriter) sendOut() error {
	z, size := w.deflation, w.limit(writerSize)
	sent := 0
	for len(z.Out)-sent > size {
		if err := w.send(z.Out[sent:sent+size], 0); err != nil {
			return err
		}
		sent += size
	}
	z.Out = z.Out[:copy(z.Out, z.Out[sent:])]
	return nil
}

// send sends p as the next frame, which may be the last.
func (w *messageWriter) send(p []byte, final byte) error {
	s := w.socket
	f := wire.Frame{First: w.first | final, Payload: p, Claimed: true, Leave: wire.Inline, Room: s.room(true)}
	if _, err := s.sendFrame(w.ctx, &f); err != nil {
		return w.failed(err)
	}
	w.first = 0
	return nil
}

// failed breaks the connection, because the peer has half of a message, unless it is broken or closing.
func (w *messageWriter) failed(err error) error {
	s := w.socket
	if s.State() == StateOpen && !s.wire.CloseSent() {
		s.abort(err)
	}
	return s.writeError(err)
}

// Close ends the message.
func (w *messageWriter) Close() (err error) {
	if w.closed {
		return io.ErrClosedPipe
	}
	w.closed = true
	defer w.socket.wire.Unclaim(wire.Now)
	if w.deflation != nil {
		defer w.deflation.Release()
	}
	if w.stop != nil && !w.stop() {
		return w.failed(w.ctx.Err())
	}
	last := w.waiting
	if z := w.deflation; z != nil {
		z.End()
		if err := w.sendOut(); err != nil {
			return err
		}
		last = z.Out
	}
	return w.send(last, frame.Final)
}

// writeError returns the error of a write: how the socket ended, if it did.
func (s *Socket) writeError(err error) error {
	if broken := s.wire.Failed(); broken != nil && err == broken {
		s.abort(err) // which the goroutine that found out is about to do
	}
	if err == wire.ErrCloseSent || s.State() != StateOpen {
		return s.closedError()
	}
	return err
}

// closedError returns what a write on a socket that is not open returns.
func (s *Socket) closedError() error {
	if err := s.Err(); err != nil {
		return err
	}
	return ErrClosed
}

// sendControl sends a control frame. It passes between the frames of a message and does not wait.
func (s *Socket) sendControl(opcode byte, payload []byte, room wire.Room) error {
	_, err := s.wire.Send(&wire.Frame{First: frame.Final | opcode, Payload: payload, Leave: wire.Now, Room: room})
	return err
}
