package foyer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/gorilla/websocket"
)

// TestRefusals goes through the table of refusals, by way of net/http and of HandleConnection, and reads the answers
// off the connection.
func TestRefusals(t *testing.T) {
	tests := []struct {
		name    string
		handler *Handler
		before  func(*Handler)
		request string
		rawOnly bool

		status int
		code   CloseCode
		is     error
		header map[string]string
	}{
		{name: "shut down", before: func(h *Handler) { h.registry.closed = true }, request: handshakeRequest(),
			status: 503, code: CloseTryAgainLater, is: ErrClosed, header: map[string]string{"Retry-After": "1"}},
		{name: "paused", before: (*Handler).Pause, request: handshakeRequest(),
			status: 503, code: CloseTryAgainLater, is: errPaused, header: map[string]string{"Retry-After": "1"}},
		{name: "too many open", handler: &Handler{MaxOpen: 1}, before: func(h *Handler) { h.registry.reserve(0) }, request: handshakeRequest(),
			status: 503, code: CloseTryAgainLater, is: errMaxOpen, header: map[string]string{"Retry-After": "1"}},
		{name: "pool full", handler: &Handler{MaxPending: 1}, before: func(h *Handler) { h.pool.began = time.Unix(1, 0); h.pool.reserve() }, request: handshakeRequest(),
			status: 503, code: CloseAbnormalClosure, is: ErrPendingFull, header: map[string]string{"Retry-After": "1"}},
		{name: "capacity comes before the request", before: (*Handler).Pause, request: "POST / HTTP/1.1\r\nHost: a\r\n\r\n",
			status: 503, code: CloseTryAgainLater, is: errPaused},
		{name: "POST", request: strings.Replace(handshakeRequest(), "GET", "POST", 1),
			status: 405, code: CloseProtocolError, header: map[string]string{"Allow": "GET"}},
		{name: "HTTP/1.0", request: strings.Replace(handshakeRequest(), "HTTP/1.1", "HTTP/1.0", 1),
			status: 400, code: CloseProtocolError},
		{name: "no Host", rawOnly: true, request: handshakeRequest("Host:"), // net/http refuses by itself
			status: 400, code: CloseProtocolError},
		{name: "two Hosts", rawOnly: true, request: handshakeRequest("Host: a", "Host: b"),
			status: 400, code: CloseProtocolError},
		{name: "body", request: handshakeRequest("Content-Length: 2") + "ab",
			status: 400, code: CloseProtocolError},
		{name: "chunked body", request: handshakeRequest("Transfer-Encoding: chunked") + "0\r\n\r\n",
			status: 400, code: CloseProtocolError},
		{name: "no Connection", request: handshakeRequest("Connection: keep-alive"),
			status: 426, code: CloseProtocolError, header: map[string]string{"Upgrade": "websocket"}},
		{name: "no Upgrade", request: handshakeRequest("Upgrade:"),
			status: 426, code: CloseProtocolError, header: map[string]string{"Upgrade": "websocket"}},
		{name: "upgrade to something else", request: handshakeRequest("Upgrade: h2c, websocketx"),
			status: 426, code: CloseProtocolError, header: map[string]string{"Upgrade": "websocket"}},
		{name: "plain page", request: "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			status: 426, code: CloseProtocolError, header: map[string]string{"Upgrade": "websocket"}},
		{name: "version 8", request: handshakeRequest("Sec-WebSocket-Version: 8"),
			status: 426, code: CloseProtocolError, header: map[string]string{"Sec-Websocket-Version": "13"}},
		{name: "two versions", request: handshakeRequest("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"),
			status: 426, code: CloseProtocolError, header: map[string]string{"Sec-Websocket-Version": "13"}},
		{name: "no version", request: handshakeRequest("Sec-WebSocket-Version:"),
			status: 426, code: CloseProtocolError, header: map[string]string{"Sec-Websocket-Version": "13"}},
		{name: "no key", request: handshakeRequest("Sec-WebSocket-Key:"),
			status: 400, code: CloseProtocolError},
		{name: "two keys", request: handshakeRequest("Sec-WebSocket-Key: "+testKey, "Sec-WebSocket-Key: "+testKey),
			status: 400, code: CloseProtocolError},
		{name: "key of 15 bytes", request: handshakeRequest("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j"),
			status: 400, code: CloseProtocolError},
		{name: "key of 17 bytes", request: handshakeRequest("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZTE="),
			status: 400, code: CloseProtocolError},
		{name: "key that is not base64", request: handshakeRequest("Sec-WebSocket-Key: !GhlIHNhbXBsZSBub25jZQ=="),
			status: 400, code: CloseProtocolError},
		{name: "foreign origin", request: handshakeRequest("Origin: http://evil.example"),
			status: 403, code: ClosePolicyViolation, is: ErrOriginNotAllowed},
		{name: "null origin", request: handshakeRequest("Origin: null"),
			status: 403, code: ClosePolicyViolation, is: ErrOriginNotAllowed},
		{name: "two origins", request: handshakeRequest("Origin: http://example.com", "Origin: http://example.com"),
			status: 403, code: ClosePolicyViolation, is: ErrOriginNotAllowed},
		{name: "not authorized", handler: &Handler{Authorize: func(*http.Request) (http.Header, error) { return nil, io.ErrNoProgress }},
			request: handshakeRequest(), status: 403, code: ClosePolicyViolation, is: io.ErrNoProgress},
		{name: "not authorized, with an answer of its own", handler: &Handler{Authorize: func(*http.Request) (http.Header, error) {
			return http.Header{"Www-Authenticate": {"Bearer"}}, fmt.Errorf("wrapped: %w", &HandshakeError{Status: 401, Code: 4401, Reason: "Log in first."})
		}}, request: handshakeRequest(), status: 401, code: 4401, header: map[string]string{"Www-Authenticate": "Bearer"}},
		{name: "not authorized, with a status that is no refusal", handler: &Handler{Authorize: func(*http.Request) (http.Header, error) {
			return nil, &HandshakeError{Status: 200}
		}}, request: handshakeRequest(), status: 403, code: ClosePolicyViolation},
		{name: "header with a line feed", handler: &Handler{Authorize: func(*http.Request) (http.Header, error) {
			return http.Header{"X-User": {"a\r\nSet-Cookie: b"}}, nil
		}}, request: handshakeRequest(), status: 500, code: CloseInternalServerErr},
		{name: "header with a malformed name", handler: &Handler{Authorize: func(*http.Request) (http.Header, error) {
			return http.Header{"X User": {"a"}}, nil
		}}, request: handshakeRequest(), status: 500, code: CloseInternalServerErr},
		{name: "header of the handshake", handler: &Handler{Authorize: func(*http.Request) (http.Header, error) {
			return http.Header{"sec-websocket-accept": {"a"}}, nil
		}}, request: handshakeRequest(), status: 500, code: CloseInternalServerErr},
		{name: "Origins panics", handler: &Handler{Origins: OriginFunc(func(*http.Request) bool { panic(io.ErrClosedPipe) })},
			request: handshakeRequest(), status: 500, code: CloseInternalServerErr, is: io.ErrClosedPipe},
		{name: "Authorize panics", handler: &Handler{Authorize: func(*http.Request) (http.Header, error) { panic("oh") }},
			request: handshakeRequest(), status: 500, code: CloseInternalServerErr},
		{name: "request line too long", rawOnly: true, request: "GET /" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\n\r\n",
			status: 414, code: CloseMessageTooBig},
		{name: "header line too long", rawOnly: true, request: handshakeRequest("X: " + strings.Repeat("x", 1<<20)),
			status: 431, code: CloseMessageTooBig},
		{name: "too many header lines", rawOnly: true, request: handshakeRequest(strings.Split(strings.Repeat("X: 1\n", 200)+"X: 1", "\n")...),
			status: 431, code: CloseMessageTooBig},
		{name: "request line over 8 KiB", request: strings.Replace(handshakeRequest(), "/chat", "/"+strings.Repeat("x", 9<<10), 1),
			status: 414, code: CloseMessageTooBig},
		{name: "header line over 8 KiB", request: handshakeRequest("X: " + strings.Repeat("x", 9<<10)),
			status: 431, code: CloseMessageTooBig},
		{name: "header over 64 KiB", request: handshakeRequest(strings.Split(strings.Repeat("X: "+strings.Repeat("x", 4<<10)+"\n", 17)+"X: 1", "\n")...),
			status: 431, code: CloseMessageTooBig},
		{name: "too many lines", request: handshakeRequest(strings.Split(strings.Repeat("X: 1\n", 101)+"X: 1", "\n")...),
			status: 431, code: CloseMessageTooBig},
		{name: "Host with an address and more", request: handshakeRequest("Host: 56:...:56]:1234"), status: 400, code: CloseProtocolError},
		{name: "Host with half an address", request: handshakeRequest("Host: [::1"), status: 400, code: CloseProtocolError},
		{name: "Host with two ports", request: handshakeRequest("Host: a:1:2"), status: 400, code: CloseProtocolError},
		{name: "Host with a port that is no number", request: handshakeRequest("Host: a:b"), status: 400, code: CloseProtocolError},
		{name: "an expectation", rawOnly: true, request: handshakeRequest("Expect: foo"), status: 417, code: CloseProtocolError},
		{name: "malformed HTTP", rawOnly: true, request: "\x16\x03\x01 hello\r\n\r\n",
			status: 400, code: CloseProtocolError},
	}
	for _, tt := range tests {
		for _, way := range []string{"ServeHTTP", "HandleConnection"} {
			if tt.rawOnly && way == "ServeHTTP" {
				continue
			}
			t.Run(tt.name+"/"+way, func(t *testing.T) {
				var reported atomic.Pointer[HandshakeError]
				h := &Handler{OnError: func(err error) {
					var refusal *HandshakeError
					if errors.As(err, &refusal) {
						reported.Store(refusal)
					}
				}, ServerName: "foyer-test"}
				if tt.handler != nil {
					h.Origins, h.Authorize, h.MaxPending, h.MaxOpen = tt.handler.Origins, tt.handler.Authorize, tt.handler.MaxPending, tt.handler.MaxOpen
				}
				h.init()
				if tt.before != nil {
					tt.before(h)
				}
				var addr string
				if way == "ServeHTTP" {
					addr = serveHTTP(t, h)
				} else {
					addr = serveOn(t, h)
				}
				resp, br := ask(t, dialTCP(t, addr), tt.request)
				if resp.StatusCode != tt.status || resp.Header.Get("Server") != "foyer-test" || !resp.Close {
					t.Errorf("answer %v, want status %d and the connection closed", resp, tt.status)
				}
				for name, want := range tt.header {
					if got := resp.Header.Get(name); got != want {
						t.Errorf("%s: %q, want %q", name, got, want)
					}
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Errorf("reading the body: %v", err)
				}
				if _, err := br.ReadByte(); err != io.EOF {
					t.Errorf("after the answer: %v, want EOF", err)
				}
				eventually(t, "the report", func() bool { return reported.Load() != nil })
				got := reported.Load()
				if got.Status != tt.status || got.Code != tt.code || string(body) != got.Reason+"\n" {
					t.Errorf("reported %+v, body %q; want code %v", got, body, tt.code)
				}
				if tt.is != nil && !errors.Is(got, tt.is) {
					t.Errorf("reported %v, want %v", got, tt.is)
				}
				if st := h.Stats(); st.Refused[tt.status] != 1 || st.Upgraded != 0 {
					t.Errorf("stats %+v", st)
				}
				if h.LastError() == nil || h.LastError().Error() != got.Error() {
					t.Errorf("last error %v", h.LastError())
				}
			})
		}
	}
}

// serveOn gives h the connections of a listener, also when h is closed.
func serveOn(t testing.TB, h *Handler) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var handling sync.WaitGroup
	t.Cleanup(func() { l.Close(); handling.Wait() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handling.Go(func() { h.HandleConnection(conn) })
		}
	}()
	return l.Addr().String()
}

