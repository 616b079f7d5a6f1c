package qt

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/foyerws/foyer"
)

// A WebSocketServer is QWebSocketServer: it listens on an address, performs the handshakes, and holds up to
// MaxPendingConnections sockets until NextPendingConnection takes them. Create one with [NewWebSocketServer].
//
// Settings apply to connections that come after the call of their function. All functions may be called from any
// goroutine.
type WebSocketServer struct {
	// NewConnection is emitted when a socket is there for NextPendingConnection.
	NewConnection Signal[func()]

	// OriginAuthenticationRequired is emitted for each handshake, which waits until the slots have returned, at most
	// until the handshake timeout. A client that is not allowed gets 403. Without a slot, all origins are allowed: any
	// web page can then open sockets as the user of the browser.
	OriginAuthenticationRequired Signal[func(authenticator *WebSocketCorsAuthenticator)]

	// ServerError is emitted when Error or ErrorString change: when a handshake or Listen has failed.
	ServerError Signal[func(closeCode CloseCode)]

	// AcceptError is emitted when a connection cannot be accepted.
	AcceptError Signal[func(socketError SocketError)]

	// Closed is emitted by Close.
	Closed Signal[func()]

	// PeerVerifyError is emitted for what is wrong with a client's certificate.
	PeerVerifyError Signal[func(err SslError)]

	// SslErrors is emitted after PeerVerifyError, with all errors of the handshake. A server cannot ignore them.
	SslErrors Signal[func(errors []SslError)]

	// PreSharedKeyAuthenticationRequired is emitted when a client wants to use a pre-shared key. The handshake waits
	// for the slots. It needs a [TlsBackend].
	PreSharedKeyAuthenticationRequired Signal[func(authenticator *SslPreSharedKeyAuthenticator)]

	// AlertSent and AlertReceived are emitted for the alert that ended a TLS handshake.
	AlertSent, AlertReceived Signal[func(level AlertLevel, alert AlertType, description string)]

	// HandshakeInterruptedOnError is emitted like PeerVerifyError. A server cannot continue the handshake.
	HandshakeInterruptedOnError Signal[func(err SslError)]

	mode SslMode

	mu           sync.Mutex // guards:
	name         string
	maxPending   int
	timeout      time.Duration
	subprotocols []string
	ssl          SslConfiguration
	proxy        NetworkProxy
	handler      *foyer.Handler // with these settings; nil until a connection needs it
	listener     net.Listener
	paused       bool
	resumed      sync.Cond   // paused or listener has changed
	closings     int         // how often the server was closed
	secured      *tls.Config // ssl with what is missing in it; nil until needed
	pending      []*WebSocket
	err          CloseCode
	errString    string

	// Touched only on the event loop.
	reserved int          // handshakes that were let in and whose sockets are not pending yet
	waiting  []*admission // handshakes that wait until those are over

	reports atomic.Int32 // failed handshakes that wait to be reported
}

// NewWebSocketServer returns a server that does not listen yet. serverName is the Server header of its answers; an empty
// one sends none.
func NewWebSocketServer(serverName string, secureMode SslMode) *WebSocketServer {
	s := &WebSocketServer{
		mode:       secureMode,
		name:       serverName,
		maxPending: 30,
		timeout:    10 * time.Second,
		ssl:        new(tls.Config),
		err:        CloseCodeNormal,
	}
	s.resumed.L = &s.mu
	return s
}

// Listen listens on an address and port; 0 chooses a free port, see ServerPort. Any listens on all addresses. It returns
// false if that fails, or if the server listens already; then Error and ErrorString say why.
func (s *WebSocketServer) Listen(address HostAddress, port uint16) bool {
	if t := s.Proxy().Type(); t != DefaultProxy && t != NoProxy {
		return s.fail("Listening through a proxy is not supported; see SetListener")
	}
	if s.IsListening() {
		return s.fail("The server is listening already")
	}
	network, host := "tcp", address.String()
	switch {
	case address == Any:
		host = "" // also where there is no IPv6
	case address.Is4():
		network = "tcp4"
	}
	config := net.ListenConfig{KeepAlive: -1} // foyer sends pings of its own
	l, err := config.Listen(context.Background(), network, net.JoinHostPort(host, strconv.Itoa(int(port))))
	if err != nil {
		_, text := errorOf(err)
		return s.fail(text)
	}
	return s.SetListener(l)
}

