package foyer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/foyerws/foyer/internal/syncbuf"
)

// A logbook is what was logged.
type logbook struct{ syncbuf.Buffer }

func (l *logbook) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(l, nil)) }

// lines returns the lines so far.
func (l *logbook) lines(t *testing.T) (lines []map[string]any) {
	for line := range strings.Lines(l.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		lines = append(lines, m)
	}
	return lines
}

func TestLoggerIsTheDefaultOne(t *testing.T) {
	var log logbook
	before := slog.Default()
	slog.SetDefault(log.logger())
	defer slog.SetDefault(before)
	h := closeHandler(t, new(Handler))
	ask(t, dialTCP(t, serveHTTP(t, h)), handshakeRequest("Origin: http://localhost:3000"))
	if lines := log.lines(t); len(lines) != 1 || lines[0]["msg"] != "foyer: handshake refused" {
		t.Errorf("%v", lines)
	}
}

// TestRefusalsAreExplained makes each mistake once and reads what is logged of it.
func TestRefusalsAreExplained(t *testing.T) {
	full := func() *Handler {
		h := &Handler{MaxPending: 1}
		h.init()
		h.pool.began = time.Now().Add(-time.Hour)
		h.pool.reserve()
		return h
	}
	for name, test := range map[string]struct {
		h       *Handler
		request string
		want    map[string]string
	}{
		"origin": {new(Handler), handshakeRequest("Host: localhost:8080", "Origin: http://localhost:3000"), map[string]string{
			"status": "403", "reason": "Access forbidden.", "method": "GET", "host": "localhost:8080", "path": "/chat", "origin": "http://localhost:3000",
			"hint": `Origins is SameOrigin; AllowOrigins("http://localhost:3000") would admit this page; list your own pages there as well`}},
		"origin of an address": {&Handler{Origins: AllowOrigins("https://example.com")}, handshakeRequest("Origin: https://[::1]:443"), map[string]string{
			"hint": `Origins is AllowOrigins; adding "https://[::1]" to its list would admit this page`}},
		"origin of a file": {new(Handler), handshakeRequest("Origin: null"), map[string]string{
			"hint": "Origins is SameOrigin; the page has no origin of its own, as a file or a sandboxed frame: only AnyOrigin admits it"}},
		"no origin": {&Handler{Origins: RequireOrigin(SameOrigin())}, handshakeRequest(), map[string]string{
			"hint": "Origins, and the request has no Origin"}},
		"a proxy changes Host": {new(Handler), handshakeRequest("Host: backend:8080", "Origin: https://example.com", "X-Forwarded-Host: example.com"), map[string]string{
			"hint": `Origins is SameOrigin; a proxy has changed the Host header: have it pass that on, or use AllowOrigins("https://example.com")`}},
		"nobody accepts": {full(), handshakeRequest(), map[string]string{
			"level": "WARN", "status": "503", "reason": "Too many pending connections.", "hint": "no goroutine calls Accept, Incoming or ForEach"}},
		"too many open": {&Handler{MaxOpen: 1}, handshakeRequest(), map[string]string{
			"status": "503", "hint": "as many sockets are open as MaxOpen allows: 1"}},
		"no upgrade": {new(Handler), "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", map[string]string{
			"status": "426", "hint": "not a WebSocket request: opened in the address bar, or a proxy removed the Connection and Upgrade headers"}},
		"HTTP/1.0": {new(Handler), strings.Replace(handshakeRequest(), "HTTP/1.1", "HTTP/1.0", 1), map[string]string{
			"status": "400", "hint": "a proxy in front speaks HTTP/1.0; for nginx, set proxy_http_version 1.1"}},
		"not authorized": {&Handler{Authorize: func(*http.Request) (http.Header, error) { return nil, errors.New("no such user") }}, handshakeRequest(), map[string]string{
			"status": "403", "err": "no such user"}},
		"a hook panics": {&Handler{Authorize: func(*http.Request) (http.Header, error) { panic("oh") }}, handshakeRequest(), map[string]string{
			"level": "ERROR", "status": "500", "err": "panic: oh", "hint": "a panic in Origins, Authorize or a Hijack method"}},
	} {
		t.Run(name, func(t *testing.T) {
			for front, serve := range map[string]func(testing.TB, *Handler) string{
				"net/http": func(t testing.TB, h *Handler) string { return serveHTTP(t, h) },
				"Server":   serveRaw,
			} {
				if front == "net/http" && name == "HTTP/1.0" {
					continue // it answers that as HTTP/1.0 wants
				}
				var log logbook
				test.h.Logger = log.logger()
				test.h.init()
				test.h.config.logger = log.logger()
				if name == "too many open" {
					test.h.registry.reserved = 1
				}
				conn := dialTCP(t, serve(t, test.h))
				ask(t, conn, test.request)
				eventually(t, "a line", func() bool { return len(log.lines(t)) > 0 })
				line := log.lines(t)[0]
				for key, want := range test.want {
					if got := line[key]; got != want && !(key == "status" && jsonInt(got) == want) {
						t.Errorf("%s: %s is %q, want %q", front, key, got, want)
					}
				}
				if line["remote"] != conn.LocalAddr().String() {
					t.Errorf("%s: remote is %v", front, line["remote"])
				}
				if _, ok := line["stack"]; ok != (name == "a hook panics") {
					t.Errorf("%s: stack %v", front, line["stack"])
				}
				test.h.registry.reserved = 0
				if front == "net/http" {
					test.h = &Handler{MaxPending: test.h.MaxPending, MaxOpen: test.h.MaxOpen, Origins: test.h.Origins, Authorize: test.h.Authorize}
					if name == "nobody accepts" {
						test.h = full()
					}
				}
			}
		})
	}
}

