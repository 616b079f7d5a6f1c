package foyer

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// TestMain fails when the tests leave a goroutine of foyer behind.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the tests make most of the mistakes that are logged
	flag.Parse()
	if f := flag.Lookup("test.parallel"); testing.Short() && f.Value.String() == f.DefValue {
		f.Value.Set("8") // they wait more than they compute
	}
	code := m.Run()
	if stacks := leftGoroutines(5 * time.Second); code == 0 && stacks != "" {
		fmt.Println("goroutines left behind:\n" + stacks)
		code = 1
	}
	os.Exit(code)
}

// slow leaves a test out of the short ones that takes two seconds and more, and measures time, so that it cannot run beside others.
func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("slow")
	}
}

// besideOthers runs a test beside others among the short ones. Otherwise it has the machine for itself: it measures time.
func besideOthers(t *testing.T) {
	if testing.Short() {
		t.Parallel()
	}
}

// leftGoroutines returns the stacks of goroutines that run code of this module but no test, once patience is used up.
func leftGoroutines(patience time.Duration) string {
	deadline := time.Now().Add(patience)
	for {
		var all bytes.Buffer
		pprof.Lookup("goroutine").WriteTo(&all, 2)
		var left []string
		for i, stack := range strings.Split(all.String(), "\n\n") {
			if i > 0 && strings.Contains(stack, "github.com/foyerws/foyer") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

const testKey = "dGhlIHNhbXBsZSBub25jZQ=="

// handshakeRequest returns a request that is a handshake, with the given header lines put in and those of the same name
// left out. A line that is only a name and a colon leaves that header out altogether.
func handshakeRequest(lines ...string) string {
	header := []string{"Host: example.com", "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + testKey}
	var b strings.Builder
	b.WriteString("GET /chat HTTP/1.1\r\n")
	for _, old := range header {
		name, _, _ := strings.Cut(old, ":")
		replaced := false
		for _, line := range lines {
			replaced = replaced || strings.HasPrefix(line, name+":")
		}
		if !replaced {
			b.WriteString(old + "\r\n")
		}
	}
	for _, line := range lines {
		if !strings.HasSuffix(line, ":") {
			b.WriteString(line + "\r\n")
		}
	}
	return b.String() + "\r\n"
}

// serveHTTP serves handler until the test ends and returns the address.
func serveHTTP(t testing.TB, handler http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// serveRaw gives h the connections of a listener until the test ends and returns the address.
func serveRaw(t testing.TB, h *Handler) string {
	t.Helper()
	s := &Server{Handler: h}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.Addr().String()
}

// closeHandler closes h when the test ends.
func closeHandler(t testing.TB, h *Handler) *Handler {
	t.Cleanup(func() { h.Close() })
	return h
}

// dialTCP connects to addr for the time of the test; nothing on the connection takes longer than ten seconds.
func dialTCP(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn.(*net.TCPConn)
}

// ask sends a request and returns the response.
func ask(t testing.TB, conn net.Conn, request string) (*http.Response, *bufio.Reader) {
	t.Helper()
	go io.WriteString(conn, request)
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatalf("reading the response: %v", err)
	}
	return resp, br
}

// dial opens a WebSocket with gorilla's client.
func dial(t testing.TB, addr string, header http.Header) *websocket.Conn {
	t.Helper()
	d := websocket.Dialer{HandshakeTimeout: 10 * time.Second}
	c, resp, err := d.Dial("ws://"+addr+"/chat", header)
	if err != nil {
		t.Fatalf("dial: %v %v", err, resp)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// accept takes the next socket from h.
func accept(t testing.TB, h *Handler) *Socket {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := h.Accept(ctx)
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	t.Cleanup(func() { s.Abort() })
	return s
}

// connect returns both ends of a socket of h over TCP.
func connectTCP(t testing.TB, h *Handler) (*websocket.Conn, *Socket) {
	t.Helper()
	c := dial(t, serveRaw(t, h), nil)
	return c, accept(t, h)
}

// connectPipe returns both ends of a socket of h over memory, which works in a synctest bubble.
func connectPipe(t testing.TB, h *Handler) (*websocket.Conn, *Socket) {
	t.Helper()
	c := dialPipe(t, h)
	s, err := h.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func dialPipe(t testing.TB, h *Handler) *websocket.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	go h.HandleConnection(theirs)
	d := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return ours, nil }}
	c, _, err := d.Dial("ws://example.com/chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// closeAndWait closes s and waits for its end. It returns the error of that, nil after a close handshake.
func closeAndWait(s *Socket, code CloseCode, reason string) error {
	if err := s.Close(code, reason); err != nil {
		return err
	}
	<-s.Done()
	if e := s.end(); e.Err != nil {
		return e
	}
	return nil
}

// echo is a ForEach function.
func echo(ctx context.Context, s *Socket) {
	for {
		t, p, err := s.Read(ctx)
		if err != nil || s.Write(ctx, t, p) != nil {
			return
		}
	}
}

// eventually waits until ok is true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("timeout: %s", what)
}

// compressing returns the mode with context takeover, or none.
func compressing(on bool) CompressionMode {
	if on {
		return CompressionContextTakeover
	}
	return CompressionDisabled
}

// closeCode returns the code that a socket ended with; 0 while it lives.
func closeCode(s *Socket) CloseCode {
	if end := s.end(); end != nil {
		return end.Code
	}
	return 0
}

// closeReason returns the reason that came with closeCode.
func closeReason(s *Socket) string {
	if end := s.end(); end != nil {
		return end.Reason
	}
	return ""
}

// A lastError remembers what OnError was called with last.
type lastError struct{ err atomic.Pointer[error] }

func (l *lastError) set(err error) { l.err.Store(&err) }

func (l *lastError) get() error {
	if err := l.err.Load(); err != nil {
		return *err
	}
	return nil
}