// fail records why the server does not listen.
func (s *WebSocketServer) fail(text string) bool {
	s.setError(CloseCodeAbnormalDisconnection, text)
	return false
}

// SetListener makes the server accept connections from l, which it owns from then on. It has no counterpart in Qt. It
// is for listeners that Listen cannot make: on a Unix socket, behind a proxy, or in a test. It returns false, and closes
// l, if the server listens already.
func (s *WebSocketServer) SetListener(l net.Listener) bool {
	if l == nil {
		return false
	}
	s.mu.Lock()
	if s.listener != nil {
		s.mu.Unlock()
		l.Close()
		return s.fail("The server is listening already")
	}
	s.listener, s.paused = l, false
	s.mu.Unlock()
	if s.mode == SecureMode && s.PreSharedKeyAuthenticationRequired.isConnected() && activeBackend() == nil {
		slog.Warn("foyer: a slot is connected to PreSharedKeyAuthenticationRequired, but crypto/tls has no pre-shared keys; see qt.SetActiveBackend")
	}
	go s.accept(l)
	return true
}

// Close stops listening. Pending sockets are closed with CloseCodeGoingAway, and handshakes that have begun are refused;
// sockets that the program has taken stay open. Then Closed is emitted. Listen may be called again.
func (s *WebSocketServer) Close() {
	s.mu.Lock()
	if s.listener != nil {
		s.listener.Close()
		s.listener = nil
	}
	pending := s.pending
	s.pending, s.handler = nil, nil
	s.closings++
	s.resumed.Broadcast()
	s.mu.Unlock()
	for _, w := range pending {
		w.dismiss()
	}
	InvokeMethod(s.admitWaiting) // which are refused now
	s.Closed.Emit(func(slot func()) { slot() })
}

// DeleteLater closes the server and disconnects all slots. It stands for the destructor.
func (s *WebSocketServer) DeleteLater() {
	s.Close()
	InvokeMethod(func() {
		s.NewConnection.Disconnect()
		s.OriginAuthenticationRequired.Disconnect()
		s.ServerError.Disconnect()
		s.AcceptError.Disconnect()
		s.Closed.Disconnect()
		s.PeerVerifyError.Disconnect()
		s.SslErrors.Disconnect()
		s.PreSharedKeyAuthenticationRequired.Disconnect()
		s.AlertSent.Disconnect()
		s.AlertReceived.Disconnect()
		s.HandshakeInterruptedOnError.Disconnect()
	})
}

// accept accepts the connections of l until the server does not listen on it any more.
func (s *WebSocketServer) accept(l net.Listener) {
	delay := 5 * time.Millisecond
	for s.acceptsFrom(l) {
		conn, err := l.Accept()
		var temporary interface{ Temporary() bool }
		switch {
		case err == nil:
			delay = 5 * time.Millisecond
			if s.acceptsFrom(l) {
				s.HandleConnection(conn)
			} else {
				conn.Close()
			}
		case errors.Is(err, os.ErrDeadlineExceeded) || !s.listensOn(l): // paused, perhaps only for a moment
		default:
			kind, _ := errorOf(err)
			s.AcceptError.Emit(func(slot func(SocketError)) { slot(kind) })
			if !errors.As(err, &temporary) || !temporary.Temporary() {
				s.stopListening(l)
				return
			}
			time.Sleep(delay)
			delay = min(2*delay, time.Second)
		}
	}
}

// acceptsFrom waits while the server is paused, and reports whether it listens on l.
func (s *WebSocketServer) acceptsFrom(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.paused && s.listener == l {
		s.resumed.Wait()
	}
	return s.listener == l
}

func (s *WebSocketServer) listensOn(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener == l
}

func (s *WebSocketServer) stopListening(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == l {
		s.listener.Close()
		s.listener = nil
	}
}

