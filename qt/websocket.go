package qt

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/foyerws/foyer"
)

// Limits of a socket. Qt has none for what waits to be written.
const (
	maxWriteBuffer    = 16 << 20
	outgoingFrameSize = 512 << 10 // Qt's
)

// A WebSocket is QWebSocket: a client's connection, or one that a [WebSocketServer] has accepted. Create a client with
// [NewWebSocket], and call [WebSocket.Open].
//
// All functions may be called from any goroutine; none waits.
type WebSocket struct {
	// Connected is emitted when the handshake of Open has succeeded.
	Connected Signal[func()]

	// Disconnected is emitted when the connection has ended, or Open has failed.
	Disconnected Signal[func()]

	// AboutToClose is emitted when the connection begins to close, or has been lost.
	AboutToClose Signal[func()]

	// StateChanged is emitted when State changes.
	StateChanged Signal[func(state SocketState)]

	// ReadChannelFinished is emitted when nothing can be received any more.
	ReadChannelFinished Signal[func()]

	// TextMessageReceived is emitted for each text message.
	TextMessageReceived Signal[func(message string)]

	// BinaryMessageReceived is emitted for each binary message. The slots may keep message, but share it.
	BinaryMessageReceived Signal[func(message []byte)]

	// TextFrameReceived is emitted for each frame of a text message, before TextMessageReceived. A character that is
	// split between two frames belongs to the second.
	TextFrameReceived Signal[func(frame string, isLastFrame bool)]

	// BinaryFrameReceived is emitted for each frame of a binary message, before BinaryMessageReceived.
	BinaryFrameReceived Signal[func(frame []byte, isLastFrame bool)]

	// Pong is emitted for each pong. elapsedTime is the time since the last Ping in milliseconds.
	Pong Signal[func(elapsedTime uint64, payload []byte)]

	// BytesWritten is emitted when the kernel has taken bytes, frame headers included.
	BytesWritten Signal[func(bytes int64)]

	// ErrorOccurred is emitted when Error changes: when Open has failed, or the connection was lost. In Qt 5 its name is
	// error.
	ErrorOccurred Signal[func(err SocketError)]

	// PeerVerifyError is emitted for each error in the server's certificate, before SslErrors.
	PeerVerifyError Signal[func(err SslError)]

	// SslErrors is emitted with all errors in the server's certificate. The handshake waits for the slots. It fails
	// unless they, or the program before, have called one of the functions that ignore the errors.
	SslErrors Signal[func(errors []SslError)]

	// PreSharedKeyAuthenticationRequired is emitted when the server wants a pre-shared key. The handshake waits for the
	// slots. It needs a [TlsBackend].
	PreSharedKeyAuthenticationRequired Signal[func(authenticator *SslPreSharedKeyAuthenticator)]

	// AlertSent and AlertReceived are emitted for the alert that ended the TLS handshake.
	AlertSent, AlertReceived Signal[func(level AlertLevel, alert AlertType, description string)]

	// HandshakeInterruptedOnError is emitted for each error in the server's certificate, before PeerVerifyError. If
	// there is a slot, the handshake waits until ContinueInterruptedHandshake is called.
	HandshakeInterruptedOnError Signal[func(err SslError)]

	// ProxyAuthenticationRequired is emitted when the proxy wants a user name and password. The handshake waits for the
	// slots, which put them into authenticator, and is then made once more.
	ProxyAuthenticationRequired Signal[func(proxy NetworkProxy, authenticator *Authenticator)]

	// AuthenticationRequired is the same for the server. It is not emitted if the URL has a user name.
	AuthenticationRequired Signal[func(authenticator *Authenticator)]

	givenOrigin  string
	givenVersion Version
	mask         atomic.Pointer[MaskGenerator]

	mu                  sync.Mutex // guards:
	connection          *connection
	state               SocketState
	err                 SocketError
	errString           string
	closeCode           CloseCode
	closeReason         string
	resource            string
	url                 *url.URL
	options             WebSocketHandshakeOptions
	ssl                 SslConfiguration
	proxy               NetworkProxy
	pauseMode           PauseModes
	ignoreAll           bool
	ignored             []SslError
	readBufferSize      int64
	maxFrame            uint64
	maxMessage          uint64
	limited             bool // the program has set a limit for messages
	outgoingFrameLength uint64
	pinged              time.Time
}