func jsonInt(v any) string {
	f, _ := v.(float64)
	b, _ := json.Marshal(f)
	return string(b)
}

// What a client sends can neither break a line nor fill the log, and secrets stay out.
func TestLogIsSafe(t *testing.T) {
	var out bytes.Buffer
	h := &Handler{Logger: slog.New(slog.NewTextHandler(&out, nil)), OnError: func(err error) { io.WriteString(&out, err.Error()+"\n") }}
	r, _ := http.NewRequest("GET", "http://example.com/a%0Ab?token=secret", nil)
	r.Host = "example.com"
	r.Header = http.Header{"Origin": {"http://evil\n\x1b[31m\u202e" + strings.Repeat("x", 5000)}, "Authorization": {"secret"}}
	r.RemoteAddr = "192.0.2.1:4242"
	h.init()
	h.refused(&HandshakeError{Status: 403, Reason: "Access forbidden.", Err: ErrOriginNotAllowed}, r, nil)
	text := out.String()
	if strings.Count(text, "\n") != 2 || len(text) > 1500 || strings.ContainsAny(text, "\x1b\u202e") || strings.Contains(text, "secret") {
		t.Errorf("%d bytes: %q", len(text), text)
	}
	if !strings.Contains(text, "foyer: handshake of 192.0.2.1:4242 with example.com/a%0Ab refused with status 403: Access forbidden: origin not allowed\n") {
		t.Errorf("%q", text)
	}
}

// A flood of refusals is summarised, each kind by itself.
func TestFloodOfRefusalsIsSummarised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logbook
		h := &Handler{Logger: log.logger()}
		h.init()
		r, _ := http.NewRequest("GET", "http://example.com/", nil)
		for range 1000 {
			h.refused(&HandshakeError{Status: 403, Reason: "Access forbidden.", Err: ErrOriginNotAllowed}, r, nil)
			h.refused(&HandshakeError{Status: 403, Code: ClosePolicyViolation, Reason: "Access forbidden.", Err: errors.New(time.Now().String())}, r, nil)
		}
		if n := len(log.lines(t)); n != 10 {
			t.Errorf("%d lines", n)
		}
		time.Sleep(2 * time.Second)
		lines := log.lines(t)
		if len(lines) != 12 {
			t.Fatalf("%d lines", len(lines))
		}
		for _, line := range lines[10:] {
			if line["msg"] != "foyer: handshake refused, and more like it" || line["more"] != 995.0 {
				t.Errorf("%v", line)
			}
		}
		h.refused(&HandshakeError{Status: 403, Err: ErrOriginNotAllowed}, r, nil)
		if n := len(log.lines(t)); n != 13 {
			t.Errorf("%d lines", n)
		}
		time.Sleep(2 * time.Second)
	})
}

// Panics of every function of a program are logged with their stack, and told to OnError.
func TestPanicsAreLogged(t *testing.T) {
	for name, program := range map[string]func(*Handler){
		"a ForEach function": func(h *Handler) {
			h.ForEach(context.Background(), func(context.Context, *Socket) { panic("in the program") })
		},
		"an Events function": func(h *Handler) {
			for s := range h.Incoming(context.Background()) {
				s.Handle(Events{Message: func(*Socket, MessageType, []byte) { panic("in the program") }})
			}
		},
	} {
		var log logbook
		told := make(chan error, 10)
		h := closeHandler(t, &Handler{Logger: log.logger(), OnError: func(err error) { told <- err }})
		go program(h)
		c := dial(t, serveRaw(t, h), nil)
		c.WriteMessage(1, nil)
		var panicked *PanicError
		if err := <-told; !errors.As(err, &panicked) {
			t.Errorf("%s: OnError was told %v", name, err)
		}
		line := log.lines(t)[0]
		if line["level"] != "ERROR" || line["in"] != name || line["panic"] != "in the program" ||
			!strings.Contains(line["stack"].(string), "TestPanicsAreLogged") || line["remote"] != c.LocalAddr().String() {
			t.Errorf("%v", line)
		}
	}
}

