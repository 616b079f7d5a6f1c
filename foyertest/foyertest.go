// Package foyertest provides test servers and in-memory socket pairs, as net/http/httptest does for HTTP.
package foyertest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"strings"
	"testing"
	"time"

	"github.com/foyerws/foyer"
)

// patience is for how long a test is made to wait before it fails.
const patience = 10 * time.Second

// A Server serves a handler on this machine, over ws and wss.
type Server struct {
	URL       string      // ws://127.0.0.1:port
	SecureURL string      // wss://127.0.0.1:port
	TLSConfig *tls.Config // trusts the certificate behind SecureURL
}

// NewServer serves h until the test ends. If h is a *foyer.Handler, it is closed when the test ends. h may also be a
// router or middleware that contains a Handler.
func NewServer(t testing.TB, h http.Handler) *Server {
	t.Helper()
	plain, secure := httptest.NewServer(h), httptest.NewUnstartedServer(h)
	secure.StartTLS()
	t.Cleanup(func() {
		if closer, ok := h.(io.Closer); ok {
			closer.Close()
		}
		plain.Close()
		secure.Close()
	})
	return &Server{
		URL:       "ws" + strings.TrimPrefix(plain.URL, "http"),
		SecureURL: "wss" + strings.TrimPrefix(secure.URL, "https"),
		TLSConfig: secure.Client().Transport.(*http.Transport).TLSClientConfig,
	}
}

// Dial opens a socket to s and aborts it when the test ends. path is the path and query of the URL, such as
// "/chat?room=1". o may be nil. A refusal fails the test.
func (s *Server) Dial(t testing.TB, path string, o *foyer.DialOptions) *foyer.Socket {
	t.Helper()
	return Dial(t, s.URL+path, o)
}

// DialSecure is Dial over wss.
func (s *Server) DialSecure(t testing.TB, path string, o *foyer.DialOptions) *foyer.Socket {
	t.Helper()
	var trusting foyer.DialOptions
	if o != nil {
		trusting = *o
	}
	if trusting.TLSConfig == nil {
		trusting.TLSConfig = s.TLSConfig
	}
	return Dial(t, s.SecureURL+path, &trusting)
}

// Dial opens a socket to url and aborts it when the test ends. If the server refuses, Dial fails the test and reports
// the server's response.
func Dial(t testing.TB, url string, o *foyer.DialOptions) *foyer.Socket {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, resp, err := foyer.Dial(ctx, url, o)
	if err != nil {
		body := ""
		if resp != nil {
			b, _ := io.ReadAll(resp.Body)
			body = "\n" + resp.Status + "\n" + string(b)
		}
		t.Fatalf("dialling %s: %v%s", url, err, body)
	}
	t.Cleanup(func() { s.Abort() })
	return s
}

// Pair returns two connected sockets over an in-memory connection, without a port. The server end belongs to h. The
// handshake is a real one, for ws://example.com/, so the limits, Origins, Authorize and keepalive of h apply. The
// server's socket does not go through the pool of h. Pair works in a testing/synctest bubble, where keepalive and
// timeouts use fake time. Both sockets are aborted when the test ends.
func Pair(t testing.TB, h *foyer.Handler) (client, server *foyer.Socket) {
	t.Helper()
	return PairWith(t, h, "ws://example.com/", nil)
}

// PairWith is like Pair, with a URL and options for the client. NetDial and Proxy have no effect.
func PairWith(t testing.TB, h *foyer.Handler, url string, o *foyer.DialOptions) (client, server *foyer.Socket) {
	t.Helper()
	var options foyer.DialOptions
	if o != nil {
		options = *o
	}
	type upgraded struct {
		s   *foyer.Socket
		err error
	}
	served := make(chan upgraded, 1)
	options.Proxy = func(*http.Request) (*neturl.URL, error) { return nil, nil }
	options.NetDial = func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			s, err := upgrade(h, theirs)
			served <- upgraded{s, err}
		}()
		return ours, nil
	}
	t.Cleanup(func() {
		if server == nil { // the client has failed; the server may not
			select {
			case end := <-served:
				if end.s != nil {
					end.s.Abort()
				}
			default:
			}
		}
	})
	client = Dial(t, url, &options)
	end := <-served
	if end.err != nil {
		t.Fatal(end.err)
	}
	server = end.s
	t.Cleanup(func() { server.Abort() })
	return client, server
}

// upgrade serves one request on conn.
func upgrade(h *foyer.Handler, conn net.Conn) (*foyer.Socket, error) {
	r := bufio.NewReader(conn)
	request, err := http.ReadRequest(r)
	if err != nil {
		conn.Close()
		return nil, err
	}
	request.RemoteAddr = conn.RemoteAddr().String()
	w := &response{conn: conn, rw: bufio.NewReadWriter(r, bufio.NewWriter(conn)), header: make(http.Header)}
	s, err := h.Upgrade(w, request)
	if err != nil {
		w.finish()
	}
	return s, err
}

// Ended waits until s has ended, and returns how. After 10 seconds it fails the test.
func Ended(t testing.TB, s *foyer.Socket) *foyer.CloseError {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("foyertest: the socket has not ended")
	}
	var end *foyer.CloseError
	errors.As(s.Err(), &end)
	return end
}

// A response is an http.ResponseWriter on a connection that can be hijacked.
type response struct {
	conn   net.Conn
	rw     *bufio.ReadWriter
	header http.Header
	status int
	body   strings.Builder
	taken  bool
}

func (w *response) Header() http.Header         { return w.header }
func (w *response) WriteHeader(status int)      { w.status = status }
func (w *response) Write(p []byte) (int, error) { return w.body.Write(p) }

func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.taken = true
	return w.conn, w.rw, nil
}

// finish sends a refusal.
func (w *response) finish() {
	defer w.conn.Close()
	if w.taken {
		return
	}
	answer := http.Response{
		StatusCode: w.status, ProtoMajor: 1, ProtoMinor: 1, Header: w.header, Close: true,
		ContentLength: int64(w.body.Len()), Body: io.NopCloser(strings.NewReader(w.body.String())),
	}
	answer.Write(w.conn)
}
