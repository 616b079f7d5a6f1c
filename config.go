package foyer

import (
	"errors"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/wire"
)

// The defaults of Handler and DialOptions.
const (
	defaultHandshakeTimeout = 10 * time.Second
	defaultMaxMessageSize   = 1 << 20
	defaultMaxWriteBuffer   = 1 << 20
	defaultPingInterval     = 30 * time.Second
	defaultPongTimeout      = 30 * time.Second
	defaultCloseTimeout     = 5 * time.Second
	defaultLevel            = 3
	defaultThreshold        = 128
	defaultWindows          = 64 << 20
)

// lingerTime is how long the end of a connection may wait for the peer to take our last words.
const lingerTime = time.Second

// A config is what the sockets of one Handler, or one dialled socket, have in common: the program's settings with the
// defaults put in. It does not change.
type config struct {
	maxWrite     int // 0: no limit
	compression  CompressionMode
	level        int           // of compression
	threshold    int           // bytes that a message must have to be compressed
	pingInterval time.Duration // 0: no keepalive
	pongTimeout  time.Duration
	closeTimeout time.Duration
	logger       *slog.Logger // nil: slog.Default()
	onError      func(error)
	limiter      limiter

	plain, deflated wire.Rules // without and with permessage-deflate
	registry        *registry
	pool            *pool  // nil on a client
	windows         budget // what sockets with context takeover may keep
}

// complete puts the defaults into a config that has what the program has set.
func (c *config) complete(server bool, limits Limits, newKey func() uint32) error {
	c.maxWrite = orDefault(c.maxWrite, defaultMaxWriteBuffer)
	c.pingInterval = orDefault(c.pingInterval, defaultPingInterval)
	c.pongTimeout = orDefault(max(c.pongTimeout, 0), defaultPongTimeout)
	c.closeTimeout = orDefault(max(c.closeTimeout, 0), defaultCloseTimeout)
	c.plain = *limits.rules(&wire.Rules{Limits: frame.Limits{Server: server}, NewKey: newKey})
	c.deflated = c.plain
	c.deflated.Compression = true
	c.level = orDefault(c.level, defaultLevel)
	c.threshold = orDefault(c.threshold, defaultThreshold)
	c.windows.limit = orDefault(c.windows.limit, defaultWindows)
	if c.level < 1 || c.level > 9 {
		return errors.New("foyer: CompressionLevel is 1 to 9")
	}
	return nil
}

// orDefault puts the default in for 0, and 0, which then means none, for what is negative.
func orDefault[T ~int | ~int64](v, def T) T {
	switch {
	case v == 0:
		return def
	case v < 0:
		return 0
	}
	return v
}

// rules returns what the frames of a socket are held to.
func (c *config) rules(deflate bool) *wire.Rules {
	if deflate {
		return &c.deflated
	}
	return &c.plain
}

// tick is how often sockets are looked after.
func (c *config) tick() time.Duration {
	tick := min(c.pongTimeout/4, 2*time.Second)
	if c.pingInterval > 0 {
		tick = min(tick, c.pingInterval/4)
	}
	return max(tick, time.Millisecond)
}

// report gives the program an error that no call of its own returns.
func (c *config) report(err error) {
	if c.onError == nil {
		return
	}
	defer func() {
		if v := recover(); v != nil {
			c.logPanic("OnError", nil, &PanicError{Value: v, Stack: debug.Stack()})
		}
	}()
	c.onError(err)
}

// reportPanic logs and reports a panic in one of the program's functions, which what names. s may be nil.
func (c *config) reportPanic(what string, s *Socket, v any) {
	c.reportPanicError(what, s, newPanicError(v))
}

func (c *config) reportPanicError(what string, s *Socket, err *PanicError) {
	c.logPanic(what, s, err)
	c.report(err)
}

// newPanicError returns the error for a panic that was just recovered.
func newPanicError(v any) *PanicError { return &PanicError{Value: v, Stack: debug.Stack()} }

func (c *config) logPanic(what string, s *Socket, err *PanicError) {
	attrs := []slog.Attr{slog.String("in", what), slog.Any("panic", err.Value), slog.String("stack", where(err.Stack))}
	if s != nil {
		attrs = append(attrs, slog.String("remote", clip(address(s.RemoteAddr()))))
	}
	c.logLine(slog.LevelError, "panic in "+what, "foyer: panic", attrs...)
}
