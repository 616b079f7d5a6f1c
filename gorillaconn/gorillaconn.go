// Package gorillaconn lets programs written for gorilla/websocket use a [foyer.Handler] for the handshake. Upgrade
// returns gorilla's own *websocket.Conn, so existing read and write pumps keep working.
//
// The Handler's Origins, Authorize, MaxOpen, HandshakeTimeout and Subprotocols apply, as do MaxMessageSize (as the read
// limit) and CloseTimeout (in Shutdown and Drain). It logs refusals, its Stats include these connections, and its
// Shutdown and Drain close them. After the handshake the Conn is gorilla's. The program sends pings and sets deadlines,
// and only one goroutine may read and one may write. Compression is not negotiated. Use this package as the first step
// when you move a program to foyer.
package gorillaconn

import (
	"bufio"
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/internal/guest"
)

// Upgrade performs the opening handshake on r as [foyer.Handler.Upgrade] does, over HTTP/1.1, and returns the connection, whose
// read limit is the Handler's MaxMessageSize. When it returns an error, a *foyer.HandshakeError, the request was answered.
//
// The Conn must be closed. The Handler's Shutdown and Drain send a close frame and wait until the program closes the
// Conn. A program that reads gets the peer's answer as a *websocket.CloseError and should then close the Conn. If the
// program has not closed the Conn after CloseTimeout, Shutdown and Drain close it.
func Upgrade(h *foyer.Handler, w http.ResponseWriter, r *http.Request) (*websocket.Conn, error) {
	var host host
	if err := guest.Upgrade(h, w, r, host.answer); err != nil {
		return nil, err
	}
	return host.conn, nil
}

// HandleConnection is like [Upgrade] for a net.Conn. Like [foyer.Handler.HandleConnection], it reads the request from
// conn. conn belongs to the Handler from the call on, and is closed when an error is returned.
func HandleConnection(h *foyer.Handler, conn net.Conn) (*websocket.Conn, error) {
	var host host
	if err := guest.HandleConnection(h, conn, host.answer); err != nil {
		return nil, err
	}
	return host.conn, nil
}

// A host answers a handshake with gorilla's Upgrader.
type host struct{ conn *websocket.Conn }

func (t *host) answer(a *guest.Arrival, setCode func(code int)) (goAway func(code int), err error) {
	u := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	if !a.Deadline.IsZero() {
		u.HandshakeTimeout = max(time.Until(a.Deadline), time.Millisecond)
	}
	// gorilla is shown a request as foyer has understood it: its own reading of lists differs.
	r := &http.Request{Method: http.MethodGet, Header: http.Header{
		"Connection":            {"Upgrade"},
		"Upgrade":               {"websocket"},
		"Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key":     {a.Key},
	}}
	c, err := u.Upgrade(&hijacked{conn: a.Conn}, r, a.Header)
	if err != nil {
		return nil, err
	}
	if a.MaxMessage > 0 {
		c.SetReadLimit(a.MaxMessage)
	}
	answer := c.CloseHandler()
	c.SetCloseHandler(func(code int, text string) error {
		setCode(code)
		return answer(code, text)
	})
	t.conn = c
	return func(code int) {
		setCode(code)
		// Another goroutine of the program may be writing to a peer that takes nothing.
		go c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(closeTime))
	}, nil
}

// closeTime is how long a close frame waits for the program to finish a write.
const closeTime = time.Second

// hijacked is the http.ResponseWriter that gorilla's Upgrader takes the connection from.
type hijacked struct{ conn net.Conn }

func (*hijacked) Header() http.Header         { return http.Header{} }
func (*hijacked) Write(p []byte) (int, error) { return len(p), nil }
func (*hijacked) WriteHeader(int)             {}

// Hijack implements http.Hijacker.
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}