func TestRefusalsGiveTheirPlaceBack(t *testing.T) {
	h := closeHandler(t, &Handler{MaxPending: 1, MaxOpen: 1})
	addr := serveRaw(t, h)
	for range 3 {
		if resp, _ := ask(t, dialTCP(t, addr), handshakeRequest("Origin: http://evil.example")); resp.StatusCode != 403 {
			t.Fatal(resp.Status)
		}
	}
	if resp, _ := ask(t, dialTCP(t, addr), handshakeRequest()); resp.StatusCode != 101 {
		t.Fatal(resp.Status)
	}
}

func TestOpeningHandshake(t *testing.T) {
	h := closeHandler(t, &Handler{
		ServerName:   "porter/1",
		Subprotocols: []string{"v1", "v2"},
		Authorize: func(r *http.Request) (http.Header, error) {
			return http.Header{"set-cookie": {"a=1", "b=2"}}, nil
		},
	})
	middleware := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", "7")
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Connection", "close")
		h.ServeHTTP(w, r)
	})
	for way, addr := range map[string]string{"ServeHTTP": serveHTTP(t, middleware), "HandleConnection": serveRaw(t, h)} {
		t.Run(way, func(t *testing.T) {
			conn := dialTCP(t, addr)
			resp, _ := ask(t, conn, handshakeRequest("Sec-WebSocket-Protocol: v3, v2", "Sec-WebSocket-Protocol: v1"))
			want := map[string]string{
				"Sec-Websocket-Accept":   "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", // RFC 6455 section 1.3
				"Upgrade":                "websocket",
				"Connection":             "Upgrade",
				"Server":                 "porter/1",
				"Sec-Websocket-Protocol": "v2",
				"Content-Type":           "",
			}
			if way == "ServeHTTP" {
				want["X-Request-Id"] = "7"
			}
			for name, value := range want {
				if got := strings.Join(resp.Header[name], ","); got != value {
					t.Errorf("%s: %q, want %q", name, got, value)
				}
			}
			if resp.StatusCode != 101 || len(resp.Header["Set-Cookie"]) != 2 {
				t.Errorf("answer %v", resp)
			}
			s := accept(t, h)
			if s.Subprotocol() != "v2" || s.Version() != 13 || s.State() != StateOpen || s.Err() != nil || s.CloseCode() != 0 || s.CloseReason() != "" {
				t.Errorf("socket %v %v", s.Subprotocol(), s.State())
			}
			if s.RequestURL().String() != "ws://example.com/chat" || s.Request().Method != "GET" {
				t.Errorf("URL %v", s.RequestURL())
			}
			if s.RemoteAddr().String() != conn.LocalAddr().String() || s.LocalAddr().String() != conn.RemoteAddr().String() || s.Request().RemoteAddr != conn.LocalAddr().String() {
				t.Errorf("addresses %v %v %v", s.RemoteAddr(), s.LocalAddr(), s.Request().RemoteAddr)
			}
			if s.UnderlyingConn().RemoteAddr().String() != s.RemoteAddr().String() {
				t.Error("no way to the connection underneath")
			}
		})
	}
}

