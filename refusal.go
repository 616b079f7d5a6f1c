package foyer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/foyerws/foyer/internal/wire"
)

// refuse is the refusal of a request that is not a handshake.
func refuse(status int, reason string) *HandshakeError {
	return &HandshakeError{Status: status, Code: CloseProtocolError, Reason: reason}
}

// unavailable is the refusal of a Handler that lets nobody in just now.
func unavailable(why error) *HandshakeError {
	return &HandshakeError{Status: http.StatusServiceUnavailable, Code: CloseTryAgainLater, Reason: "Try again later.", Err: why}
}

// poolFull is the refusal of a handshake that gets no place in the pool.
func (h *Handler) poolFull(why error) *HandshakeError {
	if !errors.Is(why, ErrPendingFull) {
		return unavailable(why)
	}
	return &HandshakeError{Status: http.StatusServiceUnavailable, Code: CloseAbnormalClosure,
		Reason: "Too many pending connections.", Err: why, hint: h.pool.hint()}
}

// clientLeft is the refusal of a handshake whose client has gone. Nothing is answered.
func clientLeft() *HandshakeError {
	return &HandshakeError{Code: CloseAbnormalClosure, Reason: "The handshake was not finished.", Err: errLeft}
}

// internal is the refusal of a handshake that fails because of the program, and not of the client.
func internal(why error) *HandshakeError {
	return &HandshakeError{Status: http.StatusInternalServerError, Code: CloseInternalServerErr,
		Reason: "Internal server error.", Err: why}
}

// notAuthorized turns the error of an Authorize function into a refusal. The fields of a *HandshakeError are used, and
// its Reason is sent; the text of any other error is not.
func notAuthorized(header http.Header, err error) *HandshakeError {
	refusal := &HandshakeError{Status: http.StatusForbidden, Code: ClosePolicyViolation, Reason: "Access forbidden.", Err: err}
	var chosen *HandshakeError
	if errors.As(err, &chosen) {
		if chosen.Status >= 300 && chosen.Status <= 599 {
			refusal.Status = chosen.Status
		}
		if chosen.Code != 0 {
			refusal.Code = chosen.Code
		}
		if chosen.Reason != "" {
			refusal.Reason = chosen.Reason
		}
	}
	if checkHeader(header) == nil {
		refusal.header = header // WWW-Authenticate, Location, Retry-After
	}
	return refusal
}

// refusalHeader returns the headers that go with a refusal.
func (h *Handler) refusalHeader(refusal *HandshakeError) http.Header {
	header := refusal.header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	switch refusal.Status {
	case http.StatusServiceUnavailable:
		if header.Get("Retry-After") == "" {
			header.Set("Retry-After", "1")
		}
	case http.StatusMethodNotAllowed:
		header.Set("Allow", "GET")
	case http.StatusUpgradeRequired:
		header.Set("Upgrade", "websocket")
		header.Set("Sec-WebSocket-Version", "13")
	}
	if name := h.serverName(); name != "" {
		header.Set("Server", name)
	}
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Connection", "close")
	return header
}

// answer writes a refusal through net/http.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, refusal *HandshakeError) {
	header := w.Header()
	for name, values := range h.refusalHeader(refusal) {
		header[name] = values
	}
	if r.ProtoMajor > 1 { // RFC 9113 section 8.2.2; net/http would close the whole connection
		header.Del("Connection")
		header.Del("Upgrade")
	}
	status := refusal.Status
	if status == 0 {
		status = http.StatusServiceUnavailable // for a client that has gone; net/http wants something
	}
	w.WriteHeader(status)
	io.WriteString(w, refusal.Reason+"\n")
}

// answerTo writes a refusal to a connection that net/http has nothing to do with.
func (h *Handler) answerTo(conn net.Conn, refusal *HandshakeError) {
	var b bytes.Buffer
	body := refusal.Reason + "\n"
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", refusal.Status, http.StatusText(refusal.Status))
	h.refusalHeader(refusal).Write(&b)
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	conn.SetDeadline(time.Now().Add(lingerTime)) // for TLS, which may read first
	conn.Write(b.Bytes())
}

// turnAway answers a refused request on a connection of ours, which its caller closes. Where the request was not read
// whole, the client may still be sending it.
func (h *Handler) turnAway(c *wire.Conn, refusal *HandshakeError, r *http.Request, whole bool) error {
	h.registry.countRefusal(refusal.Status)
	remote := c.RemoteAddr()
	conn := c.NetConn()
	unread := !whole || c.Unread()
	c.Forget()
	if refusal.Status != 0 {
		h.answerTo(conn, refusal)
		if unread {
			wire.Linger(conn, lingerTime, true)
		}
	}
	return h.reportRefusal(refusal, r, remote) // the client need not wait for the program's logger
}

// unfinished is the refusal of a request that did not come in whole. A client that sent nothing at all gets no answer.
func unfinished(err error, begun bool) *HandshakeError {
	refusal := &HandshakeError{Code: CloseAbnormalClosure, Reason: "The handshake was not finished.", Err: err}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		refusal.Err = ErrHandshakeTimeout
		if begun {
			refusal.Status = http.StatusRequestTimeout
		}
	}
	return refusal
}

// refused counts, logs and reports a refusal, and returns it as the error that the caller gets.
func (h *Handler) refused(refusal *HandshakeError, r *http.Request, remote net.Addr) error {
	h.registry.countRefusal(refusal.Status)
	return h.reportRefusal(refusal, r, remote)
}

// reportRefusal is refused for a refusal that was counted.
func (h *Handler) reportRefusal(refusal *HandshakeError, r *http.Request, remote net.Addr) error {
	if refusal.Request == nil {
		refusal.Request = r
	}
	refusal.remote = clip(address(remote))
	if r := refusal.Request; r != nil {
		refusal.target = clip(r.Host + pathOf(r))
		if refusal.remote == "" {
			refusal.remote = clip(r.RemoteAddr)
		}
	}
	h.logRefusal(refusal)
	h.config.report(refusal)
	return refusal
}

// failed logs and reports an error that kept a connection from getting as far as a request.
func (h *Handler) failed(err error) {
	var insecure *TLSError
	if errors.As(err, &insecure) {
		h.config.logLine(slog.LevelInfo, "TLS", "foyer: TLS handshake failed",
			slog.String("err", clip(inner(insecure.Err))), slog.String("remote", clip(address(insecure.RemoteAddr))))
	} else {
		h.config.logLine(slog.LevelError, "accept", "foyer: cannot accept connections", slog.String("err", inner(errors.Unwrap(err))))
	}
	h.config.report(err)
}
