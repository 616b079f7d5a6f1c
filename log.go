package foyer

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// logBurst is how many lines of a kind are logged in logWindow.
const (
	logBurst  = 5
	logWindow = time.Second
)

// A limiter lets the first few log lines of a kind pass in each second, and counts the rest.
type limiter struct {
	mu    sync.Mutex // guards:
	kinds map[string]*burst
}

// A burst is the lines of one kind within a window.
type burst struct{ passed, held int }

// pass reports whether a line of a kind may be logged. Where some may not, report is called with their number at the end
// of the window. There must be few kinds: none may have anything in it that a client sends.
func (l *limiter) pass(kind string, report func(held int)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.kinds[kind]
	if b == nil {
		if l.kinds == nil {
			l.kinds = make(map[string]*burst)
		}
		b = new(burst)
		l.kinds[kind] = b
		time.AfterFunc(logWindow, func() {
			l.mu.Lock()
			delete(l.kinds, kind)
			held := b.held
			l.mu.Unlock()
			if held > 0 {
				report(held)
			}
		})
	}
	if b.passed == logBurst {
		b.held++
		return false
	}
	b.passed++
	return true
}

// log returns the program's logger.
func (c *config) log() *slog.Logger {
	if c.logger != nil {
		return c.logger
	}
	return slog.Default()
}

// logLine logs a line of a kind, unless there were many of it in this second.
func (c *config) logLine(level slog.Level, kind, message string, attrs ...slog.Attr) {
	c.contain(func() {
		logger := c.log()
		if !logger.Enabled(background, level) {
			return
		}
		pass := c.limiter.pass(kind, func(held int) {
			c.contain(func() {
				logger.LogAttrs(background, level, message+", and more like it", slog.Int("more", held), slog.String("cause", kind))
			})
		})
		if pass {
			logger.LogAttrs(background, level, message, attrs...)
		}
	})
}

// contain calls a function of the program's logger, which must not end what it reports on.
func (*config) contain(log func()) {
	defer func() { recover() }()
	log()
}

// where returns a stack from the place on where the panic was, without what caught it.
func where(stack []byte) string {
	text := string(stack)
	if _, behind, ok := strings.Cut(text, "\npanic("); ok { // and the line of the runtime's file
		if parts := strings.SplitN(behind, "\n", 3); len(parts) == 3 {
			return parts[2]
		}
	}
	return text
}

// maxLogged is how many bytes of what a client sent go into a log line.
const maxLogged = 256

// clip makes what a client sent fit for a log line: short, in one line, and without control characters.
func clip(s string) string {
	cut := len(s) > maxLogged
	if cut {
		s = strings.ToValidUTF8(s[:maxLogged], "")
	}
	if !plainText(s) {
		s = strings.Trim(strconv.Quote(s), `"`)
	}
	if cut {
		s += "..."
	}
	return s
}

// plainText reports whether a terminal shows s as it is.
func plainText(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}

// pathOf returns the path of a request without its query, which may hold a secret.
func pathOf(r *http.Request) string {
	if r.URL == nil {
		return ""
	}
	return r.URL.EscapedPath()
}

// logRefusal logs that a handshake was refused, with what a person needs to see why.
func (h *Handler) logRefusal(refusal *HandshakeError) {
	level, cause, hint := h.diagnose(refusal)
	attrs := []slog.Attr{slog.Int("status", refusal.Status), slog.String("reason", clip(refusal.Reason))}
	if err := inner(refusal.Err); err != "" && !strings.EqualFold(strings.TrimSuffix(err, "."), strings.TrimSuffix(refusal.Reason, ".")) {
		attrs = append(attrs, slog.String("err", clip(err)))
	}
	if refusal.remote != "" {
		attrs = append(attrs, slog.String("remote", refusal.remote))
	}
	if r := refusal.Request; r != nil {
		attrs = append(attrs, slog.String("method", clip(r.Method)), slog.String("host", clip(r.Host)), slog.String("path", clip(pathOf(r))))
		if origins := r.Header["Origin"]; len(origins) > 0 {
			attrs = append(attrs, slog.String("origin", clip(strings.Join(origins, ", "))))
		}
	}
	if hint != "" {
		attrs = append(attrs, slog.String("hint", hint))
	}
	var panicked *PanicError
	if errors.As(refusal.Err, &panicked) {
		attrs = append(attrs, slog.String("stack", where(panicked.Stack)))
	}
	h.config.logLine(level, strconv.Itoa(refusal.Status)+" "+cause, "foyer: handshake refused", attrs...)
}

