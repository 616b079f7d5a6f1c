// Package stream makes a connection of a request over HTTP/2 or HTTP/3.
package stream

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

	"github.com/foyerws/foyer/internal/netpoll"
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
// ahead, see Pump, and a reader waits for that one. The request's handler must not return before the Stream is released.
type Stream struct {
	body          io.Reader
	answer        Answer
	ctx           context.Context // of the request, which may end earlier
	local, remote net.Addr
	lent          bool

	writing sync.Mutex // held while the answer is written to

	mu       sync.Mutex // guards:
	changed  sync.Cond
	piece    []byte // of the body, which nobody has taken yet
	err      error  // what is behind it
	deadline time.Time
	timer    *time.Timer // wakes the reader at the deadline
	begun    bool        // the head of the answer is out, or never will be
	users    int         // calls of the answer's methods that are under way
	closed   bool
	released chan struct{} // closed when it is closed, and nobody uses the answer any more
}

// New returns the Stream of a request and its answer. The deadlines that the server has for ordinary requests are
// lifted; the head of the answer must be out at deadline.
func New(r *http.Request, answer Answer, deadline time.Time) *Stream {
	answer.SetReadDeadline(time.Time{})
	answer.SetWriteDeadline(deadline)
	s := &Stream{body: r.Body, ctx: r.Context(), answer: answer, released: make(chan struct{}), remote: remoteAddr(r)}
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

// Lend says that it is for somebody else not to return from the handler too early. The end of the request's context is
// taken for that.
func (s *Stream) Lend() { s.lent = true }

// Begin prepares the head of the answer, which Send sends.
func (s *Stream) Begin(header http.Header) {
	theirs := s.answer.Header()
	clear(theirs)
	maps.Copy(theirs, header)
	s.answer.WriteHeader(http.StatusOK)
}

// Send sends the head of the answer. An error of that is one of the body, too.
func (s *Stream) Send() {
	s.use(func() error { return errors.Join(s.answer.FlushError(), s.answer.SetWriteDeadline(time.Time{})) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = true
	s.changed.Broadcast()
}

// Pump reads the body, one piece ahead of who reads the Stream. It returns when the Stream is released.
func (s *Stream) Pump() {
	var small [512]byte // enough for most messages
	var large *[16 << 10]byte
	room := small[:]
	for {
		n, err := s.body.Read(room)
		if !s.offer(room[:n], err) {
			break
		}
		switch {
		case large == nil && n == len(small):
			large = buffers.Get().(*[16 << 10]byte)
			room = large[:]
		case large != nil && n < len(room):
			buffers.Put(large)
			large, room = nil, small[:]
		}
	}
	if large != nil {
		buffers.Put(large)
	}
	<-s.released
}

var buffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

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
	s.awaitHead()
	err = s.use(func() error {
		s.writing.Lock()
		defer s.writing.Unlock()
		n, err = s.answer.Write(p)
		if err == nil {
			err = s.answer.FlushError()
		}
		return err
	})
	return n, err
}

// awaitHead waits until the head of the answer is out: what comes behind it may take longer than a handshake.
func (s *Stream) awaitHead() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.begun && !s.closed {
		s.changed.Wait()
	}
}

// use does something with the answer, unless the Stream is closed, or broken, which it also is when the handler has
// returned too early. There is no way to be sure of that in time, so a panic is contained as well.
func (s *Stream) use(f func() error) (err error) {
	s.mu.Lock()
	if s.closed || s.broken() {
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.users++
	s.mu.Unlock()
	defer s.unuse()
	return contained(f)
}

func (s *Stream) unuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 && s.closed {
		close(s.released)
	}
}

func contained(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the handler of the request has returned: %v", v)
		}
	}()
	return f()
}

// broken reports whether the body has ended otherwise than in order, or somebody else's handler has returned. The caller
// has the lock.
func (s *Stream) broken() bool {
	return s.err != nil && s.err != io.EOF || s.returned()
}

// returned reports whether somebody else's handler has returned. The server ends the body then.
func (s *Stream) returned() bool { return s.lent && s.ctx.Err() == context.Canceled }

// Look returns what can be seen of the peer. Where a piece was not taken, Pump does not read on, and only the request's
// context can tell. That might have ended for another reason as well; a deadline that has passed is the work of middleware.
func (s *Stream) Look() netpoll.Sight {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed, s.broken():
		return netpoll.Broken
	case len(s.piece) > 0 && s.ctx.Err() == context.Canceled:
		return netpoll.Cut
	case len(s.piece) > 0 && s.err != nil:
		return netpoll.Leaving
	case len(s.piece) > 0:
		return netpoll.Arrived
	case s.err != nil:
		return netpoll.Ended
	}
	return netpoll.Quiet
}

// closeDelay is how long a Write that is under way at Close may take to return by itself. Breaking it off resets the stream,
// which would be a pity for one that has only its last instruction to do.
const closeDelay = 100 * time.Millisecond

// Close ends the stream, and does not wait for that. What was written arrives; a Write that is blocked is broken off.
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
	used := s.users > 0
	s.users++
	s.mu.Unlock()
	defer s.unuse()
	if s.returned() {
		return nil
	}
	return contained(func() error {
		err := s.answer.SetReadDeadline(time.Unix(1, 0)) // for Pump
		if used {
			err = errors.Join(err, s.answer.SetWriteDeadline(time.Now().Add(closeDelay)))
		}
		return err
	})
}

// Released returns a channel that is closed when the Stream is closed, and the handler of the request may return.
func (s *Stream) Released() <-chan struct{} { return s.released }

// Lent reports whether somebody else sees to it that the handler does not return too early.
func (s *Stream) Lent() bool { return s.lent }

// LocalAddr returns the address of this end of the connection that carries the stream.
func (s *Stream) LocalAddr() net.Addr { return s.local }

// RemoteAddr returns the address of the other end.
func (s *Stream) RemoteAddr() net.Addr { return s.remote }

// SetDeadline sets both deadlines.
func (s *Stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline makes reads fail at t, and work again after it is set to a later time.
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
	return s.use(func() error { return s.answer.SetWriteDeadline(t) })
}
