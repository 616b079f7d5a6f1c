package gorillaconn_test

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
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
	"github.com/foyerws/foyer/gorillaconn"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// echo echoes until the connection fails, as a program of gorilla's does.
func echo(c *websocket.Conn) {
	defer c.Close()
	for {
		t, p, err := c.ReadMessage()
		if err != nil || c.WriteMessage(t, p) != nil {
			return
		}
	}
}

// serve serves an echo behind h, over net/http and on a raw listener, and returns the URLs.
func serve(t *testing.T, h *foyer.Handler) map[string]string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := gorillaconn.Upgrade(h, w, r); err == nil {
			echo(c)
		}
	}))
	t.Cleanup(srv.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				if c, err := gorillaconn.HandleConnection(h, conn); err == nil {
					echo(c)
				}
			}()
		}
	}()
	t.Cleanup(func() { h.Close() })
	return map[string]string{"net/http": "ws" + strings.TrimPrefix(srv.URL, "http"), "raw": "ws://" + l.Addr().String()}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("timeout: " + what)
		}
	}
}

func TestConversation(t *testing.T) {
	h := &foyer.Handler{Subprotocols: []string{"chat"}, Authorize: func(*http.Request) (http.Header, error) {
		return http.Header{"X-Authorized": {"yes"}}, nil
	}}
	for name, url := range serve(t, h) {
		t.Run(name, func(t *testing.T) {
			before := h.Stats()
			c, resp, err := (&websocket.Dialer{Subprotocols: []string{"chat"}, EnableCompression: true}).Dial(url, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if resp.Header.Get("X-Authorized") != "yes" || c.Subprotocol() != "chat" || resp.Header.Get("Sec-Websocket-Extensions") != "" {
				t.Error(resp.Header)
			}
			for _, want := range []string{"", "hello", strings.Repeat("x", 100000)} {
				c.WriteMessage(websocket.TextMessage, []byte(want))
				if _, p, err := c.ReadMessage(); err != nil || string(p) != want {
					t.Fatal(len(p), err)
				}
			}
			eventually(t, "the bytes to be counted", func() bool {
				st := h.Stats()
				return st.BytesIn-before.BytesIn > 100000 && st.BytesOut-before.BytesOut > 100000
			})
			if st := h.Stats(); st.Open != before.Open+1 || st.Upgraded != before.Upgraded+1 || st.Accepted != before.Accepted+1 {
				t.Errorf("%+v", st)
			}
			c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(4000, "bye"))
			if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 4000) {
				t.Error(err)
			}
			eventually(t, "the end to be counted", func() bool {
				st := h.Stats()
				return st.Open == before.Open && st.Closed[4000] == before.Closed[4000]+1
			})
			if st := h.Stats(); st.BytesIn-before.BytesIn < 100000 {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	told := make(chan error, 2)
	h := &foyer.Handler{Origins: foyer.AllowOrigins("https://example.com"), OnError: func(err error) { told <- err }}
	for name, url := range serve(t, h) {
		_, resp, err := websocket.DefaultDialer.Dial(url, http.Header{"Origin": {"https://evil.example"}})
		if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
			t.Error(name, resp, err)
		}
		if err := <-told; !errors.Is(err, foyer.ErrOriginNotAllowed) {
			t.Error(name, err)
		}
	}
	if h.Stats().Refused[403] != 2 || h.Stats().Open != 0 {
		t.Errorf("%+v", h.Stats())
	}
}

// TestBytesBehindTheRequest are the first frames, which gorilla's own Upgrader refuses.
func TestBytesBehindTheRequest(t *testing.T) {
	h := &foyer.Handler{}
	for name, url := range serve(t, h) {
		addr := strings.TrimPrefix(url, "ws://")
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n\x81\x82\x00\x00\x00\x00hi", addr)
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatal(name, resp, err)
		}
		p := make([]byte, 4)
		if _, err := io.ReadFull(r, p); err != nil || string(p) != "\x81\x02hi" {
			t.Errorf("%s: %q, %v", name, p, err)
		}
	}
}

func TestLimits(t *testing.T) {
	h := &foyer.Handler{MaxOpen: 1, MaxMessageSize: 1000}
	for name, url := range serve(t, h) {
		eventually(t, "a free place", func() bool { return h.Stats().Open == 0 })
		c, _, err := websocket.DefaultDialer.Dial(url, nil)
		if err != nil {
			t.Fatal(name, err)
		}
		if _, resp, err := websocket.DefaultDialer.Dial(url, nil); err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
			t.Error(name, resp, err)
		}
		c.WriteMessage(websocket.BinaryMessage, make([]byte, 1001))
		if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseMessageTooBig) {
			t.Error(name, err)
		}
		c.Close()
	}
}