// PauseAccepting stops accepting connections. New clients wait in the system's queue.
func (s *WebSocketServer) PauseAccepting() { s.pause(true, time.Unix(1, 0)) }

// ResumeAccepting accepts connections again.
func (s *WebSocketServer) ResumeAccepting() { s.pause(false, time.Time{}) }

// pause has Accept return at once if it waits.
func (s *WebSocketServer) pause(paused bool, deadline time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = paused
	if l, ok := s.listener.(interface{ SetDeadline(time.Time) error }); ok {
		l.SetDeadline(deadline)
	}
	s.resumed.Broadcast()
}

// HandleConnection performs the handshake on a connection that was accepted elsewhere, and owns it from then on. It
// returns at once. On a server with SecureMode the handshake begins with that of TLS.
func (s *WebSocketServer) HandleConnection(conn net.Conn) {
	if conn == nil {
		return
	}
	h := s.currentHandler()
	if s.mode == SecureMode {
		conn = s.secure(conn)
	}
	go func() {
		if err := h.HandleConnection(conn); err != nil {
			s.refused(failureOf(conn, err))
		}
	}()
}

// secure returns conn with TLS.
func (s *WebSocketServer) secure(conn net.Conn) net.Conn {
	if b := activeBackend(); b != nil && s.PreSharedKeyAuthenticationRequired.isConnected() {
		timeout := s.HandshakeTimeout()
		end := time.Now().Add(timeout)
		return b.Server(conn, s.SslConfiguration(), func(a *SslPreSharedKeyAuthenticator) {
			ctx, cancel := context.WithCancel(context.Background())
			if timeout >= 0 {
				ctx, cancel = context.WithDeadline(ctx, end)
			}
			defer cancel()
			askForKey(ctx, &s.PreSharedKeyAuthenticationRequired, a)
		})
	}
	return tls.Server(conn, s.configuration())
}

// configuration returns the configuration for all connections. It is one, so that clients can resume their sessions.
func (s *WebSocketServer) configuration() *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.secured == nil {
		s.secured = s.ssl
		if len(s.ssl.NextProtos) == 0 {
			s.secured = s.ssl.Clone()
			s.secured.NextProtos = []string{"http/1.1"}
		}
	}
	return s.secured
}

// wait calls f on the event loop and waits for its end. It reports false when ctx ended before, and when f panicked. f may
// still be running then.
func wait(ctx context.Context, f func()) bool {
	done := make(chan bool, 1)
	InvokeMethod(func() {
		returned := false
		defer func() { done <- returned }()
		if ctx.Err() == nil {
			f()
			returned = true
		}
	})
	select {
	case returned := <-done:
		return returned
	case <-ctx.Done():
		return false
	}
}

// maxReports is how many failed handshakes may wait for the event loop to report them. More are not reported.
const maxReports = 1000

// refused emits the signals for a handshake that has failed.
func (s *WebSocketServer) refused(err error) {
	if refusal, ok := errors.AsType[*foyer.HandshakeError](err); ok {
		if refusal.Status != 0 { // and the client has not just left
			s.setError(refusal.Code, refusal.Reason)
		}
		return
	}
	if s.reports.Add(1) > maxReports {
		s.reports.Add(-1)
		return
	}
	InvokeMethod(func() {
		defer s.reports.Add(-1)
		s.insecure(err)
	})
}

// insecure emits the signals for a TLS handshake that has failed.
func (s *WebSocketServer) insecure(err error) {
	if a, ok := alertOf(err); ok {
		signal := &s.AlertReceived
		if a.sent {
			signal = &s.AlertSent
		}
		signal.emit(func(slot func(AlertLevel, AlertType, string)) { slot(AlertFatal, a.kind, a.description) })
	}
	if found := clientErrors(err); len(found) > 0 {
		for _, e := range found {
			s.PeerVerifyError.emit(func(slot func(SslError)) { slot(e) })
			s.HandshakeInterruptedOnError.emit(func(slot func(SslError)) { slot(e) })
		}
		s.SslErrors.emit(func(slot func([]SslError)) { slot(found) })
	}
	_, text := errorOf(err)
	s.setError(CloseCodeTlsHandshakeFailed, text)
}

