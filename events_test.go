package foyer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/foyerws/foyer/internal/wstest"

	"github.com/gorilla/websocket"
)

// echoBack is a Message function.
func echoBack(s *Socket, t MessageType, p []byte) { s.Write(context.Background(), t, p) }

// listenAll has each socket of h that comes in listen, until h is closed.
func listenAll(h *Handler, e Events) {
	go func() {
		for s := range h.Incoming(context.Background()) {
			s.Handle(e)
		}
	}()
}

// transports are the ways to a socket.
func transports(t *testing.T) map[string]func(*testing.T, *Handler) *websocket.Conn {
	certificate := httptest.NewTLSServer(nil)
	t.Cleanup(certificate.Close)
	overTLS := &tls.Config{InsecureSkipVerify: true}
	return map[string]func(*testing.T, *Handler) *websocket.Conn{
		"raw": func(t *testing.T, h *Handler) *websocket.Conn { return dialCompressed(t, serveRaw(t, h), nil) },
		"net/http": func(t *testing.T, h *Handler) *websocket.Conn {
			return dialCompressed(t, serveHTTP(t, h), nil)
		},
		"TLS": func(t *testing.T, h *Handler) *websocket.Conn {
			s := &Server{Handler: h, TLSConfig: &tls.Config{Certificates: certificate.TLS.Certificates}}
			if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return dialCompressed(t, s.Addr().String(), overTLS)
		},
		"Unix socket": func(t *testing.T, h *Handler) *websocket.Conn {
			path := filepath.Join(t.TempDir(), "s")
			s := &Server{Handler: h}
			if err := s.Listen("unix", path); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			d := websocket.Dialer{EnableCompression: true, NetDial: func(string, string) (net.Conn, error) { return net.Dial("unix", path) }}
			c, _, err := d.Dial("ws://example.com/", nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return c
		},
		"net.Pipe": func(t *testing.T, h *Handler) *websocket.Conn { return dialPipe(t, h) },
	}
}

func dialCompressed(t *testing.T, addr string, config *tls.Config) *websocket.Conn {
	t.Helper()
	scheme := "ws"
	if config != nil {
		scheme = "wss"
	}
	d := websocket.Dialer{EnableCompression: true, TLSClientConfig: config}
	c, _, err := d.Dial(scheme+"://"+addr+"/chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	return c
}

func TestEventsBringEveryMessageInOrder(t *testing.T) {
	sizes := []int{0, 1, 125, 126, 1000, 16000, 16300, 16384, 20000, 65535, 65536, 300000}
	for name, dial := range transports(t) {
		for _, compression := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", compression ", compression), func(t *testing.T) {
				h := closeHandler(t, &Handler{Compression: compressing(compression)})
				listenAll(h, Events{Message: echoBack})
				c := dial(t, h)
				go func() {
					for i := range 5 * len(sizes) {
						w, err := c.NextWriter(1 + i%2)
						if err != nil {
							return
						}
						for rest := strings.Repeat(string(rune('a'+i%26)), sizes[i%len(sizes)]); ; {
							n := len(rest)
							if i%3 == 0 {
								n = min(n, 5000) // in fragments, and not as gorilla's buffer has it
							}
							io.WriteString(w, rest[:n])
							if rest = rest[n:]; rest == "" {
								break
							}
						}
						w.Close()
					}
				}()
				for i := range 5 * len(sizes) {
					typ, p, err := c.ReadMessage()
					want := strings.Repeat(string(rune('a'+i%26)), sizes[i%len(sizes)])
					if err != nil || typ != 1+i%2 || string(p) != want {
						t.Fatalf("message %d: type %d, %d bytes, %v", i, typ, len(p), err)
					}
				}
			})
		}
	}
}

