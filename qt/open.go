package qt

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/foyerws/foyer"

	"golang.org/x/net/http/httpguts"
)

// openTimeout is how long Open may take, TCP and TLS included.
const openTimeout = 30 * time.Second

// Open connects to a URL with the scheme ws or wss, and returns at once. Connected is emitted when that has succeeded;
// otherwise ErrorOccurred and Disconnected are, or ErrorOccurred alone if the URL is malformed. It may take 30 seconds. If the socket is connected already, that
// connection is closed first, with CloseCodeGoingAway.
//
// Only the first of options counts; leave it out for none.
func (w *WebSocket) Open(target string, options ...WebSocketHandshakeOptions) {
	u, err := url.Parse(target)
	if err != nil {
		w.refuse(ConnectionRefusedError, "Invalid URL.")
		return
	}
	w.OpenRequest(&http.Request{URL: u}, options...)
}

// OpenRequest is Open for a request, of which URL and Header are used. Subprotocols in the header are offered after those
// of options.
func (w *WebSocket) OpenRequest(request *http.Request, options ...WebSocketHandshakeOptions) {
	u := *request.URL
	u.Fragment, u.RawFragment = "", ""
	if u.Path == "" {
		u.Path = "/"
	}
	switch path := strings.ToUpper(u.EscapedPath()); {
	case u.Scheme != "ws" && u.Scheme != "wss":
		w.refuse(UnsupportedSocketOperationError, "Unsupported WebSocket scheme: "+u.Scheme)
		return
	case u.Host == "":
		w.refuse(ConnectionRefusedError, "Invalid URL.")
		return
	case strings.Contains(path, "%0D%0A"):
		w.refuse(ConnectionRefusedError, "Invalid resource name.")
		return
	}
	header := request.Header.Clone()
	var wanted WebSocketHandshakeOptions
	if len(options) > 0 {
		wanted.subprotocols = slices.Clone(options[0].subprotocols)
	}
	for _, p := range offered(header) {
		if !slices.Contains(wanted.subprotocols, p) {
			wanted.subprotocols = append(wanted.subprotocols, p)
		}
	}
	delete(header, "Sec-Websocket-Protocol")

	ctx, cancel := context.WithTimeout(context.Background(), openTimeout) // also for the slots that it waits for
	c := &connection{w: w, cancel: cancel}
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.connection; old != nil {
		w.lose(old)
	}
	w.connection, w.url, w.resource, w.options = c, &u, u.RequestURI(), wanted
	w.closeCode, w.closeReason = CloseCodeNormal, ""
	c.changeState(ConnectingState)
	d := &dialling{c, u, w.proxy, foyer.DialOptions{
		Header:           header,
		Origin:           w.givenOrigin,
		Subprotocols:     valid(wanted.subprotocols),
		MaskGenerator:    w.nextMask,
		HandshakeTimeout: openTimeout,
		MaxWriteBuffer:   maxWriteBuffer,
	}}
	ssl := w.ssl
	go d.run(ctx, ssl)
}

// refuse is the end of an Open that has not even begun.
func (w *WebSocket) refuse(kind SocketError, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &connection{w: w}
	if old := w.connection; old != nil {
		w.lose(old)
	}
	c.fail(kind, text)
}

// valid returns the names that may be offered as subprotocols.
func valid(protocols []string) (names []string) {
	for _, p := range protocols {
		if httpguts.ValidHeaderFieldName(p) { // which is a token, too
			names = append(names, p)
		} else {
			slog.Warn("foyer: ignoring an invalid subprotocol", "name", p)
		}
	}
	return names
}

// nextMask returns the mask of the next frame.
func (w *WebSocket) nextMask() uint32 {
	if g := w.MaskGenerator(); g != nil {
		return g.NextMask()
	}
	var mask [4]byte
	rand.Read(mask[:])
	return binary.LittleEndian.Uint32(mask[:])
}

// A dialling is the handshake of one call of Open.
type dialling struct {
	*connection
	url     url.URL
	proxy   NetworkProxy
	options foyer.DialOptions
}

// run makes the handshake, with a user name and password if it takes that.
func (d *dialling) run(ctx context.Context, ssl SslConfiguration) {
	s, resp, err := d.dial(ctx, ssl)
	for asked := 0; asked < 2 && d.authenticate(ctx, resp, err); asked++ {
		s, resp, err = d.dial(ctx, ssl)
	}
	application.post(func() { d.opened(s, err) })
}

func (d *dialling) dial(ctx context.Context, ssl SslConfiguration) (*foyer.Socket, *http.Response, error) {
	u := d.url
	o := d.options
	var names []string // of those that show a certificate, in their order
	o.Proxy = func(r *http.Request) (*url.URL, error) {
		through, err := d.proxy.find(r)
		if through != nil && through.Scheme == "https" {
			names = append([]string{through.Hostname()}, names...)
		}
		return through, err
	}
	if u.Scheme == "wss" {
		names = append(names, u.Hostname())
	}
	o.TLSConfig = d.tlsConfig(ctx, ssl, func() (name string) {
		name, names = names[0], names[1:]
		return name
	})
	if b := activeBackend(); b != nil && u.Scheme == "wss" && d.w.PreSharedKeyAuthenticationRequired.isConnected() {
		u.Scheme = "ws" // for foyer
		if u.Port() == "" {
			u.Host = net.JoinHostPort(u.Hostname(), "443")
		}
		o.Proxy = NetworkProxy{proxyType: NoProxy}.find
		var secured net.Conn
		o.NetDial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			secured = b.Client(conn, ssl, func(a *SslPreSharedKeyAuthenticator) {
				askForKey(ctx, &d.w.PreSharedKeyAuthenticationRequired, a)
			})
			return secured, nil
		}
		s, resp, err := foyer.Dial(ctx, u.String(), &o)
		if err != nil && secured != nil {
			err = failureOf(secured, err)
		}
		return s, resp, err
	}
	return foyer.Dial(ctx, u.String(), &o)
}

