package foyer

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/wire"
)

// This file is where sockets end. State goes from Open to Closing in beginClosing, and to Closed in finish. How a socket ends is decided
// once, in decide. Nothing else changes either.

// maxReason is how many bytes of reason fit into a close frame behind the code, RFC 6455 section 5.5.
const maxReason = 123

// Close sends a close frame after earlier writes, cutting off an open Writer, and returns at once. The socket ends when
// the peer answers, or after CloseTimeout. Programs that exit should wait for Done. A second Close does nothing.
//
// Codes 1000 to 1003, 1007 to 1014 and 3000 to 4999 may be sent; CloseNoStatusReceived sends none. For others Close
// returns an error and sends CloseInternalServerErr. Reasons are cut at 123 bytes.
func (s *Socket) Close(code CloseCode, reason string) error {
	if !code.sendable() && code != CloseNoStatusReceived {
		s.beginClose(CloseInternalServerErr, "")
		return fmt.Errorf("foyer: close code %v may not be sent (RFC 6455 section 7.4); 1011 was sent instead", code)
	}
	s.beginClose(code, reason)
	return nil
}

// Abort closes the connection at once, without a close frame or buffered output.
func (s *Socket) Abort() error {
	s.abort(nil)
	return nil
}

// abort cuts the connection because of cause.
func (s *Socket) abort(cause error) {
	s.finish(&CloseError{Code: CloseAbnormalClosure, Err: cause, socket: s}, cut)
}

// beginClose starts a close handshake from this side and does not wait for its end.
func (s *Socket) beginClose(code CloseCode, reason string) {
	l := s.events.Load()
	if l == nil || l.Closing == nil {
		s.startClose(code, reason)
		return
	}
	l.asked.CompareAndSwap(nil, &closeCall{code, reason})
	s.notify()
}

// startClose is beginClose after Closing was called.
func (s *Socket) startClose(code CloseCode, reason string) {
	if !s.beginClosing(code, reason) {
		return
	}
	s.mu.Lock()
	if s.State() != StateClosed {
		s.closeTimer = time.AfterFunc(s.config.closeTimeout, func() { s.abort(errCloseTimeout) })
	}
	s.mu.Unlock()
	s.afterRead()
}

// beginClosing sends the close frame, unless one was sent before. Nothing is sent behind it.
func (s *Socket) beginClosing(code CloseCode, reason string) bool {
	err := s.sendControl(frame.Close, frame.AppendClose(nil, int(code), cutReason(reason)), wire.Room{})
	if err == wire.ErrCloseSent || !s.state.CompareAndSwap(int32(StateOpen), int32(StateClosing)) {
		return false
	}
	if l := s.events.Load(); l != nil {
		l.sent.Store(true)
		s.notify()
	}
	return true
}

// cutReason makes reason fit for a close frame.
func cutReason(reason string) string {
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if len(reason) <= maxReason {
		return reason
	}
	n := maxReason
	for !utf8.RuneStart(reason[n]) {
		n--
	}
	return reason[:n]
}

// drain reads until the close handshake is over, dropping messages. It has the reading side.
func (s *Socket) drain() {
	defer s.unlockRead()
	for {
		err := s.wire.Wait(background)
		if err == nil {
			err = s.wire.Skip()
		}
		if err != nil {
			s.readFailed(background)
			return
		}
	}
}

// peerClosed answers the peer's close frame, which ends the socket: either it is the answer to ours, or ours is the
// answer to it.
func (s *Socket) peerClosed(code CloseCode, reason string) {
	s.wire.Unwatch() // a context that ends with the socket must not cut its farewell short
	s.callClosingFromReader()
	end := &CloseError{Code: code, Reason: reason, socket: s}
	s.decide(end)
	s.beginClosing(code, "")
	s.wire.Scatter()
	s.finish(end, answered)
}

// violated ends the socket because the peer broke a rule, and returns how it ended.
func (s *Socket) violated(broken *frame.ProtocolError) error {
	code := CloseCode(broken.Code)
	var cause error = broken
	if code == CloseMessageTooBig {
		cause = ErrMessageTooBig
	}
	s.wire.Unwatch()
	s.callClosingFromReader()
	end := &CloseError{Code: code, Reason: broken.Reason, Err: cause, socket: s}
	s.decide(end)
	s.beginClosing(code, broken.Reason)
	s.finish(end, farewell)
	return s.Err()
}

// decide says how the socket will have ended, even if our close frame cannot be sent any more, unless that was decided before.
func (s *Socket) decide(end *CloseError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decideLocked(end)
}

// decideLocked is decide for a caller that has s.mu. It returns what is decided.
func (s *Socket) decideLocked(end *CloseError) *CloseError {
	if s.fate == nil {
		s.fate = end
	}
	return s.fate
}

// An ending is how a connection is closed.
type ending int

const (
	cut      ending = iota // at once
	answered               // when our close frame is out; the peer sends nothing behind its own
	farewell               // when our close frame is out, and so that it arrives though the peer still sends
)

// finish is the end of a socket.
func (s *Socket) finish(e *CloseError, how ending) {
	s.mu.Lock()
	if s.State() == StateClosed {
		s.mu.Unlock()
		return
	}
	e = s.decideLocked(e)
	s.state.Store(int32(StateClosed))
	if s.closeTimer != nil {
		s.closeTimer.Stop()
	}
	for p := s.pings; p != nil; p = p.next {
		close(p.pong)
	}
	s.pings = nil
	cancels, done := s.takeCancels(), s.done
	s.mu.Unlock()

	if s.isServer() && !s.accepted.Load() {
		s.config.pool.drop(s)
	}
	s.config.release(s.deflate)
	s.config.registry.countEnd(e.Code)
	for _, cancel := range cancels {
		cancel(e)
	}
	if how == farewell || how == answered && !(s.isServer() && s.wire.Done()) {
		go func() {
			s.wire.Finish(lingerTime, how == farewell || !s.isServer())
			s.config.registry.remove(s)
		}()
	} else {
		s.wire.Close()
		s.config.registry.remove(s)
	}
	if done != nil {
		s.tellDone(done)
	}
	s.afterRead()
	s.notify()
}

// tellDone closes the channel of Done. A handler that waits for it may return then.
func (s *Socket) tellDone(done chan struct{}) {
	released := s.wire.Released()
	if released == nil {
		close(done)
		return
	}
	go func() {
		<-released
		close(done)
	}()
}
