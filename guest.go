package foyer

import (
	"bufio"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/foyerws/foyer/internal/guest"
	"github.com/foyerws/foyer/internal/netpoll"
	"github.com/foyerws/foyer/internal/wire"
)

// This file is for package gorillaconn: connections that are let in here, and owned elsewhere.

func init() {
	guest.Upgrade = func(h any, w http.ResponseWriter, r *http.Request, host guest.Host) error {
		return h.(*Handler).upgradeGuest(w, r, host)
	}
	guest.HandleConnection = func(h any, conn net.Conn, host guest.Host) error {
		return h.(*Handler).handleGuest(conn, host)
	}
}

// A guestConn is an open connection that is owned elsewhere.
type guestConn struct {
	net.Conn
	early             []byte // that was read from the connection before; touched by the goroutine that reads
	registry          *registry
	goAway            func(code int)
	code              atomic.Int32 // that it ended with
	once              sync.Once
	bytesIn, bytesOut atomic.Uint64
}

func (c *guestConn) Read(p []byte) (n int, err error) {
	if len(c.early) > 0 {
		n = copy(p, c.early)
		c.early = c.early[n:]
	} else {
		n, err = c.Conn.Read(p)
	}
	c.bytesIn.Add(uint64(n))
	return n, err
}

func (c *guestConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.bytesOut.Add(uint64(n))
	return n, err
}

// Close closes the connection, which is not open any more then.
func (c *guestConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { c.registry.removeGuest(c) })
	return err
}

// leave has the connection closed by its owner, or by us when that takes longer than CloseTimeout.
func (c *guestConn) leave(code CloseCode, closeTimeout time.Duration) {
	c.goAway(int(code))
	time.AfterFunc(closeTimeout, c.cut)
}

// cut is Close that does not wait for the goodbye of TLS.
func (c *guestConn) cut() {
	netpoll.CutOff(c.Conn)
	c.Close()
}

func (c *guestConn) traffic() traffic {
	return traffic{bytesIn: c.bytesIn.Load(), bytesOut: c.bytesOut.Load()}
}

// upgradeGuest is Upgrade for a connection that host will own.
func (h *Handler) upgradeGuest(w http.ResponseWriter, r *http.Request, host guest.Host) error {
	h.init()
	var conn net.Conn
	refusal := h.welcomeGuest(r, h.deadline(), presence{r.Context().Done(), func() bool { return r.Context().Err() != nil }}, host,
		func(authorized http.Header) (_ net.Conn, early []byte, header http.Header, refusal *HandshakeError) {
			var rw *bufio.ReadWriter
			if conn, rw, refusal = hijack(w); refusal != nil {
				return nil, nil, nil, refusal
			}
			return conn, buffered(rw), answerHeader(w.Header(), authorized), nil
		})
	if refusal == nil {
		return nil
	}
	if conn == nil {
		h.answer(w, r, refusal)
	} else {
		conn.Close()
	}
	return h.refused(refusal, r, nil)
}

// handleGuest is HandleConnection for a connection that host will own.
func (h *Handler) handleGuest(conn net.Conn, host guest.Host) error {
	return h.enter(wire.New(conn, nil)).handle(func(e *entrance, r *http.Request, _ bool) *HandshakeError {
		return h.welcomeGuest(r, e.deadline, presence{left: e.conn.HungUp}, host,
			func(authorized http.Header) (net.Conn, []byte, http.Header, *HandshakeError) {
				early := append([]byte(nil), e.conn.Peek()...)
				e.conn.Forget()
				return conn, early, answerHeader(nil, authorized), nil
			})
	})
}

// welcomeGuest performs the handshake for a connection that host will own.
func (h *Handler) welcomeGuest(r *http.Request, deadline time.Time, client presence, host guest.Host, connect func(authorized http.Header) (net.Conn, []byte, http.Header, *HandshakeError)) *HandshakeError {
	if isConnect(r) {
		return refuse(http.StatusHTTPVersionNotSupported, "This endpoint speaks WebSocket over HTTP/1.1 only.")
	}
	return h.letIn(r, terms{deadline: deadline, mayWait: true, client: client}, func(_ *http.Request, authorized http.Header) (func(), *HandshakeError) {
		conn, early, header, refusal := connect(authorized)
		if refusal != nil {
			return nil, refusal
		}
		if subprotocol := selectSubprotocol(r, h.Subprotocols); subprotocol != "" {
			header["Sec-Websocket-Protocol"] = []string{subprotocol}
		}
		if name := h.serverName(); name != "" {
			header["Server"] = []string{name}
		}
		c := &guestConn{Conn: conn, early: early, registry: &h.registry}
		c.code.Store(int32(CloseAbnormalClosure))
		a := &guest.Arrival{Conn: c, Key: r.Header["Sec-Websocket-Key"][0], Header: header, MaxMessage: h.config.plain.MaxMessage, Deadline: deadline}
		goAway, err := host(a, func(code int) { c.code.Store(int32(code)) })
		if err != nil {
			return nil, &HandshakeError{Code: CloseInternalServerErr, Reason: "Internal server error.", Err: err}
		}
		c.goAway = goAway
		return func() {
			if !h.registry.addGuest(c) {
				c.leave(CloseGoingAway, h.config.closeTimeout)
			}
			h.registry.countAccept()
		}, nil
	})
}
