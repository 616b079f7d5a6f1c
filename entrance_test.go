package foyer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// A client that has connected and says nothing has no goroutine on Linux, and is let go at the deadline.
func TestSilentClients(t *testing.T) {
	slow(t)
	const clients = 200
	h := &Handler{HandshakeTimeout: 2 * time.Second}
	s := &Server{Handler: h}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before := runtime.NumGoroutine()
	var silent []net.Conn
	for range clients {
		silent = append(silent, dialTCP(t, s.Addr().String()))
	}
	eventually(t, "all to be accepted", func() bool {
		h.registry.mu.Lock()
		defer h.registry.mu.Unlock()
		return len(h.registry.entering) == clients
	})
	if n := runtime.NumGoroutine() - before; runtime.GOOS == "linux" && n > 20 {
		t.Errorf("%d goroutines for %d silent clients", n, clients)
	}
	for _, conn := range silent {
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); n > 0 || err != io.EOF {
			t.Fatal(n, err)
		}
	}
	eventually(t, "all to be counted", func() bool { return h.Stats().Refused[0] == clients })
}

// A request that does not come at once, or cannot be answered at once, gets the same answer as one that can.
func TestRequestsThatALoopCannotAnswer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		handler *Handler
		pieces  int
		request string
		status  string
	}{
		"in two pieces":                  {pieces: 2, status: "101"},
		"byte by byte":                   {pieces: 1000, status: "101"},
		"a hook":                         {handler: &Handler{Authorize: func(*http.Request) (http.Header, error) { return nil, nil }}, pieces: 1, status: "101"},
		"an origin hook":                 {handler: &Handler{Origins: OriginFunc(func(*http.Request) bool { return true })}, pieces: 1, status: "101"},
		"refused":                        {pieces: 1, request: strings.Replace(handshakeRequest(), "13", "12", 1), status: "426"},
		"malformed":                      {pieces: 1, request: "GET / HTTP/1.1\n\n", status: "400"},
		"malformed, in the second piece": {pieces: 2, request: "GET / HTTP/1.1\r\nHost: " + strings.Repeat("x", 100) + "\n\n", status: "400"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := test.handler
			if h == nil {
				h = new(Handler)
			}
			s := &Server{Handler: h}
			if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			conn := dialTCP(t, s.Addr().String())
			request := test.request
			if request == "" {
				request = handshakeRequest()
			}
			size := max(len(request)/test.pieces, 1)
			for len(request) > 0 {
				n := min(size, len(request))
				io.WriteString(conn, request[:n])
				request = request[n:]
				if test.pieces < 10 {
					time.Sleep(20 * time.Millisecond)
				}
			}
			answer := make([]byte, len("HTTP/1.1 101"))
			conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.ReadFull(conn, answer); err != nil || !strings.HasSuffix(string(answer), test.status) {
				t.Errorf("%q, %v", answer, err)
			}
		})
	}
}

// A handshake that finds the pool full waits, whoever has read its request.
func TestHandshakeOfALoopWaitsForAPlace(t *testing.T) {
	t.Parallel()
	h := &Handler{MaxPending: 1}
	s := &Server{Handler: h}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dial(t, s.Addr().String(), nil)
	conn := dialTCP(t, s.Addr().String())
	io.WriteString(conn, handshakeRequest())
	eventually(t, "the second to wait", func() bool {
		h.pool.mu.Lock()
		defer h.pool.mu.Unlock()
		return len(h.pool.waiters) == 1
	})
	accept(t, h)
	answer := make([]byte, len("HTTP/1.1 101"))
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "HTTP/1.1 101" {
		t.Errorf("%q, %v", answer, err)
	}
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
	if r := socket.Request(); r.TLS == nil || r.Header.Get("Origin") != "https://"+s.Addr().String() {
		t.Errorf("TLS %v, origin %q", r.TLS, r.Header.Get("Origin"))
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

// byValue is a net.Conn that cannot be the key of a map, and that knows no deadlines.
type byValue struct {
	net.Conn
	_ []byte
}

func (byValue) SetDeadline(time.Time) error { return os.ErrNoDeadline }

func (byValue) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

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
	t.Parallel()
	h := &Handler{}
	h.Close()
	ours, theirs := net.Pipe()
	defer ours.Close()
	if err := h.HandleConnection(tls.Server(theirs, &tls.Config{})); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// Connections that come to a Handler that is closed are not counted among those that Shutdown waits for.
func TestConnectionsToAClosedHandler(t *testing.T) {
	var h Handler
	h.Close()
	for range 3 {
		ours, theirs := net.Pipe()
		go io.Copy(io.Discard, theirs)
		if err := h.HandleConnection(ours); err == nil {
			t.Error("let in")
		}
		theirs.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := h.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if h.registry.handling != 0 {
		t.Errorf("%d handshakes are under way", h.registry.handling)
	}
}

// A Server may be closed while connections are on their way through the door.
func TestServerClosesWhileTheyCome(t *testing.T) {
	for round := range 200 {
		h := new(Handler)
		s := &Server{Handler: h}
		if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		addr := s.Addr().String()
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				if conn, err := net.Dial("tcp", addr); err == nil {
					conn.SetDeadline(time.Now().Add(10 * time.Second))
					io.Copy(io.Discard, conn)
					conn.Close()
				}
			})
		}
		time.Sleep(time.Duration(round%20) * 20 * time.Microsecond)
		h.Close()
		s.Close()
		clients.Wait()
	}
}
