package foyer_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/cors"

	"github.com/foyerws/foyer"
)

// dial opens a WebSocket as some client would.
func dial(url string) *websocket.Conn {
	c, _, err := websocket.DefaultDialer.Dial(strings.Replace(url, "http", "ws", 1), nil)
	if err != nil {
		panic(err)
	}
	return c
}

// ask sends a message and prints the answer.
func ask(c *websocket.Conn, m string) {
	c.WriteMessage(websocket.TextMessage, []byte(m))
	_, p, err := c.ReadMessage()
	fmt.Println(string(p), err)
}

func echo(ctx context.Context, s *foyer.Socket) {
	for {
		t, p, err := s.Read(ctx)
		if err != nil || s.Write(ctx, t, p) != nil {
			return
		}
	}
}

// A Handler is mounted like any other http.Handler; what becomes of its sockets is said elsewhere.
func ExampleHandler() {
	h := &foyer.Handler{
		Subprotocols: []string{"chat.v1"},
		Authorize: func(r *http.Request) (http.Header, error) {
			if r.PathValue("room") == "cellar" {
				return nil, errors.New("nobody goes there")
			}
			return nil, nil
		},
	}
	defer h.Close()
	mux := http.NewServeMux()
	mux.Handle("GET /rooms/{room}", h)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
		s.SendText(ctx, "welcome to the "+s.Request().PathValue("room"))
		s.Read(ctx)
	})

	c := dial(srv.URL + "/rooms/attic")
	_, p, _ := c.ReadMessage()
	fmt.Println(string(p))
	c.Close()
	_, resp, _ := websocket.DefaultDialer.Dial(strings.Replace(srv.URL, "http", "ws", 1)+"/rooms/cellar", nil)
	fmt.Println(resp.Status)
	// Output:
	// welcome to the attic
	// 403 Forbidden
}

// Connections can come from any listener.
func ExampleHandler_HandleConnection() {
	h := &foyer.Handler{}
	defer h.Close()
	go h.ForEach(context.Background(), echo)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go h.HandleConnection(conn)
		}
	}()

	c := dial("ws://" + l.Addr().String())
	defer c.Close()
	ask(c, "hello")
	// Output: hello <nil>
}

// A connection that was hijacked for other reasons can still become a socket.
func ExampleHandler_HandleUpgrade() {
	h := &foyer.Handler{}
	defer h.Close()
	go h.ForEach(context.Background(), echo)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		h.HandleUpgrade(r, conn, rw)
	}))
	defer srv.Close()

	c := dial(srv.URL)
	defer c.Close()
	ask(c, "hello")
	// Output: hello <nil>
}

// Upgrade gives the socket to the handler that asked for it.
func ExampleHandler_Upgrade() {
	h := &foyer.Handler{}
	defer h.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := h.Upgrade(w, r)
		if err != nil {
			return // the request has been answered
		}
		go echo(context.Background(), s)
	}))
	defer srv.Close()

	c := dial(srv.URL)
	defer c.Close()
	ask(c, "hello")
	// Output: hello <nil>
}

// Accept takes one socket at a time.
func ExampleHandler_Accept() {
	h := &foyer.Handler{}
	srv := httptest.NewServer(h)
	defer srv.Close()
	c := dial(srv.URL)
	defer c.Close()

	s, err := h.Accept(context.Background())
	fmt.Println(s.State(), err)
	h.Close()
	_, err = h.Accept(context.Background())
	fmt.Println(errors.Is(err, foyer.ErrClosed))
	// Output:
	// open <nil>
	// true
}

// ForEach runs a function for each socket.
func ExampleHandler_ForEach() {
	h := &foyer.Handler{}
	srv := httptest.NewServer(h)
	defer srv.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- h.ForEach(ctx, func(ctx context.Context, s *foyer.Socket) {
			for {
				t, p, err := s.Read(ctx)
				if err != nil {
					return
				}
				s.Write(ctx, t, append([]byte("you said "), p...))
			}
		})
	}()

	c := dial(srv.URL)
	ask(c, "hello")
	cancel()
	_, _, err := c.ReadMessage()
	fmt.Println(err)
	fmt.Println(<-ended)
	// Output:
	// you said hello <nil>
	// websocket: close 1001 (going away)
	// context canceled
}

// Patterns name whole origins, with a wildcard for subdomains or the port.
func ExampleAllowOrigins() {
	origins := foyer.AllowOrigins("https://example.com", "https://*.example.com", "http://localhost:*")
	for _, origin := range []string{"https://example.com", "https://a.b.example.com", "https://example.com.evil.org", "http://localhost:5173"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Origin", origin)
		fmt.Println(origin, origins.OriginAllowed(r))
	}
	// Output:
	// https://example.com true
	// https://a.b.example.com true
	// https://example.com.evil.org false
	// http://localhost:5173 true
}

// The Cors of github.com/rs/cors decides about WebSockets, too.
func ExampleOriginAuthenticator() {
	c := cors.New(cors.Options{AllowedOrigins: []string{"https://app.example.com"}})
	h := &foyer.Handler{Origins: c}
	api := c.Handler(h) // for those requests that are no handshake

	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Origin", "https://app.example.com")
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	fmt.Println(w.Code, w.Header().Get("Access-Control-Allow-Origin"))
	// Output: 426 https://app.example.com
}

// A Server serves nothing but WebSockets.
func ExampleServer() {
	h := &foyer.Handler{}
	go h.ForEach(context.Background(), echo)
	s := &foyer.Server{Handler: h}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()

	c := dial(s.URL().String())
	defer c.Close()
	ask(c, "hello")
	// Output: hello <nil>
}

