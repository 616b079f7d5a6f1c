package foyer

import (
	"context"
	"io"
	"sync/atomic"

	"github.com/foyerws/foyer/internal/baton"
	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/wire"
)

// Read waits for a message, which the caller owns. Text is valid UTF-8. If ctx ends before a message has begun, Read
// returns its error and the socket stays open; later, the socket is aborted. Errors other than these and ErrReading are
// final *CloseErrors.
func (s *Socket) Read(ctx context.Context) (MessageType, []byte, error) {
	if err := s.lockRead(ctx); err != nil {
		return 0, nil, err
	}
	defer s.unlockRead()
	ctx = s.readContext(ctx)
	if err := s.nextMessage(ctx); err != nil {
		return 0, nil, err
	}
	m, err := s.take(ctx, true, nil)
	if err != nil {
		return 0, nil, err
	}
	t, p := m.kind, m.p
	if !m.own {
		p = append(make([]byte, 0, len(p)), p...)
	}
	s.took(m)
	if s.wire.Unread() {
		s.wire.Gather()
	}
	return t, p, nil
}

// Reader is Read for long messages, returned as they arrive within ctx. The next Read or Reader drops the rest.
func (s *Socket) Reader(ctx context.Context) (MessageType, io.Reader, error) {
	if err := s.lockRead(ctx); err != nil {
		return 0, nil, err
	}
	defer s.unlockRead()
	ctx = s.readContext(ctx)
	if err := s.nextMessage(ctx); err != nil {
		return 0, nil, err
	}
	m := newMessageReader(s, ctx)
	s.streamed = m
	return m.kind, &lockedReader{m, ctx}, nil
}

// lockRead takes the reading side.
func (s *Socket) lockRead(ctx context.Context) error {
	if s.reading.take() {
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
	s.reading.reads.Store(false)
	s.returnReading()
	if s.wire.SeenHungUp() && s.State() != StateClosed {
		s.checkPeer() // what was read may have been all that there was
	}
}

// A readingSide is one end of a socket's input. One goroutine at a time has it: to read, or to look whether the peer is
// still there, which takes a system call or two, or a millisecond of TLS.
type readingSide struct {
	reads atomic.Bool // a goroutine reads, or is about to
	side  baton.Baton // held by the goroutine that reads or looks; the work is what finishReading does
}

// take takes the side to read, and reports false if another goroutine reads. It waits for one that looks.
func (r *readingSide) take() bool {
	if !r.reads.CompareAndSwap(false, true) {
		return false
	}
	r.side.Lock()
	return true
}

// afterRead does what is left to do on the reading side of a socket that is closing or closed, or leaves it to the goroutine that has
// the side.
func (s *Socket) afterRead() {
	if s.State() != StateOpen && s.reading.side.Take() {
		s.finishReading()
	}
}

// returnReading gives the side back.
func (s *Socket) returnReading() {
	if !s.reading.side.Return() {
		s.finishReading()
	}
	s.afterRead()
}

// finishReading does what is left to do on the reading side. The caller has it, and it is given back.
func (s *Socket) finishReading() {
	for again := true; again; again = !s.reading.side.Return() {
		switch s.State() {
		case StateClosing:
			if s.reading.reads.CompareAndSwap(false, true) { // and not for one that waits to read
				go s.drain()
				return
			}
		case StateClosed:
			s.forgetMessages()
			s.wire.Forget()
		}
	}
}

// nextMessage waits for the next message and drops what was not read of the last. The caller has the reading side.
func (s *Socket) nextMessage(ctx context.Context) error {
	if m := s.streamed; m != nil {
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

// waitFailed returns the error of a wait that nothing was lost in, if ctx ended it, and ends the socket otherwise.
func (s *Socket) waitFailed(ctx context.Context, err error) error {
	if err == wire.ErrInterrupted && s.wire.Err() == nil {
		return ctx.Err()
	}
	return s.readFailed(ctx)
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
	case s.streamed != r.m:
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

// readFailed ends the socket over what ended its input, and returns how it ended.
func (s *Socket) readFailed(ctx context.Context) error {
	cause := s.wire.Err()
	switch why := cause.(type) {
	case *frame.PeerClose:
		s.peerClosed(CloseCode(why.Code), why.Reason)
	case *frame.ProtocolError:
		return s.violated(why)
	default:
		switch cause {
		case wire.ErrInterrupted:
			cause = ctx.Err()
		case io.EOF:
			cause = io.ErrUnexpectedEOF // without a close frame
		}
		s.abort(cause)
	}
	return s.Err()
}