// authenticate asks for the user name and password that the server or the proxy wants. It reports whether the slots have
// given one.
func (d *dialling) authenticate(ctx context.Context, resp *http.Response, err error) bool {
	var refusal *foyer.HandshakeError
	if !errors.As(err, &refusal) || resp == nil {
		return false
	}
	w := d.w
	switch refusal.Status {
	case http.StatusProxyAuthRequired:
		a := &Authenticator{user: d.proxy.user, realm: realmOf(resp.Header.Get("Proxy-Authenticate"))} // not read unless wait returns true
		if !wait(ctx, func() {
			w.ProxyAuthenticationRequired.emit(func(slot func(NetworkProxy, *Authenticator)) { slot(d.proxy, a) })
		}) || a.password == "" && a.user == d.proxy.user {
			return false
		}
		d.proxy.user, d.proxy.password = a.user, a.password
	case http.StatusUnauthorized:
		a := &Authenticator{realm: realmOf(resp.Header.Get("WWW-Authenticate"))}
		if d.url.User != nil || !wait(ctx, func() {
			w.AuthenticationRequired.emit(func(slot func(*Authenticator)) { slot(a) })
		}) || a.user == "" && a.password == "" {
			return false
		}
		d.url.User = url.UserPassword(a.user, a.password)
	default:
		return false
	}
	return true
}

// opened is called on the event loop when the handshake is over.
func (c *connection) opened(s *foyer.Socket, err error) {
	c.cancel()
	w := c.w
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.connection != c:
		if s != nil {
			s.Abort()
		}
	case err != nil:
		if a, ok := alertOf(err); ok {
			signal := &w.AlertReceived
			if a.sent {
				signal = &w.AlertSent
			}
			c.emit(func() {
				signal.emit(func(slot func(AlertLevel, AlertType, string)) { slot(AlertFatal, a.kind, a.description) })
			})
		}
		w.connection = nil
		c.fail(errorOf(err))
		c.changeState(UnconnectedState)
		c.emit(func() { w.Disconnected.emit(func(slot func()) { slot() }) })
	default:
		c.socket = s
		s.SetLimits(w.limits())
		c.changeState(ConnectedState)
		c.emit(func() { w.Connected.emit(func(slot func()) { slot() }) })
		application.post(c.begin)
	}
}

// tlsConfig returns config with a verification that asks the slots about errors. next returns the name of the server whose
// certificate is next to be verified.
func (c *connection) tlsConfig(ctx context.Context, config SslConfiguration, next func() string) *tls.Config {
	if config.InsecureSkipVerify {
		return config
	}
	asking := config.Clone()
	asking.InsecureSkipVerify = true // because VerifyConnection verifies
	asking.VerifyPeerCertificate = nil
	asking.VerifyConnection = func(state tls.ConnectionState) (err error) {
		defer func() {
			if v := recover(); v != nil { // in a function of the program
				logPanic(v)
				err = errors.New("a function of the SslConfiguration panicked")
			}
		}()
		name := next()
		if config.ServerName != "" {
			name = config.ServerName
		}
		found, chains := verify(state, config, name)
		if len(found) > 0 && !c.ignores(ctx, found) {
			return errors.New(found[0].text)
		}
		state.VerifiedChains = chains
		if config.VerifyPeerCertificate != nil && !state.DidResume {
			raw := make([][]byte, len(state.PeerCertificates))
			for i, c := range state.PeerCertificates {
				raw[i] = c.Raw
			}
			if err := config.VerifyPeerCertificate(raw, chains); err != nil {
				return err
			}
		}
		if config.VerifyConnection != nil {
			return config.VerifyConnection(state)
		}
		return nil
	}
	return asking
}

// ignores tells the slots what is wrong with the server's certificate, and reports whether the handshake goes on.
func (c *connection) ignores(ctx context.Context, found []SslError) bool {
	w := c.w
	for _, e := range found {
		if w.HandshakeInterruptedOnError.isConnected() && !c.pause(ctx, &c.held, func() {
			w.HandshakeInterruptedOnError.emit(func(slot func(SslError)) { slot(e) })
		}) {
			return false
		}
		if !wait(ctx, func() { w.PeerVerifyError.emit(func(slot func(SslError)) { slot(e) }) }) {
			return false
		}
	}
	report := func() { w.SslErrors.emit(func(slot func([]SslError)) { slot(found) }) }
	if w.PauseMode() == PauseOnSslErrors {
		if !c.pause(ctx, &c.paused, report) {
			return false
		}
	} else if !wait(ctx, report) {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ignoreAll || allIgnored(found, w.ignored)
}

// pause calls f on the event loop, and then waits until what is stored in waits is closed. It reports false when ctx has
// ended before, or f has panicked.
func (c *connection) pause(ctx context.Context, waits *chan struct{}, f func()) bool {
	paused := make(chan struct{})
	set(c.w, waits, paused)
	if !wait(ctx, f) {
		return false
	}
	select {
	case <-paused:
		return true
	case <-ctx.Done():
		return false
	}
}