func TestFramesInPiecesAndTogether(t *testing.T) {
	var stream []byte
	var want bytes.Buffer
	for i := range 30 {
		text := strings.Repeat(strconv.Itoa(i), 40*i)
		stream = append(stream, wstest.Masked(0x81, text)...)
		stream = append(stream, wstest.Masked(0x89, "ping")...)
		fmt.Fprintln(&want, text)
	}
	for _, size := range []int{1, 2, 7, 100, 4096, len(stream)} {
		h := closeHandler(t, &Handler{})
		messages := make(chan string, 100)
		listenAll(h, Events{Message: func(_ *Socket, _ MessageType, p []byte) { messages <- string(p) }})
		conn := dialTCP(t, serveRaw(t, h))
		if resp, _ := ask(t, conn, handshakeRequest()); resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(resp.Status)
		}
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			conn.Write(rest[:n])
			rest = rest[n:]
		}
		var got bytes.Buffer
		for range 30 {
			fmt.Fprintln(&got, <-messages)
		}
		if got.String() != want.String() {
			t.Errorf("pieces of %d: the messages are not the same", size)
		}
	}
}

// diary writes down what a socket's functions are told, and that no two are called at once.
type diary struct {
	mu      sync.Mutex
	lines   []string
	calls   atomic.Int32
	overlap atomic.Bool
	closed  chan struct{}
}

func (d *diary) note(format string, args ...any) {
	if d.calls.Add(1) > 1 {
		d.overlap.Store(true)
	}
	d.mu.Lock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
	d.mu.Unlock()
	runtime.Gosched()
	d.calls.Add(-1)
}

func (d *diary) all() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.lines)
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.lines, ", ")
}

func (d *diary) events() Events {
	d.closed = make(chan struct{})
	return Events{
		Message:      func(_ *Socket, _ MessageType, p []byte) { d.note("message %s", p) },
		Pong:         func(_ *Socket, elapsed time.Duration, p []byte) { d.note("pong %s %v", p, elapsed > 0) },
		StateChanged: func(_ *Socket, state State) { d.note("%v", state) },
		Error:        func(_ *Socket, err error) { d.note("error") },
		Closing:      func(s *Socket) { d.note("about to close"); s.SendText(context.Background(), "bye") },
		Closed: func(_ *Socket, code CloseCode, reason string) {
			d.note("closed %d %s", code, reason)
			close(d.closed)
		},
	}
}

func TestWhatEventsTellOfAnEnd(t *testing.T) {
	tests := map[string]struct {
		end  func(*websocket.Conn, *Socket)
		want string
		peer string // what the peer sees
	}{
		"we close":    {func(_ *websocket.Conn, s *Socket) { s.Close(4000, "enough") }, "about to close, closing, closed, closed 4000 ", "bye, close 4000 (enough)"},
		"peer closes": {func(c *websocket.Conn, _ *Socket) { sayGoodbye(c, 4001, "done") }, "about to close, closing, closed, closed 4001 done", "bye, close 4001 ()"},
		"violation": {func(c *websocket.Conn, _ *Socket) { c.NetConn().Write([]byte{0xf1, 0x80, 0, 0, 0, 0}) },
			"about to close, closing, error, closed, closed 1002 reserved bit set (RFC 6455 section 5.2)", "bye, close 1002 (reserved bit set (RFC 6455 section 5.2))"},
		"we abort":    {func(_ *websocket.Conn, s *Socket) { s.Abort() }, "closed, closed 1006 ", ""},
		"peer is cut": {func(c *websocket.Conn, _ *Socket) { c.NetConn().Close() }, "error, closed, closed 1006 ", ""},
	}
	for name, dial := range transports(t) {
		for what, tt := range tests {
			t.Run(name+", "+what, func(t *testing.T) {
				h := closeHandler(t, &Handler{})
				c := dial(t, h)
				s := accept(t, h)
				var d diary
				s.Handle(d.events())
				c.WriteMessage(websocket.TextMessage, []byte("one"))
				eventually(t, "the message", func() bool { return d.String() == "message one" })
				seen := make(chan string, 1)
				go func() {
					var lines []string
					for {
						_, p, err := c.ReadMessage()
						var closed *websocket.CloseError
						if errors.As(err, &closed) {
							lines = append(lines, fmt.Sprintf("close %d (%s)", closed.Code, closed.Text))
						}
						if err != nil {
							seen <- strings.Join(lines, ", ")
							return
						}
						lines = append(lines, string(p))
					}
				}()
				tt.end(c, s)
				<-d.closed
				got, want := d.String(), "message one, "+tt.want
				if what == "peer is cut" {
					got = strings.Replace(got, ", error", "", 1) // a clean end of TCP is none on some transports
					want = strings.Replace(want, ", error", "", 1)
				}
				if got != want {
					t.Errorf("%s\nwant %s", got, want)
				}
				if peer := <-seen; tt.peer != "" && peer != tt.peer {
					t.Errorf("the peer saw %s, want %s", peer, tt.peer)
				}
				if d.overlap.Load() {
					t.Error("two functions were called at once")
				}
			})
		}
	}
}

