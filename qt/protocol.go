package qt

import "github.com/foyerws/foyer"

// A Version is QWebSocketProtocol::Version. Only Version13, that of RFC 6455, is spoken.
type Version int

// The versions of the protocol.
const (
	VersionUnknown Version = -1
	Version0       Version = 0
	Version4       Version = 4
	Version5       Version = 5
	Version6       Version = 6
	Version7       Version = 7
	Version8       Version = 8
	Version13      Version = 13
	VersionLatest          = Version13
)

// A CloseCode is QWebSocketProtocol::CloseCode.
type CloseCode = foyer.CloseCode

// The close codes, RFC 6455 section 7.4.1.
const (
	CloseCodeNormal                CloseCode = 1000
	CloseCodeGoingAway             CloseCode = 1001
	CloseCodeProtocolError         CloseCode = 1002
	CloseCodeDatatypeNotSupported  CloseCode = 1003
	CloseCodeReserved1004          CloseCode = 1004
	CloseCodeMissingStatusCode     CloseCode = 1005
	CloseCodeAbnormalDisconnection CloseCode = 1006
	CloseCodeWrongDatatype         CloseCode = 1007
	CloseCodePolicyViolated        CloseCode = 1008
	CloseCodeTooMuchData           CloseCode = 1009
	CloseCodeMissingExtension      CloseCode = 1010
	CloseCodeBadOperation          CloseCode = 1011
	CloseCodeTlsHandshakeFailed    CloseCode = 1015
)

// WebSocketHandshakeOptions is QWebSocketHandshakeOptions: options for [WebSocket.Open]. The zero value has none.
type WebSocketHandshakeOptions struct{ subprotocols []string }

// SetSubprotocols sets the subprotocols that the client offers, in order of preference. Names that RFC 6455 section 4.1
// does not allow are left out with a warning in the log.
func (o *WebSocketHandshakeOptions) SetSubprotocols(protocols []string) { o.subprotocols = protocols }

// Subprotocols returns what SetSubprotocols has set.
func (o *WebSocketHandshakeOptions) Subprotocols() []string { return o.subprotocols }

// WebSocketCorsAuthenticator is QWebSocketCorsAuthenticator: a question to the slots of
// [WebSocketServer.OriginAuthenticationRequired].
type WebSocketCorsAuthenticator struct {
	origin  string
	refused bool
}

// NewWebSocketCorsAuthenticator returns an authenticator for an origin, which is allowed.
func NewWebSocketCorsAuthenticator(origin string) *WebSocketCorsAuthenticator {
	return &WebSocketCorsAuthenticator{origin: origin}
}

// Origin returns the Origin header of the request, or "".
func (a *WebSocketCorsAuthenticator) Origin() string { return a.origin }

// SetAllowed allows or refuses the origin. The last call counts.
func (a *WebSocketCorsAuthenticator) SetAllowed(allowed bool) { a.refused = !allowed }

// Allowed returns what SetAllowed has set; true by default.
func (a *WebSocketCorsAuthenticator) Allowed() bool { return !a.refused }

// Swap exchanges the contents of the two authenticators.
func (a *WebSocketCorsAuthenticator) Swap(other *WebSocketCorsAuthenticator) { *a, *other = *other, *a }

// A MaskGenerator is QMaskGenerator: it makes the masks of the frames that a client sends (RFC 6455 section 5.3). If an
// attacker can predict them, they can choose the bytes on the wire, which old proxies may take for an HTTP request.
type MaskGenerator interface {
	// NextMask returns the mask of the next frame. It may be called by any goroutine, one at a time for each socket. It
	// must not call the socket.
	NextMask() uint32
	// Seed is called once, by SetMaskGenerator. If it returns false, the generator is not used.
	Seed() bool
}
