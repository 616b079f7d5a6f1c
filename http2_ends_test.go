package foyer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-chi/chi/v5/middleware"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	_ "github.com/foyerws/foyer/extendedconnect"
	"github.com/foyerws/foyer/internal/stream"
	"github.com/foyerws/foyer/internal/wstest"
)

// Each end of a socket is told to both sides, and has ServeHTTP return.
func TestHTTP2Ends(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(t *testing.T, c *clientStream, s *Socket)
		code CloseCode
		told string // to the client; "-": nothing that it still hears
	}{
		{"the client ends its stream", func(_ *testing.T, c *clientStream, _ *Socket) { c.CloseWrite() }, CloseAbnormalClosure, ""},
		{"the client resets the stream", func(_ *testing.T, c *clientStream, _ *Socket) { c.Close() }, CloseAbnormalClosure, "-"},
		{"Abort", func(_ *testing.T, _ *clientStream, s *Socket) { s.Abort() }, CloseAbnormalClosure, ""},
		{"a violation", func(_ *testing.T, c *clientStream, _ *Socket) { c.Write(wstest.Masked(0x83, "x")) }, CloseProtocolError, "\x88"},
		{"Close", func(t *testing.T, c *clientStream, s *Socket) {
			go s.Close(4001, "")
			head := make([]byte, 4)
			if _, err := io.ReadFull(c, head); err != nil || string(head) != "\x88\x02\x0f\xa1" {
				t.Errorf("%q, %v", head, err)
			}
			c.Write(wstest.Masked(0x88, "\x0f\xa1"))
		}, 4001, ""},
		{"no answer to Close", func(t *testing.T, c *clientStream, s *Socket) {
			s.Close(4001, "")
			if <-s.Done(); !errors.Is(s.Err(), errCloseTimeout) {
				t.Error(s.Err())
			}
		}, CloseAbnormalClosure, "\x88\x02\x0f\xa1"},
	} {
		for _, taken := range []string{"read", "events"} {
			t.Run(test.name+", "+taken, func(t *testing.T) {
				h := closeHandler(t, &Handler{CloseTimeout: 100 * time.Millisecond})
				returned := make(chan struct{})
				url, client := serveHTTP2(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					h.ServeHTTP(w, r)
					close(returned)
				}))
				c, _ := openStream(t, client, url)
				s := accept(t, h)
				if taken == "read" {
					go echo(t.Context(), s)
				} else {
					s.Handle(Events{Message: func(s *Socket, t MessageType, p []byte) { s.TryWrite(t, p) }})
				}
				echoed(t, c, "hello")
				test.end(t, c, s)
				<-s.Done()
				select {
				case <-returned:
				case <-time.After(5 * time.Second):
					t.Fatal("ServeHTTP does not return")
				}
				if closeCode(s) != test.code {
					t.Error(s.Err())
				}
				if rest, err := io.ReadAll(c); test.told != "-" && (err != nil || !strings.HasPrefix(string(rest), test.told)) {
					t.Errorf("%q, %v", rest, err)
				}
			})
		}
	}
}

func TestHTTP2ReadCanBeCancelled(t *testing.T) {
	h := closeHandler(t, &Handler{})
	url, client := serveHTTP2(t, true, h)
	c, _ := openStream(t, client, url)
	s := accept(t, h)
	for i := range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, _, err := s.Read(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		cancel()
		c.Write(wstest.Masked(0x81, fmt.Sprint(i)))
		if _, p, err := s.Read(t.Context()); err != nil || string(p) != fmt.Sprint(i) {
			t.Fatal(string(p), err)
		}
	}
}

// The deadlines of the server and of middleware are those of ordinary requests.
func TestHTTP2Timeouts(t *testing.T) {
	h := closeHandler(t, &Handler{})
	url, client := serveHTTP2With(t, true, middleware.Timeout(100*time.Millisecond)(h), func(srv *http.Server) {
		srv.ReadTimeout, srv.WriteTimeout, srv.IdleTimeout = 100*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
	})
	h.Authorize = func(*http.Request) (http.Header, error) {
		time.Sleep(300 * time.Millisecond)
		return nil, nil
	}
	c, _ := openStream(t, client, url)
	go echo(t.Context(), accept(t, h))
	for range 6 {
		echoed(t, c, "still here")
		time.Sleep(50 * time.Millisecond)
	}
}

func TestHTTP2Keepalive(t *testing.T) {
	h := closeHandler(t, &Handler{PingInterval: 40 * time.Millisecond, PongTimeout: 80 * time.Millisecond})
	url, client := serveHTTP2(t, true, h)
	openStream(t, client, url)
	s := accept(t, h)
	if _, _, err := s.Read(t.Context()); !errors.Is(err, ErrPingTimeout) {
		t.Error(err)
	}
}

