package foyer

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/foyerws/foyer/internal/wstest"
)

func TestPoolIsExactUnderConcurrency(t *testing.T) {
	var p pool
	p.limit(30)
	var holding, most, refused atomic.Int64
	var workers sync.WaitGroup
	for range 64 {
		workers.Go(func() {
			for range 500 {
				if !p.reserve() {
					refused.Add(1)
					p.tryTake()
					continue
				}
				n := holding.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				if p.len() > 30 {
					t.Error("more sockets than places")
				}
				holding.Add(-1)
				if n%2 == 0 {
					p.release()
				} else {
					p.fill(new(Socket))
				}
			}
		})
	}
	workers.Wait()
	if most.Load() > 30 || refused.Load() == 0 || p.reserved != 0 {
		t.Errorf("at most %d held a place, %d refused, %d still reserved", most.Load(), refused.Load(), p.reserved)
	}
	for p.tryTake() != nil {
	}
	for range 30 {
		if !p.reserve() {
			t.Fatal("a place was lost")
		}
	}
	if p.reserve() {
		t.Error("a place was won")
	}
}

// TestFloodOfHandshakes has many more clients than places: exactly as many get in, the others get 503, and nobody gets
// 101 and a close frame.
func TestFloodOfHandshakes(t *testing.T) {
	slow(t)
	h := closeHandler(t, &Handler{MaxPending: 5})
	for _, addr := range []string{serveRaw(t, h), serveHTTP(t, h)} {
		var clients sync.WaitGroup
		var in, out atomic.Int32
		for range 40 {
			conn := dialTCP(t, addr)
			clients.Go(func() {
				switch resp, _ := ask(t, conn, handshakeRequest()); resp.StatusCode {
				case 101:
					in.Add(1)
				case 503:
					out.Add(1)
				}
			})
		}
		clients.Wait()
		if in.Load() != 5 || out.Load() != 35 || h.Pending() != 5 {
			t.Errorf("%d in, %d out, %d pending", in.Load(), out.Load(), h.Pending())
		}
		for s := h.NextPending(); s != nil; s = h.NextPending() {
			s.Abort()
		}
	}
}

func TestAcceptIsFirstInFirstOut(t *testing.T) {
	h := closeHandler(t, &Handler{})
	addr := serveRaw(t, h)
	for _, name := range []string{"a", "b", "c"} {
		dial(t, addr, http.Header{"X-Name": {name}})
	}
	for _, name := range []string{"a", "b", "c"} {
		if got := accept(t, h).Request().Header.Get("X-Name"); got != name {
			t.Errorf("got %q, want %q", got, name)
		}
	}
}

func TestAcceptersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{}
		order := make(chan int, 3)
		for i := range 3 {
			go func() {
				if _, err := h.Accept(t.Context()); err == nil {
					order <- i
				}
			}()
			synctest.Wait()
		}
		for i := range 3 {
			dialPipe(t, h)
			if got := <-order; got != i {
				t.Errorf("accepter %d was served, want %d", got, i)
			}
		}
		h.Close()
	})
}

func TestAcceptHonoursItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.Accept(ctx); err != context.DeadlineExceeded {
			t.Error(err)
		}
		dialPipe(t, h)
		synctest.Wait()
		if _, err := h.Accept(ctx); err != context.DeadlineExceeded || h.Pending() != 1 {
			t.Errorf("an ended context: %v, %d pending", err, h.Pending())
		}
		h.Close()
	})
}

func TestNoSocketIsLostWhenAcceptIsCancelled(t *testing.T) {
	var p pool
	p.limit(-1)
	const n = 2000
	var taken atomic.Int64
	var takers sync.WaitGroup
	for range 4 {
		takers.Go(func() {
			for taken.Load() < n {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Microsecond)
				if s, err := p.take(ctx); s != nil && err == nil {
					taken.Add(1)
				}
				cancel()
			}
		})
	}
	for range n {
		p.reserve()
		p.fill(new(Socket))
	}
	takers.Wait()
	if taken.Load() != n || p.len() != 0 {
		t.Errorf("%d taken, %d left", taken.Load(), p.len())
	}
}

func TestSetMaxPendingWhileServing(t *testing.T) {
	t.Parallel()
	h := closeHandler(t, &Handler{MaxPending: 1})
	addr := serveRaw(t, h)
	status := func() int { resp, _ := ask(t, dialTCP(t, addr), handshakeRequest()); return resp.StatusCode }
	for i, want := range []int{101, 503} {
		if got := status(); got != want {
			t.Errorf("handshake %d: %d, want %d", i, got, want)
		}
	}
	h.SetMaxPending(2)
	for i, want := range []int{101, 503} {
		if got := status(); got != want {
			t.Errorf("handshake %d with more room: %d, want %d", i, got, want)
		}
	}
	h.SetMaxPending(1)
	h.NextPending().Abort()
	if got := status(); got != 503 {
		t.Errorf("with less room than before: %d", got)
	}
	h.SetMaxPending(-1)
	for range 40 {
		if got := status(); got != 101 {
			t.Errorf("without a limit: %d", got)
		}
	}
	if NewDefault := new(Handler); func() int { NewDefault.init(); return NewDefault.pool.max }() != 30 {
		t.Error("the default is not 30")
	}
}