// currentHandler returns the Handler that has the settings of the server.
func (s *WebSocketServer) currentHandler() *foyer.Handler {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handler != nil {
		return s.handler
	}
	h := &foyer.Handler{
		ServerName:        s.name,
		Origins:           foyer.AnyOrigin(), // admit asks the slots
		Subprotocols:      s.subprotocols,
		MaxPending:        -1, // admit limits them
		HandshakeTimeout:  max(s.timeout, 1),
		MaxWriteBuffer:    maxWriteBuffer,
		OutgoingFrameSize: outgoingFrameSize,
		AllowEmptyPath:    true, // for Qt's clients
	}
	if s.timeout < 0 {
		h.HandshakeTimeout = -1
	}
	closings := s.closings
	h.Authorize = func(r *http.Request) (http.Header, error) { return nil, s.authorize(h, closings, r) }
	s.handler = h
	return h
}

// An admission is a handshake that asks to be let in.
type admission struct {
	handler  *foyer.Handler
	closings int // of the server, when the connection came
	request  *http.Request
	answer   chan error
}

// authorize has the event loop decide about a handshake.
func (s *WebSocketServer) authorize(h *foyer.Handler, closings int, r *http.Request) error {
	a := &admission{h, closings, r, make(chan error, 1)}
	InvokeMethod(func() { s.admit(a) })
	select {
	case err := <-a.answer:
		return err
	case <-r.Context().Done():
		return nil // the handshake is over
	}
}

var (
	errServerClosed = &foyer.HandshakeError{Status: http.StatusServiceUnavailable, Code: CloseCodeGoingAway,
		Reason: "Server closed.", Err: foyer.ErrClosed}
	errTooManyPending = &foyer.HandshakeError{Status: http.StatusServiceUnavailable, Code: CloseCodeAbnormalDisconnection,
		Reason: "Too many pending connections.", Err: foyer.ErrPendingFull}
	errAccessForbidden = &foyer.HandshakeError{Status: http.StatusForbidden, Code: CloseCodePolicyViolated,
		Reason: "Access forbidden.", Err: foyer.ErrOriginNotAllowed}
	errSlotPanicked = &foyer.HandshakeError{Status: http.StatusInternalServerError, Code: CloseCodeBadOperation,
		Reason: "Internal server error.", Err: errors.New("a slot of OriginAuthenticationRequired panicked")}
)

// admit lets a handshake in or refuses it. Qt answers and emits NewConnection in one go; here the answer is written
// elsewhere. So a handshake that could take the last place waits until those before it have become pending, and their
// slots have had the chance to take them.
func (s *WebSocketServer) admit(a *admission) {
	switch free := s.places(); {
	case a.request.Context().Err() != nil:
	case s.wasClosedAfter(a.closings):
		a.answer <- errServerClosed
	case free <= 0:
		a.answer <- errTooManyPending
	case free <= s.reserved:
		s.waiting = append(s.waiting, a)
	default:
		s.askOrigin(a)
	}
}

// places returns how many sockets may become pending.
func (s *WebSocketServer) places() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) >= s.maxPending {
		s.pending = slices.DeleteFunc(s.pending, (*WebSocket).hasEnded) // whose clients have left
	}
	return max(s.maxPending, 0) - len(s.pending)
}

// wasClosedAfter reports whether the server was closed since it had been closed so often.
func (s *WebSocketServer) wasClosedAfter(closings int) bool {
	return get(s, func() bool { return s.closings != closings })
}

// askOrigin asks the slots whether a handshake is let in.
func (s *WebSocketServer) askOrigin(a *admission) {
	var answer error = errSlotPanicked
	defer func() { a.answer <- answer }()
	authenticator := NewWebSocketCorsAuthenticator(strings.Join(a.request.Header["Origin"], ", "))
	s.OriginAuthenticationRequired.emit(func(slot func(*WebSocketCorsAuthenticator)) { slot(authenticator) })
	if !authenticator.Allowed() {
		answer = errAccessForbidden
		return
	}
	s.reserved++
	context.AfterFunc(a.request.Context(), func() { // which ends with the handshake
		InvokeMethod(func() { s.announce(a) })
	})
	answer = nil
}