// A client that gives up while its socket waits leaves the pool.
func TestHTTP2PendingClientLeaves(t *testing.T) {
	h := closeHandler(t, &Handler{PongTimeout: 40 * time.Millisecond})
	url, client := serveHTTP2(t, true, h)
	for _, leave := range []func(c *clientStream){
		func(c *clientStream) { c.CloseWrite() },
		func(c *clientStream) { c.Close() },
		func(c *clientStream) { c.Write(wstest.Masked(0x81, "unread")); c.Close() },
	} {
		c, _ := openStream(t, client, url)
		eventually(t, "a pending socket", func() bool { return h.Pending() > 0 })
		leave(c)
		eventually(t, "an empty pool", func() bool { return h.Stats().Open == 0 && h.Pending() == 0 })
	}
}

func TestHTTP2Shutdown(t *testing.T) {
	h := &Handler{}
	var srv *http.Server
	url, client := serveHTTP2With(t, true, h, func(s *http.Server) { srv = s })
	var clients []*clientStream
	for range 10 {
		c, _ := openStream(t, client, url)
		clients = append(clients, c)
		go func() {
			head := make([]byte, 4)
			if _, err := io.ReadFull(c, head); err != nil || string(head) != "\x88\x02\x03\xe9" {
				t.Errorf("%q, %v", head, err)
			}
			c.Write(wstest.Masked(0x88, "\x03\xe9"))
		}()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := h.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := srv.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if h.Stats().Closed[CloseGoingAway] != uint64(len(clients)) {
		t.Error(h.Stats())
	}
}

// A frameClient is a client of HTTP/2 that does what no good one does.
type frameClient struct {
	*http2.Framer
	next uint32 // stream
}

// dialFrames connects without TLS, and grants each stream a window.
func dialFrames(t *testing.T, url string, window uint32) *frameClient {
	t.Helper()
	conn := dialTCP(t, strings.TrimPrefix(url, "http://"))
	io.WriteString(conn, http2.ClientPreface)
	c := &frameClient{http2.NewFramer(conn, conn), 1}
	c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	return c
}

var extendedConnect = []string{":method", "CONNECT", ":protocol", "websocket", ":path", "/", "sec-websocket-version", "13"}

// open opens a stream with a request.
func (c *frameClient) open(fields ...string) {
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	encoder.SetMaxDynamicTableSize(0) // each request has an encoder of its own
	fields = append(fields[:len(fields):len(fields)], ":scheme", "http", ":authority", "localhost")
	for _, pseudo := range []bool{true, false} { // pseudo-headers come first
		for i := 0; i < len(fields); i += 2 {
			if strings.HasPrefix(fields[i], ":") == pseudo {
				encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
			}
		}
	}
	c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next, BlockFragment: head.Bytes(), EndHeaders: true})
	c.next += 2
}

// A connection that takes nothing holds no place in the pool and no sweep, and nothing of the Handler waits for it. It is
// closed after a while, and only then may the handlers return.
func TestHTTP2StalledConnection(t *testing.T) {
	slow(t)
	h := closeHandler(t, &Handler{MaxPending: 2})
	var handlers atomic.Int64
	flooded := make(chan struct{})
	var srv *http.Server
	url, _ := serveHTTP2With(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Add(-1)
		if r.URL.Path == "/flood" {
			full := time.AfterFunc(200*time.Millisecond, sync.OnceFunc(func() { close(flooded) }))
			for p := make([]byte, 1<<20); ; full.Reset(200 * time.Millisecond) {
				if _, err := w.Write(p); err != nil {
					return
				}
			}
		}
		h.ServeHTTP(w, r)
	}), func(s *http.Server) {
		srv = s
		s.HTTP2 = &http.HTTP2Config{WriteByteTimeout: time.Second}
	})
	c := dialFrames(t, url, 1<<30)
	c.WriteWindowUpdate(0, 1<<30)
	c.open(":method", "GET", ":path", "/flood")
	<-flooded
	for range 2 {
		c.open(extendedConnect...)
	}

	begin := time.Now()
	first, second := accept(t, h), accept(t, h)
	if err := first.SendText(t.Context(), "waits"); err != nil {
		t.Error(err)
	}
	time.Sleep(50 * time.Millisecond) // until it is being written
	first.Abort()
	second.Abort()
	<-first.Done()
	if st := h.Stats(); st.Open != 0 || st.Pending != 0 || first.State() != StateClosed {
		t.Error(st)
	}
	if d := time.Since(begin); d > 500*time.Millisecond {
		t.Error("that took", d)
	}
	if handlers.Load() < 2 { // the flood's and the first socket's
		t.Error("a handler has returned though its answer is being written")
	}
	eventually(t, "the end of all handlers", func() bool { return handlers.Load() == 0 })
	if srv.HTTP2.MaxReceiveBufferPerStream == 0 {
		t.Error("EnableHTTP2 left the windows as they were")
	}
}