// NewWebSocket returns a client that is not connected. origin is the Origin header that it will send; empty sends none.
// version is what Version returns; the protocol is always that of Version13.
func NewWebSocket(origin string, version Version) *WebSocket {
	if version == VersionUnknown {
		version = VersionLatest
	}
	w := newWebSocket()
	w.givenOrigin, w.givenVersion = origin, version
	return w
}

func newWebSocket() *WebSocket {
	return &WebSocket{
		givenVersion:        VersionLatest,
		err:                 UnknownSocketError,
		closeCode:           CloseCodeNormal,
		url:                 new(url.URL),
		ssl:                 new(tls.Config),
		maxFrame:            maxIncoming,
		maxMessage:          maxIncoming,
		outgoingFrameLength: outgoingFrameSize,
		pinged:              time.Now(),
	}
}

// newServerSocket returns the socket of a server's client. Its signals are emitted after begin.
func newServerSocket(socket *foyer.Socket, mode SslMode) *WebSocket {
	w := newWebSocket()
	r := socket.Request()
	w.givenOrigin = r.Header.Get("Origin")
	w.state = ConnectedState
	w.url = r.URL
	w.url.Scheme, w.url.Host = schemeOf(mode), r.Host
	w.resource = r.URL.RequestURI()
	w.options.subprotocols = offered(r.Header)
	w.connection = &connection{socket: socket, w: w}
	return w
}

// offered returns the subprotocols in the header of a request.
func offered(header http.Header) (protocols []string) {
	for _, list := range header["Sec-Websocket-Protocol"] {
		for p := range strings.SplitSeq(list, ",") {
			if p = strings.Trim(p, " \t"); p != "" && !slices.Contains(protocols, p) {
				protocols = append(protocols, p)
			}
		}
	}
	return protocols
}

// field returns a field that w.mu guards.
func field[T any](w *WebSocket, p *T) T {
	w.mu.Lock()
	defer w.mu.Unlock()
	return *p
}

// set changes a field that w.mu guards.
func set[T any](w *WebSocket, p *T, v T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*p = v
}

// socket returns the open socket, or nil.
func (w *WebSocket) socket() *foyer.Socket {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.connection == nil {
		return nil
	}
	return w.connection.socket
}

// dismiss closes a socket that the program will not get.
func (w *WebSocket) dismiss() {
	w.begin()
	w.Close(CloseCodeGoingAway, "Server closed.")
}

// begin has the signals of a server's socket emitted.
func (w *WebSocket) begin() {
	if c := field(w, &w.connection); c != nil {
		c.begin()
	}
}

// hasEnded reports whether the client of a server's socket has left.
func (w *WebSocket) hasEnded() bool {
	s := w.socket()
	return s == nil || s.State() == foyer.StateClosed
}

// SendTextMessage sends a text message and returns the number of its bytes in UTF-8. It does not wait. It returns 0 and
// sends nothing if the socket is not in ConnectedState. What is not valid UTF-8 in message is replaced by U+FFFD.
//
// At most 16 MiB wait for a peer that reads slowly. If message does not fit, no message may be lost: the connection is
// ended with SocketResourceError. A message over 16 MiB is refused in the same way.
func (w *WebSocket) SendTextMessage(message string) int64 {
	return w.send(foyer.Text, []byte(strings.ToValidUTF8(message, "\uFFFD")))
}

// SendBinaryMessage is SendTextMessage for binary messages. It does not keep data.
func (w *WebSocket) SendBinaryMessage(data []byte) int64 { return w.send(foyer.Binary, data) }

func (w *WebSocket) send(t foyer.MessageType, p []byte) int64 {
	w.mu.Lock()
	c, state := w.connection, w.state
	w.mu.Unlock()
	if state != ConnectedState {
		return 0
	}
	switch err := c.socket.TryWrite(t, p); err {
	case nil:
		return int64(len(p))
	case foyer.ErrWriteBufferFull, foyer.ErrMessageTooBig:
		c.overflow.Store(true)
		w.Abort()
	}
	return 0
}

// Ping sends a ping. A payload over 125 bytes is truncated. The answer is reported by Pong.
func (w *WebSocket) Ping(payload []byte) {
	set(w, &w.pinged, time.Now())
	if s := w.socket(); s != nil {
		s.TryPing(payload[:min(len(payload), 125)])
	}
}