func TestNoSubprotocolInCommon(t *testing.T) {
	h := closeHandler(t, &Handler{Subprotocols: []string{"v1", ""}})
	resp, _ := ask(t, dialTCP(t, serveRaw(t, h)), handshakeRequest("Sec-WebSocket-Protocol: v3,, v4"))
	if _, ok := resp.Header["Sec-Websocket-Protocol"]; resp.StatusCode != 101 || ok {
		t.Errorf("answer %v", resp)
	}
}

// TestBytesBehindTheRequest sends the first frames with the request, and everything one byte at a time.
func TestBytesBehindTheRequest(t *testing.T) {
	h := closeHandler(t, &Handler{})
	hijacker := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		h.HandleUpgrade(r, conn, rw)
	})
	long := strings.Repeat("long ", 8000)
	input := handshakeRequest() + string(maskedFrame(0x81, "first")) + string(maskedFrame(0x81, long)) + string(maskedFrame(0x88, "\x03\xe8"))
	for way, addr := range map[string]string{"ServeHTTP": serveHTTP(t, h), "HandleConnection": serveRaw(t, h), "HandleUpgrade": serveHTTP(t, hijacker)} {
		for _, size := range []int{1, len(input)} {
			t.Run(fmt.Sprintf("%s/%d", way, size), func(t *testing.T) {
				conn := dialTCP(t, addr)
				go func() {
					for rest := input; rest != ""; {
						n := min(size, len(rest))
						io.WriteString(conn, rest[:n])
						rest = rest[n:]
					}
				}()
				s := accept(t, h)
				for _, want := range []string{"first", long} {
					if _, p, err := s.Read(t.Context()); err != nil || string(p) != want {
						t.Fatalf("read %d bytes, %v", len(p), err)
					}
				}
				if _, _, err := s.Read(t.Context()); !errors.Is(err, ErrClosed) || s.CloseCode() != CloseNormalClosure {
					t.Errorf("end: %v", err)
				}
			})
		}
	}
}

func TestHandleUpgradeRefusesOnTheConnection(t *testing.T) {
	h := &Handler{}
	ours, theirs := net.Pipe()
	r := httptest.NewRequest("POST", "/", nil)
	failed := make(chan error)
	go func() { failed <- h.HandleUpgrade(r, theirs, nil) }()
	resp, err := http.ReadResponse(bufio.NewReader(ours), nil)
	if err != nil || resp.StatusCode != 405 {
		t.Fatal(resp, err)
	}
	var refusal *HandshakeError
	if err := <-failed; !errors.As(err, &refusal) || refusal.Request != r || !strings.Contains(err.Error(), "405") {
		t.Error(err)
	}
}

