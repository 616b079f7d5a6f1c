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
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
		stream = append(stream, maskedFrame(0x81, text)...)
		stream = append(stream, maskedFrame(0x89, "ping")...)
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

// TestEventsUnderFire has everything happen to a socket at once.
func TestEventsUnderFire(t *testing.T) {
	for round := range 100 {
		h := closeHandler(t, &Handler{MaxPending: -1})
		c, s := connectTCP(t, h)
		var d diary
		s.Handle(d.events())
		go io.Copy(io.Discard, c.NetConn())
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for range 20 {
					s.TryWrite(Text, []byte("posted"))
					s.Flush(t.Context())
				}
				switch (i + round) % 4 {
				case 0:
					s.Close(CloseNormalClosure, "")
				case 1:
					c.NetConn().Close()
				case 2:
					s.Abort()
				}
			})
		}
		wg.Go(func() {
			for range 50 {
				c.NetConn().Write(append(maskedFrame(0x81, "hello"), maskedFrame(0x8a, "pong")...))
			}
		})
		wg.Wait()
		<-d.closed
		if lines := d.String(); d.overlap.Load() || strings.Count(lines, "closed 1") != 1 || !strings.Contains(lines[strings.LastIndex(lines, ","):], "closed 1") {
			t.Fatalf("round %d: overlap %v: %s", round, d.overlap.Load(), lines)
		}
		h.Close()
	}
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

// TestSlowCallbackDelaysItsOwnSocketOnly measures what the others notice: by the 99th percentile at most 5 ms.
func TestSlowCallbackDelaysItsOwnSocketOnly(t *testing.T) {
	slow := map[string]func(time.Duration){
		"sleeping": time.Sleep,
		"computing": func(d time.Duration) {
			for begin := time.Now(); time.Since(begin) < d; {
			}
		},
	}
	for name, wait := range slow {
		if name == "computing" && runtime.GOMAXPROCS(0) < 2 {
			continue // the others have to share the processor
		}
		t.Run(name, func(t *testing.T) {
			var p99 time.Duration
			for range 5 { // a busy machine may spoil one
				if p99 = delayOfOthers(t, wait); p99 <= 5*time.Millisecond {
					return
				}
			}
			t.Errorf("the others waited for %v", p99)
		})
	}
}

