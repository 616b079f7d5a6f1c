package foyer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/foyerws/foyer/internal/frame"
)

// A CloseCode says why a socket ended (RFC 6455 section 7.4). Private codes are 4000 to 4999.
type CloseCode int

// The codes of the IANA registry. 1005, 1006 and 1015 are never sent.
const (
	CloseNormalClosure           CloseCode = 1000
	CloseGoingAway               CloseCode = 1001
	CloseProtocolError           CloseCode = 1002
	CloseUnsupportedData         CloseCode = 1003
	CloseNoStatusReceived        CloseCode = 1005
	CloseAbnormalClosure         CloseCode = 1006
	CloseInvalidFramePayloadData CloseCode = 1007
	ClosePolicyViolation         CloseCode = 1008
	CloseMessageTooBig           CloseCode = 1009
	CloseMandatoryExtension      CloseCode = 1010
	CloseInternalServerErr       CloseCode = 1011
	CloseServiceRestart          CloseCode = 1012
	CloseTryAgainLater           CloseCode = 1013
	CloseBadGateway              CloseCode = 1014
	CloseTLSHandshake            CloseCode = 1015
)

var closeNames = map[CloseCode]string{
	CloseNormalClosure:           "normal closure",
	CloseGoingAway:               "going away",
	CloseProtocolError:           "protocol error",
	CloseUnsupportedData:         "unsupported data",
	CloseNoStatusReceived:        "no status received",
	CloseAbnormalClosure:         "abnormal closure",
	CloseInvalidFramePayloadData: "invalid payload data",
	ClosePolicyViolation:         "policy violation",
	CloseMessageTooBig:           "message too big",
	CloseMandatoryExtension:      "mandatory extension missing",
	CloseInternalServerErr:       "internal server error",
	CloseServiceRestart:          "service restart",
	CloseTryAgainLater:           "try again later",
	CloseBadGateway:              "bad gateway",
	CloseTLSHandshake:            "TLS handshake failed",
}

// String returns "1000 (normal closure)", for example.
func (c CloseCode) String() string {
	if name, ok := closeNames[c]; ok {
		return strconv.Itoa(int(c)) + " (" + name + ")"
	}
	return strconv.Itoa(int(c))
}

// sendable reports whether c may stand in a close frame that we send.
func (c CloseCode) sendable() bool { return frame.ValidCloseCode(int(c)) }

// Errors for errors.Is.
var (
	ErrClosed           = errors.New("foyer: closed")                       // the socket, Handler or Server
	ErrPendingFull      = errors.New("foyer: too many pending connections") // see Handler.MaxPending
	ErrOriginNotAllowed = errors.New("foyer: origin not allowed")
	ErrHandshakeTimeout = errors.New("foyer: handshake timeout")
	ErrWriteBufferFull  = errors.New("foyer: write buffer full") // see MaxWriteBuffer
	ErrWriterOpen       = errors.New("foyer: a Writer is open")
	ErrPingTimeout      = errors.New("foyer: peer does not answer") // see PongTimeout
	ErrMessageTooBig    = errors.New("foyer: message too big")      // see MaxMessageSize, MaxFrameSize, TryWrite
	ErrNotListening     = errors.New("foyer: not listening")        // Server.File, Close, Drain, Shutdown
	ErrReading          = errors.New("foyer: socket is being read already")

	errDropped        = errors.New("foyer: the rest of the message was dropped by a later Read")
	errBadMessageType = errors.New("foyer: a message is Text or Binary")
	errPaused         = errors.New("foyer: paused")
	errMaxOpen        = errors.New("foyer: too many open connections")
	errAsking         = errors.New("foyer: too many handshakes wait for Origins or Authorize")
	errHookGoexit     = errors.New("foyer: Origins or Authorize has ended its goroutine")
	errLeft           = fmt.Errorf("foyer: peer has left: %w", io.ErrUnexpectedEOF)
	errCloseTimeout   = fmt.Errorf("foyer: peer did not finish the close handshake: %w", os.ErrDeadlineExceeded)
)

