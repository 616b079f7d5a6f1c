package foyer

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

func TestSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{}
		for range 3 {
			dialPipe(t, h)
		}
		n := 0
		for s := range h.Incoming(t.Context()) {
			s.Abort()
			if n++; n == 2 {
				break
			}
		}
		if h.Pending() != 1 {
			t.Errorf("%d pending", h.Pending())
		}
		h.Close()
		for range h.Incoming(t.Context()) {
			t.Error("a socket from a closed handler")
		}
	})
}

func TestShutdownSaysGoodbyeToEverySocket(t *testing.T) {
	t.Parallel()
	h := &Handler{}
	addr := serveRaw(t, h)
	read, unread, pending := dial(t, addr, nil), dial(t, addr, nil), dial(t, addr, nil)
	s := accept(t, h)
	go s.Read(context.Background())
	accept(t, h)
	half := dialTCP(t, addr) // in the middle of its handshake
	io.WriteString(half, "GET / HTTP/1.1\r\n")
	eventually(t, "the handshake to begin", func() bool { h.registry.mu.Lock(); defer h.registry.mu.Unlock(); return len(h.registry.entering) == 1 })

	var clients sync.WaitGroup
	for _, c := range []*websocket.Conn{read, unread, pending} {
		clients.Go(func() {
			if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 1001) {
				t.Errorf("client: %v", err)
			}
		})
	}
	if err := h.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	clients.Wait()
	if resp, err := http.ReadResponse(bufio.NewReader(half), nil); err != nil || resp.StatusCode != 503 {
		t.Error(resp, err)
	}
	if _, err := h.Accept(t.Context()); err != ErrClosed {
		t.Error(err)
	}
	if resp, _ := ask(t, dialTCP(t, serveHTTP(t, h)), handshakeRequest()); resp.StatusCode != 503 {
		t.Error(resp.Status)
	}
	if st := h.Stats(); st.Open != 0 || st.Closed[CloseGoingAway] != 3 {
		t.Errorf("stats %+v", st)
	}
	if err := h.Shutdown(t.Context()); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestShutdownCutsOffWhoDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{}
		_, s := connectPipe(t, h)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if err := h.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Error(err, time.Since(begin))
		}
		if closeCode(s) != CloseAbnormalClosure || !errors.Is(s.Err(), context.DeadlineExceeded) {
			t.Error(s.Err())
		}
	})
}

func TestHandlerClose(t *testing.T) {
	h := &Handler{}
	addr := serveRaw(t, h)
	accepted, pending := dial(t, addr, nil), dial(t, addr, nil)
	s := accept(t, h)
	waiting := make(chan error)
	h2 := &Handler{}
	go func() { _, err := h2.Accept(t.Context()); waiting <- err }()
	go h.Close()
	for _, c := range []*websocket.Conn{accepted, pending} {
		if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 1001) {
			t.Errorf("client: %v", err)
		}
	}
	<-s.Done()
	if closeCode(s) != CloseGoingAway {
		t.Error(s.Err())
	}
	eventually(t, "Accept to wait", func() bool { h2.pool.mu.Lock(); defer h2.pool.mu.Unlock(); return len(h2.pool.takers) == 1 })
	h2.Close()
	if err := <-waiting; err != ErrClosed {
		t.Error(err)
	}
	if err := h.HandleConnection(dialTCP(t, serveHTTP(t, h))); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestShutdownDuringAuthorize(t *testing.T) {
	asked, proceed := make(chan struct{}), make(chan struct{})
	h := &Handler{Authorize: func(*http.Request) (http.Header, error) {
		close(asked)
		<-proceed
		return nil, nil
	}}
	conn := dialTCP(t, serveHTTP(t, h))
	go io.WriteString(conn, handshakeRequest())
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := h.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	close(proceed)
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 503 {
		t.Error(resp, err)
	}
}

func TestShutdownDuringHandshakes(t *testing.T) {
	t.Parallel()
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
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
