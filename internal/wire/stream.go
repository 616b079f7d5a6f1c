package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"
)

// An Answer is the http.ResponseWriter of a request whose body and answer are the two directions of a stream.
type Answer interface {
	http.ResponseWriter
	FlushError() error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// A Stream is a net.Conn made of a request and its answer, which is how HTTP/2 (RFC 8441) and HTTP/3 (RFC 9220) carry a
// socket.
//
// A body that is being read cannot be left alone again: what interrupts that ends it. So a goroutine of its own reads
// ahead, see Pump, and a reader waits for that one. The request's handler must not return before Pump has.
type Stream struct {
	body          io.Reader
	ctx           context.Context // of the request
	local, remote net.Addr
	gone          chan struct{} // closed by Close, when nobody uses the answer any more

	writing sync.Mutex // held while the answer is written to; guards:
	answer  Answer

	mu       sync.Mutex // guards:
	changed  sync.Cond
	piece    []byte // of the body, which nobody has taken yet
	err      error  // what is behind it
	deadline time.Time
	timer    *time.Timer // wakes the reader at the deadline
	closed   bool
}

// NewStream returns the Stream of a request and its answer.
func NewStream(r *http.Request, answer Answer) *Stream {
	s := &Stream{body: r.Body, ctx: r.Context(), answer: answer, gone: make(chan struct{}), remote: remoteAddr(r)}
	s.changed.L = &s.mu
	s.local, _ = s.ctx.Value(http.LocalAddrContextKey).(net.Addr)
	return s
}

// remoteAddr returns the client's address as the server, or middleware, has it in the request.
func remoteAddr(r *http.Request) net.Addr {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	switch {
	case err != nil:
		return textAddr(r.RemoteAddr)
	case r.ProtoMajor == 3:
		return net.UDPAddrFromAddrPort(addr)
	}
	return net.TCPAddrFromAddrPort(addr)
}

// A textAddr is an address of an unknown form.
type textAddr string

func (textAddr) Network() string  { return "" }
func (a textAddr) String() string { return string(a) }

// Begin sends the head of the answer, until deadline at the latest, and lifts the deadlines that the server has for
// ordinary requests.
func (s *Stream) Begin(header http.Header, deadline time.Time) error {
	theirs := s.answer.Header()
	clear(theirs)
	maps.Copy(theirs, header)
	s.answer.SetReadDeadline(time.Time{})
	s.answer.SetWriteDeadline(deadline)
	s.answer.WriteHeader(http.StatusOK)
	if err := s.answer.FlushError(); err != nil {
		return err
	}
	return s.answer.SetWriteDeadline(time.Time{})
}

// Pump reads the body, one piece ahead of who reads the Stream, and returns when the Stream was closed.
func (s *Stream) Pump() {
	var small [smallSize]byte // as for other connections, see receiveNet
	var large *buffer
	room := small[:]
	for {
		n, err := s.body.Read(room)
		if !s.offer(room[:n], err) {
			break
		}
		switch {
		case large == nil && n == len(small):
			large = getBuffer()
			room = large.data
		case large != nil && n < len(small):
			putBuffer(large)
			large, room = nil, small[:]
		}
	}
	if large != nil {
		putBuffer(large)
	}
	<-s.gone
}

// offer waits until piece was taken, and reports whether another is wanted.
func (s *Stream) offer(piece []byte, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.piece, s.err = piece, err
	s.changed.Broadcast()
	for len(s.piece) > 0 {
		s.changed.Wait()
	}
	return s.err == nil
}

func (s *Stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case len(s.piece) > 0:
			n := copy(p, s.piece)
			if s.piece = s.piece[n:]; len(s.piece) == 0 {
				s.changed.Broadcast()
			}
			return n, nil
		case s.err != nil:
			return 0, s.err
		case !s.deadline.IsZero() && !time.Now().Before(s.deadline):
			return 0, os.ErrDeadlineExceeded
		}
		s.changed.Wait()
	}
}

func (s *Stream) Write(p []byte) (n int, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.isClosed() {
		return 0, net.ErrClosed
	}
	err = s.use(func() error {
		n, err = s.answer.Write(p)
		if err == nil {
			err = s.answer.FlushError()
		}
		return err
	})
	return n, err
}

// use does something with the answer, unless the handler has returned too early. It is too late to be sure of that, so
// a panic is contained as well.
func (s *Stream) use(f func() error) (err error) {
	if s.Gone() {
		return net.ErrClosed
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the handler of the request has returned: %v", v)
		}
	}()
	return f()
}

// Gone reports whether the stream is no more. A context whose deadline has passed does not say so: that is the work of
// middleware.
func (s *Stream) Gone() bool { return s.ctx.Err() == context.Canceled }

func (s *Stream) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Close ends the stream, once its handler has returned, which it may do then. What was written arrives; a Write under way
// is broken off.
func (s *Stream) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.closed, s.piece, s.err = true, nil, net.ErrClosed
	if s.timer != nil {
		s.timer.Stop()
	}
	s.changed.Broadcast()
	s.mu.Unlock()

	s.use(func() error { return s.answer.SetReadDeadline(longAgo) }) // for Pump
	if !s.writing.TryLock() {
		s.use(func() error { return s.answer.SetWriteDeadline(longAgo) })
		s.writing.Lock()
	}
	s.writing.Unlock()
	close(s.gone)
	return nil
}

// LocalAddr returns the address of this end of the connection that carries the stream.
func (s *Stream) LocalAddr() net.Addr { return s.local }

// RemoteAddr returns the address of the other end.
func (s *Stream) RemoteAddr() net.Addr { return s.remote }

// SetDeadline sets both deadlines.
func (s *Stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline makes reads fail at t, and work again when it is set anew.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	if s.deadline = t; !t.IsZero() {
		s.timer = time.AfterFunc(time.Until(t), s.wake)
	}
	return nil
}

func (s *Stream) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
}

// SetWriteDeadline has the stream end at t.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	return s.use(func() error { return s.answer.SetWriteDeadline(t) })
}
