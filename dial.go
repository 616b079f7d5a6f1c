package foyer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/wire"
)

// DialOptions are options of [Dial]. The zero value works.
type DialOptions struct {
	// Added to the request; its "Host" replaces the URL's.
	Header http.Header

	// The Origin header.
	Origin string

	// Offered in this order.
	Subprotocols []string

	// For wss and https proxies. Nil trusts the system's certificates.
	TLSConfig *tls.Config

	// Supplies and stores cookies.
	Jar http.CookieJar

	// Returns nil or the proxy (http, https, socks5). The request's URL has http for ws, https for wss. Default:
	// http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)

	// Opens the connection to server or proxy, before TLS. Default: a net.Dialer.
	NetDial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Returns each frame's mask (RFC 6455 section 5.3). Default: crypto/rand. Predictable masks can mislead old
	// proxies.
	MaskGenerator func() uint32

	// Limits Dial. Default: 10 seconds.
	HandshakeTimeout time.Duration

	// As in [Handler].
	PingInterval, PongTimeout, CloseTimeout time.Duration
	MaxMessageSize, MaxFrameSize            int64
	MaxWriteBuffer, OutgoingFrameSize       int

	// Offered; the server selects.
	Compression                            CompressionMode
	CompressionLevel, CompressionThreshold int

	// Gets panics. Default: slog.Default().
	Logger *slog.Logger
}

// Dial opens a socket to a ws, wss, http or https URL (RFC 6455 section 4.1). Its user and password become basic
// authentication. ctx limits only Dial; o may be nil.
//
// A refusal, redirect or invalid answer is a *HandshakeError; the response's body, up to 1 KiB, needs no Close. Other
// errors include *TLSError, ErrHandshakeTimeout and ctx's.
func Dial(ctx context.Context, target string, o *DialOptions) (*Socket, *http.Response, error) {
	if o == nil {
		o = new(DialOptions)
	}
	u, header, err := o.request(target)
	if err != nil {
		return nil, nil, err
	}
	cfg, err := o.config()
	if err != nil {
		return nil, nil, err
	}
	if timeout := orDefault(o.HandshakeTimeout, defaultHandshakeTimeout); timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, ErrHandshakeTimeout)
		defer cancel()
	}
	s, resp, err := o.dial(ctx, cfg, u, header)
	if deadline, ok := ctx.Deadline(); ok && err != nil && !time.Now().Before(deadline) {
		<-ctx.Done() // its timer may be later than that of a connection
	}
	var refusal *HandshakeError
	if err != nil && ctx.Err() != nil && !errors.As(err, &refusal) {
		err = &dialFailure{targetOf(u), context.Cause(ctx)}
	}
	return s, resp, err
}