func TestUpgradeReturnsTheSocketPastThePool(t *testing.T) {
	h := closeHandler(t, &Handler{MaxPending: 1})
	h.init()
	h.pool.reserve()
	sockets := make(chan *Socket, 1)
	addr := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := h.Upgrade(w, r)
		if err != nil {
			t.Error(err)
		}
		sockets <- s
	}))
	c := dial(t, addr, nil)
	s := <-sockets
	if st := h.Stats(); st.Accepted != 1 || st.Pending != 0 || st.Open != 1 {
		t.Errorf("stats %+v", st)
	}
	s.SendText(t.Context(), "hello")
	if _, p, err := c.ReadMessage(); err != nil || string(p) != "hello" {
		t.Error(string(p), err)
	}
}

// hiding is a ResponseWriter without a way to the connection.
type hiding struct{ http.ResponseWriter }

// wrapping is one with a way.
type wrapping struct{ http.ResponseWriter }

func (w wrapping) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestResponseWriters(t *testing.T) {
	h := closeHandler(t, &Handler{})
	wrapped := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(wrapping{wrapping{w}}, r) }))
	if resp, _ := ask(t, dialTCP(t, wrapped), handshakeRequest()); resp.StatusCode != 101 {
		t.Error(resp.Status)
	}
	hidden := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(wrapping{hiding{w}}, r) }))
	if resp, _ := ask(t, dialTCP(t, hidden), handshakeRequest()); resp.StatusCode != 500 {
		t.Error(resp.Status)
	}
	if err := h.LastError(); !errors.Is(err, http.ErrNotSupported) || !strings.Contains(err.Error(), "foyer.hiding hides") {
		t.Errorf("the error does not name the type: %v", err)
	}
}

func TestRequestOutlivesServeHTTP(t *testing.T) {
	type key struct{}
	h := closeHandler(t, &Handler{})
	values := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "user")))
		})
	}
	mux := http.NewServeMux()
	mux.Handle("/rooms/{room}", values(h))
	router := chi.NewRouter()
	router.Use(values)
	router.Handle("/rooms/{room}", h)
	for name, handler := range map[string]http.Handler{"ServeMux": mux, "chi": router} {
		t.Run(name, func(t *testing.T) {
			addr := serveHTTP(t, handler)
			resp, _ := ask(t, dialTCP(t, addr), strings.Replace(handshakeRequest("X-Thing: 1"), "/chat", "/rooms/attic?q=1", 1))
			s := accept(t, h)
			// Other requests reuse what a router keeps for a request.
			for range 20 {
				if resp, err := http.Get("http://" + addr + "/rooms/cellar"); err != nil || resp.StatusCode != 426 {
					t.Fatal(resp, err)
				}
			}
			r := s.Request()
			if resp.StatusCode != 101 || r.PathValue("room") != "attic" || r.URL.RawQuery != "q=1" || r.Header.Get("X-Thing") != "1" || r.Host != "example.com" {
				t.Errorf("request %+v", r)
			}
			if got := chi.URLParam(r, "room"); got != "" {
				t.Errorf("chi's recycled parameters are reachable: %q", got)
			}
			if r.Context().Value(key{}) != "user" || r.Context().Err() != nil {
				t.Errorf("context %v", r.Context())
			}
		})
	}
}

func TestNothingOfNetHTTPStaysBehind(t *testing.T) {
	h := closeHandler(t, &Handler{})
	collected := make(chan struct{})
	addr := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r2 := r.WithContext(r.Context())
		runtime.AddCleanup(r2, func(struct{}) { close(collected) }, struct{}{})
		h.ServeHTTP(w, r2)
	}))
	dial(t, addr, nil)
	s := accept(t, h)
	eventually(t, "the request to be collected", func() bool {
		runtime.GC()
		select {
		case <-collected:
			return true
		default:
			return false
		}
	})
	runtime.KeepAlive(s)
}

func TestKindsOfConnections(t *testing.T) {
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS()
	defer certificate.Close()
	serverTLS, clientTLS := certificate.TLS.Clone(), certificate.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	serverTLS.NextProtos = nil
	clientTLS.ServerName = "example.com"

	pipe := func(t *testing.T) (net.Conn, net.Conn) { return net.Pipe() }
	network := func(network, addr string) func(*testing.T) (net.Conn, net.Conn) {
		return func(t *testing.T) (net.Conn, net.Conn) {
			if network == "unix" {
				addr = filepath.Join(t.TempDir(), "s")
			}
			l, err := net.Listen(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			ours, err := net.Dial(network, l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			return ours, theirs
		}
	}
	secure := func(plain func(*testing.T) (net.Conn, net.Conn)) func(*testing.T) (net.Conn, net.Conn) {
		return func(t *testing.T) (net.Conn, net.Conn) {
			ours, theirs := plain(t)
			return tls.Client(ours, clientTLS), tls.Server(theirs, serverTLS)
		}
	}
	tcp := network("tcp", "127.0.0.1:0")
	for name, connect := range map[string]func(*testing.T) (net.Conn, net.Conn){
		"tcp": tcp, "unix": network("unix", ""), "pipe": pipe, "tls": secure(tcp), "tls over pipe": secure(pipe),
	} {
		t.Run(name, func(t *testing.T) {
			h := closeHandler(t, &Handler{})
			var serving sync.WaitGroup
			serving.Go(func() { h.ForEach(t.Context(), echo) })
			t.Cleanup(serving.Wait)
			ours, theirs := connect(t)
			defer ours.Close()
			go func() {
				if err := h.HandleConnection(theirs); err != nil {
					t.Error(err)
				}
			}()
			d := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return ours, nil }}
			c, _, err := d.Dial("ws://example.com/", nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{0, 1, 4096, 1 << 20} {
				m := strings.Repeat("m", size)
				if err := c.WriteMessage(websocket.BinaryMessage, []byte(m)); err != nil {
					t.Fatal(err)
				}
				if _, p, err := c.ReadMessage(); err != nil || string(p) != m {
					t.Fatalf("%d bytes: %v", len(p), err)
				}
			}
			c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(4000, "bye"))
			if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 4000) {
				t.Error(err)
			}
			if secure, ok := ours.(*tls.Conn); ok {
				ours = secure.NetConn() // which closes without a goodbye that nobody reads
			}
			ours.Close()
			eventually(t, "the end", func() bool { return h.Stats().Closed[4000] == 1 && h.Stats().Open == 0 })
		})
	}
}