func sayGoodbye(c *websocket.Conn, code int, reason string) {
	c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(time.Second))
}

func TestPanicsInEvents(t *testing.T) {
	reports := make(chan error, 10)
	h := closeHandler(t, &Handler{OnError: func(err error) { reports <- err }})
	addr := serveRaw(t, h)
	listenAll(h, Events{Message: func(s *Socket, typ MessageType, p []byte) {
		switch string(p) {
		case "panic":
			panic("no")
		case "goexit":
			runtime.Goexit()
		}
		echoBack(s, typ, p)
	}, Closed: func(*Socket, CloseCode, string) { panic("not here either") }})
	good := dial(t, addr, nil)
	for _, word := range []string{"panic", "goexit"} {
		bad := dial(t, addr, nil)
		bad.WriteMessage(websocket.TextMessage, []byte(word))
		_, _, err := bad.ReadMessage()
		var closed *websocket.CloseError
		if word == "panic" && (!errors.As(err, &closed) || closed.Code != int(CloseInternalServerErr)) || err == nil {
			t.Errorf("%s: %v", word, err)
		}
		bad.Close()
		var panicked *PanicError
		if err := <-reports; !errors.As(err, &panicked) {
			t.Error(err)
		}
		good.WriteMessage(websocket.TextMessage, []byte("still there"))
		if _, p, err := good.ReadMessage(); err != nil || string(p) != "still there" {
			t.Errorf("after %s: %s, %v", word, p, err)
		}
	}
}

// TestPanicsAtTheEdge end the socket as well, where it was open.
func TestPanicsAtTheEdge(t *testing.T) {
	for name, e := range map[string]Events{
		"BytesWritten": {BytesWritten: func(*Socket, int) { panic("no") }},
		"Closing":      {Closing: func(*Socket) { panic("no") }, Message: func(s *Socket, _ MessageType, _ []byte) { s.Close(4000, "bye") }},
		"StateChanged": {StateChanged: func(*Socket, State) { panic("no") }, Message: func(s *Socket, _ MessageType, _ []byte) { s.Close(4000, "bye") }},
	} {
		reports := make(chan error, 10)
		h := closeHandler(t, &Handler{OnError: func(err error) { reports <- err }})
		c, s := connectTCP(t, h)
		if e.Message == nil {
			e.Message = echoBack
		}
		s.Handle(e)
		c.WriteMessage(websocket.TextMessage, []byte("hi"))
		want := 4000
		if name == "BytesWritten" {
			want = int(CloseInternalServerErr)
			c.ReadMessage()
		}
		if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, want) {
			t.Error(name, err)
		}
		var panicked *PanicError
		if err := <-reports; !errors.As(err, &panicked) {
			t.Error(name, err)
		}
	}
}

