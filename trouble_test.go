package foyer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/foyerws/foyer/internal/syncbuf"
)

// A mistake is what a program does wrong, and how that comes out.
type mistake struct {
	handler *Handler
	program func(h *Handler) // serves it; may be nil
	wrap    func(http.Handler) http.Handler
	clients func(t *testing.T, h *Handler, addr string)
}

// TestTroubleDocument makes each mistake of docs/trouble.md, and looks for the lines that it says are logged, or returned.
func TestTroubleDocument(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for what foyer waits for")
	}
	text, err := os.ReadFile("docs/trouble.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	for _, block := range strings.Split(string(text), "```text\n")[1:] {
		lines, _, _ := strings.Cut(block, "```")
		for line := range strings.Lines(lines) {
			documented[strings.TrimSpace(line)] = false
		}
	}
	for name, m := range mistakes() {
		t.Run(name, func(t *testing.T) {
			for _, line := range makeMistake(t, m) {
				if _, ok := documented[line]; !ok {
					t.Errorf("not in the document: %s", line)
				}
				documented[line] = true
			}
		})
	}
	for line, seen := range documented {
		if !seen {
			t.Errorf("nothing has produced: %s", line)
		}
	}
}

var (
	ports  = regexp.MustCompile(`(127\.0\.0\.1):\d{2,}`)
	stacks = regexp.MustCompile(` stack="(\\.|[^"])*"`)
)

// makeMistake makes one mistake and returns the lines that came of it, without what differs from time to time.
func makeMistake(t *testing.T, m mistake) (lines []string) {
	var out syncbuf.Buffer
	logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	before := slog.Default()
	slog.SetDefault(logger) // that is what a program without a Logger has
	defer slog.SetDefault(before)

	h := m.handler
	var front http.Handler = h
	if m.wrap != nil {
		front = m.wrap(h)
	}
	addr := serveHTTP(t, front)
	if m.program != nil {
		go m.program(h)
	}
	m.clients(t, h, addr)
	eventually(t, "a line", func() bool { return out.String() != "" })
	h.Close()
	for line := range strings.Lines(out.String()) {
		line = stacks.ReplaceAllString(strings.TrimSpace(line), ` stack="..."`)
		lines = append(lines, ports.ReplaceAllString(line, "$1:PORT"))
	}
	return lines
}

// once sends one handshake.
func once(header ...string) func(*testing.T, *Handler, string) {
	if len(header) == 0 || !strings.HasPrefix(header[0], "Host:") {
		header = append(header, "Host: localhost:8080")
	}
	return func(t *testing.T, _ *Handler, addr string) { ask(t, dialTCP(t, addr), handshakeRequest(header...)) }
}

// talk has one client come, say a word, and wait for the end.
func talk(t *testing.T, _ *Handler, addr string) {
	c := dial(t, addr, nil)
	c.WriteMessage(1, []byte("hello"))
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	c.ReadMessage()
}

// logErr has a program log what it gets, as most do.
func logErr(err error) { slog.Error(err.Error()) }

