package foyer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/foyerws/foyer/internal/wstest"

	"github.com/gorilla/websocket"
)

// programs take their sockets in the ways there are, and echo.
var programs = map[string]func(context.Context, *Handler){
	"ForEach": func(ctx context.Context, h *Handler) { h.ForEach(ctx, echo) },
	"Incoming": func(ctx context.Context, h *Handler) {
		for s := range h.Incoming(ctx) {
			s.Handle(Events{Message: echoBack})
		}
	},
	"Accept": func(ctx context.Context, h *Handler) {
		for {
			s, err := h.Accept(ctx)
			if err != nil {
				return
			}
			go echo(ctx, s)
		}
	},
}

// fronts are the ways in. Each returns a well-behaved client, which has one message echoed.
var fronts = map[string]func(*testing.T, *Handler) func() error{
	"net/http": func(t *testing.T, h *Handler) func() error {
		addr := serveHTTP(t, h)
		return func() error { return echoOnce(addr) }
	},
	"Server": func(t *testing.T, h *Handler) func() error {
		addr := serveRaw(t, h)
		return func() error { return echoOnce(addr) }
	},
	"HTTP/2": func(t *testing.T, h *Handler) func() error {
		url, client := serveHTTP2(t, true, h)
		return func() error { return echoOnceOverHTTP2(client, url) }
	},
}

// TestProgramsThatTakeTheirSocketsRefuseNobody has many more clients than places come at once, 256 at a time, with the
// default limits. FOYER_STORM says how many.
func TestProgramsThatTakeTheirSocketsRefuseNobody(t *testing.T) {
	clients := 1000
	if testing.Short() {
		clients = 200
	}
	if n, err := strconv.Atoi(os.Getenv("FOYER_STORM")); err == nil {
		clients = n
	}
	for _, procs := range []int{1, 2} {
		for name, program := range programs {
			for front, serve := range fronts {
				t.Run(fmt.Sprintf("%s, %s, GOMAXPROCS=%d", name, front, procs), func(t *testing.T) {
					defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
					h := closeHandler(t, &Handler{})
					go program(context.Background(), h)
					come := serve(t, h)
					var next, served atomic.Int64
					var wg sync.WaitGroup
					for range min(256, clients) {
						wg.Go(func() {
							for next.Add(1) <= int64(clients) {
								if err := come(); err != nil {
									t.Error(err)
									return
								}
								served.Add(1)
							}
						})
					}
					wg.Wait()
					st := h.Stats()
					if served.Load() != int64(clients) || len(st.Refused) > 0 {
						t.Errorf("%d served, refused %v", served.Load(), st.Refused)
					}
					t.Logf("%d served, %d refused", served.Load(), len(st.Refused))
				})
			}
		}
	}
}

// echoOnceOverHTTP2 is a well-behaved client over HTTP/2.
func echoOnceOverHTTP2(client *http.Client, url string) error {
	in, out := io.Pipe()
	defer out.Close()
	resp, err := client.Do(connectRequest(context.Background(), url, in))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	go out.Write(wstest.Masked(0x81, "hello"))
	var b [7]byte
	if _, err := io.ReadFull(resp.Body, b[:]); err != nil || string(b[:]) != "\x81\x05hello" {
		return fmt.Errorf("%q, %w", b, err)
	}
	return nil
}

// echoOnce is a well-behaved client.
func echoOnce(addr string) error {
	d := websocket.Dialer{HandshakeTimeout: 20 * time.Second}
	c, resp, err := d.Dial("ws://"+addr+"/chat", nil)
	if err != nil {
		return fmt.Errorf("%w: %v", err, resp)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	c.WriteMessage(websocket.TextMessage, []byte("hello"))
	if _, p, err := c.ReadMessage(); err != nil || string(p) != "hello" {
		return fmt.Errorf("%q, %v", p, err)
	}
	return nil
}

// A door is a Handler in a bubble of testing/synctest, and what its clients were told.
type door struct {
	t *testing.T
	h *Handler
}

// knock begins a handshake and returns a channel that gets its status.
func (d door) knock(name string) <-chan int {
	ours, theirs := net.Pipe()
	d.t.Cleanup(func() { ours.Close() })
	go d.h.HandleConnection(theirs)
	status := make(chan int, 1)
	go func() {
		resp, _ := ask(d.t, ours, handshakeRequest("X-Name: "+name))
		status <- resp.StatusCode
	}()
	synctest.Wait()
	return status
}

func decided(status <-chan int) int {
	select {
	case code := <-status:
		return code
	default:
		return 0
	}
}

func TestHandshakesWaitInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := door{t, &Handler{MaxPending: 1}}
		defer d.h.Close()
		first := d.knock("0")
		var waiting []<-chan int
		for i := range 5 {
			waiting = append(waiting, d.knock(fmt.Sprint(i+1)))
		}
		if decided(first) != 101 || d.h.Pending() != 1 {
			t.Fatal("the first was not let in")
		}
		for i := range 6 {
			if got := d.h.NextPending().Request().Header.Get("X-Name"); got != fmt.Sprint(i) {
				t.Errorf("socket %d is that of client %s", i, got)
			}
			synctest.Wait()
			for j, status := range waiting {
				if code := decided(status); code != 0 && (j != i || code != 101) {
					t.Errorf("after %d sockets were taken, client %d got %d", i+1, j+1, code)
				}
			}
		}
	})
}

