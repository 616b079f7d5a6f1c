package foyer

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/foyerws/foyer/internal/stream"
)

// ErrNoExtendedConnect comes from [EnableHTTP2].
var ErrNoExtendedConnect = errors.New("foyer: HTTP/2 needs import _ \"github.com/foyerws/foyer/extendedconnect\" or GODEBUG=http2xconnect=1")

// EnableHTTP2 prepares srv for WebSockets over HTTP/2 (RFC 8441), before it serves. Routes must accept CONNECT as well
// as GET. After an error, clients use HTTP/1.1. Where srv.HTTP2 sets nothing, unread input is limited to 128 KiB per
// stream and 4 MiB per connection, stalled writes to 30 seconds.
func EnableHTTP2(srv *http.Server) error {
	if srv.HTTP2 == nil {
		srv.HTTP2 = new(http.HTTP2Config)
	}
	if srv.HTTP2.MaxReceiveBufferPerConnection == 0 {
		srv.HTTP2.MaxReceiveBufferPerConnection = 4<<20 - 1
	}
	if srv.HTTP2.MaxReceiveBufferPerStream == 0 {
		srv.HTTP2.MaxReceiveBufferPerStream = 128 << 10
	}
	if srv.HTTP2.WriteByteTimeout == 0 {
		srv.HTTP2.WriteByteTimeout = defaultPongTimeout
	}
	// Go is about to have a switch for each server (golang/go issue 53208).
	if announce := reflect.ValueOf(srv.HTTP2).Elem().FieldByName("EnableConnectProtocol"); announce.Kind() == reflect.Bool {
		announce.SetBool(true)
		return nil
	}
	if !announced {
		return ErrNoExtendedConnect
	}
	return nil
}

// announced is what net/http has found in the environment when the program began.
var announced = strings.Contains(os.Getenv("GODEBUG"), "http2xconnect=1")

// isConnect reports whether r is an extended CONNECT (RFC 8441 section 4), whatever for.
func isConnect(r *http.Request) bool {
	return r.Method == http.MethodConnect && connectProtocol(r) != ""
}

// connectProtocol returns the protocol that an extended CONNECT asks for. net/http has it in a header that HTTP/1.1 could
// not have, quic-go in Proto.
func connectProtocol(r *http.Request) string {
	switch {
	case r.ProtoMajor >= 2 && len(r.Header[":protocol"]) == 1:
		return r.Header[":protocol"][0]
	case r.ProtoMajor == 3 && !strings.HasPrefix(r.Proto, "HTTP/"):
		return r.Proto
	}
	return ""
}

// checkConnect judges an extended CONNECT, RFC 8441 section 5.
func checkConnect(r *http.Request) *HandshakeError {
	switch {
	case !IsHandshake(r):
		return refuse(http.StatusNotImplemented, "The protocol of this endpoint is websocket.") // RFC 9220 section 3
	case !validHost(r.Host):
		return refuse(http.StatusBadRequest, "A WebSocket handshake needs an authority.")
	case r.ContentLength >= 0:
		return refuse(http.StatusBadRequest, "The stream of a WebSocket has no length and stays open.")
	case !isOnly(r.Header["Sec-Websocket-Version"], "13"):
		return refuse(http.StatusUpgradeRequired, "The WebSocket version is 13.")
	}
	return nil
}

// streamOf returns the stream of an extended CONNECT, nil for any other request. It takes the http.ResponseWriter of the
// server, however deep middleware has wrapped it: what that does to the body of an ordinary answer must not be done to
// frames.
func streamOf(w http.ResponseWriter, r *http.Request, deadline time.Time) (*stream.Stream, *HandshakeError) {
	if !isConnect(r) {
		return nil, nil
	}
	w = innermost(w)
	if answer, ok := w.(stream.Answer); ok {
		if !deadline.IsZero() {
			deadline = deadline.Add(lingerTime) // for a refusal at the deadline
		}
		return stream.New(r, answer, deadline), nil
	}
	return nil, internal(fmt.Errorf("foyer: %T hides the stream of the request: it should have a method Unwrap() http.ResponseWriter: %w", w, http.ErrNotSupported))
}