// Close sends a close frame behind everything that was sent before, and returns at once. While Open is under way, it
// cancels it. If the peer does not answer the close frame within 5 seconds, the connection is cut.
//
// A reason over 123 bytes is truncated. A code that may not be sent (RFC 6455 section 7.4) becomes
// CloseCodeBadOperation.
func (w *WebSocket) Close(closeCode CloseCode, reason string) {
	if c := field(w, &w.connection); c != nil {
		c.close(closeCode, reason)
	}
}

// cut returns the beginning of reason that fits into a close frame.
func cut(reason string) string {
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	n := min(len(reason), 123)
	for n < len(reason) && !utf8.RuneStart(reason[n]) {
		n--
	}
	return reason[:n]
}

// Abort ends the connection at once, without a close frame.
func (w *WebSocket) Abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch c := w.connection; {
	case c == nil:
	case c.socket == nil:
		w.lose(c)
	default:
		c.socket.Abort()
		c.end(CloseCodeAbnormalDisconnection, "", nil)
	}
}

// DeleteLater closes the socket with CloseCodeGoingAway, and disconnects all slots once those that are due were called.
// It stands for the destructor. A WebSocket that is not needed any more must be closed, aborted or deleted; otherwise it
// lives until the peer disconnects.
func (w *WebSocket) DeleteLater() {
	w.Close(CloseCodeGoingAway, "Connection closed")
	InvokeMethod(func() {
		w.Connected.Disconnect()
		w.Disconnected.Disconnect()
		w.AboutToClose.Disconnect()
		w.StateChanged.Disconnect()
		w.ReadChannelFinished.Disconnect()
		w.TextMessageReceived.Disconnect()
		w.BinaryMessageReceived.Disconnect()
		w.TextFrameReceived.Disconnect()
		w.BinaryFrameReceived.Disconnect()
		w.Pong.Disconnect()
		w.BytesWritten.Disconnect()
		w.ErrorOccurred.Disconnect()
		w.PeerVerifyError.Disconnect()
		w.SslErrors.Disconnect()
		w.PreSharedKeyAuthenticationRequired.Disconnect()
		w.AlertSent.Disconnect()
		w.AlertReceived.Disconnect()
		w.HandshakeInterruptedOnError.Disconnect()
		w.ProxyAuthenticationRequired.Disconnect()
		w.AuthenticationRequired.Disconnect()
	})
}

// Flush reports whether everything that was sent has been given to the kernel. What can be given to it is given to it
// without Flush.
func (w *WebSocket) Flush() bool { return w.BytesToWrite() == 0 }

// BytesToWrite returns how many bytes wait for the kernel, frame headers included. It is 0 unless the peer reads more
// slowly than the program sends.
func (w *WebSocket) BytesToWrite() int64 {
	if s := w.socket(); s != nil {
		return int64(s.BytesToWrite())
	}
	return 0
}

// State returns the state of the socket.
func (w *WebSocket) State() SocketState { return field(w, &w.state) }

// IsValid reports whether the socket is in ConnectedState.
func (w *WebSocket) IsValid() bool { return w.State() == ConnectedState }

// Error returns the last error, or UnknownSocketError.
func (w *WebSocket) Error() SocketError { return field(w, &w.err) }

// ErrorString describes the last error. It is empty without one.
func (w *WebSocket) ErrorString() string { return field(w, &w.errString) }

// CloseCode returns the code of the close frame that was sent or received first. It is CloseCodeNormal before, and for a
// close frame without a code; CloseCodeAbnormalDisconnection if the connection was lost.
func (w *WebSocket) CloseCode() CloseCode { return field(w, &w.closeCode) }

// CloseReason returns the reason that belongs to CloseCode. It may come from the peer: do not trust it.
func (w *WebSocket) CloseReason() string { return field(w, &w.closeReason) }

// Origin returns the Origin header.
func (w *WebSocket) Origin() string { return w.givenOrigin }

// Version returns the version of the protocol.
func (w *WebSocket) Version() Version { return w.givenVersion }

// Subprotocol returns the subprotocol that was agreed on, or "".
func (w *WebSocket) Subprotocol() string {
	if s := w.socket(); s != nil {
		return s.Subprotocol()
	}
	return ""
}