// request returns the URL to ask for and the header to send.
func (o *DialOptions) request(target string) (*url.URL, http.Header, error) {
	u, err := url.Parse(target)
	if err != nil {
		var malformed *url.Error
		if errors.As(err, &malformed) {
			err = malformed.Err // without the URL, which may have a password in it
		}
		return nil, nil, fmt.Errorf("foyer: dial: malformed URL: %w", err)
	}
	switch u.Scheme {
	case "http":
		u.Scheme = "ws"
	case "https":
		u.Scheme = "wss"
	}
	switch {
	case u.Scheme == "":
		return nil, nil, errors.New("foyer: dial: the URL has no scheme, such as ws://")
	case u.Scheme != "ws" && u.Scheme != "wss":
		return nil, nil, fmt.Errorf("foyer: dial: the scheme %q is not ws, wss, http or https", u.Scheme)
	case u.Opaque != "":
		return nil, nil, errors.New("foyer: dial: malformed URL: no // behind the scheme") // there may be a password in it
	case u.Hostname() == "":
		return nil, nil, fmt.Errorf("foyer: dial: no host in %q", targetOf(u))
	case strings.Contains(target, "#"):
		return nil, nil, fmt.Errorf("foyer: dial: a fragment in %q (RFC 6455 section 3)", targetOf(u))
	}
	if u.Host, err = httpguts.PunycodeHostPort(u.Host); err != nil {
		return nil, nil, errors.New("foyer: dial: malformed host")
	}
	header := make(http.Header)
	for name, values := range o.Header {
		name = textproto.CanonicalMIMEHeaderKey(name)
		if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			return nil, nil, fmt.Errorf("foyer: dial: malformed header %q", name)
		}
		if handshakeHeaders[name] {
			return nil, nil, fmt.Errorf("foyer: dial: the header %s belongs to the handshake", name)
		}
		header[name] = append(header[name], values...)
	}
	if host := header["Host"]; len(host) > 1 || len(host) == 1 && !(httpguts.ValidHostHeader(host[0]) && validHost(host[0])) {
		return nil, nil, errors.New(`foyer: dial: malformed header "Host"`)
	}
	for _, name := range o.Subprotocols {
		if !httpguts.ValidHeaderFieldName(name) { // which is a token, too
			return nil, nil, fmt.Errorf("foyer: dial: malformed subprotocol %q", name)
		}
	}
	if o.Origin != "" {
		if !httpguts.ValidHeaderFieldValue(o.Origin) {
			return nil, nil, errors.New("foyer: dial: malformed Origin")
		}
		header.Set("Origin", o.Origin)
	}
	if u.User != nil {
		header.Set("Authorization", basicAuth(u.User))
		u.User = nil
	}
	return u, header, nil
}

// basicAuth returns the value of a header for basic authentication, RFC 7617.
func basicAuth(user *url.Userinfo) string {
	password, _ := user.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
}

// dial makes the connection and performs the handshake on it.
func (o *DialOptions) dial(ctx context.Context, cfg *config, u *url.URL, header http.Header) (*Socket, *http.Response, error) {
	conn, resp, err := o.connect(ctx, u)
	if err != nil {
		return nil, resp, err
	}
	c := wire.New(conn, nil)
	c.Open()
	interrupt := context.AfterFunc(ctx, c.Interrupt)
	resp, deflate, err := o.handshake(ctx, c, cfg, u, header)
	if !interrupt() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Abandon()
		return nil, resp, err
	}
	s := newSocket(c, cfg, keepSent(resp.Request, conn), resp.Header.Get("Sec-Websocket-Protocol"), deflate)
	cfg.registry.reserve(0)
	cfg.registry.add(s)
	return s, resp, nil
}

// config returns what a dialled socket is held to.
func (o *DialOptions) config() (*config, error) {
	cfg := &config{
		maxWrite:     o.MaxWriteBuffer,
		compression:  o.Compression,
		level:        o.CompressionLevel,
		threshold:    o.CompressionThreshold,
		pingInterval: o.PingInterval,
		pongTimeout:  o.PongTimeout,
		closeTimeout: o.CloseTimeout,
		logger:       o.Logger,
		registry:     new(registry),
	}
	return cfg, cfg.complete(false, Limits{o.MaxMessageSize, o.MaxFrameSize, o.OutgoingFrameSize}, cfg.containedMask(o.MaskGenerator))
}

// containedMask returns a generator of masks that does not panic, and is called by one goroutine at a time.
func (c *config) containedMask(generate func() uint32) func() uint32 {
	if generate == nil {
		return frame.RandomKey
	}
	var mu sync.Mutex
	return func() (mask uint32) {
		mu.Lock()
		defer mu.Unlock()
		defer func() {
			if v := recover(); v != nil {
				c.reportPanic("MaskGenerator", nil, v)
				mask = frame.RandomKey()
			}
		}()
		return generate()
	}
}

// keepSent returns the record of a request that was sent.
func keepSent(r *http.Request, conn net.Conn) record {
	sent := *r
	sent.Header = make(http.Header)
	for name, values := range r.Header { // which are spelled as RFC 6455 does
		sent.Header[textproto.CanonicalMIMEHeaderKey(name)] = values
	}
	sent.RemoteAddr = address(conn.RemoteAddr())
	if t, ok := conn.(*tls.Conn); ok {
		state := t.ConnectionState()
		sent.TLS = &state
	}
	return keepBase(&sent)
}