// http.Server.Shutdown forgets WebSockets over HTTP/1.1 and waits for those over HTTP/2: the Handler is shut down first.
func ExampleHandler_Shutdown() {
	h := &foyer.Handler{}
	go h.ForEach(context.Background(), echo)
	srv := &http.Server{Handler: h}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go srv.Serve(l)
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()

	c := dial("ws://" + l.Addr().String())
	var reading sync.WaitGroup
	reading.Go(func() {
		_, _, err := c.ReadMessage()
		fmt.Println("client:", err)
	})

	cancel() // instead of Ctrl-C
	<-stop.Done()
	ctx, cancelShutdown := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancelShutdown()
	err = errors.Join(h.Shutdown(ctx), srv.Shutdown(ctx))
	reading.Wait()
	fmt.Println("server:", err, h.Stats().Open)
	// Output:
	// client: websocket: close 1001 (going away)
	// server: <nil> 0
}

// A process that another one replaces sends its clients there, one after the other.
func ExampleHandler_Drain() {
	h := &foyer.Handler{}
	srv := httptest.NewServer(h)
	defer srv.Close()
	var clients sync.WaitGroup
	for range 3 {
		c := dial(srv.URL)
		clients.Go(func() {
			_, _, err := c.ReadMessage()
			fmt.Println(err)
		})
	}
	err := h.Drain(context.Background(), 60*time.Millisecond) // a minute, in earnest
	clients.Wait()
	fmt.Println(err, h.Stats().Closed[foyer.CloseServiceRestart])
	// Output:
	// websocket: close 1012
	// websocket: close 1012
	// websocket: close 1012
	// <nil> 3
}

// Browsers open their WebSockets over HTTP/2 where a server announces that it takes them there. It does so if the package
// extendedconnect is imported.
func ExampleEnableHTTP2() {
	h := &foyer.Handler{}
	m := http.NewServeMux()
	m.Handle("/ws", h) // and not "GET /ws": the method is CONNECT there
	srv := &http.Server{Addr: "localhost:8443", Handler: m}
	if err := foyer.EnableHTTP2(srv); err != nil {
		fmt.Println("WebSockets over HTTP/1.1 only:", err)
	}
	fmt.Println(srv.HTTP2.MaxReceiveBufferPerStream>>10, "KiB may wait on a stream") // srv.ListenAndServeTLS(...)
	// Output:
	// 128 KiB may wait on a stream
}

// A page and its WebSocket can have one URL.
func ExampleIsHandshake() {
	h := &foyer.Handler{}
	defer h.Close()
	go h.ForEach(context.Background(), echo)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if foyer.IsHandshake(r) {
			h.ServeHTTP(w, r)
			return
		}
		io.WriteString(w, "the page")
	}))
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	page, _ := io.ReadAll(resp.Body)
	fmt.Println(string(page))
	c := dial(srv.URL)
	defer c.Close()
	ask(c, "the socket")
	// Output:
	// the page
	// the socket <nil>
}

// A message can be read and written as a stream.
func ExampleSocket_Reader() {
	h := &foyer.Handler{}
	srv := httptest.NewServer(h)
	defer srv.Close()
	go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
		t, r, err := s.Reader(ctx)
		if err != nil {
			return
		}
		w, err := s.Writer(ctx, t)
		if err != nil {
			return
		}
		io.Copy(w, r)
		w.Close()
		s.Read(ctx) // until the client closes
	})

	c := dial(srv.URL)
	ask(c, strings.Repeat("la ", 3))
	c.Close()
	h.Close()
	// Output: la la la  <nil>
}

// Ping measures the way to the peer and back while another goroutine reads.
func ExampleSocket_Ping() {
	h := &foyer.Handler{}
	srv := httptest.NewServer(h)
	defer srv.Close()
	c := dial(srv.URL)
	go c.ReadMessage() // answers pings

	s, _ := h.Accept(context.Background())
	go s.Read(context.Background())
	elapsed, err := s.Ping(context.Background(), nil)
	fmt.Println(elapsed > 0, err)
	h.Close()
	// Output: true <nil>
}

// Close tells the peer why; both sides learn of the end.
func ExampleSocket_Close() {
	h := &foyer.Handler{}
	srv := httptest.NewServer(h)
	defer srv.Close()
	conn, _ := net.Dial("tcp", srv.Listener.Addr().String())
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	br := bufio.NewReader(conn)
	http.ReadResponse(br, nil)

	s, _ := h.Accept(context.Background())
	go func() {
		frame := make([]byte, 7)
		io.ReadFull(br, frame)
		fmt.Printf("%x %s\n", frame[:4], frame[4:])
		conn.Write([]byte{0x88, 0x82, 0, 0, 0, 0, 0x0f, 0xa0})
	}()
	err := s.Close(4000, "bye") // does not wait
	<-s.Done()
	var end *foyer.CloseError
	errors.As(s.Err(), &end)
	fmt.Println(err, end.Code)
	// Output:
	// 88050fa0 bye
	// <nil> 4000
}

// Broadcast reaches many sockets without waiting for any.
func ExampleBroadcast() {
	h := &foyer.Handler{}
	srv := httptest.NewServer(h)
	defer srv.Close()
	defer h.Close()
	go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
		s.CloseRead() // this program only writes
		foyer.Broadcast(h.Sockets(), foyer.Text, fmt.Appendf(nil, "%d here", h.Stats().Accepted))
		<-ctx.Done() // the client has left
	})
	for range 2 {
		c := dial(srv.URL)
		defer c.Close()
		_, p, _ := c.ReadMessage()
		fmt.Println(string(p))
	}
	// Output:
	// 1 here
	// 2 here
}