func delayOfOthers(t *testing.T, wait func(time.Duration)) time.Duration {
	h := closeHandler(t, &Handler{})
	addr := serveRaw(t, h)
	begun, ended := make(chan struct{}), make(chan struct{})
	listenAll(h, Events{Message: func(s *Socket, typ MessageType, p []byte) {
		if string(p) == "slow" {
			close(begun)
			wait(time.Second)
			close(ended)
		}
		echoBack(s, typ, p)
	}})
	var others []*websocket.Conn
	for range 16 {
		others = append(others, dial(t, addr, nil))
	}
	dial(t, addr, nil).WriteMessage(websocket.TextMessage, []byte("slow"))
	<-begun
	var took []time.Duration
	for i := 0; ; i++ {
		select {
		case <-ended:
			slices.Sort(took)
			h.Close()
			return took[len(took)*99/100]
		default:
		}
		c := others[i%len(others)]
		begin := time.Now()
		c.WriteMessage(websocket.TextMessage, []byte("quick"))
		if _, _, err := c.ReadMessage(); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
}

// TestWritesAreNotHeldBackByWhatComesAfter has a handler write and then do something else, while more input is waiting:
// what it wrote must leave all the same.
func TestWritesAreNotHeldBackByWhatComesAfter(t *testing.T) {
	const pause = 500 * time.Millisecond
	later := map[string]func(){
		"sleeping": func() { time.Sleep(pause) },
		"computing": func() {
			for begin := time.Now(); time.Since(begin) < pause; {
			}
		},
	}
	serve := map[string]func(*Handler, func()){
		"Events": func(h *Handler, wait func()) {
			listenAll(h, Events{Message: func(s *Socket, typ MessageType, p []byte) {
				echoBack(s, typ, p)
				wait()
			}})
		},
		"Read": func(h *Handler, wait func()) {
			go h.ForEach(context.Background(), func(ctx context.Context, s *Socket) {
				for {
					typ, p, err := s.Read(ctx)
					if err != nil {
						return
					}
					echoBack(s, typ, p)
					wait()
				}
			})
		},
	}
	for how, wait := range later {
		for mode, serve := range serve {
			t.Run(mode+", "+how, func(t *testing.T) {
				h := closeHandler(t, &Handler{})
				serve(h, wait)
				conn := dialTCP(t, serveRaw(t, h))
				_, br := ask(t, conn, handshakeRequest())
				begin := time.Now()
				conn.Write(bytes.Repeat(maskedFrame(0x81, "hello"), 3))
				if _, err := io.ReadFull(br, make([]byte, 7)); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(begin); took > pause/2 {
					t.Errorf("the first answer came after %v", took)
				}
			})
		}
	}
}

func TestListenTakesOver(t *testing.T) {
	t.Run("from a Reader", func(t *testing.T) {
		h := closeHandler(t, &Handler{})
		c, s := connectTCP(t, h)
		c.NetConn().Write(append(maskedFrame(0x01, "begun"), maskedFrame(0x00, "more")...))
		if _, r, err := s.Reader(t.Context()); err != nil {
			t.Fatal(err)
		} else if _, err := io.ReadFull(r, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		messages := make(chan string, 10)
		s.Handle(Events{Message: func(_ *Socket, _ MessageType, p []byte) { messages <- string(p) }})
		c.NetConn().Write(append(maskedFrame(0x80, "end"), maskedFrame(0x81, "next")...))
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
		conn.Write(append([]byte(handshakeRequest()), maskedFrame(0x81, "early")...))
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

func TestKeepaliveOfSocketsThatListen(t *testing.T) {
	h := closeHandler(t, &Handler{PingInterval: 50 * time.Millisecond, PongTimeout: 200 * time.Millisecond})
	addr := serveRaw(t, h)
	ends := make(chan error, 2)
	listenAll(h, Events{Message: echoBack, Error: func(_ *Socket, err error) { ends <- err }})
	alive := dial(t, addr, nil)
	go alive.ReadMessage() // answers pings
	dial(t, addr, nil)     // and this one does not
	if err := <-ends; !errors.Is(err, ErrPingTimeout) {
		t.Error(err)
	}
	if st := h.Stats(); st.Open != 1 {
		t.Errorf("%+v", st)
	}
}

func TestIdleSocketsThatListenHaveNoGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("they have one on this system")
	}
	h := closeHandler(t, &Handler{MaxPending: -1})
	addr := serveRaw(t, h)
	listenAll(h, Events{Message: echoBack})
	one := dial(t, addr, nil)
	before := runtime.NumGoroutine()
	for range 200 {
		c := dial(t, addr, nil)
		c.WriteMessage(websocket.TextMessage, []byte("hello"))
		if _, _, err := c.ReadMessage(); err != nil {
			t.Fatal(err)
		}
	}
	one.WriteMessage(websocket.TextMessage, []byte("hello"))
	one.ReadMessage()
	eventually(t, "no goroutines", func() bool { return runtime.NumGoroutine() < before+20 })
}

// TestAllocationsOfAMessage counts those of an echo over TCP, of which the client has none.
func TestAllocationsOfAMessage(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	for name, tt := range map[string]struct {
		serve func(*Handler)
		want  float64
	}{
		"Events": {func(h *Handler) { listenAll(h, Events{Message: echoBack}) }, 0},
		"Read":   {func(h *Handler) { go h.ForEach(context.Background(), echo) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := closeHandler(t, &Handler{})
			tt.serve(h)
			conn := dialTCP(t, serveRaw(t, h))
			_, br := ask(t, conn, handshakeRequest())
			for _, size := range []int{100, 5000} {
				send, got := maskedFrame(0x82, strings.Repeat("x", size)), make([]byte, size+map[bool]int{true: 2, false: 4}[size < 126])
				allocations := testing.AllocsPerRun(500, func() {
					conn.Write(send)
					if _, err := io.ReadFull(br, got); err != nil {
						t.Fatal(err)
					}
				})
				if allocations > tt.want {
					t.Errorf("%d bytes: %v allocations a message", size, allocations)
				}
			}
		})
	}
}

// TestStorm has 64 writers, a reader and pings on one socket, and a Close in the middle. FOYER_ROUNDS says how often.
func TestStorm(t *testing.T) {
	rounds := 20
	if s := os.Getenv("FOYER_ROUNDS"); s != "" {
		rounds, _ = strconv.Atoi(s)
	}
	h := closeHandler(t, &Handler{MaxPending: -1})
	addr := serveRaw(t, h)
	for round := range rounds {
		c := dial(t, addr, nil)
		s := accept(t, h)
		var wg sync.WaitGroup
		var sent atomic.Int64
		half := make(chan struct{})
		for i := range 64 {
			wg.Go(func() {
				message := []byte(strings.Repeat(string(rune('A'+i%26)), 1+i*7))
				for range 20 {
					if s.Write(t.Context(), Binary, message) != nil {
						return
					}
					if sent.Add(1) == 640 {
						close(half)
					}
				}
			})
		}
		wg.Go(func() {
			for {
				if _, _, err := s.Read(t.Context()); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			for range 10 {
				if _, err := s.Ping(t.Context(), nil); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			<-half
			if err := s.Close(4000, "stop"); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		})
		got := int64(0)
		for {
			_, p, err := c.ReadMessage()
			if err != nil {
				if !websocket.IsCloseError(err, 4000) {
					t.Errorf("round %d: %v", round, err)
				}
				break
			}
			if strings.Trim(string(p), string(p[:1])) != "" {
				t.Fatalf("round %d: messages mixed: %q", round, p)
			}
			got++
		}
		wg.Wait()
		if got != sent.Load() {
			t.Fatalf("round %d: %d messages came of %d", round, got, sent.Load())
		}
		c.Close()
	}
}

// TestEndInTheMiddleOfAMessage has a peer vanish there: all must end with it.
func TestEndInTheMiddleOfAMessage(t *testing.T) {
	begun := map[string][]byte{
		"fragment":     maskedFrame(0x01, "first"),
		"long message": maskedFrame(0x82, strings.Repeat("x", 60000))[:30000],
		"violation":    append(maskedFrame(0x01, "first"), 0x81, 0x80, 0, 0, 0, 0),
		"bad UTF-8":    append(maskedFrame(0x01, "first"), maskedFrame(0x80, "\xff")...),
	}
	for name, dial := range transports(t) {
		for what, begun := range begun {
			t.Run(name+", "+what, func(t *testing.T) {
				h := closeHandler(t, &Handler{})
				c := dial(t, h)
				s := accept(t, h)
				closed := make(chan struct{})
				s.Handle(Events{Closed: func(*Socket, CloseCode, string) { close(closed) }})
				c.NetConn().Write(begun)
				if what != "violation" && what != "bad UTF-8" {
					time.Sleep(5 * time.Millisecond)
					c.NetConn().Close()
				}
				<-closed
				quiet := 0
				eventually(t, "the end of the last turn", func() bool { // and not one after the other
					if stacks := leftGoroutines(0); strings.Contains(stacks, "converse(") || strings.Contains(stacks, "turn(") {
						quiet = 0
					}
					quiet++
					return quiet == 5
				})
			})
		}
	}
}

// TestControlFramesDoNotCutIntoMessages has pongs go out while long messages do.
func TestControlFramesDoNotCutIntoMessages(t *testing.T) {
	write := map[string]func(*Socket, []byte) error{
		"Write": func(s *Socket, p []byte) error { return s.Write(context.Background(), Binary, p) },
		"Writer": func(s *Socket, p []byte) error {
			w, err := s.Writer(context.Background(), Binary)
			if err != nil {
				return err
			}
			w.Write(p)
			return w.Close()
		},
	}
	for how, write := range write {
		t.Run(how, func(t *testing.T) {
			h := closeHandler(t, &Handler{})
			c, s := connectTCP(t, h)
			s.Handle(Events{})
			message := bytes.Repeat([]byte("x"), 20000)
			go func() {
				for write(s, message) == nil {
				}
			}()
			go func() {
				for c.WriteControl(websocket.PingMessage, []byte("pingpingping"), time.Now().Add(time.Second)) == nil {
				}
			}()
			for range 3000 {
				if _, p, err := c.ReadMessage(); err != nil || !bytes.Equal(p, message) {
					t.Fatalf("%d bytes, %v", len(p), err)
				}
			}
			c.Close()
		})
	}
}

// TestWritesOfSlowCallbacksLeave has callbacks write and then block where no monitor sees it.
func TestWritesOfSlowCallbacksLeave(t *testing.T) {
	for _, slowBefore := range []bool{false, true} {
		h := closeHandler(t, &Handler{})
		conn := dialTCP(t, serveRaw(t, h))
		_, br := ask(t, conn, handshakeRequest())
		s := accept(t, h)
		release := make(chan struct{})
		messages := 0
		events := Events{Message: func(s *Socket, _ MessageType, p []byte) {
			if messages++; slowBefore && messages == 1 {
				time.Sleep(50 * time.Millisecond) // from now on it is kept off the loop
				return
			}
			s.Write(context.Background(), Binary, []byte("answer"))
			<-release
		}}
		if slowBefore {
			s.Handle(events)
			conn.Write(maskedFrame(0x81, "one"))
			time.Sleep(100 * time.Millisecond)
			conn.Write(maskedFrame(0x81, "two"))
		} else {
			conn.Write(maskedFrame(0x81, "before Listen"))
			time.Sleep(20 * time.Millisecond)
			s.Handle(events)
		}
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.ReadFull(br, make([]byte, 8)); err != nil {
			t.Errorf("slow before: %v: %v", slowBefore, err)
		}
		close(release)
	}
}

func TestAbortWhileClosing(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	closed := make(chan CloseCode, 1)
	s.Handle(Events{
		Closing: func(s *Socket) { s.Abort(); time.Sleep(20 * time.Millisecond) },
		Closed:  func(_ *Socket, code CloseCode, _ string) { closed <- code },
	})
	sayGoodbye(c, 1000, "")
	if code := <-closed; code != CloseAbnormalClosure {
		t.Error(code)
	}
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

func TestKeepaliveInTheMiddleOfAMessage(t *testing.T) {
	h := closeHandler(t, &Handler{PingInterval: 50 * time.Millisecond, PongTimeout: 100 * time.Millisecond})
	c, s := connectTCP(t, h)
	ends := make(chan error, 1)
	s.Handle(Events{Error: func(_ *Socket, err error) { ends <- err }})
	c.NetConn().Write(maskedFrame(0x01, "and then nothing"))
	if err := <-ends; !errors.Is(err, ErrPingTimeout) {
		t.Error(err)
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

func TestShutdownDuringHandshakes(t *testing.T) {
	t.Parallel()
	for range 30 {
		h := &Handler{MaxPending: -1}
		s := &Server{Handler: h}
		if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0") // past the Server's own way to accept
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go h.HandleConnection(conn)
			}
		}()
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				addr := s.Addr()
				if i%2 == 0 || addr == nil {
					addr = listener.Addr()
				}
				conn, err := net.Dial("tcp", addr.String())
				if err != nil {
					return
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(5 * time.Second))
				io.WriteString(conn, handshakeRequest())
				io.Copy(io.Discard, conn)
			})
		}
		time.Sleep(time.Duration(runtime.NumGoroutine()%7) * 100 * time.Microsecond)
		s.Close()
		listener.Close()
		wg.Wait()
	}
}

func TestRequestsAreCopies(t *testing.T) {
	h := closeHandler(t, &Handler{Authorize: func(r *http.Request) (http.Header, error) {
		r.URL.Path = "/elsewhere"
		r.Header.Set("X-User", "alice")
		return nil, nil
	}})
	for _, addr := range []string{serveRaw(t, h), serveHTTP(t, h)} {
		dial(t, addr, http.Header{"X-Two": {"a", "b"}})
		s := accept(t, h)
		if u := s.RequestURL(); u.Scheme != "ws" || u.Path != "/elsewhere" {
			t.Error(u)
		}
		r := s.Request()
		r.URL.Path, r.Header["X-Two"] = "/changed", nil
		if again := s.Request(); again.URL.String() != "/elsewhere" || again.Header.Get("X-User") != "alice" ||
			!slices.Equal(again.Header["X-Two"], []string{"a", "b"}) || again.RequestURI != "/chat" || again.RemoteAddr == "" {
			t.Errorf("%+v", again)
		}
	}
}

// TestFrameHasTheBoundariesOnTheWire sends messages in all sorts of fragments, in pieces of all sizes.
func TestFrameHasTheBoundariesOnTheWire(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("0123456789", 3000)
	messages := [][]string{
		{"whole"}, {""}, {"one", "two", "three"}, {"", "", "x", ""}, {"", ""}, {big}, {big, "small", big}, {"small", big},
		{strings.Repeat("a", 100), strings.Repeat("b", 600), "c"}, {"h\xc3", "\xa4llo"},
	}
	var want []string
	var stream []byte
	for i, fragments := range messages {
		for j, payload := range fragments {
			b0 := byte(0)
			if j == 0 {
				b0 = byte(1 + i%2)
			}
			last := j == len(fragments)-1
			if last {
				b0 |= 0x80
			}
			stream = append(stream, maskedFrame(b0, payload)...)
			if i%3 == 2 {
				stream = append(stream, maskedFrame(0x89, "ping")...)
			}
			want = append(want, fmt.Sprintf("%v frame of %d, %q..., %v", MessageType(1+i%2), len(payload), payload[:min(len(payload), 10)], last))
		}
		whole := strings.Join(fragments, "")
		want = append(want, fmt.Sprintf("%v message of %d", MessageType(1+i%2), len(whole)))
	}
	for name, dial := range transports(t) {
		for _, piece := range []int{1, 7, 1000, 1 << 20} {
			if piece == 1 && (name == "TLS" || name == "net.Pipe") {
				continue // a system call and a record for each byte
			}
			t.Run(fmt.Sprint(name, ", pieces of ", piece), func(t *testing.T) {
				h := closeHandler(t, &Handler{})
				c := dial(t, h)
				go io.Copy(io.Discard, c.NetConn())
				s := accept(t, h)
				var d diary
				e := d.events()
				e.Message = func(_ *Socket, t MessageType, p []byte) { d.note("%v message of %d", t, len(p)) }
				e.Frame = func(_ *Socket, t MessageType, p []byte, last bool) {
					d.note("%v frame of %d, %q..., %v", t, len(p), p[:min(len(p), 10)], last)
				}
				s.Handle(e)
				for rest := stream; len(rest) > 0; {
					n := min(piece, len(rest))
					if _, err := c.NetConn().Write(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				eventually(t, "the last message", func() bool { return len(d.all()) >= len(want) })
				if got := d.all(); !slices.Equal(got, want) {
					t.Errorf("%s\ninstead of\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				s.Abort()
			})
		}
	}
}

// TestFramesComeBeforeTheirMessageIsComplete has the rest of a message come only after its first frames were told of.
func TestFramesComeBeforeTheirMessageIsComplete(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	frames := make(chan string, 10)
	s.Handle(Events{Frame: func(_ *Socket, _ MessageType, p []byte, last bool) { frames <- fmt.Sprint(string(p), last) }})
	for _, step := range []struct {
		send []byte
		told int
	}{
		{maskedFrame(0x01, "one"), 1}, {maskedFrame(0x00, ""), 0} /* an empty one is reported with the next */, {maskedFrame(0x00, "two"), 2}, {maskedFrame(0x80, "three"), 1},
	} {
		c.NetConn().Write(step.send)
		for range step.told {
			select {
			case <-frames:
			case <-time.After(5 * time.Second):
				t.Fatalf("%q was not told of", step.send)
			}
		}
	}
}

func TestACompressedMessageIsOneFrame(t *testing.T) {
	h := closeHandler(t, &Handler{Compression: CompressionContextTakeover})
	c := dialCompressed(t, serveRaw(t, h), nil)
	s := accept(t, h)
	frames := make(chan string, 10)
	s.Handle(Events{Frame: func(_ *Socket, _ MessageType, p []byte, last bool) { frames <- fmt.Sprint(len(p), last) }})
	w, _ := c.NextWriter(websocket.TextMessage)
	for range 20 {
		io.WriteString(w, strings.Repeat("lorem ipsum ", 1000))
	}
	w.Close()
	if f := <-frames; f != "240000 true" {
		t.Error(f)
	}
}

// TestBytesWrittenAddUp compares what was told with what came.
func TestBytesWrittenAddUp(t *testing.T) {
	for name, dial := range transports(t) {
		t.Run(name, func(t *testing.T) {
			h := closeHandler(t, &Handler{})
			c := dial(t, h)
			s := accept(t, h)
			var told, calls atomic.Int64
			eventually(t, "the end of the handshake", func() bool { return s.BytesToWrite() == 0 })
			s.Handle(Events{BytesWritten: func(_ *Socket, n int) {
				told.Add(int64(n))
				calls.Add(1)
			}})
			sent := int64(0)
			for _, n := range []int{0, 10, 1000, 100000, 300000} {
				go s.Write(t.Context(), Binary, make([]byte, n))
				header := 2
				if n > 125 {
					header = 4
				}
				if n > 65535 {
					header = 10
				}
				sent += int64(header + n)
				if _, p, err := c.ReadMessage(); err != nil || len(p) != n {
					t.Fatal(len(p), err)
				}
			}
			eventually(t, "all bytes", func() bool { return told.Load() == sent })
			if calls.Load() < 2 {
				t.Errorf("%d calls", calls.Load())
			}
		})
	}
}

// TestCloseInBytesWritten and other things that one may do there.
func TestCloseInBytesWritten(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	closed := make(chan CloseCode, 1)
	s.Handle(Events{
		BytesWritten: func(s *Socket, n int) {
			if s.BytesToWrite() == 0 {
				s.Close(4000, "")
			}
		},
		Closed: func(_ *Socket, code CloseCode, _ string) { closed <- code },
	})
	s.SendText(t.Context(), "hello")
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			break
		}
	}
	if code := <-closed; code != 4000 {
		t.Error(code)
	}
}

// TestShutdownWaitsForClosed lets a program exit after it.
func TestShutdownWaitsForClosed(t *testing.T) {
	for name, dial := range transports(t) {
		t.Run(name, func(t *testing.T) {
			h := closeHandler(t, &Handler{})
			var told atomic.Int32
			listenAll(h, Events{Closed: func(*Socket, CloseCode, string) {
				time.Sleep(20 * time.Millisecond)
				told.Add(1)
			}})
			for range 5 {
				c := dial(t, h)
				go func() {
					for {
						if _, _, err := c.ReadMessage(); err != nil {
							return
						}
					}
				}()
			}
			eventually(t, "the sockets", func() bool { return h.Stats().Accepted == 5 })
			if err := h.Shutdown(t.Context()); err != nil || told.Load() != 5 {
				t.Error(err, told.Load())
			}
		})
	}
}

// TestBytesWrittenWhileListenBegins counts what is written at the same time.
func TestBytesWrittenWhileListenBegins(t *testing.T) {
	h := closeHandler(t, &Handler{})
	addr := serveRaw(t, h)
	for range 200 {
		c := dial(t, addr, nil)
		go io.Copy(io.Discard, c.NetConn())
		s := accept(t, h)
		begun := make(chan struct{})
		go func() {
			close(begun)
			for range 5 {
				s.SendText(context.Background(), "hello")
			}
		}()
		<-begun
		s.Handle(Events{BytesWritten: func(*Socket, int) {}})
		eventually(t, "all bytes", func() bool {
			l := s.events.Load()
			l.calls.Lock()
			defer s.returnCalls(l)
			return s.traffic().messagesOut == 5 && l.written == s.wire.Written()
		})
		c.Close()
	}
}