// ResourceName returns the path and query of the URL.
func (w *WebSocket) ResourceName() string { return field(w, &w.resource) }

// RequestUrl returns a copy of the URL that the client has asked for.
func (w *WebSocket) RequestUrl() *url.URL {
	u := *field(w, &w.url)
	return &u
}

// Request returns a copy of the request of the handshake, or nil if there was none. Its TLS field says what was
// negotiated.
func (w *WebSocket) Request() *http.Request {
	if s := w.socket(); s != nil {
		return s.Request()
	}
	return nil
}

// HandshakeOptions returns what the client has offered.
func (w *WebSocket) HandshakeOptions() WebSocketHandshakeOptions { return field(w, &w.options) }

// LocalAddress returns the local address, null without a connection.
func (w *WebSocket) LocalAddress() HostAddress {
	if s := w.socket(); s != nil {
		address, _ := addressOf(s.LocalAddr())
		return address
	}
	return HostAddress{}
}

// LocalPort returns the local port, 0 without a connection.
func (w *WebSocket) LocalPort() uint16 {
	if s := w.socket(); s != nil {
		_, port := addressOf(s.LocalAddr())
		return port
	}
	return 0
}

// PeerAddress returns the address of the peer, null without a connection. It may be a proxy's.
func (w *WebSocket) PeerAddress() HostAddress {
	if s := w.socket(); s != nil {
		address, _ := addressOf(s.RemoteAddr())
		return address
	}
	return HostAddress{}
}

// PeerPort returns the port of the peer, 0 without a connection.
func (w *WebSocket) PeerPort() uint16 {
	if s := w.socket(); s != nil {
		_, port := addressOf(s.RemoteAddr())
		return port
	}
	return 0
}

// PeerName returns the host of the URL that was given to Open, or "".
func (w *WebSocket) PeerName() string { return w.RequestUrl().Hostname() }

// SetProxy sets the proxy for Open.
func (w *WebSocket) SetProxy(networkProxy NetworkProxy) { set(w, &w.proxy, networkProxy) }

// Proxy returns what SetProxy has set; DefaultProxy by default.
func (w *WebSocket) Proxy() NetworkProxy { return field(w, &w.proxy) }

// SetMaskGenerator sets the generator for the masks of all frames that are sent from now on. Nil means crypto/rand, which
// is the default. It has no effect on a server's socket, which sends no masks.
func (w *WebSocket) SetMaskGenerator(maskGenerator MaskGenerator) {
	switch {
	case maskGenerator == nil:
		w.mask.Store(nil)
	case maskGenerator.Seed():
		w.mask.Store(&maskGenerator)
	default:
		slog.Warn("foyer: the Seed of a MaskGenerator has failed; it is not used")
	}
}

// MaskGenerator returns what SetMaskGenerator has set.
func (w *WebSocket) MaskGenerator() MaskGenerator {
	if g := w.mask.Load(); g != nil {
		return *g
	}
	return nil
}

// SetReadBufferSize limits the bytes of messages that wait for their slots. When they are reached, nothing is read from
// the peer until there is room; a single message may be longer. 0, the default, and less mean 1 MiB, where Qt has no
// limit.
func (w *WebSocket) SetReadBufferSize(size int64) { set(w, &w.readBufferSize, size) }

// ReadBufferSize returns what SetReadBufferSize has set.
func (w *WebSocket) ReadBufferSize() int64 { return field(w, &w.readBufferSize) }

// SetPauseMode sets when the socket pauses. With PauseOnSslErrors, a handshake with SslErrors waits for Resume after the
// slots have returned.
func (w *WebSocket) SetPauseMode(pauseMode PauseModes) { set(w, &w.pauseMode, pauseMode) }

// PauseMode returns what SetPauseMode has set.
func (w *WebSocket) PauseMode() PauseModes { return field(w, &w.pauseMode) }

// Resume continues a handshake that was paused by PauseOnSslErrors.
func (w *WebSocket) Resume() { w.release(func(c *connection) *chan struct{} { return &c.paused }) }

// ContinueInterruptedHandshake continues a handshake that waits because of HandshakeInterruptedOnError.
func (w *WebSocket) ContinueInterruptedHandshake() {
	w.release(func(c *connection) *chan struct{} { return &c.held })
}