// handshake asks for the upgrade on c, and checks the answer (RFC 6455 section 4.1).
func (o *DialOptions) handshake(ctx context.Context, c *wire.Conn, cfg *config, u *url.URL, header http.Header) (*http.Response, *compression, error) {
	failed := func(err error) error { return &dialFailure{targetOf(u), err} }
	asked, key := o.ask(u, header)
	var sent bytes.Buffer
	if err := asked.Write(&sent); err != nil {
		return nil, nil, failed(err)
	}
	if err := c.Write(sent.Bytes()); err != nil {
		return nil, nil, failed(err)
	}
	if err := c.Flush(ctx); err != nil {
		return nil, nil, failed(err)
	}
	head, err := readHead(c)
	if err != nil {
		return nil, nil, failed(err)
	}
	answer := bufio.NewReader(io.MultiReader(bytes.NewReader(head), &bodyReader{conn: c}))
	resp, err := http.ReadResponse(answer, asked)
	if err != nil {
		return nil, nil, failed(err)
	}
	if o.Jar != nil {
		if cookies := resp.Cookies(); len(cookies) > 0 {
			o.Jar.SetCookies(asked.URL, cookies)
		}
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		keepBodyStart(resp)
		refusal := refusedBy("server", resp)
		refusal.target = targetOf(u)
		return resp, nil, refusal
	}
	resp.Body = http.NoBody
	deflate, err := o.checkAnswer(cfg, resp, head, key)
	if err != nil {
		return resp, nil, &HandshakeError{Status: resp.StatusCode, Code: CloseProtocolError,
			Reason: "The answer is not that of a WebSocket server.", Err: err, Request: asked, target: targetOf(u)}
	}
	return resp, deflate, nil
}

// ask returns the request for the upgrade, and the value of Sec-WebSocket-Key in it.
func (o *DialOptions) ask(u *url.URL, header http.Header) (r *http.Request, key string) {
	asked := *u
	asked.Scheme = "http"
	if u.Scheme == "wss" {
		asked.Scheme = "https"
	}
	host := u.Host
	if named := header["Host"]; len(named) > 0 {
		host = named[0]
		delete(header, "Host")
	}
	r = &http.Request{Method: http.MethodGet, URL: &asked, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, Host: host}
	if o.Jar != nil {
		for _, cookie := range o.Jar.Cookies(&asked) {
			r.AddCookie(cookie)
		}
	}
	var random [16]byte
	rand.Read(random[:])
	key = base64.StdEncoding.EncodeToString(random[:])
	header["Upgrade"] = []string{"websocket"}
	header["Connection"] = []string{"Upgrade"}
	header["Sec-WebSocket-Key"] = []string{key}
	header["Sec-WebSocket-Version"] = []string{"13"}
	if len(o.Subprotocols) > 0 {
		header["Sec-WebSocket-Protocol"] = []string{strings.Join(o.Subprotocols, ", ")}
	}
	if o.Compression != CompressionDisabled {
		header["Sec-WebSocket-Extensions"] = []string{frame.Offer(o.Compression == CompressionContextTakeover)}
	}
	return r, key
}

// targetOf returns a URL without its user and its query, for errors.
func targetOf(u *url.URL) string { return clip(u.Scheme + "://" + u.Host + u.EscapedPath()) }

// dialError adds to err what was dialled, unless err is one of ours.
func dialError(u *url.URL, err error) error {
	var refusal *HandshakeError
	var insecure *TLSError
	if errors.As(err, &refusal) || errors.As(err, &insecure) {
		return err
	}
	return &dialFailure{targetOf(u), err}
}

// A dialFailure says what was dialled.
type dialFailure struct {
	target string
	err    error
}

func (f *dialFailure) Error() string { return errorText("foyer: dial "+f.target, inner(f.err)) }
func (f *dialFailure) Unwrap() error { return f.err }