// diagnose says how bad a refusal is for the program, what kind it is, and what could be done about it.
func (h *Handler) diagnose(refusal *HandshakeError) (level slog.Level, cause, hint string) {
	err := refusal.Err
	var panicked *PanicError
	switch {
	case errors.As(err, &panicked):
		return slog.LevelError, "panic", "a panic in Origins, Authorize or a Hijack method"
	case refusal.Status >= 500 && refusal.Status != http.StatusServiceUnavailable:
		return slog.LevelError, "internal", ""
	case errors.Is(err, ErrOriginNotAllowed):
		return slog.LevelInfo, "origin", h.originHint(refusal.Request)
	case errors.Is(err, ErrPendingFull):
		return slog.LevelWarn, "pool full", refusal.hint
	case errors.Is(err, errMaxOpen):
		return slog.LevelWarn, "MaxOpen", "as many sockets are open as MaxOpen allows: " + strconv.Itoa(h.MaxOpen)
	case errors.Is(err, errAsking):
		return slog.LevelWarn, "hooks", "Origins or Authorize takes too long"
	case errors.Is(err, errPaused):
		return slog.LevelInfo, "paused", "Handler.Pause was called, and Resume was not"
	case errors.Is(err, ErrClosed):
		return slog.LevelInfo, "closed", "the Handler is shutting down, or was closed"
	case refusal.Status == 0:
		return slog.LevelDebug, "unfinished", ""
	case errors.Is(err, ErrHandshakeTimeout):
		return slog.LevelInfo, "timeout", ""
	case refusal.Status == http.StatusUpgradeRequired && refusal.Request != nil && !IsHandshake(refusal.Request):
		return slog.LevelInfo, "no upgrade", "not a WebSocket request: opened in the address bar, or a proxy removed the Connection and Upgrade headers"
	case refusal.Request != nil && !refusal.Request.ProtoAtLeast(1, 1):
		return slog.LevelInfo, "HTTP/1.0", "a proxy in front speaks HTTP/1.0; for nginx, set proxy_http_version 1.1"
	case refusal.Code == ClosePolicyViolation:
		return slog.LevelInfo, "Authorize", ""
	}
	return slog.LevelInfo, "", ""
}

// originHint says how the origin of a request could be let in.
func (h *Handler) originHint(r *http.Request) string {
	policy := "Origins"
	switch h.Origins.(type) {
	case nil, sameOrigin:
		policy = "Origins is SameOrigin"
	case originList:
		policy = "Origins is AllowOrigins"
	}
	if r == nil || len(r.Header["Origin"]) == 0 {
		return policy + ", and the request has no Origin"
	}
	o, _, ok := requestOrigin(r)
	if !ok {
		return policy + "; the page has no origin of its own, as a file or a sandboxed frame: only AnyOrigin admits it"
	}
	if forwarded := r.Header.Get("X-Forwarded-Host"); forwarded != "" {
		if host, _, ok := splitHost(forwarded); ok && host == o.host {
			return policy + "; a proxy has changed the Host header: have it pass that on, or use " + o.allow()
		}
	}
	if policy == "Origins is AllowOrigins" {
		return policy + "; adding " + strconv.Quote(o.String()) + " to its list would admit this page"
	}
	return policy + "; " + o.allow() + " would admit this page; list your own pages there as well"
}

// allow returns the call that allows o.
func (o origin) allow() string { return "AllowOrigins(" + strconv.Quote(o.String()) + ")" }

// String returns o as a browser writes it.
func (o origin) String() string {
	u := url.URL{Scheme: o.scheme, Host: o.host}
	if strings.Contains(o.host, ":") {
		u.Host = "[" + o.host + "]"
	}
	if o.port != defaultPort(o.scheme) {
		u.Host += ":" + o.port
	}
	return u.String()
}