// announce makes the socket of a handshake that is over pending, if it has succeeded.
func (s *WebSocketServer) announce(a *admission) {
	s.reserved--
	defer s.admitWaiting() // also when a slot panics
	socket := a.handler.NextPending()
	if socket == nil {
		return
	}
	w := newServerSocket(socket, s.mode)
	if s.wasClosedAfter(a.closings) {
		w.dismiss()
		return
	}
	s.mu.Lock()
	s.pending = append(s.pending, w)
	s.mu.Unlock()
	s.NewConnection.emit(func(slot func()) { slot() })
}

// admitWaiting decides about the handshakes that waited, as far as it can.
func (s *WebSocketServer) admitWaiting() {
	waiting := s.waiting
	s.waiting = nil
	for _, a := range waiting {
		InvokeMethod(func() { s.admit(a) })
	}
}

// HasPendingConnections reports whether a socket waits for NextPendingConnection.
func (s *WebSocketServer) HasPendingConnections() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending) > 0
}

// NextPendingConnection returns the socket that has waited longest, or nil. Signals of the socket are emitted only after
// that, and after the slot that called this function has returned: connect its slots at once, and nothing is missed.
func (s *WebSocketServer) NextPendingConnection() *WebSocket {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 {
		return nil
	}
	w := s.pending[0]
	s.pending = slices.Delete(s.pending, 0, 1)
	InvokeMethod(w.begin)
	return w
}

// change changes a setting.
func (s *WebSocketServer) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.handler = nil // its sockets live on
}

// SetMaxPendingConnections limits the sockets that wait for NextPendingConnection. Further clients get 503, and Error
// becomes CloseCodeAbnormalDisconnection. 0 and less refuses all. The default is 30.
func (s *WebSocketServer) SetMaxPendingConnections(numConnections int) {
	s.change(func() { s.maxPending = numConnections })
}

// MaxPendingConnections returns what SetMaxPendingConnections has set.
func (s *WebSocketServer) MaxPendingConnections() int {
	return get(s, func() int { return s.maxPending })
}

// get returns a setting.
func get[T any](s *WebSocketServer, f func() T) T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f()
}

// SetHandshakeTimeout limits the time of a handshake, from the connection on, TLS included. Negative means no limit. The
// default is 10 seconds.
func (s *WebSocketServer) SetHandshakeTimeout(timeout time.Duration) {
	s.change(func() { s.timeout = timeout })
}

// HandshakeTimeout returns what SetHandshakeTimeout has set.
func (s *WebSocketServer) HandshakeTimeout() time.Duration {
	return get(s, func() time.Duration { return s.timeout })
}

// HandshakeTimeoutMS returns HandshakeTimeout in milliseconds.
func (s *WebSocketServer) HandshakeTimeoutMS() int { return int(s.HandshakeTimeout().Milliseconds()) }

// SetServerName sets the Server header of the answers. An empty name sends none.
func (s *WebSocketServer) SetServerName(serverName string) { s.change(func() { s.name = serverName }) }

// ServerName returns the Server header.
func (s *WebSocketServer) ServerName() string { return get(s, func() string { return s.name }) }

// SetSupportedSubprotocols sets the subprotocols that the server supports. The first one in the client's list that is
// supported is selected.
func (s *WebSocketServer) SetSupportedSubprotocols(protocols []string) {
	s.change(func() { s.subprotocols = slices.Clone(protocols) })
}

// SupportedSubprotocols returns what SetSupportedSubprotocols has set.
func (s *WebSocketServer) SupportedSubprotocols() []string {
	return get(s, func() []string { return slices.Clone(s.subprotocols) })
}

// SupportedVersions returns Version13.
func (s *WebSocketServer) SupportedVersions() []Version { return []Version{Version13} }

// SecureMode returns the mode of the server.
func (s *WebSocketServer) SecureMode() SslMode { return s.mode }

// SetSslConfiguration sets the certificate, and everything else about TLS. It has no effect on a server with
// NonSecureMode.
func (s *WebSocketServer) SetSslConfiguration(sslConfiguration SslConfiguration) {
	if s.mode == SecureMode && sslConfiguration != nil {
		s.change(func() { s.ssl, s.secured = sslConfiguration, nil })
	}
}