func TestTLSStateIsPartOfTheRequest(t *testing.T) {
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	h := closeHandler(t, &Handler{})
	s := &Server{Handler: h, TLSConfig: certificate.TLS}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d := websocket.Dialer{TLSClientConfig: certificate.Client().Transport.(*http.Transport).TLSClientConfig}
	d.TLSClientConfig.NextProtos = nil
	c, _, err := d.Dial(s.URL().String(), http.Header{"Origin": {"https://" + s.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	socket := accept(t, h)
	if socket.Request().TLS == nil || socket.RequestURL().Scheme != "wss" || socket.Origin() != "https://"+s.Addr().String() {
		t.Errorf("TLS %v, URL %v, origin %q", socket.Request().TLS, socket.RequestURL(), socket.Origin())
	}
}

func TestFailedTLSHandshake(t *testing.T) {
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	errs := make(chan error, 1)
	h := closeHandler(t, &Handler{OnError: func(err error) { errs <- err }, HandshakeTimeout: 50 * time.Millisecond})
	s := &Server{Handler: h, TLSConfig: certificate.TLS}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var failed *TLSError
	io.WriteString(dialTCP(t, s.Addr().String()), "GET / HTTP/1.1\r\n\r\n")
	if err := <-errs; !errors.As(err, &failed) || failed.RemoteAddr == nil || !strings.Contains(err.Error(), "TLS") || errors.Is(err, ErrHandshakeTimeout) {
		t.Error(err)
	}
	dialTCP(t, s.Addr().String())
	if err := <-errs; !errors.As(err, &failed) || !errors.Is(err, ErrHandshakeTimeout) {
		t.Error(err)
	}
}

func TestHandshakeTimeout(t *testing.T) {
	tests := []struct {
		name, sent string
		status     int
	}{
		{"silent", "", 0},
		{"trickling", "GET / HT", 408},
		{"without the empty line", strings.TrimSuffix(handshakeRequest(), "\r\n"), 408},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &Handler{}
				ours, theirs := net.Pipe()
				begin := time.Now()
				failed := make(chan error, 1)
				go func() { failed <- h.HandleConnection(theirs) }()
				go func() {
					for i := range len(tt.sent) {
						if _, err := io.WriteString(ours, tt.sent[i:i+1]); err != nil {
							return
						}
						time.Sleep(time.Millisecond)
					}
				}()
				resp, err := http.ReadResponse(bufio.NewReader(ours), nil)
				if tt.status == 0 && err == nil || tt.status != 0 && (err != nil || resp.StatusCode != tt.status) {
					t.Errorf("answer %v, %v", resp, err)
				}
				var refusal *HandshakeError
				if err := <-failed; !errors.Is(err, ErrHandshakeTimeout) || !errors.As(err, &refusal) || refusal.Code != CloseAbnormalClosure {
					t.Error(err)
				}
				if took := time.Since(begin); took < 10*time.Second || took > 12*time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

func TestHandshakeTimeoutBoundsTheHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{Authorize: func(r *http.Request) (http.Header, error) {
			<-r.Context().Done()
			return nil, nil
		}}
		h.SetHandshakeTimeout(3 * time.Second)
		begin := time.Now()
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		r.Header = http.Header{"Connection": {"upgrade"}, "Upgrade": {"WebSocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {testKey}}
		h.ServeHTTP(w, r)
		if w.Code != http.StatusRequestTimeout || !errors.Is(h.LastError(), ErrHandshakeTimeout) || time.Since(begin) != 3*time.Second {
			t.Error(w.Code, h.LastError(), time.Since(begin))
		}
	})
}

func TestNegativeHandshakeTimeoutIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{HandshakeTimeout: -1}
		ours, theirs := net.Pipe()
		go h.HandleConnection(theirs)
		time.Sleep(24 * time.Hour)
		if resp, _ := ask(t, ours, handshakeRequest()); resp.StatusCode != 101 {
			t.Error(resp.Status)
		}
		h.Close()
	})
}

func TestConnectionThatEndsInTheHandshake(t *testing.T) {
	h := &Handler{}
	ours, theirs := net.Pipe()
	go func() {
		io.WriteString(ours, "GET / HTTP/1.1\r\n")
		ours.Close()
	}()
	var refusal *HandshakeError
	if err := h.HandleConnection(theirs); !errors.As(err, &refusal) || refusal.Status != 0 || !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if h.Stats().Refused[0] != 1 {
		t.Errorf("stats %+v", h.Stats())
	}
}

func TestPauseAndResume(t *testing.T) {
	h := closeHandler(t, &Handler{})
	addr := serveRaw(t, h)
	c := dial(t, addr, nil)
	s := accept(t, h)
	h.Pause()
	if resp, _ := ask(t, dialTCP(t, addr), handshakeRequest()); resp.StatusCode != 503 {
		t.Error(resp.Status)
	}
	s.SendText(t.Context(), "still here")
	if _, p, err := c.ReadMessage(); err != nil || string(p) != "still here" {
		t.Error(string(p), err)
	}
	h.Resume()
	if resp, _ := ask(t, dialTCP(t, addr), handshakeRequest()); resp.StatusCode != 101 {
		t.Error(resp.Status)
	}
}

func TestMaxOpenCountsPendingAndAccepted(t *testing.T) {
	h := closeHandler(t, &Handler{MaxOpen: 2})
	addr := serveRaw(t, h)
	dial(t, addr, nil)
	s := accept(t, h)
	dial(t, addr, nil)
	if resp, _ := ask(t, dialTCP(t, addr), handshakeRequest()); resp.StatusCode != 503 {
		t.Error(resp.Status)
	}
	s.Abort()
	eventually(t, "room", func() bool { return h.Stats().Open == 1 })
	if resp, _ := ask(t, dialTCP(t, addr), handshakeRequest()); resp.StatusCode != 101 {
		t.Error(resp.Status)
	}
}

func TestSetServerName(t *testing.T) {
	h := closeHandler(t, &Handler{ServerName: "one"})
	h.SetServerName("two")
	if resp, _ := ask(t, dialTCP(t, serveRaw(t, h)), handshakeRequest()); resp.Header.Get("Server") != "two" {
		t.Error(resp.Header)
	}
	if h.ServerName != "one" {
		t.Error("the field was changed")
	}
}

func TestPanickingOnErrorIsContained(t *testing.T) {
	var log strings.Builder
	h := closeHandler(t, &Handler{
		OnError: func(error) { panic("in OnError") },
		Logger:  slog.New(slog.NewTextHandler(&log, nil)),
	})
	r := httptest.NewRequest("GET", "/", nil)
	h.ServeHTTP(httptest.NewRecorder(), r)
	if !strings.Contains(log.String(), "in OnError") || !strings.Contains(log.String(), "handshake refused") {
		t.Error(log.String())
	}
	h.config.logger = nil
	h.ServeHTTP(httptest.NewRecorder(), r)
}

func TestForEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reported := make(chan error, 1)
		h := &Handler{OnError: func(err error) { reported <- err }}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		var contexts atomic.Int32
		go func() {
			ended <- h.ForEach(ctx, func(ctx context.Context, s *Socket) {
				switch _, p, _ := s.Read(ctx); string(p) {
				case "panic":
					panic(io.ErrNoProgress)
				case "wait":
					<-ctx.Done()
					contexts.Add(1)
				}
			})
		}()
		say := func(m string) *websocket.Conn {
			c := dialPipe(t, h)
			c.WriteMessage(websocket.TextMessage, []byte(m))
			return c
		}
		if _, _, err := say("return").ReadMessage(); !websocket.IsCloseError(err, 1000) {
			t.Errorf("after return: %v", err)
		}
		if _, _, err := say("panic").ReadMessage(); !websocket.IsCloseError(err, 1011) {
			t.Errorf("after panic: %v", err)
		}
		var panicked *PanicError
		if err := <-reported; !errors.As(err, &panicked) || !errors.Is(err, io.ErrNoProgress) || !strings.Contains(string(panicked.Stack), "TestForEach") || !strings.Contains(err.Error(), "panic") {
			t.Errorf("reported: %v", err)
		}
		gone := say("wait")
		synctest.Wait()
		gone.Close()
		time.Sleep(2 * time.Minute) // its end is noticed, though nobody reads: by the keepalive
		if contexts.Load() != 1 {
			t.Error("the context does not end with the socket")
		}
		left := say("wait")
		synctest.Wait()
		cancel()
		if _, _, err := left.ReadMessage(); !websocket.IsCloseError(err, 1001) {
			t.Errorf("after the context's end: %v", err)
		}
		if err := <-ended; err != context.Canceled || contexts.Load() != 2 {
			t.Errorf("ForEach ended with %v, %d", err, contexts.Load())
		}
		h.Close()
	})
}

func TestSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{}
		for range 3 {
			dialPipe(t, h)
		}
		n := 0
		for s := range h.Incoming(t.Context()) {
			s.Abort()
			if n++; n == 2 {
				break
			}
		}
		if !h.HasPending() || h.Pending() != 1 {
			t.Errorf("%d pending", h.Pending())
		}
		h.Close()
		for range h.Incoming(t.Context()) {
			t.Error("a socket from a closed handler")
		}
	})
}

func TestShutdownSaysGoodbyeToEverySocket(t *testing.T) {
	h := &Handler{}
	addr := serveRaw(t, h)
	read, unread, pending := dial(t, addr, nil), dial(t, addr, nil), dial(t, addr, nil)
	s := accept(t, h)
	go s.Read(context.Background())
	accept(t, h)
	half := dialTCP(t, addr) // in the middle of its handshake
	io.WriteString(half, "GET / HTTP/1.1\r\n")
	eventually(t, "the handshake to begin", func() bool { h.registry.mu.Lock(); defer h.registry.mu.Unlock(); return len(h.registry.entering) == 1 })

	var clients sync.WaitGroup
	for _, c := range []*websocket.Conn{read, unread, pending} {
		clients.Go(func() {
			if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 1001) {
				t.Errorf("client: %v", err)
			}
		})
	}
	if err := h.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	clients.Wait()
	if resp, err := http.ReadResponse(bufio.NewReader(half), nil); err != nil || resp.StatusCode != 503 {
		t.Error(resp, err)
	}
	if _, err := h.Accept(t.Context()); err != ErrClosed {
		t.Error(err)
	}
	if resp, _ := ask(t, dialTCP(t, serveHTTP(t, h)), handshakeRequest()); resp.StatusCode != 503 {
		t.Error(resp.Status)
	}
	if st := h.Stats(); st.Open != 0 || st.Closed[CloseGoingAway] != 3 {
		t.Errorf("stats %+v", st)
	}
	if err := h.Shutdown(t.Context()); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestShutdownCutsOffWhoDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{}
		_, s := connectPipe(t, h)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if err := h.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Error(err, time.Since(begin))
		}
		if s.CloseCode() != CloseAbnormalClosure || !errors.Is(s.Err(), context.DeadlineExceeded) {
			t.Error(s.Err())
		}
	})
}

