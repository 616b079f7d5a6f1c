package foyer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/proxy"
)

// connect makes the connection to the server, TLS included. A proxy's refusal comes with its answer.
func (o *DialOptions) connect(ctx context.Context, u *url.URL) (net.Conn, *http.Response, error) {
	asked := &url.URL{Scheme: "http", Host: u.Host, Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}
	if u.Scheme == "wss" {
		asked.Scheme = "https"
	}
	find := o.Proxy
	if find == nil {
		find = http.ProxyFromEnvironment
	}
	through, err := find(&http.Request{Method: http.MethodGet, URL: asked, Host: u.Host, Header: make(http.Header)})
	if err != nil {
		return nil, nil, fmt.Errorf("foyer: dial: proxy: %w", err)
	}
	var conn net.Conn
	var resp *http.Response
	if through == nil {
		conn, err = o.netDial(ctx, "tcp", hostPort(asked))
	} else {
		conn, resp, err = o.tunnel(ctx, through, hostPort(asked))
	}
	if err == nil && u.Scheme == "wss" {
		conn, err = o.secure(ctx, conn, u.Hostname())
	}
	if err != nil {
		return nil, resp, dialError(u, err)
	}
	return conn, nil, nil
}

// hostPort returns host and port of an http or https URL.
func hostPort(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	case u.Scheme == "http":
		port = "80"
	default:
		port = "1080"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func (o *DialOptions) netDial(ctx context.Context, network, addr string) (net.Conn, error) {
	if o.NetDial != nil {
		return o.NetDial(ctx, network, addr)
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// secure performs the TLS handshake on conn, and closes it when that fails.
func (o *DialOptions) secure(ctx context.Context, conn net.Conn, host string) (net.Conn, error) {
	config := o.TLSConfig.Clone()
	if config == nil {
		config = new(tls.Config)
	}
	if config.ServerName == "" {
		config.ServerName = host
	}
	if len(config.NextProtos) == 0 {
		config.NextProtos = []string{"http/1.1"}
	}
	t := tls.Client(conn, config)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, &TLSError{Err: err, RemoteAddr: conn.RemoteAddr()}
	}
	return t, nil
}

// A dialFunc is a proxy.Dialer.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

func (f dialFunc) Dial(network, addr string) (net.Conn, error) { return f(background, network, addr) }
func (f dialFunc) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return f(ctx, network, addr)
}

// tunnel makes a connection to addr through a proxy.
func (o *DialOptions) tunnel(ctx context.Context, through *url.URL, addr string) (net.Conn, *http.Response, error) {
	switch through.Scheme {
	case "socks5", "socks5h":
		var auth *proxy.Auth
		if through.User != nil {
			auth = &proxy.Auth{User: through.User.Username()}
			auth.Password, _ = through.User.Password()
		}
		dialer, err := proxy.SOCKS5("tcp", hostPort(through), auth, dialFunc(o.netDial))
		if err != nil {
			return nil, nil, err
		}
		conn, err := dialer.(proxy.ContextDialer).DialContext(ctx, "tcp", addr)
		return conn, nil, err
	case "http", "https":
	default:
		return nil, nil, fmt.Errorf("proxy: the scheme of %q is not http, https or socks5", through.Redacted())
	}
	conn, err := o.netDial(ctx, "tcp", hostPort(through))
	if err == nil && through.Scheme == "https" {
		conn, err = o.secure(ctx, conn, through.Hostname())
	}
	if err != nil {
		return nil, nil, fmt.Errorf("proxy: %w", err)
	}
	resp, err := connectThrough(ctx, conn, through.User, addr)
	if err != nil {
		conn.Close()
		return nil, resp, err
	}
	return conn, nil, nil
}

// connectThrough asks the proxy at the other end of conn for a tunnel to addr, RFC 9110 section 9.3.6.
func connectThrough(ctx context.Context, conn net.Conn, user *url.Userinfo, addr string) (*http.Response, error) {
	ask := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: make(http.Header)}
	if user != nil {
		ask.Header.Set("Proxy-Authorization", basicAuth(user))
	}
	interrupt := context.AfterFunc(ctx, func() {
		if conn.SetDeadline(time.Unix(1, 0)) != nil {
			conn.Close() // which knows no deadlines
		}
	})
	defer interrupt()
	if err := ask.Write(conn); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	ask.Header.Del("Proxy-Authorization") // the request goes to the program with a refusal
	r := bufio.NewReaderSize(io.LimitReader(conn, maxHead), 1<<10)
	resp, err := http.ReadResponse(r, ask)
	for err == nil && resp.StatusCode/100 == 1 && resp.StatusCode != http.StatusSwitchingProtocols { // an interim answer
		resp, err = http.ReadResponse(r, ask)
	}
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		conn.SetReadDeadline(time.Now().Add(bodyTime))
		keepBodyStart(resp)
		refusal := refusedBy("proxy", resp)
		refusal.target = addr
		return resp, refusal
	}
	if r.Buffered() > 0 {
		return nil, errors.New("proxy: bytes behind its answer that nobody has asked for")
	}
	if !interrupt() {
		return nil, ctx.Err()
	}
	return nil, nil
}

// keepBodyStart reads the beginning of a refusal's body, so that its connection can be closed.
func keepBodyStart(resp *http.Response) {
	start, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	resp.Body = io.NopCloser(strings.NewReader(string(start)))
}
