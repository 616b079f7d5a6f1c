package foyer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/foyerws/foyer/internal/wire"
	"github.com/foyerws/foyer/internal/wstest"
)

// A stuckConn is a TLS connection as wire sees one: a write blocks until it is closed, though the kernel has room below.
// That is what a client can do which asks for key updates and reads nothing.
type stuckConn struct {
	net.Conn
	stuck chan struct{} // closed when writes are to block
	ended chan struct{}
	once  sync.Once
}

func (c *stuckConn) NetConn() net.Conn { return c.Conn }

func (c *stuckConn) Write(p []byte) (int, error) {
	select {
	case <-c.stuck:
		<-c.ended
		return 0, net.ErrClosed
	default:
		return c.Conn.Write(p)
	}
}

func (c *stuckConn) Close() error {
	c.once.Do(func() { close(c.ended) })
	return c.Conn.Close()
}

// TestNothingWaitsForAStuckWrite has one client whose connection blocks whoever writes to it: what promises not to wait
// does not, and the keepalive of other sockets goes on.
func TestNothingWaitsForAStuckWrite(t *testing.T) {
	slow(t)
	h := &Handler{PingInterval: 100 * time.Millisecond, PongTimeout: 2 * time.Second, CloseTimeout: time.Second}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := dialTCP(t, l.Addr().String())
	below, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn := &stuckConn{Conn: below, stuck: make(chan struct{}), ended: make(chan struct{})}
	go h.HandleConnection(conn)
	ask(t, client, handshakeRequest())
	s := accept(t, h)
	silent := dialTCP(t, serveRaw(t, h))
	ask(t, silent, handshakeRequest())
	other := accept(t, h) // its client answers no ping, and must be found out

	close(conn.stuck)
	begin := time.Now()
	for range 5 {
		s.TryWrite(Text, []byte("hello"))
	}
	Broadcast(slices.Values([]*Socket{s, other}), Text, []byte("news"))
	s.Close(CloseNormalClosure, "")
	if took := time.Since(begin); took > 300*time.Millisecond {
		t.Errorf("that took %v", took)
	}
	within(t, 5*time.Second, "the keepalive of another socket", other.Done())
	within(t, 5*time.Second, "the end of the stuck one", s.Done())
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

func TestEmptyFragmentsHaveAnEnd(t *testing.T) {
	for _, events := range []bool{false, true} {
		h := closeHandler(t, &Handler{})
		conn := dialTCP(t, serveRaw(t, h))
		ask(t, conn, handshakeRequest())
		s := accept(t, h)
		if events {
			s.Handle(Events{})
		} else {
			go s.Read(context.Background())
		}
		conn.Write(append(wstest.Masked(0x01, ""), bytes.Repeat(wstest.Masked(0x00, ""), 1001)...))
		within(t, 5*time.Second, "the end", s.Done())
		if closeCode(s) != ClosePolicyViolation {
			t.Error(s.Err())
		}
	}
}

// A header that claims a long message sets little aside until some of it has come.
func TestClaimedLengthsCostLittle(t *testing.T) {
	h := closeHandler(t, &Handler{})
	conn := dialTCP(t, serveRaw(t, h))
	ask(t, conn, handshakeRequest())
	s := accept(t, h)
	conn.Write([]byte{0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 2, 3, 4}) // 1 MiB
	time.Sleep(20 * time.Millisecond)
	if err := s.nextMessage(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.wire.DoNotWait(true)
	if _, err := s.take(t.Context(), true, nil); err != wire.ErrNothing {
		t.Fatal(err)
	}
	if n := cap(s.partial.p); n > 1024 {
		t.Errorf("%d bytes were set aside", n)
	}
}

// A write on a socket that is just breaking returns how the socket ended.
func TestWritesOnABreakingSocketReturnACloseError(t *testing.T) {
	_, s := connectTCP(t, closeHandler(t, &Handler{}))
	s.wire.Close() // and nobody has told the socket yet
	var end *CloseError
	if err := s.Write(t.Context(), Text, nil); !errors.As(err, &end) || s.State() != StateClosed {
		t.Error(err)
	}
}

// TLSConfig is read before Listen returns.
func TestTLSConfigMayChangeBehindListen(t *testing.T) {
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	s := &Server{Handler: new(Handler), TLSConfig: &tls.Config{Certificates: certificate.TLS.Certificates}}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.TLSConfig = nil
	defer s.Close()
	conn, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// In a request, Upgrade is a list of which websocket is one (RFC 6455 section 4.1, RFC 9110 section 7.8).
func TestUpgradeMayBeAList(t *testing.T) {
	t.Parallel()
	h := closeHandler(t, &Handler{})
	for _, value := range []string{"websocket, ftp", "ftp,WebSocket"} {
		resp, _ := ask(t, dialTCP(t, serveRaw(t, h)), handshakeRequest("Upgrade: "+value))
		if resp.StatusCode != http.StatusSwitchingProtocols || !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") {
			t.Errorf("%s: %v", value, resp)
		}
	}
}

// A compressed message that another goroutine is writing is not a Writer.
func TestTryWriteBesideCompressedMessages(t *testing.T) {
	h := closeHandler(t, &Handler{Compression: CompressionContextTakeover, MaxWriteBuffer: 64 << 20})
	c := dialCompressed(t, serveRaw(t, h), nil)
	go io.Copy(io.Discard, c.NetConn())
	s := accept(t, h)
	message := bytes.Repeat([]byte("compress me "), 100)
	var writers sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			for range 300 {
				if err := s.TryWrite(Text, message); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
}

// noDeadlines is a connection that knows none, and whose writes block.
type noDeadlines struct{ stuckConn }

func (*noDeadlines) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (*noDeadlines) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (*noDeadlines) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// Shutdown breaks off the reading of requests without waiting for anything, on whatever connection.
func TestShutdownIsNotBlockedByAConnection(t *testing.T) {
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	ours, theirs := net.Pipe()
	defer ours.Close()
	h := &Handler{HandshakeTimeout: -1}
	slow := &noDeadlines{stuckConn{Conn: theirs, stuck: make(chan struct{}), ended: make(chan struct{})}}
	go h.HandleConnection(tls.Server(slow, &tls.Config{Certificates: certificate.TLS.Certificates}))
	client := tls.Client(ours, &tls.Config{InsecureSkipVerify: true})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	client.Write([]byte("GET / HTTP/1.1\r\n")) // and nothing more
	close(slow.stuck)
	done := make(chan struct{})
	go func() { h.Close(); close(done) }()
	within(t, 3*time.Second, "Shutdown", done)
}

// A ForEach function that finishes its work is waited for.
func TestShutdownWaitsForForEachFunctions(t *testing.T) {
	h := &Handler{}
	saved := make(chan struct{})
	go h.ForEach(context.Background(), func(ctx context.Context, s *Socket) {
		s.Read(ctx)
		time.Sleep(100 * time.Millisecond)
		close(saved)
	})
	c := dial(t, serveRaw(t, h), nil)
	go c.ReadMessage() // answers the close frame
	eventually(t, "the socket", func() bool { return h.Stats().Accepted == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := h.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	select {
	case <-saved:
	default:
		t.Error("Shutdown has returned before the function")
	}
}

// A hook that ends its goroutine leaves a trace, and takes no place with it.
func TestHookThatEndsItsGoroutine(t *testing.T) {
	var log logbook
	h := closeHandler(t, &Handler{MaxPending: 1, Logger: log.logger(), Authorize: func(r *http.Request) (http.Header, error) {
		if r.Header.Get("X-Exit") != "" {
			runtime.Goexit()
		}
		return nil, nil
	}})
	addr := serveRaw(t, h)
	conn := dialTCP(t, addr)
	io.WriteString(conn, handshakeRequest("X-Exit: 1"))
	io.Copy(io.Discard, conn)
	if st, lines := h.Stats(), log.lines(t); st.Refused[500] != 1 || len(lines) != 1 || lines[0]["level"] != "ERROR" {
		t.Error(st, lines)
	}
	if resp, _ := ask(t, dialTCP(t, addr), handshakeRequest()); resp.StatusCode != 101 {
		t.Error(resp.Status)
	}
}

// What a peer or a hook says cannot break a line of a log, and no header's value gets there.
func TestTextsAreSafe(t *testing.T) {
	end := &CloseError{Code: 4000, Reason: "x\n2026/11/24 admin logged in \x1b[31m"}
	if text := end.Error(); strings.ContainsAny(text, "\n\x1b") || end.Reason[1] != '\n' {
		t.Errorf("%q", text)
	}
	if err := checkHeader(http.Header{"Set-Cookie": {"session=SECRET\n"}}); err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Error(err)
	}
}
