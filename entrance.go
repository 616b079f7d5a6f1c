package foyer

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/foyerws/foyer/internal/netpoll"
	"github.com/foyerws/foyer/internal/wire"
)

// An entrance is a connection on its way through the opening handshake whose request is read here, and not by net/http.
type entrance struct {
	handler  *Handler
	conn     *wire.Conn
	deadline time.Time
	unbound  func()        // takes the deadline away
	closed   bool          // nobody was let in any more when it came
	request  requestParser // of what was read
}

// enter begins the way in for c.
func (h *Handler) enter(c *wire.Conn) *entrance {
	h.init()
	e := &entrance{handler: h, conn: c, deadline: h.deadline()}
	e.request.emptyPath = h.AllowEmptyPath
	e.unbound = bound(c, e.deadline)
	e.closed = !h.registry.enter(c)
	return e
}

// leave ends the way in. A connection whose handshake has not succeeded is closed, also when a hook has ended the goroutine.
func (e *entrance) leave(let *bool) {
	e.forget()
	if !*let {
		e.conn.Abandon()
	}
	e.unbound()
}

// forget takes the connection out of the registry, if it is there.
func (e *entrance) forget() {
	if !e.closed {
		e.handler.registry.leave(e.conn)
	}
}

// A shake function performs the handshake of a request that was read. Where it may not wait, errMustWait says that it would have to,
// and nothing was done.
type shake func(e *entrance, r *http.Request, mayWait bool) *HandshakeError

// errMustWait says that a handshake has to wait for something, or runs functions of the program.
var errMustWait = new(HandshakeError)

// handle reads the request and has shake perform the handshake.
func (e *entrance) handle(shake shake) error {
	let := false
	defer e.leave(&let)
	h, c := e.handler, e.conn
	if e.closed {
		return h.turnAway(c, unavailable(ErrClosed), nil, false)
	}
	state, err := handshakeTLS(c)
	if err != nil {
		h.failed(err)
		return err
	}
	r, refusal := e.read()
	whole := refusal == nil
	switch {
	case whole:
		r.TLS = state
		refusal = shake(e, r, true)
	case h.registry.isClosed():
		refusal = unavailable(ErrClosed)
	}
	if refusal != nil {
		return h.turnAway(c, refusal, r, whole)
	}
	let = true
	return nil
}

// read reads the head of the request. What follows it stays in the connection.
func (e *entrance) read() (*http.Request, *HandshakeError) {
	r, refusal := e.request.readFrom(e.conn)
	if refusal != errMustWait {
		e.handler.registry.entered(e.conn)
	}
	if refusal == nil {
		r.RemoteAddr = address(e.conn.RemoteAddr())
	}
	return r, refusal
}

// arrive is enter for a connection that was accepted. Where a loop waits for it, the loop performs the handshake too, if all of the
// request comes at once, and nothing of the program runs in it, and it succeeds. All others have a goroutine.
func (h *Handler) arrive(t netpoll.Transport) error {
	c := wire.On(t)
	e := h.enter(c)
	if e.closed {
		c.Interrupt() // the refusal need not wait for the request
	}
	if err := c.Arrive(e.arrived); err != nil {
		e.forget()
		e.unbound()
		return err
	}
	return nil
}

// arrived is called when there is input, or when there will be none.
func (e *entrance) arrived(onLoop bool) {
	switch {
	case !onLoop:
		e.handle(shakeForSocket) // which reports its errors
	case !e.handleAtOnce():
		go e.handle(shakeForSocket)
	}
}

// handleAtOnce performs the handshake without waiting, and reports false when that cannot be, or when the client is refused, which
// takes time.
func (e *entrance) handleAtOnce() bool {
	if e.closed {
		return false
	}
	e.conn.DoNotWait(true)
	r, refusal := e.read()
	e.conn.DoNotWait(false)
	let := refusal == nil && shakeForSocket(e, r, false) == nil
	if let {
		e.leave(&let)
	}
	return let
}

// shakeForSocket performs the handshake for a socket that waits in the pool.
func shakeForSocket(e *entrance, r *http.Request, mayWait bool) *HandshakeError {
	c := e.conn
	_, refusal := e.handler.handshake(r, terms{e.deadline, true, mayWait, presence{left: c.HungUp}}, func(authorized http.Header) (arrival, *HandshakeError) {
		return arrival{wire: c, kept: keep(r), header: answerHeader(nil, authorized)}, nil
	})
	return refusal
}

// bound makes c fail at deadline. Where it knows no deadlines it is closed then, unless the function that bound
// returns was called before.
func bound(c *wire.Conn, deadline time.Time) (release func()) {
	if c.SetDeadline(deadline) == nil || deadline.IsZero() {
		return func() {}
	}
	timer := time.AfterFunc(time.Until(deadline), func() { c.Abandon() })
	return func() { timer.Stop() }
}

// handshakeTLS performs the TLS handshake if c has one, and returns its state, which is nil if it has none.
func handshakeTLS(c *wire.Conn) (*tls.ConnectionState, error) {
	if err := c.HandshakeTLS(); err != nil {
		if netpoll.IsTimeout(err) {
			err = fmt.Errorf("%w: %w", ErrHandshakeTimeout, err)
		}
		return nil, &TLSError{Err: err, RemoteAddr: c.RemoteAddr()}
	}
	return c.TLS(), nil
}

// address returns an address as net/http has it.
func address(addr net.Addr) string {
	if addr == nil {
		return ""
	}
	return addr.String()
}