func TestHandlerClose(t *testing.T) {
	h := &Handler{}
	addr := serveRaw(t, h)
	accepted, pending := dial(t, addr, nil), dial(t, addr, nil)
	s := accept(t, h)
	waiting := make(chan error)
	h2 := &Handler{}
	go func() { _, err := h2.Accept(t.Context()); waiting <- err }()
	go h.Close()
	for _, c := range []*websocket.Conn{accepted, pending} {
		if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 1001) {
			t.Errorf("client: %v", err)
		}
	}
	<-s.Done()
	if s.CloseCode() != CloseGoingAway {
		t.Error(s.Err())
	}
	eventually(t, "Accept to wait", func() bool { h2.pool.mu.Lock(); defer h2.pool.mu.Unlock(); return len(h2.pool.takers) == 1 })
	h2.Close()
	if err := <-waiting; err != ErrClosed {
		t.Error(err)
	}
	if err := h.HandleConnection(dialTCP(t, serveHTTP(t, h))); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// TestSilentConnectionsDoNotDelayAGoodClient holds a thousand handshakes open, half of them silent, half trickling.
func TestSilentConnectionsDoNotDelayAGoodClient(t *testing.T) {
	h := closeHandler(t, &Handler{HandshakeTimeout: time.Minute})
	var serving sync.WaitGroup
	serving.Go(func() { h.ForEach(t.Context(), echo) })
	t.Cleanup(serving.Wait)
	addr := serveRaw(t, h)
	conns := make([]net.Conn, 1000)
	for i := range conns {
		conns[i] = dialTCP(t, addr)
	}
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for i := 0; ; i = (i + 2) % len(conns) {
			select {
			case <-stop:
				return
			default:
				io.WriteString(conns[i], "G")
				time.Sleep(100 * time.Microsecond)
			}
		}
	}()
	eventually(t, "all handshakes to begin", func() bool {
		h.registry.mu.Lock()
		defer h.registry.mu.Unlock()
		return len(h.registry.entering) == len(conns)
	})
	begin := time.Now()
	c := dial(t, addr, nil)
	for range 100 {
		c.WriteMessage(websocket.TextMessage, []byte("hello"))
		if _, _, err := c.ReadMessage(); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("a handshake and 100 echoes took %v", took)
	}
}

// FuzzHandleConnection sends arbitrary bytes to a Handler: whatever comes, the handshake ends, with a socket or an error,
// and the answer is HTTP.
func FuzzHandleConnection(f *testing.F) {
	f.Add([]byte(handshakeRequest()))
	f.Add([]byte(handshakeRequest() + string(maskedFrame(0x81, "hello"))))
	f.Add([]byte(strings.Replace(handshakeRequest(), "GET", "POST", 1)))
	f.Add([]byte(strings.Replace(handshakeRequest(), "1.1", "1.0", 1)))
	for _, line := range []string{"Host: a\r\nHost: b", "Host:", "Content-Length: 1", "Connection: close", "Upgrade: h2c", "Sec-WebSocket-Version: 8",
		"Sec-WebSocket-Key: x", "Origin: http://evil.example", "X: a\rb", "X : a", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
		"Sec-WebSocket-Protocol: a, b", "X: " + strings.Repeat("x", maxLine)} {
		f.Add([]byte(handshakeRequest(line)))
	}
	f.Add([]byte("GET /" + strings.Repeat("x", maxLine) + " HTTP/1.1\r\n\r\n"))
	f.Add([]byte("GET / HTTP/1.1\r\n" + strings.Repeat("X: 1\r\n", 101) + "\r\n"))
	f.Fuzz(func(t *testing.T, input []byte) {
		h := &Handler{Compression: CompressionContextTakeover, Subprotocols: []string{"b"}, HandshakeTimeout: time.Second, CloseTimeout: time.Second}
		ours, theirs := net.Pipe()
		answer := make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(ours)
			answer <- b
		}()
		handled := make(chan error, 1)
		go func() { handled <- h.HandleConnection(theirs) }()
		ours.Write(input)
		ours.SetWriteDeadline(time.Unix(1, 0))
		if !strings.Contains(string(input), "\r\n\r\n") {
			ours.Close() // or it would wait for the rest
		}
		err := <-handled
		if s := h.NextPending(); s != nil {
			for s.Err() == nil {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				_, _, err := s.Read(ctx)
				cancel()
				if err != nil {
					s.Abort()
				}
			}
		} else if err == nil && h.Stats().Upgraded != 1 {
			t.Fatal("neither a socket nor an error")
		}
		ours.Close()
		h.Close()
		if b := <-answer; len(b) > 0 && !strings.HasPrefix(string(b), "HTTP/1.1 ") {
			t.Fatalf("answer %q", b)
		}
	})
}

// TestListsAreReadAsHTTPHasThem is RFC 9110 section 5.6.1: elements may be empty.
func TestListsAreReadAsHTTPHasThem(t *testing.T) {
	h := closeHandler(t, &Handler{MaxPending: -1})
	addr := serveRaw(t, h)
	for _, line := range []string{"Connection: , Upgrade", "Connection: keep-alive,, upgrade", "Upgrade: h2c, WebSocket", "Connection: keep-alive\r\nConnection: Upgrade"} {
		if resp, _ := ask(t, dialTCP(t, addr), handshakeRequest(line)); resp.StatusCode != 101 {
			t.Errorf("%q: %s", line, resp.Status)
		}
	}
}

func TestAbsoluteTargetNeedsAHostToo(t *testing.T) {
	h := closeHandler(t, &Handler{})
	request := strings.Replace(handshakeRequest("Host:"), "/chat", "ws://example.com/chat", 1)
	if resp, _ := ask(t, dialTCP(t, serveRaw(t, h)), request); resp.StatusCode != 400 {
		t.Error(resp.Status)
	}
}

