package foyer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
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
				c.NetConn().Write(append(wstest.Masked(0x81, "hello"), wstest.Masked(0x8a, "pong")...))
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

// TestSlowCallbackDelaysItsOwnSocketOnly measures what the others notice: by the 99th percentile at most 5 ms, or on a busy machine
// at most three times what they wait for without it.
func TestSlowCallbackDelaysItsOwnSocketOnly(t *testing.T) {
	slow(t)
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
			var without, with time.Duration
			for range 5 { // a busy machine may spoil one
				if without, with = delayOfOthers(t, wait); with <= max(5*time.Millisecond, 3*without) {
					return
				}
			}
			t.Errorf("the others waited for %v, and without it for %v", with, without)
		})
	}
}

// delayOfOthers returns the 99th percentile of what other sockets wait for, without and with a callback that takes a second.
func delayOfOthers(t *testing.T, wait func(time.Duration)) (without, with time.Duration) {
	h := closeHandler(t, &Handler{})
	defer h.Close()
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
	soon := make(chan struct{})
	time.AfterFunc(300*time.Millisecond, func() { close(soon) })
	without = p99OfEchoes(t, others, soon)
	dial(t, addr, nil).WriteMessage(websocket.TextMessage, []byte("slow"))
	<-begun
	return without, p99OfEchoes(t, others, ended)
}

// p99OfEchoes measures until end is closed.
func p99OfEchoes(t *testing.T, conns []*websocket.Conn, end <-chan struct{}) time.Duration {
	var took []time.Duration
	for i := 0; ; i++ {
		select {
		case <-end:
			slices.Sort(took)
			return took[len(took)*99/100]
		default:
		}
		c := conns[i%len(conns)]
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
	slow(t)
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
				conn.Write(bytes.Repeat(wstest.Masked(0x81, "hello"), 3))
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
				send, got := wstest.Masked(0x82, strings.Repeat("x", size)), make([]byte, size+map[bool]int{true: 2, false: 4}[size < 126])
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
			conn.Write(wstest.Masked(0x81, "one"))
			time.Sleep(100 * time.Millisecond)
			conn.Write(wstest.Masked(0x81, "two"))
		} else {
			conn.Write(wstest.Masked(0x81, "before Listen"))
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