// A logger that panics harms nobody.
func TestLoggerThatPanics(t *testing.T) {
	h := closeHandler(t, &Handler{Logger: slog.New(panickingLog{})})
	addr := serveRaw(t, h)
	for range 2 {
		if resp, _ := ask(t, dialTCP(t, addr), handshakeRequest("Origin: http://evil")); resp.StatusCode != 403 {
			t.Error(resp.Status)
		}
	}
}

type panickingLog struct{}

func (panickingLog) Enabled(context.Context, slog.Level) bool  { panic("asked") }
func (panickingLog) Handle(context.Context, slog.Record) error { panic("in the logger") }
func (l panickingLog) WithAttrs([]slog.Attr) slog.Handler      { return l }
func (l panickingLog) WithGroup(string) slog.Handler           { return l }

// A function of a socket's Events that does not return is reported once.
func TestStuckFunctionIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logbook
		h := &Handler{Logger: log.logger(), PingInterval: -1}
		c, s := connectPipe(t, h)
		proceed := make(chan struct{})
		s.Handle(Events{Message: func(*Socket, MessageType, []byte) { <-proceed }})
		c.WriteMessage(1, nil)
		time.Sleep(time.Minute)
		if lines := log.lines(t); len(lines) != 1 || lines[0]["level"] != "WARN" || !strings.Contains(lines[0]["msg"].(string), "has not returned") {
			t.Errorf("%v", lines)
		}
		close(proceed)
		h.Close()
	})
}

func TestErrorsReadOnce(t *testing.T) {
	for got, want := range map[string]string{
		(&CloseError{Code: CloseMessageTooBig, Reason: "message too big", Err: ErrMessageTooBig}).Error():                    "foyer: socket closed: 1009 (message too big)",
		(&CloseError{Code: CloseGoingAway}).Error():                                                                          "foyer: socket closed: 1001 (going away)",
		(&CloseError{Code: CloseAbnormalClosure, Err: ErrPingTimeout}).Error():                                               "foyer: socket closed: 1006 (abnormal closure): peer does not answer",
		(&HandshakeError{Status: 503, Reason: "Too many pending connections.", Err: ErrPendingFull}).Error():                 "foyer: handshake refused with status 503: Too many pending connections.",
		(&HandshakeError{Status: 403, Reason: "Access forbidden.", target: "ws://h/p"}).Error():                              "foyer: dial ws://h/p: refused with status 403: Access forbidden.",
		(&HandshakeError{Reason: "No.", Err: ErrHandshakeTimeout, remote: "192.0.2.1:1"}).Error():                            "foyer: handshake of 192.0.2.1:1 refused: No: handshake timeout",
		(&TLSError{Err: errors.New("foyer: x")}).Error():                                                                     "foyer: TLS handshake with <nil>: x",
		(&HandshakeError{Status: 500, Reason: "Internal server error.", Err: &PanicError{Value: "oh"}, target: "h"}).Error(): "foyer: dial h: refused with status 500: Internal server error: panic: oh",
	} {
		if got != want {
			t.Errorf("%s\nwant\n%s", got, want)
		}
	}
	h := closeHandler(t, &Handler{MaxMessageSize: 10})
	c, s := connectTCP(t, h)
	c.WriteMessage(1, make([]byte, 20))
	_, _, err := s.Read(t.Context())
	want := "foyer: socket " + s.LocalAddr().String() + "->" + s.RemoteAddr().String() + " closed: 1009 (message too big)"
	if err.Error() != want {
		t.Errorf("%v\nwant\n%s", err, want)
	}
}

// A program that has forgotten to take its sockets is told so with its first client.
func TestNeglectedSocketsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logbook
		h := &Handler{Logger: log.logger()}
		dialPipe(t, h)
		time.Sleep(4 * time.Second)
		if lines := log.lines(t); len(lines) != 0 {
			t.Errorf("%v", lines)
		}
		time.Sleep(2 * time.Second)
		dialPipe(t, h)
		time.Sleep(10 * time.Second)
		if lines := log.lines(t); len(lines) != 1 || lines[0]["hint"] != "no goroutine calls Accept, Incoming or ForEach" {
			t.Errorf("%v", lines)
		}
		h.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		var log logbook
		h := &Handler{Logger: log.logger()}
		h.NextPending() // asks now and then
		dialPipe(t, h)
		time.Sleep(10 * time.Second)
		if lines := log.lines(t); len(lines) != 0 {
			t.Errorf("%v", lines)
		}
		h.Close()
	})
}