// A HandshakeError is a refused handshake. Authorize may return one to choose the answer.
type HandshakeError struct {
	Status  int           // of the answer (Authorize: 300 to 599); 0 without one
	Code    CloseCode     // never sent; QWebSocketServer's
	Reason  string        // the body of the answer
	Err     error         // never sent; may be nil
	Request *http.Request // may be nil; do not keep it

	header http.Header // for the answer
	hint   string      // for the log
	remote string      // the client, on a server
	target string      // what it asked for; on a client the URL that was dialled
}

func (e *HandshakeError) Error() string {
	var s string
	switch {
	case e.remote != "" && e.target != "":
		s = "foyer: handshake of " + e.remote + " with " + e.target + " refused"
	case e.remote != "":
		s = "foyer: handshake of " + e.remote + " refused"
	case e.target != "":
		s = "foyer: dial " + e.target + ": refused"
	default:
		s = "foyer: handshake refused"
	}
	if e.Status != 0 {
		s += " with status " + strconv.Itoa(e.Status)
	}
	return errorText(s, e.Reason, inner(e.Err))
}

// inner returns the text of an error that stands inside another one of ours.
func inner(err error) string {
	switch e := err.(type) {
	case nil:
		return ""
	case *HandshakeError: // of an Authorize function
		return errorText(e.Reason, inner(e.Err))
	}
	return strings.TrimPrefix(err.Error(), "foyer: ")
}

// errorText puts parts together to the text of an error, and leaves out those that repeat what stands before them.
func errorText(s string, parts ...string) string {
	for _, part := range parts {
		if part != "" && !strings.Contains(strings.ToLower(s), strings.ToLower(part)) {
			s = strings.TrimSuffix(s, ".") + ": " + part
		}
	}
	return s
}

// Unwrap returns Err.
func (e *HandshakeError) Unwrap() error { return e.Err }

// An AcceptError is an error of a listener. After temporary ones the Server goes on.
type AcceptError struct{ Err error }

func (e *AcceptError) Error() string { return "foyer: accept: " + inner(e.Err) }

// Unwrap returns Err.
func (e *AcceptError) Unwrap() error { return e.Err }

// A TLSError is a failed TLS handshake.
type TLSError struct {
	Err        error
	RemoteAddr net.Addr
}

func (e *TLSError) Error() string {
	return fmt.Sprintf("foyer: TLS handshake with %s: %s", clip(fmt.Sprint(e.RemoteAddr)), inner(e.Err))
}

// Unwrap returns Err.
func (e *TLSError) Unwrap() error { return e.Err }

// A PanicError is a panic in a hook, callback, Source or ForEach function. It is logged, and ends one handshake (with
// 500) or socket.
type PanicError struct {
	Value any    // what was given to panic
	Stack []byte // where
}

func (e *PanicError) Error() string { return fmt.Sprintf("foyer: panic: %v", e.Value) }

// Unwrap returns Value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// A CloseError says how a socket ended. It is an [ErrClosed].
type CloseError struct {
	// The peer's, or what foyer sent because of a violation, or CloseAbnormalClosure.
	Code CloseCode

	// Do not trust it.
	Reason string

	// The cause; nil after a close handshake or Abort.
	Err error

	socket *Socket // that ended
}

func (e *CloseError) Error() string {
	s := "foyer: socket closed: "
	if e.socket != nil {
		s = fmt.Sprintf("foyer: socket %v->%v closed: ", clip(address(e.socket.LocalAddr())), clip(address(e.socket.RemoteAddr())))
	}
	return errorText(s+e.Code.String(), clip(e.Reason), inner(e.Err))
}

// Unwrap returns ErrClosed and any Err.
func (e *CloseError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrClosed}
	}
	return []error{ErrClosed, e.Err}
}
