package foyer

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
	"unicode/utf8"
)

// NetConn returns a net.Conn of the bytes of s's messages; nothing else may read s. Write sends messages of type t,
// split at 32 KiB. The other type ends s; Read returns io.EOF after CloseNormalClosure or CloseGoingAway. Close sends
// CloseNormalClosure and waits up to CloseTimeout until the kernel has all. The end of ctx aborts s.
func NetConn(ctx context.Context, s *Socket, t MessageType) net.Conn {
	c := &netConn{socket: s, kind: t, messages: make(chan []byte), writing: make(chan struct{}, 1), closed: make(chan struct{})}
	c.readBy.init()
	c.writeBy.init()
	ctx = s.plainContext(ctx) // one that ends with the socket need not end it
	c.unwatch = context.AfterFunc(ctx, func() {
		if context.Cause(ctx) != errLeft { // or something may be left to read
			s.abort(ctx.Err())
		}
	})
	return c
}

// streamPiece is the longest message that a netConn writes.
const streamPiece = 32 << 10

type netConn struct {
	socket  *Socket
	kind    MessageType
	unwatch func() bool

	reading  sync.Once   // starts pump
	messages chan []byte // from pump; closed at the end
	err      error       // that ended pump
	readMu   sync.Mutex  // guards:
	rest     []byte      // of the last message

	writing chan struct{} // has room for who writes: a long Write is several messages

	closing sync.Once
	closed  chan struct{}

	readBy, writeBy deadline
}

// pump reads messages. It waits with no deadline, so that none can interrupt it in the middle of a message.
func (c *netConn) pump() {
	defer close(c.messages)
	for {
		t, p, err := c.socket.Read(background)
		switch {
		case err == nil && t != c.kind:
			c.err = errors.New("foyer: " + t.String() + " message in a stream of " + c.kind.String() + " messages")
			c.socket.beginClose(CloseUnsupportedData, "")
			return
		case err != nil:
			c.err = err
			if e := c.socket.end(); e != nil && e.Err == nil && (e.Code == CloseNormalClosure || e.Code == CloseGoingAway) {
				c.err = io.EOF
			}
			return
		}
		select {
		case c.messages <- p:
		case <-c.closed:
			c.err = net.ErrClosed
			return
		}
	}
}

func (c *netConn) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if err := c.readBy.Err(); err != nil || len(p) == 0 {
		return 0, err
	}
	for len(c.rest) == 0 {
		c.reading.Do(func() { go c.pump() })
		select {
		case message, ok := <-c.messages:
			if !ok {
				return 0, c.err
			}
			c.rest = message
		case <-c.readBy.Done():
			return 0, c.readBy.Err()
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *netConn) Write(p []byte) (n int, err error) {
	if err := c.writeBy.Err(); err != nil {
		return 0, err
	}
	select {
	case c.writing <- struct{}{}:
		defer func() { <-c.writing }()
	case <-c.writeBy.Done():
		return 0, c.writeBy.Err()
	}
	for {
		piece := c.piece(p[n:])
		if err := c.socket.send(&c.writeBy, c.kind, piece, waitForRoom); err != nil {
			return n, err
		}
		if n += len(piece); n == len(p) {
			return n, nil
		}
	}
}

// piece returns what of p is to be the next message.
func (c *netConn) piece(p []byte) []byte {
	if len(p) <= streamPiece {
		return p
	}
	n := streamPiece
	for c.kind == Text && n > streamPiece-utf8.UTFMax && !utf8.RuneStart(p[n]) {
		n--
	}
	return p[:n]
}

func (c *netConn) Close() error {
	c.closing.Do(func() {
		c.unwatch()
		close(c.closed)
		c.readBy.end(net.ErrClosed)
		c.writeBy.end(net.ErrClosed)
		c.socket.beginClose(CloseNormalClosure, "")
		ctx, cancel := context.WithTimeout(background, c.socket.config.closeTimeout)
		defer cancel()
		c.socket.Flush(ctx)
	})
	return nil
}

func (c *netConn) LocalAddr() net.Addr  { return c.socket.LocalAddr() }
func (c *netConn) RemoteAddr() net.Addr { return c.socket.RemoteAddr() }

func (c *netConn) SetDeadline(t time.Time) error {
	c.readBy.set(t)
	c.writeBy.set(t)
	return nil
}

func (c *netConn) SetReadDeadline(t time.Time) error {
	c.readBy.set(t)
	return nil
}

func (c *netConn) SetWriteDeadline(t time.Time) error {
	c.writeBy.set(t)
	return nil
}

// A deadline is a context that ends at a time which may be changed: who waits for it already notices that. Once it has
// ended it can begin anew, unless it was ended for good.
type deadline struct {
	mu     sync.Mutex // guards:
	timer  *time.Timer
	passed chan struct{} // closed when it has
	over   error         // why it was ended for good
}

func (d *deadline) init() { d.passed = make(chan struct{}) }

// set moves the deadline to t; the zero time is none.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over != nil {
		return
	}
	d.renew()
	if t.IsZero() {
		return
	}
	passed := d.passed
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(passed) })
	} else {
		close(passed)
	}
}

// renew makes a deadline that has not passed and never will. The caller has the lock.
func (d *deadline) renew() {
	if d.timer != nil && !d.timer.Stop() || d.hasPassed() {
		d.passed = make(chan struct{})
	}
	d.timer = nil
}

// end has the deadline pass for good, because of err.
func (d *deadline) end(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.hasPassed() && (d.timer == nil || d.timer.Stop()) {
		close(d.passed) // unless the timer does
	}
	d.over = err
}

func (d *deadline) hasPassed() bool {
	select {
	case <-d.passed:
		return true
	default:
		return false
	}
}

// Done returns a channel that is closed when the deadline passes.
func (d *deadline) Done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}

// Err returns os.ErrDeadlineExceeded when the deadline has passed, or why it was ended.
func (d *deadline) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over != nil {
		return d.over
	}
	if d.hasPassed() {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Deadline returns nothing; it may change.
func (d *deadline) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value returns nil.
func (d *deadline) Value(any) any { return nil }
