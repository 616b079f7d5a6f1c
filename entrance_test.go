package foyer

import (
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A client that has connected and says nothing has no goroutine on Linux, and is let go at the deadline.
func TestSilentClients(t *testing.T) {
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