// Done is closed when nobody uses the answer any more, whoever asks for it and when.
func TestHTTP2DoneWaitsForTheAnswer(t *testing.T) {
	t.Parallel()
	h := closeHandler(t, &Handler{MaxWriteBuffer: 10 << 20})
	url, client := serveHTTP2(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		watched := &watchedAnswer{Answer: w.(stream.Answer)}
		s, err := h.Upgrade(watched, r)
		if err != nil {
			t.Error(err)
			return
		}
		go s.Read(background) // the peer's close frame
		for s.State() == StateOpen {
			s.TryWrite(Text, make([]byte, 15000))
		}
		<-s.Done()
		if n := watched.writing.Load(); n != 0 {
			t.Error("the answer is being written to")
		}
	}))
	for range 10 {
		c, _ := openStream(t, client, url)
		c.Write(wstest.Masked(0x88, "\x03\xe8"))
	}
	eventually(t, "the end of the sockets", func() bool { return h.Stats().Closed[1000] == 10 && h.Stats().Open == 0 })
}

// A watchedAnswer knows how many writes are under way.
type watchedAnswer struct {
	stream.Answer
	writing atomic.Int64
}

func (a *watchedAnswer) Write(p []byte) (int, error) {
	a.writing.Add(1)
	defer a.writing.Add(-1)
	return a.Answer.Write(p)
}

// With http.Server.Shutdown at its side, Retire sends the clients to another connection.
func TestHTTP2Retire(t *testing.T) {
	h := &Handler{}
	var srv *http.Server
	url, client := serveHTTP2With(t, true, h, func(s *http.Server) { srv = s })
	var clients sync.WaitGroup
	for range 5 {
		c, _ := openStream(t, client, url)
		go echo(background, accept(t, h))
		clients.Go(func() {
			end := make([]byte, 4)
			if _, err := io.ReadFull(c, end); err != nil || string(end) != "\x88\x02\x03\xf4" {
				t.Errorf("%q, %v", end, err)
			}
			c.Write(wstest.Masked(0x88, "\x03\xf4"))
			if resp, err := client.Do(connectRequest(t.Context(), url, io.LimitReader(c, 0))); err == nil {
				t.Error("a client came back to the process that retires:", resp.Status)
			}
		})
	}
	shut := make(chan error, 1)
	go func() { shut <- srv.Shutdown(t.Context()) }()
	time.Sleep(20 * time.Millisecond)
	if err := h.Drain(t.Context(), 200*time.Millisecond); err != nil {
		t.Error(err)
	}
	clients.Wait()
	if err := <-shut; err != nil {
		t.Error(err)
	}
	if n := h.Stats().Upgraded; n != 5 {
		t.Error(n)
	}
}

// A client that takes its first message slowly has all the time that it wants, and is heard meanwhile.
func TestHTTP2SlowFirstMessage(t *testing.T) {
	h := closeHandler(t, &Handler{HandshakeTimeout: 100 * time.Millisecond})
	url, _ := serveHTTP2(t, false, h)
	c := dialFrames(t, url, 0)
	c.open(extendedConnect...)
	s := accept(t, h)
	s.SendText(t.Context(), "welcome")
	c.WriteData(1, false, wstest.Masked(0x81, "heard"))
	if _, p, err := s.Read(t.Context()); err != nil || string(p) != "heard" {
		t.Error(string(p), err)
	}
	time.Sleep(300 * time.Millisecond)
	c.WriteWindowUpdate(1, 1000)
	for {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if data, ok := f.(*http2.DataFrame); ok {
			if string(data.Data()) != "\x81\x07welcome" {
				t.Errorf("%q", data.Data())
			}
			return
		}
		if reset, ok := f.(*http2.RSTStreamFrame); ok {
			t.Fatal(reset)
		}
	}
}

// TestHTTP2ManyCloseHandshakes has many sockets close at once, from either side: both sides see the same end.
func TestHTTP2ManyCloseHandshakes(t *testing.T) {
	h := closeHandler(t, &Handler{})
	url, client := serveHTTP2(t, true, h)
	go h.ForEach(context.Background(), func(ctx context.Context, s *Socket) {
		if s.Request().Header.Get("X-Closes") == "server" {
			s.Read(ctx) // the client is ready
			s.Close(CloseNormalClosure, "")
		} else {
			for {
				if _, _, err := s.Read(ctx); err != nil {
					break
				}
			}
		}
		<-s.Done()
		if err := s.Err(); err.(*CloseError).Code != CloseNormalClosure || err.(*CloseError).Err != nil {
			t.Error(s.Request().Header.Get("X-Closes"), "closes, and the server sees", err)
		}
	})
	var pairs sync.WaitGroup
	for i := range 150 {
		pairs.Go(func() {
			who := []string{"server", "client"}[i%2]
			c, _ := openStream(t, client, url, "X-Closes: "+who)
			if who == "server" {
				c.Write(wstest.Masked(0x81, "ready"))
				var b [4]byte
				if _, err := io.ReadFull(c, b[:]); err != nil || string(b[:]) != "\x88\x02\x03\xe8" {
					t.Errorf("the server closes: %q, %v", b, err)
				}
				c.Write(wstest.Masked(0x88, "\x03\xe8"))
				c.CloseWrite()
				io.Copy(io.Discard, c)
				return
			}
			c.Write(wstest.Masked(0x88, "\x03\xe8"))
			if end, err := io.ReadAll(c); err != nil || string(end) != "\x88\x02\x03\xe8" {
				t.Errorf("the client closes: %q, %v", end, err)
			}
		})
	}
	pairs.Wait()
}