func TestListenTakesOver(t *testing.T) {
	t.Run("from a Reader", func(t *testing.T) {
		h := closeHandler(t, &Handler{})
		c, s := connectTCP(t, h)
		c.NetConn().Write(append(wstest.Masked(0x01, "begun"), wstest.Masked(0x00, "more")...))
		if _, r, err := s.Reader(t.Context()); err != nil {
			t.Fatal(err)
		} else if _, err := io.ReadFull(r, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		messages := make(chan string, 10)
		s.Handle(Events{Message: func(_ *Socket, _ MessageType, p []byte) { messages <- string(p) }})
		c.NetConn().Write(append(wstest.Masked(0x80, "end"), wstest.Masked(0x81, "next")...))
		if m := <-messages; m != "next" {
			t.Errorf("%q", m)
		}
		if _, _, err := s.Read(t.Context()); err != ErrReading {
			t.Error(err)
		}
	})
	t.Run("twice", func(t *testing.T) {
		h := closeHandler(t, &Handler{})
		_, s := connectTCP(t, h)
		s.Handle(Events{})
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		s.Handle(Events{})
	})
	t.Run("after the end", func(t *testing.T) {
		h := closeHandler(t, &Handler{})
		_, s := connectTCP(t, h)
		s.Abort()
		closed := make(chan CloseCode, 2)
		s.Handle(Events{Closed: func(_ *Socket, code CloseCode, _ string) { closed <- code }})
		if code := <-closed; code != CloseAbnormalClosure {
			t.Error(code)
		}
	})
	t.Run("from what came before", func(t *testing.T) {
		h := closeHandler(t, &Handler{})
		conn := dialTCP(t, serveRaw(t, h))
		conn.Write(append([]byte(handshakeRequest()), wstest.Masked(0x81, "early")...))
		s := accept(t, h)
		messages := make(chan string, 10)
		s.Handle(Events{Message: func(_ *Socket, _ MessageType, p []byte) { messages <- string(p) }})
		if m := <-messages; m != "early" {
			t.Errorf("%q", m)
		}
	})
	t.Run("from a ForEach function", func(t *testing.T) {
		h := closeHandler(t, &Handler{})
		go h.ForEach(context.Background(), func(_ context.Context, s *Socket) { s.Handle(Events{Message: echoBack}) })
		c := dial(t, serveRaw(t, h), nil)
		time.Sleep(20 * time.Millisecond)
		c.WriteMessage(websocket.TextMessage, []byte("hello"))
		if _, p, err := c.ReadMessage(); err != nil || string(p) != "hello" {
			t.Error(string(p), err)
		}
	})
}

func TestGoexitAtTheEnd(t *testing.T) {
	for name, change := range map[string]func(*Events){
		"Closing":      func(e *Events) { e.Closing = func(*Socket) { runtime.Goexit() } },
		"StateChanged": func(e *Events) { e.StateChanged = func(*Socket, State) { runtime.Goexit() } },
		"Error":        func(e *Events) { e.Error = func(*Socket, error) { runtime.Goexit() } },
	} {
		for _, end := range []func(*websocket.Conn, *Socket){
			func(_ *websocket.Conn, s *Socket) { s.Close(1000, "") },
			func(c *websocket.Conn, _ *Socket) { sayGoodbye(c, 1000, "") },
			func(c *websocket.Conn, _ *Socket) { c.NetConn().Write([]byte{0xff}) },
		} {
			h := closeHandler(t, &Handler{})
			c, s := connectTCP(t, h)
			go io.Copy(io.Discard, c.NetConn())
			closed := make(chan struct{})
			e := Events{Closed: func(*Socket, CloseCode, string) { close(closed) }}
			change(&e)
			s.Handle(e)
			end(c, s)
			if name != "Closing" || end != nil {
				sayGoodbye(c, 1000, "")
			}
			select {
			case <-closed:
			case <-time.After(5 * time.Second):
				t.Errorf("%s: Closed was not called", name)
			}
		}
	}
}

func TestNoMessageBehindClosing(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	var d diary
	e := d.events()
	e.Closing = func(*Socket) { d.note("about to close"); time.Sleep(50 * time.Millisecond) }
	s.Handle(e)
	s.Close(1000, "")
	eventually(t, "Closing", func() bool { return d.String() != "" })
	c.WriteMessage(websocket.TextMessage, []byte("late")) // while Closing runs
	go io.Copy(io.Discard, c.NetConn())
	time.Sleep(100 * time.Millisecond)
	s.Abort()
	<-d.closed
	if lines := d.String(); strings.Contains(lines, "late") {
		t.Error(lines)
	}
}
