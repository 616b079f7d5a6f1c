package foyer

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/foyerws/foyer/internal/wstest"

	"github.com/gorilla/websocket"
)

func TestServerAccessors(t *testing.T) {
	s := &Server{Handler: &Handler{}}
	if s.Addr() != nil || s.Port() != 0 || s.URL() != nil {
		t.Error("listens before Listen")
	}
	if _, err := s.File(); err != ErrNotListening {
		t.Error(err)
	}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if s.Port() == 0 || s.URL().String() != "ws://"+s.Addr().String() {
		t.Error(s.Addr(), s.Port(), s.URL())
	}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != errIsListening {
		t.Error(err)
	}
	if err := s.Close(); err != nil || s.Addr() != nil {
		t.Error(err)
	}
	if err := s.Close(); !errors.Is(err, ErrNotListening) {
		t.Error(err)
	}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != ErrClosed {
		t.Errorf("listening again: %v", err)
	}
	if err := new(Server).Listen("tcp", "127.0.0.1:0"); err != errNoHandler {
		t.Error(err)
	}
	if err := new(Server).Close(); err != ErrNotListening {
		t.Error(err)
	}
	if err := new(Server).Shutdown(t.Context()); err != ErrNotListening {
		t.Error(err)
	}
	if err := s.Listen("tcp", "256.0.0.1:0"); err == nil {
		t.Error("listens on nonsense")
	}
	if err := s.ListenAndServe("256.0.0.1:0"); err == nil {
		t.Error("listens on nonsense")
	}
}

func TestServerURLOfAllAddresses(t *testing.T) {
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	s := &Server{Handler: &Handler{}, TLSConfig: certificate.TLS}
	if err := s.Listen("tcp", ":0"); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if u := s.URL(); u.Scheme != "wss" || u.Hostname() != "localhost" {
		t.Error(u)
	}
}

func TestServerOnAUnixSocket(t *testing.T) {
	h := &Handler{}
	s := &Server{Handler: h}
	path := filepath.Join(t.TempDir(), "s")
	if err := s.Listen("unix", path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.URL().String() != "ws+unix://"+path || s.Port() != 0 {
		t.Error(s.URL())
	}
	d := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return net.Dial("unix", path) }}
	c, _, err := d.Dial("ws://localhost/", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accept(t, h).SendText(t.Context(), "hello")
	if _, p, err := c.ReadMessage(); err != nil || string(p) != "hello" {
		t.Error(string(p), err)
	}
}

func TestServeEndsWithClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var last lastError
	s := &Server{Handler: &Handler{OnError: last.set}}
	served := make(chan error)
	go func() { served <- s.Serve(l) }()
	eventually(t, "the server to listen", func() bool { return s.Addr() != nil })
	l2, _ := net.Listen("tcp", "127.0.0.1:0")
	if err := s.Serve(l2); err != errIsListening {
		t.Error(err)
	}
	if _, err := l2.Accept(); err == nil {
		t.Error("the refused listener is open")
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != ErrClosed {
		t.Error(err)
	}
}

func TestServerPause(t *testing.T) {
	t.Parallel()
	h := &Handler{}
	s := &Server{Handler: h}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	addr := s.Addr().String()
	pending := dial(t, addr, nil)
	s.Pause()
	s.Pause()
	conn := dialTCP(t, addr)
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	io.WriteString(conn, handshakeRequest())
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a paused server answers: %v", err)
	}
	accept(t, h).SendText(t.Context(), "what waits stays")
	if _, p, err := pending.ReadMessage(); err != nil || string(p) != "what waits stays" {
		t.Error(string(p), err)
	}
	s.Resume()
	s.Resume()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Errorf("a resumed server does not answer: %v", err)
	}
	s.Pause()
	left := dialTCP(t, addr)
	time.Sleep(10 * time.Millisecond)
	s.Close()
	if _, err := io.ReadAll(left); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection was forgotten: %v", err)
	}
}

// faultyListener fails a few times before it accepts.
type faultyListener struct {
	net.Listener
	mu   sync.Mutex
	errs []error
}

func (l *faultyListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		l.mu.Unlock()
		return nil, err
	}
	l.mu.Unlock()
	return l.Listener.Accept()
}

func TestTemporaryAcceptErrorsAreRetried(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 10)
	h := &Handler{OnError: func(err error) { errs <- err }}
	s := &Server{Handler: h}
	defer s.Close()
	full := &net.OpError{Op: "accept", Err: os.NewSyscallError("accept", syscall.EMFILE)}
	go s.Serve(&faultyListener{Listener: l, errs: []error{full, full, full}})
	dial(t, l.Addr().String(), nil)
	for range 3 {
		var failed *AcceptError
		if err := <-errs; !errors.As(err, &failed) || !errors.Is(err, syscall.EMFILE) || !strings.Contains(err.Error(), "accept") {
			t.Error(err)
		}
	}
}