// release ends a wait of the connection.
func (w *WebSocket) release(of func(*connection) *chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.connection == nil {
		return
	}
	if waits := of(w.connection); *waits != nil {
		close(*waits)
		*waits = nil
	}
}

// SetSslConfiguration sets the configuration of TLS for Open.
func (w *WebSocket) SetSslConfiguration(sslConfiguration SslConfiguration) {
	if sslConfiguration != nil {
		set(w, &w.ssl, sslConfiguration)
	}
}

// SslConfiguration returns what SetSslConfiguration has set, or an empty configuration.
func (w *WebSocket) SslConfiguration() SslConfiguration { return field(w, &w.ssl) }

// IgnoreSslErrors makes this socket accept every certificate, also in later calls of Open. Whoever is on the way to the
// server can then read and change everything.
func (w *WebSocket) IgnoreSslErrors() { set(w, &w.ignoreAll, true) }

// IgnoreTheseSslErrors makes this socket accept certificates that have only these errors, also in later calls of Open. It
// is the overload of ignoreSslErrors with a list.
func (w *WebSocket) IgnoreTheseSslErrors(errors []SslError) {
	set(w, &w.ignored, slices.Clone(errors))
}

// SetMaxAllowedIncomingFrameSize limits the bytes of an incoming frame, before decompression. A longer one closes the
// socket with CloseCodeTooMuchData before it is read.
func (w *WebSocket) SetMaxAllowedIncomingFrameSize(maxAllowedIncomingFrameSize uint64) {
	w.limit(maxAllowedIncomingFrameSize, func(n uint64) { w.maxFrame = n })
}

// MaxAllowedIncomingFrameSize returns what SetMaxAllowedIncomingFrameSize has set; MaxIncomingFrameSize by default.
func (w *WebSocket) MaxAllowedIncomingFrameSize() uint64 { return field(w, &w.maxFrame) }

// SetMaxAllowedIncomingMessageSize limits the bytes of an incoming message, after decompression. A longer one closes the
// socket with CloseCodeTooMuchData before it is read whole. Until this function is called, the limit is 1 MiB.
func (w *WebSocket) SetMaxAllowedIncomingMessageSize(maxAllowedIncomingMessageSize uint64) {
	w.limit(maxAllowedIncomingMessageSize, func(n uint64) { w.maxMessage, w.limited = n, true })
}

// MaxAllowedIncomingMessageSize returns what SetMaxAllowedIncomingMessageSize has set; MaxIncomingMessageSize by default.
func (w *WebSocket) MaxAllowedIncomingMessageSize() uint64 { return field(w, &w.maxMessage) }

// MaxIncomingMessageSize returns the largest value for SetMaxAllowedIncomingMessageSize, 2147483646.
func MaxIncomingMessageSize() uint64 { return maxIncoming }

// MaxIncomingFrameSize returns the largest value for SetMaxAllowedIncomingFrameSize, 2147483646.
func MaxIncomingFrameSize() uint64 { return maxIncoming }

// SetOutgoingFrameSize sets the largest payload of a frame that is sent. Longer messages are split. 0 means no limit. The
// default is 512 KiB.
func (w *WebSocket) SetOutgoingFrameSize(outgoingFrameSize uint64) {
	w.limit(outgoingFrameSize, func(n uint64) { w.outgoingFrameLength = n })
}

// OutgoingFrameSize returns what SetOutgoingFrameSize has set.
func (w *WebSocket) OutgoingFrameSize() uint64 { return field(w, &w.outgoingFrameLength) }

// MaxOutgoingFrameSize returns the largest value for SetOutgoingFrameSize, 2147483646.
func MaxOutgoingFrameSize() uint64 { return maxIncoming }

// limit changes a limit, and applies it to the connection. Like Qt, it ignores numbers that are too large.
func (w *WebSocket) limit(n uint64, change func(n uint64)) {
	if n > maxIncoming {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	change(n)
	if c := w.connection; c != nil && c.socket != nil {
		c.socket.SetLimits(w.limits())
	}
}

// limits returns the limits as foyer has them. The caller has w.mu.
func (w *WebSocket) limits() foyer.Limits {
	l := foyer.Limits{MaxFrameSize: int64(max(w.maxFrame, 1)), OutgoingFrameSize: int(w.outgoingFrameLength)}
	if w.limited {
		l.MaxMessageSize = int64(max(w.maxMessage, 1))
	}
	return l
}