// SslConfiguration returns what SetSslConfiguration has set, or an empty configuration.
func (s *WebSocketServer) SslConfiguration() SslConfiguration {
	return get(s, func() SslConfiguration { return s.ssl })
}

// SetProxy sets a proxy to listen through. Listen fails for proxies other than DefaultProxy and NoProxy, because SOCKS
// and HTTP proxies that listen for others are not to be found any more; pass such a listener to SetListener.
func (s *WebSocketServer) SetProxy(networkProxy NetworkProxy) {
	s.change(func() { s.proxy = networkProxy })
}

// Proxy returns what SetProxy has set; DefaultProxy by default.
func (s *WebSocketServer) Proxy() NetworkProxy { return get(s, func() NetworkProxy { return s.proxy }) }

// IsListening reports whether the server listens, paused or not.
func (s *WebSocketServer) IsListening() bool { return s.currentListener() != nil }

func (s *WebSocketServer) currentListener() net.Listener {
	return get(s, func() net.Listener { return s.listener })
}

// ServerAddress returns the address that the server listens on. It is null while the server does not listen.
func (s *WebSocketServer) ServerAddress() HostAddress {
	address, _ := s.address()
	return address
}

// ServerPort returns the port that the server listens on, or 0.
func (s *WebSocketServer) ServerPort() uint16 {
	_, port := s.address()
	return port
}

func (s *WebSocketServer) address() (HostAddress, uint16) {
	if l := s.currentListener(); l != nil {
		return addressOf(l.Addr())
	}
	return HostAddress{}, 0
}

// ServerUrl returns the URL for clients. Its host is the address that is listened on, or 127.0.0.1 for all addresses. It
// is empty while the server does not listen on a TCP port.
func (s *WebSocketServer) ServerUrl() *url.URL {
	address, port := s.address()
	if !address.IsValid() {
		return new(url.URL)
	}
	if address.IsUnspecified() {
		address = LocalHost
	}
	return &url.URL{Scheme: schemeOf(s.mode), Host: netip.AddrPortFrom(address, port).String()}
}

func schemeOf(mode SslMode) string {
	if mode == SecureMode {
		return "wss"
	}
	return "ws"
}

// SetSocketDescriptor makes the server listen on a copy of a listening socket that was opened elsewhere, and closes
// socketDescriptor. It returns false if that is not a listening socket, or if the server listens already.
func (s *WebSocketServer) SetSocketDescriptor(socketDescriptor int) bool {
	if s.IsListening() {
		return s.fail("The server is listening already")
	}
	l, err := listenerFrom(socketDescriptor)
	if err != nil {
		return false
	}
	return s.SetListener(l)
}

// SocketDescriptor returns the listening socket, which stays the server's, or -1.
func (s *WebSocketServer) SocketDescriptor() int { return descriptorOf(s.currentListener()) }

// SetNativeDescriptor is SetSocketDescriptor.
func (s *WebSocketServer) SetNativeDescriptor(descriptor int) bool {
	return s.SetSocketDescriptor(descriptor)
}

// NativeDescriptor is SocketDescriptor.
func (s *WebSocketServer) NativeDescriptor() int { return s.SocketDescriptor() }

// Error returns the close code for the last error, or CloseCodeNormal.
func (s *WebSocketServer) Error() CloseCode { return get(s, func() CloseCode { return s.err }) }

// ErrorString describes the last error. It is empty without one.
func (s *WebSocketServer) ErrorString() string { return get(s, func() string { return s.errString }) }

// setError records an error and emits ServerError if it is another one than before.
func (s *WebSocketServer) setError(code CloseCode, text string) {
	s.mu.Lock()
	changed := s.err != code || s.errString != text
	s.err, s.errString = code, text
	s.mu.Unlock()
	if changed {
		s.ServerError.Emit(func(slot func(CloseCode)) { slot(code) })
	}
}

// maxIncoming is what Qt has as the largest size of an incoming frame or message.
const maxIncoming = math.MaxInt32 - 1