func TestServerClosesWhileItBacksOff(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	full := &net.OpError{Op: "accept", Err: os.NewSyscallError("accept", syscall.EMFILE)}
	var last lastError
	s := &Server{Handler: &Handler{OnError: last.set}}
	served := make(chan error)
	errs := make([]error, 100)
	for i := range errs {
		errs[i] = full
	}
	go func() { served <- s.Serve(&faultyListener{Listener: l, errs: errs}) }()
	eventually(t, "an error", func() bool { return last.get() != nil })
	s.Close()
	if err := <-served; err != ErrClosed {
		t.Error(err)
	}
}

func TestLastingAcceptErrorsEndTheServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Handler: &Handler{}}
	var failed *AcceptError
	if err := s.Serve(&faultyListener{Listener: l, errs: []error{io.ErrNoProgress}}); !errors.As(err, &failed) || !errors.Is(err, io.ErrNoProgress) {
		t.Error(err)
	}
	if s.Addr() != nil {
		t.Error("still listening")
	}
}

// TestRestartWithoutAGap hands a listening socket over from one Server to another.
func TestRestartWithoutAGap(t *testing.T) {
	for network, addr := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")} {
		t.Run(network, func(t *testing.T) {
			old := &Server{Handler: &Handler{}}
			if err := old.Listen(network, addr); err != nil {
				t.Fatal(err)
			}
			addr := old.Addr().String()
			f, err := old.File()
			if err != nil {
				t.Fatal(err)
			}
			h := &Handler{}
			fresh := &Server{Handler: h}
			if err := fresh.ListenFile(f); err != nil {
				t.Fatal(err)
			}
			defer fresh.Close()
			f.Close()
			old.Close()
			d := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return net.Dial(network, addr) }}
			c, _, err := d.Dial("ws://localhost/", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			accept(t, h)
		})
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := new(Server).ListenFile(f); err == nil {
		t.Error("a file is no listener")
	}
	s := &Server{Handler: &Handler{}}
	s.listener = &faultyListener{}
	if _, err := s.File(); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// TestFileCanBeGivenToAProcess calls what os/exec calls on a file: the Server must still be able to close its listener.
func TestFileCanBeGivenToAProcess(t *testing.T) {
	t.Parallel()
	s := &Server{Handler: &Handler{}}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	f, err := s.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Fd()
	dialTCP(t, s.Addr().String()) // so that the listener waits once more
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Close waits")
	}
}

// Retire closes sockets one after the other, lets others in meanwhile, and closes those at the end.
func TestRetireTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{MaxPending: -1}
		var mu sync.Mutex
		var ends []time.Duration
		begin := time.Now()
		join := func() {
			c, s := connectPipe(t, h)
			go s.Read(t.Context())
			go func() {
				if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseServiceRestart) {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				ends = append(ends, time.Since(begin))
			}()
		}
		for range 10 {
			join()
		}
		time.AfterFunc(5500*time.Millisecond, join)
		if err := h.Drain(t.Context(), 10*time.Second); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		want := []time.Duration{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
		for i := range ends {
			want[i] *= time.Second
		}
		if !slices.Equal(ends, want) {
			t.Error(ends)
		}
		if _, err := h.Accept(t.Context()); err != ErrClosed {
			t.Error(err)
		}
	})
}

// A Handler that is closed, or will be, has Retire wait no longer.
func TestRetireOfAClosedHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{}
		begin := time.Now()
		time.AfterFunc(time.Second, func() { h.Shutdown(t.Context()) })
		if err := h.Drain(t.Context(), time.Hour); err != nil || time.Since(begin) != time.Second {
			t.Error(err, time.Since(begin))
		}
		if err := h.Drain(t.Context(), time.Hour); err != nil || time.Since(begin) != time.Second {
			t.Error(err, time.Since(begin))
		}
		if err := new(Handler).Drain(t.Context(), time.Minute); err != nil || time.Since(begin) != time.Second+time.Minute {
			t.Error(err, time.Since(begin))
		}
	})
}

// The end of its context cuts off what Retire has not closed yet.
func TestRetireInAHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{}
		_, s := connectPipe(t, h)
		_, other := connectPipe(t, h)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begin := time.Now()
		if err := h.Drain(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 3*time.Second {
			t.Error(err, time.Since(begin))
		}
		<-s.Done()
		<-other.Done()
	})
}

// A connection that a paused Server has accepted is served when it retires.
func TestServerRetires(t *testing.T) {
	s := &Server{Handler: &Handler{}}
	if err := s.Drain(t.Context(), 0); !errors.Is(err, ErrNotListening) {
		t.Error(err)
	}
	s = &Server{Handler: &Handler{}}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.Pause()
	conn := dialTCP(t, s.Addr().String())
	time.Sleep(20 * time.Millisecond) // until it was accepted
	retired := make(chan error)
	go func() { retired <- s.Drain(t.Context(), 200*time.Millisecond) }()
	resp, br := ask(t, conn, handshakeRequest())
	if resp.StatusCode != 101 {
		t.Fatal(resp)
	}
	var end [4]byte
	if _, err := io.ReadFull(br, end[:]); err != nil || string(end[:]) != "\x88\x02\x03\xf4" {
		t.Errorf("%q, %v", end, err)
	}
	conn.Write(wstest.Masked(0x88, "\x03\xf4"))
	if err := <-retired; err != nil {
		t.Error(err)
	}
}