func TestShutdownAndDrain(t *testing.T) {
	for how, end := range map[string]func(h *foyer.Handler, ctx context.Context) error{
		"1001": (*foyer.Handler).Shutdown,
		"1012": func(h *foyer.Handler, ctx context.Context) error { return h.Drain(ctx, 20*time.Millisecond) },
	} {
		h := &foyer.Handler{}
		var clients []*websocket.Conn
		for _, url := range serve(t, h) {
			for range 3 {
				c, _, err := websocket.DefaultDialer.Dial(url, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				clients = append(clients, c)
			}
		}
		eventually(t, "all to be in", func() bool { return h.Stats().Open == 6 })
		ended := make(chan error)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		go func() { ended <- end(h, ctx) }()
		for _, c := range clients {
			if _, _, err := c.ReadMessage(); err == nil || !strings.Contains(err.Error(), how) {
				t.Errorf("%s: %v", how, err)
			}
		}
		if err := <-ended; err != nil {
			t.Error(how, err)
		}
		if st := h.Stats(); st.Open != 0 || len(st.Closed) != 1 {
			t.Errorf("%s: %+v", how, st)
		}
	}
}

// TestShutdownOfOwnersWhoDoNotRead cuts off their connections when its context ends.
func TestShutdownOfOwnersWhoDoNotRead(t *testing.T) {
	h := &foyer.Handler{}
	conns := make(chan *websocket.Conn, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := gorillaconn.Upgrade(h, w, r)
		if err != nil {
			t.Error(err)
		}
		conns <- c
	}))
	defer srv.Close()
	c, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(srv.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	owned := <-conns
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := h.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 sockets") {
		t.Error(err)
	}
	if _, _, err := owned.ReadMessage(); err == nil {
		t.Error("the connection is open")
	}
	if h.Stats().Open != 0 {
		t.Errorf("%+v", h.Stats())
	}
	if _, err := gorillaconn.HandleConnection(h, pipe(t)); !errors.Is(err, foyer.ErrClosed) {
		t.Error(err)
	}
}

func pipe(t *testing.T) net.Conn {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close() })
	go io.Copy(io.Discard, ours)
	return theirs
}

func TestTLS(t *testing.T) {
	h := &foyer.Handler{}
	defer h.Close()
	srv := httptest.NewUnstartedServer(nil)
	srv.StartTLS() // for its certificate
	defer srv.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", srv.TLS)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if c, err := gorillaconn.HandleConnection(h, conn); err == nil {
			echo(c)
		}
	}()
	s := foyertest.Dial(t, "wss://"+l.Addr().String(), &foyer.DialOptions{TLSConfig: &tls.Config{InsecureSkipVerify: true}})
	s.SendText(t.Context(), "hello")
	if _, p, err := s.Read(t.Context()); err != nil || string(p) != "hello" {
		t.Error(string(p), err)
	}
}

// TestShutdownOfSilentPeers takes CloseTimeout: they do not answer the close frame.
func TestShutdownOfSilentPeers(t *testing.T) {
	h := &foyer.Handler{CloseTimeout: 50 * time.Millisecond}
	for name, url := range serve(t, h) {
		c, _, err := websocket.DefaultDialer.Dial(url, nil)
		if err != nil {
			t.Fatal(name, err)
		}
		defer c.Close() // which is never read
	}
	eventually(t, "both to be in", func() bool { return h.Stats().Open == 2 })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	begin := time.Now()
	if err := h.Shutdown(ctx); err != nil || time.Since(begin) > 5*time.Second {
		t.Error(err, time.Since(begin))
	}
}
