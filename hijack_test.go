package foyer

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
)

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
	var last lastError
	h := closeHandler(t, &Handler{OnError: last.set})
	wrapped := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(wrapping{wrapping{w}}, r) }))
	if resp, _ := ask(t, dialTCP(t, wrapped), handshakeRequest()); resp.StatusCode != 101 {
		t.Error(resp.Status)
	}
	hidden := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(wrapping{hiding{w}}, r) }))
	if resp, _ := ask(t, dialTCP(t, hidden), handshakeRequest()); resp.StatusCode != 500 {
		t.Error(resp.Status)
	}
	if err := last.get(); !errors.Is(err, http.ErrNotSupported) || !strings.Contains(err.Error(), "foyer.hiding hides") {
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