func TestRefusalOverHTTP2(t *testing.T) {
	h := closeHandler(t, &Handler{})
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 426 || resp.ProtoMajor != 2 || resp.Header.Get("Upgrade") != "" || resp.Header.Get("Connection") != "" {
		t.Error(resp)
	}
}

func TestHeadersOfMiddlewareCannotForgeTheAnswer(t *testing.T) {
	h := closeHandler(t, &Handler{})
	addr := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["X-A: b\r\nX-Forged"] = []string{"1"}
		w.Header()["sec-websocket-extensions"] = []string{"x-forged"}
		w.Header()["X-B"] = []string{"c\r\nX-Forged: 1"}
		h.ServeHTTP(w, r)
	}))
	resp, _ := ask(t, dialTCP(t, addr), handshakeRequest())
	if resp.StatusCode != 101 || resp.Header.Get("X-Forged") != "" || resp.Header.Get("Sec-Websocket-Extensions") != "" {
		t.Error(resp)
	}
}

// byValue is a net.Conn that cannot be the key of a map, and that knows no deadlines.
type byValue struct {
	net.Conn
	_ []byte
}

func (byValue) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (byValue) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (byValue) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

func TestConnectionsWithoutDeadlines(t *testing.T) {
	h := closeHandler(t, &Handler{HandshakeTimeout: 50 * time.Millisecond})
	ours, theirs := net.Pipe()
	go h.HandleConnection(byValue{Conn: theirs})
	if resp, _ := ask(t, ours, handshakeRequest()); resp.StatusCode != 101 {
		t.Fatal(resp.Status)
	}
	s := accept(t, h)
	time.Sleep(100 * time.Millisecond)
	if s.State() != StateOpen {
		t.Error("the handshake's timeout ended the socket")
	}
	_, silent := net.Pipe()
	if err := h.HandleConnection(byValue{Conn: silent}); err == nil {
		t.Error("no error")
	}
	ours.Close()
}

func TestTLSConnectionToAClosedHandler(t *testing.T) {
	h := &Handler{}
	h.Close()
	ours, theirs := net.Pipe()
	defer ours.Close()
	if err := h.HandleConnection(tls.Server(theirs, &tls.Config{})); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestShutdownDuringAuthorize(t *testing.T) {
	asked, proceed := make(chan struct{}), make(chan struct{})
	h := &Handler{Authorize: func(*http.Request) (http.Header, error) {
		close(asked)
		<-proceed
		return nil, nil
	}}
	conn := dialTCP(t, serveHTTP(t, h))
	go io.WriteString(conn, handshakeRequest())
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := h.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	close(proceed)
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 503 {
		t.Error(resp, err)
	}
}

// TestHooksThatEndTheirGoroutine is what t.FailNow does in a hook.
func TestHooksThatEndTheirGoroutine(t *testing.T) {
	h := closeHandler(t, &Handler{MaxPending: 1, MaxOpen: 1, Authorize: func(r *http.Request) (http.Header, error) {
		if r.URL.Path == "/exit" {
			runtime.Goexit()
		}
		return nil, nil
	}})
	go h.ForEach(t.Context(), func(context.Context, *Socket) { runtime.Goexit() })
	addr := serveRaw(t, h)
	gone := dialTCP(t, addr)
	io.WriteString(gone, strings.Replace(handshakeRequest(), "/chat", "/exit", 1))
	eventually(t, "the hook's end to be reported", func() bool { return errors.Is(h.LastError(), errHookGoexit) })
	if _, err := gone.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection is open: %v", err)
	}
	if _, _, err := dial(t, addr, nil).ReadMessage(); !websocket.IsCloseError(err, 1011) {
		t.Error(err)
	}
}

// TestViolatorsAreCutOff has clients that break a rule and then stay: nothing of them remains.
func TestViolatorsAreCutOff(t *testing.T) {
	h := closeHandler(t, &Handler{MaxPending: -1})
	go h.ForEach(t.Context(), echo)
	addr := serveRaw(t, h)
	for range 50 {
		conn := dialTCP(t, addr)
		ask(t, conn, handshakeRequest())
		conn.Write([]byte{0xff, 0x80, 0, 0, 0, 0})
	}
	eventually(t, "all to be gone", func() bool { st := h.Stats(); return st.Open == 0 && st.Closed[CloseProtocolError] == 50 })
}

// A boldWriter says that it can be hijacked without having looked whether that is so, and is honest about what it wraps.
type boldWriter struct{ http.ResponseWriter }

func (w boldWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.ResponseWriter(recorderOnly{}).(http.Hijacker).Hijack() // panics
}

func (w boldWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

type recorderOnly struct{ http.ResponseWriter }

func TestHijackersThatPanicAreGoneAround(t *testing.T) {
	h := closeHandler(t, &Handler{})
	dial(t, serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(boldWriter{w}, r) })), nil)
	accept(t, h)

	failed := make(chan error, 1)
	h = closeHandler(t, &Handler{OnError: func(err error) { failed <- err }})
	addr := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(boldWriter{recorderOnly{w}}, r) }))
	resp, _ := ask(t, dialTCP(t, addr), handshakeRequest())
	if err := <-failed; resp.StatusCode != 500 || !strings.Contains(err.Error(), "foyer.recorderOnly hides http.Hijacker") {
		t.Error(resp.StatusCode, err)
	}
}

func TestHandleUpgradeOfAStream(t *testing.T) {
	h := closeHandler(t, &Handler{})
	ours, theirs := net.Pipe()
	defer ours.Close()
	r := httptest.NewRequest(http.MethodConnect, "/", nil)
	r.ProtoMajor, r.ContentLength = 2, -1
	r.Header = http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}}
	go io.Copy(io.Discard, ours)
	var refusal *HandshakeError
	if err := h.HandleUpgrade(r, theirs, nil); !errors.As(err, &refusal) || refusal.Status != http.StatusHTTPVersionNotSupported {
		t.Error(err)
	}
}
