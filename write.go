package foyer

import (
	"context"
	"io"

	"github.com/gorilla/websocket"

	"github.com/foyerws/foyer/internal/wire"
)

// Write sends p as one message. It returns when the kernel has the message or the socket's write buffer does, and waits
// while that has no room (MaxWriteBuffer). A message of 16 KiB or more is not buffered: Write waits until the kernel has
// it. p is the caller's again when Write returns. Text should be valid UTF-8; a peer ends the connection over text that
// is not.
//
// A program that writes to many clients in a loop should use TryWrite or [Broadcast], so that none can make it wait. Over
// TLS a hostile client can do so for as long as PongTimeout, whatever ctx says.
//
// When ctx ends while Write waits for room, nothing was sent and the socket stays as it is; when it ends in the middle of
// a message of 16 KiB or more, the connection is broken.
func (s *Socket) Write(ctx context.Context, t MessageType, p []byte) error {
	return s.send(ctx, t, p, stream)
}

// SendText sends m as a text message, as Write does.
func (s *Socket) SendText(ctx context.Context, m string) error {
	return s.send(ctx, Text, []byte(m), stream)
}

// SendBinary sends p as a binary message, as Write does.
func (s *Socket) SendBinary(ctx context.Context, p []byte) error {
	return s.send(ctx, Binary, p, stream)
}

// TryWrite sends p as one message without ever waiting. Where Write would wait, TryWrite sends nothing and returns an
// error: ErrWriteBufferFull if too many of the MaxWriteBuffer bytes are waiting for the peer, ErrWriterOpen if the message
// of a Writer is unfinished. A message that would not fit into an empty buffer is ErrMessageTooBig. p is the caller's
// again when TryWrite returns.
func (s *Socket) TryWrite(t MessageType, p []byte) error {
	return s.send(background, t, p, post)
}

// Flush waits until the kernel has everything that was written before the call.
func (s *Socket) Flush(ctx context.Context) error {
	if err := s.wire.Flush(ctx); err != nil {
		return s.writeError(err)
	}
	return nil
}

// BytesToWrite returns how many bytes, frame headers included, wait for the kernel to take them.
func (s *Socket) BytesToWrite() int { return s.wire.BytesToWrite() }

// Writer returns a writer for one message. What is written to it may leave at any time, in frames of the writer's
// choosing; Close ends the message and must be called. Other messages wait until then; control frames pass in between.
// ctx counts for the writer as well: when it ends before the message does, the connection is broken.
func (s *Socket) Writer(ctx context.Context, t MessageType) (io.WriteCloser, error) {
	ctx = s.plainContext(ctx)
	if err := s.lockWrite(ctx, t, 0, true); err != nil {
		return nil, err
	}
	defer s.writeMu.Unlock()
	w, err := s.nextWriter(t, s.deflate)
	if err != nil {
		return nil, s.writeError(err)
	}
	s.streaming, s.streamer = make(chan struct{}), byWriter
	return &messageWriter{socket: s, ctx: ctx, to: w}, nil
}

// A sender is what sends a message of several pieces.
type sender uint8

const (
	byEncoding sender = iota // a write that is busy with it, and waits for nobody
	byWrite                  // a Write that waits for the peer
	byWriter                 // the program's Writer
)

// A patience says what to wait for with a message.
type patience int

const (
	post   patience = iota // nothing
	whole                  // room for all of it
	stream                 // room, and with a long one until the kernel has it, so that no copy need be made
)

// send sends p as one message.
func (s *Socket) send(ctx context.Context, t MessageType, p []byte, how patience) error {
	ctx = s.plainContext(ctx)
	if err := s.lockWrite(ctx, t, len(p), how != post); err != nil {
		return err
	}
	if s.compresses(len(p)) || s.config.frameSize > 0 && len(p) > s.config.frameSize {
		return s.sendPieces(ctx, t, p, how)
	}

	long := how == stream && len(p) >= wire.LendSize
	lend := long && s.server // a client's is copied, because it is masked
	if lend {
		s.wire.Lend(p)
	}
	err := encode(s.wire, t, p)
	mark := uint64(0)
	if long {
		mark = s.wire.EndLend()
	}
	s.writeMu.Unlock()
	if lend {
		s.wire.Release()
	} else if how == post {
		s.wire.Kick()
	} else {
		s.wire.KickInline()
	}
	if err == nil && long {
		if err = s.wire.WaitWritten(ctx, mark); err != nil {
			s.wire.Break()
			s.abort(err)
		}
	}
	if err != nil {
		return s.writeError(err)
	}
	s.messagesOut.Add(1)
	return nil
}

// compresses reports whether a message of n bytes is to be compressed.
func (s *Socket) compresses(n int) bool { return s.deflate && n >= s.config.threshold }

// nextWriter begins a message with gorilla. The caller has locked writeMu.
func (s *Socket) nextWriter(t MessageType, compress bool) (io.WriteCloser, error) {
	g := s.engine()
	g.EnableWriteCompression(compress)
	return g.NextWriter(int(t))
}