// TestProgramThatDoesNotTake fills the pool of a program that never takes a socket: in the first second the next client waits,
// because the program may be about to begin; after that it is refused at once, and no hook is asked.
func TestProgramThatDoesNotTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		d := door{t, &Handler{Authorize: func(*http.Request) (http.Header, error) { asked++; return nil, nil }}}
		defer d.h.Close()
		for range 30 {
			if code := decided(d.knock("")); code != 101 {
				t.Fatal(code)
			}
		}
		begin := time.Now()
		late := d.knock("31")
		if code := <-late; code != 503 || time.Since(begin) != time.Second {
			t.Errorf("%d after %v", code, time.Since(begin))
		}
		before := asked
		if code := decided(d.knock("32")); code != 503 || asked != before {
			t.Errorf("%d, hooks asked %d times", code, asked-before)
		}
		// Once the program takes sockets again, clients wait again.
		d.h.NextPending().Abort()
		if code := decided(d.knock("33")); code != 101 {
			t.Error(code)
		}
		begin = time.Now()
		if code := <-d.knock("34"); code != 503 || time.Since(begin) != time.Second {
			t.Errorf("%d after %v", code, time.Since(begin))
		}
	})
}

// A call of Accept that waits is a program that takes its sockets, however long nobody comes.
func TestWaitingAcceptIsAProgramThatTakes(t *testing.T) {
	var p pool
	p.limit(1)
	p.begin()
	long := time.Now().Add(time.Hour)
	if p.taking(long) {
		t.Error("nobody takes")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { _, err := p.take(ctx); ended <- err }()
	eventually(t, "the call to wait", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.takers) == 1 })
	if !p.taking(long) {
		t.Error("a call of Accept is waiting")
	}
	// When it stops, whoever waits because of it is turned away at that moment.
	p.mu.Lock()
	p.began = time.Now().Add(-time.Hour)
	p.reserved = 1 // a handshake that is slow to answer
	p.mu.Unlock()
	told := make(chan error, 1)
	p.await(&waiter{func(err error) { told <- err }})
	cancel()
	if <-ended; <-told != ErrPendingFull {
		t.Error("the handshake still waits")
	}
}

// TestAcceptThatWasGivenASocketTakes though its goroutine does not get the processor for long.
func TestAcceptThatWasGivenASocketTakes(t *testing.T) {
	var p pool
	p.limit(1)
	p.begin()
	ended := make(chan error)
	go func() { _, err := p.take(t.Context()); ended <- err }()
	var taker chan *Socket
	eventually(t, "the call to wait", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.takers) == 1 {
			taker, p.takers[0] = p.takers[0], make(chan *Socket, 1) // which the call does not see
		}
		return taker != nil
	})
	p.reserve()
	p.fill(&Socket{})
	long := time.Now().Add(time.Hour)
	if !p.taking(long) {
		t.Error("the call has not returned")
	}
	taker <- &Socket{}
	if err := <-ended; err != nil || p.taking(long) {
		t.Error("the call has returned", err)
	}
}

func TestHandshakeTimeoutEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last lastError
		d := door{t, &Handler{MaxPending: 1, HandshakeTimeout: 300 * time.Millisecond, OnError: last.set}}
		defer d.h.Close()
		d.knock("in")
		begin := time.Now()
		if code := <-d.knock("waits"); code != 503 || time.Since(begin) != 300*time.Millisecond {
			t.Errorf("%d after %v", code, time.Since(begin))
		}
		synctest.Wait()
		if err := last.get(); !errors.Is(err, ErrPendingFull) {
			t.Error(err)
		}
		if d.h.NextPending() == nil || decided(d.knock("next")) != 101 {
			t.Error("the place went to a client that had given up")
		}
	})
}

func TestShutdownTurnsTheWaitingAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := door{t, &Handler{MaxPending: 1}}
		d.knock("in")
		waits := d.knock("waits")
		begin := time.Now()
		go d.h.Shutdown(t.Context())
		if code := <-waits; code != 503 || time.Since(begin) != 0 {
			t.Errorf("%d after %v", code, time.Since(begin))
		}
		d.h.Close()
	})
}

// TestClientThatLeavesWhileItWaitsCostsNothing has a client give up before its turn: the place goes to the next.
func TestClientThatLeavesWhileItWaitsCostsNothing(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, *Handler) string{
		"net/http": func(t testing.TB, h *Handler) string { return serveHTTP(t, h) },
		"Server":   serveRaw,
		"HandleConnection": func(t testing.TB, h *Handler) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			go func() {
				for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
					go h.HandleConnection(conn)
				}
			}()
			return l.Addr().String()
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := closeHandler(t, &Handler{MaxPending: 1})
			addr := serve(t, h)
			waiters := func() int { h.pool.mu.Lock(); defer h.pool.mu.Unlock(); return len(h.pool.waiters) }
			ask(t, dialTCP(t, addr), handshakeRequest("X-Name: first"))
			leaves := dialTCP(t, addr)
			io.WriteString(leaves, handshakeRequest("X-Name: leaves"))
			eventually(t, "it to wait", func() bool { return waiters() == 1 })
			stays := dialTCP(t, addr)
			io.WriteString(stays, handshakeRequest("X-Name: stays"))
			eventually(t, "both to wait", func() bool { return waiters() == 2 })
			leaves.Close()
			time.Sleep(20 * time.Millisecond) // for the FIN to arrive
			for _, want := range []string{"first", "stays"} {
				if got := accept(t, h).Request().Header.Get("X-Name"); got != want {
					t.Errorf("accepted %q, want %q", got, want)
				}
			}
			eventually(t, "the handshake to end", func() bool { return h.Stats().Refused[0] == 1 && waiters() == 0 })
		})
	}
}

func TestWaitersAreBounded(t *testing.T) {
	var p pool
	p.limit(1)
	p.begin()
	p.reserve()
	var granted, refused int
	for range maxWaiting + 10 {
		p.await(&waiter{func(err error) {
			if err == nil {
				granted++
			} else {
				refused++
			}
		}})
	}
	if granted != 0 || refused != 10 || p.begin() != ErrPendingFull {
		t.Errorf("%d granted, %d refused", granted, refused)
	}
	p.limit(-1)
	if granted != maxWaiting || len(p.waiters) != 0 {
		t.Errorf("%d granted without a limit", granted)
	}
	p.close()
}

// TestAdmissionIsExact has handshakes come, wait, give up and take places at random, and sees that no place is lost or held
// twice.
func TestAdmissionIsExact(t *testing.T) {
	var p pool
	p.limit(7)
	var holding, most, in atomic.Int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 32 {
		wg.Go(func() {
			for i := range 400 {
				if p.begin() != nil {
					continue
				}
				granted := make(chan error, 1)
				w := &waiter{func(err error) { granted <- err }}
				if !p.reserve() {
					if p.await(w); i%5 == 0 && p.withdraw(w) {
						continue
					}
					if <-granted != nil {
						continue
					}
				}
				n := holding.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				runtime.Gosched()
				holding.Add(-1)
				if i%3 == 0 {
					p.release()
				} else if p.fill(new(Socket)) {
					in.Add(1)
				}
			}
		})
	}
	var taken atomic.Int64
	var takers sync.WaitGroup
	for range 2 {
		takers.Go(func() {
			for {
				if p.tryTake() != nil {
					taken.Add(1)
					continue
				}
				select {
				case <-stop:
					return
				default:
					runtime.Gosched()
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	takers.Wait()
	for p.tryTake() != nil {
		taken.Add(1)
	}
	if most.Load() > 7 || p.reserved != 0 || len(p.waiters) != 0 || in.Load() != taken.Load() {
		t.Errorf("at most %d at once, %d reserved, %d waiting, %d in, %d taken", most.Load(), p.reserved, len(p.waiters), in.Load(), taken.Load())
	}
	p.close()
}
