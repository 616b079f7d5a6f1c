package foyer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/foyerws/foyer/internal/wstest"
)

// TestRefusals goes through the table of refusals, by way of net/http and of HandleConnection, and reads the answers
// off the connection.
func TestRefusals(t *testing.T) {
	t.Parallel()
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
				t.Parallel()
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
			if s.Subprotocol() != "v2" || s.State() != StateOpen || s.Err() != nil || closeCode(s) != 0 || closeReason(s) != "" {
				t.Errorf("socket %v %v", s.Subprotocol(), s.State())
			}
			if r := s.Request(); r.Host != "example.com" || r.URL.String() != "/chat" || r.Method != "GET" {
				t.Errorf("URL %v", r.URL)
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
	besideOthers(t)
	h := closeHandler(t, &Handler{})
	hijacker := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		h.HandleUpgrade(r, conn, rw)
	})
	long := strings.Repeat("long ", 8000)
	input := handshakeRequest() + string(wstest.Masked(0x81, "first")) + string(wstest.Masked(0x81, long)) + string(wstest.Masked(0x88, "\x03\xe8"))
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
				if _, _, err := s.Read(t.Context()); !errors.Is(err, ErrClosed) || closeCode(s) != CloseNormalClosure {
					t.Errorf("end: %v", err)
				}
			})
		}
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