// TestClientThatLeavesFreesItsPlace fills the pool with clients that then go away in different manners.
func TestClientThatLeavesFreesItsPlace(t *testing.T) {
	leave := map[string]func(*net.TCPConn){
		"closed": func(c *net.TCPConn) { c.Close() },
		"reset":  func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		"reset with unread data": func(c *net.TCPConn) {
			c.Write(wstest.Masked(0x81, "hello"))
			time.Sleep(10 * time.Millisecond)
			c.SetLinger(0)
			c.Close()
		},
	}
	for name, leave := range leave {
		t.Run(name, func(t *testing.T) {
			h := closeHandler(t, &Handler{MaxPending: 1})
			addr := serveRaw(t, h)
			conn := dialTCP(t, addr)
			ask(t, conn, handshakeRequest())
			eventually(t, "the socket to wait", func() bool { return h.Pending() > 0 })
			leave(conn)
			eventually(t, "the place to be free", func() bool {
				resp, _ := ask(t, dialTCP(t, addr), handshakeRequest())
				return resp.StatusCode == 101
			})
			if st := h.Stats(); st.Closed[CloseAbnormalClosure] != 1 || st.Pending != 1 {
				t.Errorf("stats %+v", st)
			}
		})
	}
}

func TestAcceptPassesOverClientsThatLeft(t *testing.T) {
	h := closeHandler(t, &Handler{})
	addr := serveRaw(t, h)
	gone := dial(t, addr, nil)
	dial(t, addr, http.Header{"X-Name": {"here"}})
	eventually(t, "both to wait", func() bool { return h.Pending() == 2 })
	gone.Close()
	time.Sleep(20 * time.Millisecond) // for the FIN to arrive
	if got := accept(t, h).Request().Header.Get("X-Name"); got != "here" {
		t.Error("accepted a client that has left")
	}
	if h.NextPending() != nil {
		t.Error("a socket too many")
	}
}

func TestMessagesOfAClientThatLeftAreNotLost(t *testing.T) {
	h := closeHandler(t, &Handler{})
	conn := dialTCP(t, serveRaw(t, h))
	ask(t, conn, handshakeRequest()+string(wstest.Masked(0x82, "last words")))
	eventually(t, "the socket to wait", func() bool { return h.Pending() > 0 })
	conn.CloseWrite()
	time.Sleep(20 * time.Millisecond)
	s := accept(t, h)
	if _, p, err := s.Read(t.Context()); err != nil || string(p) != "last words" {
		t.Error(string(p), err)
	}
	if _, _, err := s.Read(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) || closeCode(s) != CloseAbnormalClosure {
		t.Error(err)
	}
}

func TestSweepFindsPendingClientsThatLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{PingInterval: -1}
		c := dialPipe(t, h)
		synctest.Wait()
		time.Sleep(20 * time.Second)
		if h.Pending() != 1 {
			t.Error("a client that is there was dropped")
		}
		c.Close()
		time.Sleep(6 * time.Second)
		if h.Pending() != 0 || h.Stats().Open != 0 {
			t.Errorf("stats %+v", h.Stats())
		}
	})
}

// TestClientThatLeavesDuringItsHandshakeTakesNoPlace resets the connection before the answer can be written.
func TestClientThatLeavesDuringItsHandshakeTakesNoPlace(t *testing.T) {
	asked, proceed := make(chan struct{}), make(chan struct{})
	h := closeHandler(t, &Handler{MaxPending: 2, Authorize: func(*http.Request) (http.Header, error) {
		asked <- struct{}{}
		<-proceed
		return nil, nil
	}})
	addr := serveRaw(t, h)
	for range 2 {
		conn := dialTCP(t, addr)
		io.WriteString(conn, handshakeRequest())
		<-asked
		conn.SetLinger(0)
		conn.Close()
	}
	time.Sleep(20 * time.Millisecond)
	close(proceed)
	eventually(t, "the places to be free", func() bool { st := h.Stats(); return st.Upgraded == 2 && st.Pending == 0 && st.Open == 0 })
}

func TestEarlyBytesDoNotShieldAClientThatLeft(t *testing.T) {
	h := closeHandler(t, &Handler{MaxPending: 1})
	addr := serveRaw(t, h)
	conn := dialTCP(t, addr)
	ask(t, conn, handshakeRequest()+"\x81")
	eventually(t, "the socket to wait", func() bool { return h.Pending() > 0 })
	conn.SetLinger(0)
	conn.Close()
	eventually(t, "the place to be free", func() bool {
		resp, _ := ask(t, dialTCP(t, addr), handshakeRequest())
		return resp.StatusCode == 101
	})
}

func TestTLSClientThatLeavesFreesItsPlace(t *testing.T) {
	t.Parallel()
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	h := closeHandler(t, &Handler{})
	s := &Server{Handler: h, TLSConfig: certificate.TLS}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	config := certificate.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName, config.NextProtos = "example.com", nil
	join := func(input string) *tls.Conn {
		conn := tls.Client(dialTCP(t, s.Addr().String()), config)
		if resp, _ := ask(t, conn, input); resp.StatusCode != 101 {
			t.Fatal(resp.Status)
		}
		return conn
	}
	stays := join(handshakeRequest())
	says := join(handshakeRequest())
	says.Write(wstest.Masked(0x82, "last words"))
	says.Close()
	join(handshakeRequest()).Close()
	eventually(t, "the place to be free", func() bool { h.pool.prune(time.Now()); return h.Pending() == 2 })
	stays.Write(wstest.Masked(0x82, "hello"))
	for _, want := range []string{"hello", "last words"} {
		if _, p, err := accept(t, h).Read(t.Context()); err != nil || string(p) != want {
			t.Errorf("%q, %v", p, err)
		}
	}
}

func TestPoolTakesNoSocketThatHasEnded(t *testing.T) {
	var p pool
	p.limit(1)
	p.reserve()
	ended := new(Socket)
	ended.state.Store(int32(StateClosed))
	if !p.fill(ended) || p.len() != 0 || !p.reserve() {
		t.Error("an ended socket has a place")
	}
}