// sendPieces sends p through gorilla's buffer, which masks, compresses or splits it. The caller has locked writeMu.
func (s *Socket) sendPieces(ctx context.Context, t MessageType, p []byte, how patience) error {
	to, err := s.nextWriter(t, s.compresses(len(p)))
	if err != nil {
		s.writeMu.Unlock()
		return s.writeError(err)
	}
	held := how != stream || len(p) <= pieceSize
	s.streaming, s.streamer = make(chan struct{}), byWrite
	if held {
		s.streamer = byEncoding
	}
	s.writeMu.Unlock()

	w := messageWriter{socket: s, ctx: ctx, to: to, held: held}
	if w.held {
		s.wire.Hold()
	}
	_, err = w.Write(p)
	if closeErr := w.Close(); err == nil {
		err = closeErr
	}
	if w.held {
		s.wire.Release()
	}
	return err
}

// lockWrite locks gorilla's writing side for a message of n bytes, when there is room for it.
func (s *Socket) lockWrite(ctx context.Context, t MessageType, n int, wait bool) error {
	if t != Text && t != Binary {
		return errBadMessageType
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.writeMu.Lock()
		if s.State() != StateOpen {
			s.writeMu.Unlock()
			return s.closedError()
		}
		streaming, streamer := s.streaming, s.streamer
		if streaming == nil && s.room(n, wait) {
			return nil
		}
		s.writeMu.Unlock()

		switch {
		case !wait && s.config.maxWrite > 0 && n > s.config.maxWrite:
			return ErrMessageTooBig
		case !wait && streaming != nil && streamer == byEncoding:
			<-streaming
		case !wait && streaming != nil && streamer == byWriter:
			return ErrWriterOpen
		case !wait:
			return ErrWriteBufferFull
		case streaming != nil:
			select {
			case <-streaming:
			case <-s.Done():
			case <-ctx.Done():
			}
		default:
			if err := s.waitRoom(ctx, n); err != nil && ctx.Err() == nil {
				return s.writeError(err)
			}
		}
	}
}

// room reports whether n bytes fit into the write buffer. Who can wait may begin a message that is longer than the
// buffer when nothing else is there.
func (s *Socket) room(n int, wait bool) bool {
	waiting := s.wire.BytesToWrite()
	return s.config.maxWrite == 0 || waiting+n <= s.config.maxWrite || wait && waiting == 0
}

func (s *Socket) waitRoom(ctx context.Context, n int) error {
	if s.config.maxWrite == 0 {
		return nil
	}
	return s.wire.WaitRoom(ctx, max(s.config.maxWrite-n, 0))
}

// pieceSize is how much of a long message goes through gorilla's buffer before we look for room again.
const pieceSize = 16 << 10

// A messageWriter writes one message. It has gorilla's writing side from its making until Close.
type messageWriter struct {
	socket *Socket
	ctx    context.Context
	to     io.WriteCloser // gorilla's
	held   bool           // the wire is held for the whole of the message, which was found to fit
	closed bool
}

func (w *messageWriter) Write(p []byte) (n int, err error) {
	if w.closed {
		return 0, io.ErrClosedPipe
	}
	piece := pieceSize
	if size := w.socket.config.frameSize; size > 0 {
		piece = min(piece, size) // gorilla would send a longer piece as a frame of its own
	}
	for n < len(p) {
		next := p[n:min(n+piece, len(p))]
		if err := w.write(next); err != nil {
			return n, err
		}
		n += len(next)
	}
	return n, nil
}

func (w *messageWriter) write(p []byte) error {
	s := w.socket
	if !w.held {
		if err := w.ctx.Err(); err != nil {
			return w.failed(err)
		}
		if err := s.waitRoom(w.ctx, len(p)); err != nil {
			return w.failed(err)
		}
	}
	if s.State() != StateOpen {
		return s.closedError()
	}
	s.wire.Hold()
	_, err := w.to.Write(p)
	s.wire.Release()
	if err != nil {
		return w.failed(err)
	}
	return nil
}

// Close ends the message.
func (w *messageWriter) Close() error {
	if w.closed {
		return io.ErrClosedPipe
	}
	w.closed = true
	s := w.socket
	var err error
	if !w.held {
		err = w.ctx.Err()
	}
	if err == nil {
		s.wire.Hold()
		err = w.to.Close()
		s.wire.Release()
	}

	s.writeMu.Lock()
	close(s.streaming)
	s.streaming = nil
	s.writeMu.Unlock()
	if err != nil {
		return w.failed(err)
	}
	s.messagesOut.Add(1)
	return nil
}

// failed breaks the connection if it was not broken before: the peer has half of a message.
func (w *messageWriter) failed(err error) error {
	if w.socket.State() == StateOpen {
		w.socket.abort(err)
	}
	return w.socket.writeError(err)
}

// writeError returns the error of a write: how the socket ended, if it did.
func (s *Socket) writeError(err error) error {
	if broken := s.wire.Failed(); broken != nil && err == broken {
		s.abort(err) // which the goroutine that found out is about to do
	}
	if err == websocket.ErrCloseSent || s.State() != StateOpen {
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

// writeControl sends a control frame. It passes between the frames of a message and does not wait.
func (s *Socket) writeControl(opcode int, payload []byte) error {
	s.wire.Hold()
	defer s.wire.Release()
	s.writeMu.Lock() // a frame may go to the wire in two pieces
	defer s.writeMu.Unlock()
	if s.State() != StateOpen {
		return websocket.ErrCloseSent
	}
	if s.streaming == nil {
		return encodeControl(s.wire, opcode, payload)
	}
	return s.engine().WriteControl(opcode, payload, noDeadline) // gorilla keeps the pieces of its own frames together
}