// mistakes returns all mistakes, each with a Handler that is new.
func mistakes() map[string]mistake {
	return map[string]mistake{
		"a page on another port": {handler: new(Handler), clients: once("Origin: http://localhost:3000")},
		"a page from a file":     {handler: new(Handler), clients: once("Origin: null")},
		"a proxy that changes Host": {handler: new(Handler), clients: once(
			"Host: 10.0.0.7:8080", "Origin: https://example.com", "X-Forwarded-Host: example.com")},
		"a proxy that drops Upgrade": {handler: new(Handler), clients: once("Connection: close", "Upgrade:")},
		"nobody accepts": {handler: &Handler{MaxPending: 1}, clients: func(t *testing.T, h *Handler, addr string) {
			for range 2 {
				ask(t, dialTCP(t, addr), handshakeRequest("Host: localhost:8080"))
			}
		}},
		"nobody accepts the only client": {handler: new(Handler), clients: func(t *testing.T, h *Handler, addr string) {
			ask(t, dialTCP(t, addr), handshakeRequest())
			eventually(t, "the socket", func() bool { return h.Pending() > 0 })
			h.pool.neglected() // five seconds pass
		}},
		"an accept loop that waits": {handler: &Handler{MaxPending: 1},
			program: func(h *Handler) {
				for s := range h.Incoming(context.Background()) {
					s.Read(context.Background())
				}
			},
			clients: func(t *testing.T, h *Handler, addr string) {
				for range 2 {
					ask(t, dialTCP(t, addr), handshakeRequest("Host: localhost:8080"))
				}
				time.Sleep(takingGrace)
				if resp, _ := ask(t, dialTCP(t, addr), handshakeRequest("Host: localhost:8080")); resp.StatusCode != 503 {
					t.Error(resp.Status)
				}
			}},
		"too many open": {handler: &Handler{MaxOpen: 1},
			program: func(h *Handler) { h.ForEach(context.Background(), echo) },
			clients: func(t *testing.T, h *Handler, addr string) {
				for range 2 {
					ask(t, dialTCP(t, addr), handshakeRequest("Host: localhost:8080"))
				}
			}},
		"a middleware that hides the connection": {handler: new(Handler),
			wrap: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(loggingWriter{w}, r) })
			},
			clients: once()},
		"a user that nobody knows": {
			handler: &Handler{Authorize: func(*http.Request) (http.Header, error) { return nil, errors.New("no such user") }},
			clients: once()},
		"a hook that panics": {
			handler: &Handler{Authorize: func(r *http.Request) (http.Header, error) {
				names["alice"] = r.RemoteAddr
				return nil, nil
			}},
			clients: once()},
		"a function that panics": {handler: new(Handler),
			program: func(h *Handler) {
				h.ForEach(context.Background(), func(ctx context.Context, s *Socket) { _ = s.Value("user").(string) })
			},
			clients: talk},
		"a function that does not return": {handler: &Handler{PingInterval: 100 * time.Millisecond},
			program: func(h *Handler) {
				for s := range h.Incoming(context.Background()) {
					s.Handle(Events{Message: func(s *Socket, _ MessageType, _ []byte) { <-s.Done() }})
				}
			},
			clients: func(t *testing.T, h *Handler, addr string) {
				dial(t, addr, nil).WriteMessage(1, []byte("hello"))
				eventually(t, "the call", func() bool { return h.Stats().MessagesIn == 1 })
				for s := range h.Sockets() { // ten seconds pass
					for range 12 {
						s.sweepCalls(time.Second)
					}
					s.sweepCalls(time.Second)
				}
			}},
		"a message that is too long": {handler: &Handler{MaxMessageSize: 4},
			program: func(h *Handler) {
				h.ForEach(context.Background(), func(ctx context.Context, s *Socket) {
					if _, _, err := s.Read(ctx); err != nil {
						logErr(err)
					}
				})
			},
			clients: talk},
		"a client that vanishes": {handler: &Handler{PingInterval: 50 * time.Millisecond, PongTimeout: 50 * time.Millisecond},
			program: func(h *Handler) {
				h.ForEach(context.Background(), func(ctx context.Context, s *Socket) {
					if _, _, err := s.Read(ctx); err != nil {
						logErr(err)
					}
				})
			},
			clients: func(t *testing.T, h *Handler, addr string) { dial(t, addr, nil) }}, // and never reads
		"two readers": {handler: new(Handler),
			program: func(h *Handler) {
				h.ForEach(context.Background(), func(ctx context.Context, s *Socket) {
					s.CloseRead()
					if _, _, err := s.Read(ctx); err != nil {
						logErr(err)
					}
				})
			},
			clients: talk},
		"a client that reads too slowly": {handler: &Handler{MaxWriteBuffer: 1 << 10},
			program: func(h *Handler) {
				h.ForEach(context.Background(), func(ctx context.Context, s *Socket) {
					for {
						for _, d := range Broadcast(h.Sockets(), Text, bytes.Repeat([]byte("news"), 200)) {
							logErr(fmt.Errorf("%v missed a message: %w", d.Socket.RemoteAddr(), d.Err))
							d.Socket.Abort()
							return
						}
					}
				})
			},
			clients: func(t *testing.T, h *Handler, addr string) { dial(t, addr, nil) }},
		"a dialled server that refuses": {handler: new(Handler),
			clients: func(t *testing.T, h *Handler, addr string) {
				_, _, err := Dial(t.Context(), "http://"+addr+"/ws", &DialOptions{Origin: "http://evil.example", Header: http.Header{"Host": {"localhost:8080"}}})
				logErr(err)
			}},
	}
}

// names is a map that nobody has made.
var names map[string]string

// A loggingWriter is what many middlewares put around an http.ResponseWriter.
type loggingWriter struct{ http.ResponseWriter }
