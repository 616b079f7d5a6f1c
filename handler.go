package foyer

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/foyerws/foyer/internal/wire"
)

// A Handler accepts WebSockets, as an http.Handler in any router and from raw connections.
//
// The zero value works: 0 is the default, or no limit. Negative is no limit (PongTimeout, CloseTimeout: the default);
// without limits one client may take all memory or hold a connection forever. Do not change fields after first use, or
// copy a Handler. Its methods and functions may run concurrently.
type Handler struct {
	// The Server header of answers.
	ServerName string

	// Which web pages may connect. Default: [SameOrigin]. Pages wrongly admitted can act as users known by cookies.
	Origins OriginAuthenticator

	// Asked after Origins. The request's context ends with the handshake. The header is added to any answer. An error
	// is a 403, or Status and Reason of a *HandshakeError.
	Authorize func(*http.Request) (http.Header, error)

	// The client's first that is one of these is selected. A browser that offered only others closes the socket.
	Subprotocols []string

	// How many sockets may wait for Accept. Default: 30. It has no effect while ForEach runs.
	//
	// When the pool is full, up to 4,096 handshakes wait within HandshakeTimeout, while the program takes sockets, at
	// least one a second. Otherwise clients get 503.
	MaxPending int

	// How many sockets may be open, pending ones included. Others get 503.
	MaxOpen int

	// Limits the handshake, Origins and Authorize included. Default: 10 seconds.
	HandshakeTimeout time.Duration

	// Limits a client's message in bytes, after decompression. Longer ones end the socket unread, with
	// CloseMessageTooBig. Default: 1 MiB.
	MaxMessageSize int64

	// Limits a frame's payload before decompression.
	MaxFrameSize int64

	// How many bytes may wait for a slow client. When it is full, Write waits and TryWrite fails. Default: 1 MiB.
	MaxWriteBuffer int

	// Above how many bytes messages are split into frames.
	OutgoingFrameSize int

	// Admits Qt's "GET ?query" on raw connections, against RFC 9112.
	AllowEmptyPath bool

	// Lets clients negotiate permessage-deflate. It costs CPU time, and 1 MiB while compressing.
	Compression CompressionMode

	// How many bytes sockets keep for context takeover; further ones go without. Default: 64 MiB.
	CompressionMemory int64

	// 1 (fastest) to 9; others panic. Windows below 32 KiB ignore it. Default: 3.
	CompressionLevel int

	// From how many bytes messages are compressed. Default: 128.
	CompressionThreshold int

	// How long a client may be silent before it is pinged. Default: 30 seconds. Negative: never; vanished clients stay.
	PingInterval time.Duration

	// How long a client may take to send anything after a ping, or to accept output, before the socket ends with
	// ErrPingTimeout. Default: 30 seconds. While input lies unread, TCP acknowledgments suffice on Linux; elsewhere
	// nothing is needed.
	PongTimeout time.Duration

	// How long a client may take to answer a close frame. Default: 5 seconds.
	CloseTimeout time.Duration

	// Gets refused handshakes, with the likely cause, and panics; five of a kind per second. Queries, messages and most
	// headers are left out. Default: slog.Default().
	Logger *slog.Logger

	// Gets each *HandshakeError, *TLSError, *AcceptError and *PanicError. It should return quickly.
	OnError func(error)

	once     sync.Once
	config   *config
	registry registry
	pool     pool
	asking   atomic.Int32 // handshakes that are in Origins or Authorize
	paused   atomic.Bool
	name     atomic.Pointer[string]
	timeout  atomic.Int64 // HandshakeTimeout with its default; 0: none
}

// init puts the defaults in at the first use.
func (h *Handler) init() {
	h.once.Do(func() {
		h.config = &config{
			maxWrite:     h.MaxWriteBuffer,
			compression:  h.Compression,
			windows:      budget{limit: h.CompressionMemory},
			level:        h.CompressionLevel,
			threshold:    h.CompressionThreshold,
			pingInterval: h.PingInterval,
			pongTimeout:  h.PongTimeout,
			closeTimeout: h.CloseTimeout,
			logger:       h.Logger,
			onError:      h.OnError,
			registry:     &h.registry,
			pool:         &h.pool,
		}
		if err := h.config.complete(true, Limits{h.MaxMessageSize, h.MaxFrameSize, h.OutgoingFrameSize}, nil); err != nil {
			panic(err.Error())
		}
		h.pool.limit(h.MaxPending)
		h.pool.neglected = func() {
			h.config.logLine(slog.LevelWarn, "neglect", "foyer: a client is connected and waits, and the program does not take its socket",
				slog.String("hint", "no goroutine calls Accept, Incoming or ForEach"))
		}
		h.name.Store(&h.ServerName)
		h.timeout.Store(int64(orDefault(h.HandshakeTimeout, defaultHandshakeTimeout)))
	})
}

// ServeHTTP performs the handshake and puts the socket into the pool. Refusals close the connection. Middleware's
// headers become part of the answer. Over HTTP/2 (see [EnableHTTP2]) and HTTP/3 (RFC 9220) it returns when the socket
// has ended.
//
// A middleware's http.ResponseWriter must be an http.Hijacker or have an Unwrap method; otherwise the answer is 500.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.serve(w, r, true)
}

// Upgrade is ServeHTTP, but returns the socket. A *HandshakeError has been answered. Over HTTP/2 and HTTP/3 the
// caller's handler must wait for Done.
func (h *Handler) Upgrade(w http.ResponseWriter, r *http.Request) (*Socket, error) {
	return h.serve(w, r, false)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, pooled bool) (*Socket, error) {
	h.init()
	deadline := h.deadline()
	stream, hidden := streamOf(w, r, deadline)
	if stream != nil && !pooled {
		stream.Lend()
	}
	var conn net.Conn
	// A deadline that middleware has set is no sign that the client has gone.
	client := presence{r.Context().Done(), func() bool { return r.Context().Err() == context.Canceled }}
	s, refusal := h.handshake(r, terms{deadline, pooled, true, client}, func(authorized http.Header) (arrival, *HandshakeError) {
		a := arrival{kept: keepBase(r), header: answerHeader(w.Header(), authorized)}
		switch {
		case hidden != nil:
			return arrival{}, hidden
		case stream != nil:
			conn, a.wire, a.begin = stream, wire.New(stream, nil), stream.Begin
			return a, nil
		}
		hijacked, rw, refusal := hijack(w)
		if refusal != nil {
			w = innermost(w) // others, as gin's, take no status any more
			return arrival{}, refusal
		}
		conn, a.wire = hijacked, wire.New(hijacked, buffered(rw))
		return a, nil
	})
	if refusal != nil {
		if conn == nil {
			h.answer(w, r, refusal)
		} else {
			conn.Close()
		}
		return nil, h.refused(refusal, r, nil)
	}
	if stream != nil {
		stream.Send()
		if pooled {
			stream.Pump()
		} else {
			go stream.Pump()
		}
	}
	return s, nil
}

// HandleConnection performs the handshake on a net.Conn, which it owns from now on, and puts the socket into the pool.
// It returns nil, a *HandshakeError or a *TLSError, within HandshakeTimeout and a second. Requests are limited to 8 KiB
// per line, 100 header lines and 64 KiB. If conn has no deadlines, contexts cannot interrupt Read.
func (h *Handler) HandleConnection(conn net.Conn) error {
	return h.enter(wire.New(conn, nil)).handle(shakeForSocket)
}

// HandleUpgrade is HandleConnection for an HTTP/1.1 request that was read already. rw has what is buffered of conn, and
// may be nil.
func (h *Handler) HandleUpgrade(r *http.Request, conn net.Conn, rw *bufio.ReadWriter) error {
	h.init()
	deadline := h.deadline()
	c := wire.New(conn, buffered(rw))
	defer bound(c, deadline)()
	let := false
	defer func() {
		if !let { // also when a hook has ended the goroutine
			c.Abandon()
		}
	}()
	var refusal *HandshakeError
	if isConnect(r) {
		refusal = refuse(http.StatusHTTPVersionNotSupported, "HandleUpgrade is for HTTP/1.1.")
	} else {
		_, refusal = h.handshake(r, terms{deadline, true, true, presence{left: c.HungUp}}, func(authorized http.Header) (arrival, *HandshakeError) {
			return arrival{wire: c, kept: keepBase(r), header: answerHeader(nil, authorized)}, nil
		})
	}
	if refusal != nil {
		return h.turnAway(c, refusal, r, true)
	}
	let = true
	return nil
}

// An arrival is the connection of a request that was let in.
type arrival struct {
	wire   *wire.Conn
	kept   record            // of the request
	header http.Header       // for the answer
	begin  func(http.Header) // begins the answer where that is not a 101; else nil
}

// A connect function hands it over, given the headers that Authorize has for the answer.
type connect func(authorized http.Header) (arrival, *HandshakeError)

// A presence finds out whether the client of a handshake is still there.
type presence struct {
	done <-chan struct{} // closed when it has gone; may be nil
	left func() bool     // looks
}

// The terms of a handshake.
type terms struct {
	deadline time.Time
	pooled   bool // the socket waits in the pool
	mayWait  bool
	client   presence
}

// handshake is the opening handshake of a request that was read, for a socket.
func (h *Handler) handshake(r *http.Request, terms terms, connect connect) (s *Socket, refusal *HandshakeError) {
	refusal = h.letIn(r, terms, func(asked *http.Request, authorized http.Header) (func(), *HandshakeError) {
		a, refusal := connect(authorized)
		if refusal != nil {
			return nil, refusal
		}
		var err error
		if s, err = h.upgrade(a, r); err != nil {
			return nil, &HandshakeError{Code: CloseInternalServerErr, Reason: "Internal server error.", Err: err}
		}
		s.adoptValues(asked)
		return func() { h.register(s, terms.pooled) }, nil
	})
	return s, refusal
}

// letIn judges a request that was read, and has answer answer it when it is let in and has its places. The first check that fails is
// the refusal. answer returns what is done when nothing can fail any more.
func (h *Handler) letIn(r *http.Request, terms terms, answer func(asked *http.Request, authorized http.Header) (register func(), refusal *HandshakeError)) *HandshakeError {
	if refusal := h.begin(); refusal != nil {
		return refusal
	}
	defer h.registry.endHandshake() // also when a hook ends its goroutine
	if refusal := checkRequest(r); refusal != nil {
		return refusal
	}
	if terms.pooled {
		if err := h.pool.begin(); err != nil {
			return h.poolFull(err)
		}
	}
	if !terms.mayWait && !h.asksNobody() {
		return errMustWait
	}
	asked, cancel := h.within(r, terms.deadline)
	defer cancel()
	authorized, refusal := h.ask(asked)
	if refusal == nil && !terms.deadline.IsZero() && !time.Now().Before(terms.deadline) {
		refusal = &HandshakeError{Status: http.StatusRequestTimeout, Code: CloseAbnormalClosure,
			Reason: "The handshake was not finished.", Err: ErrHandshakeTimeout}
	}
	if refusal == nil && terms.pooled {
		refusal = h.awaitPlace(terms)
	}
	if refusal != nil {
		return refusal
	}

	registered := false
	defer func() {
		if !registered && terms.pooled {
			h.pool.release()
		}
	}()
	if refusal := h.reserveOpen(); refusal != nil {
		return refusal
	}
	defer func() {
		if !registered {
			h.registry.release()
		}
	}()
	register, refusal := answer(asked, authorized)
	if refusal != nil {
		return refusal
	}
	registered = true
	register()
	return nil
}

// begin notes that a handshake has begun, unless no socket can be let in at the moment.
func (h *Handler) begin() *HandshakeError {
	if h.paused.Load() {
		return unavailable(errPaused)
	}
	if err := h.registry.beginHandshake(h.MaxOpen); err != nil {
		return unavailable(err)
	}
	return nil
}

// reserveOpen takes a place among the open sockets.
func (h *Handler) reserveOpen() *HandshakeError {
	if err := h.registry.reserve(h.MaxOpen); err != nil {
		return unavailable(err)
	}
	return nil
}

// lookInterval is how often a handshake that waits looks whether its client is still there.
const lookInterval = time.Second

// awaitPlace takes a place in the pool, and waits for one if it must.
func (h *Handler) awaitPlace(terms terms) *HandshakeError {
	switch {
	case h.pool.reserve():
		return nil
	case !terms.mayWait:
		return errMustWait
	}
	deadline, client := terms.deadline, terms.client
	granted := make(chan error, 1)
	w := &waiter{func(err error) { granted <- err }}
	h.pool.await(w)

	looks := time.NewTicker(lookInterval)
	defer looks.Stop()
	var late <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		late = timer.C
	}
	var refusal *HandshakeError
	for refusal == nil {
		select {
		case err := <-granted:
			switch {
			case err == nil && client.left():
				h.pool.release()
				return clientLeft()
			case err == nil:
				return nil
			}
			return h.poolFull(err)
		case <-late:
			refusal = h.poolFull(fmt.Errorf("%w: no place within HandshakeTimeout", ErrPendingFull))
		case <-client.done:
			if refusal = clientLeft(); !client.left() {
				refusal = h.poolFull(fmt.Errorf("%w: no place before the request's deadline", ErrPendingFull))
			}
		case <-looks.C:
			if client.left() {
				refusal = clientLeft()
			}
		}
	}
	if !h.pool.withdraw(w) && <-granted == nil {
		h.pool.release() // it came at the same moment
	}
	return refusal
}

// register puts s, which has its places, among the open sockets and into the pool, and lets the answer leave.
func (h *Handler) register(s *Socket, pooled bool) {
	if !pooled {
		s.accepted.Store(true)
	}
	welcome := h.registry.add(s)
	if pooled {
		welcome = h.pool.fill(s) && welcome
	} else {
		h.registry.countAccept()
	}
	s.wire.Open() // the client learns that it is in when it is in
	if !welcome {
		s.beginClose(CloseGoingAway, "")
	}
}

// deadline returns when a handshake that begins now must be over; zero is never.
func (h *Handler) deadline() time.Time {
	if d := time.Duration(h.timeout.Load()); d > 0 {
		return time.Now().Add(d)
	}
	return time.Time{}
}

func (h *Handler) serverName() string { return *h.name.Load() }

// Pause refuses handshakes with 503 until Resume.
func (h *Handler) Pause() { h.paused.Store(true) }

// Resume ends Pause.
func (h *Handler) Resume() { h.paused.Store(false) }

// SetMaxPending changes MaxPending at any time. Waiting sockets stay.
func (h *Handler) SetMaxPending(n int) {
	h.init()
	h.pool.limit(n)
}

// SetServerName changes ServerName at any time.
func (h *Handler) SetServerName(s string) {
	h.init()
	h.name.Store(&s)
}

// SetHandshakeTimeout changes HandshakeTimeout at any time.
func (h *Handler) SetHandshakeTimeout(d time.Duration) {
	h.init()
	h.timeout.Store(int64(orDefault(d, defaultHandshakeTimeout)))
}

// Stats counts what a Handler has done.
type Stats struct {
	Open, Pending int                  // sockets, now; pending ones count as open
	Upgraded      uint64               // successful handshakes
	Accepted      uint64               // sockets that the program took
	Refused       map[int]uint64       // handshakes, by HTTP status; 0: no answer
	Closed        map[CloseCode]uint64 // sockets that ended
	MessagesIn    uint64
	MessagesOut   uint64
	BytesIn       uint64 // frame headers included
	BytesOut      uint64 // headers, handshakes included
}

// Stats returns the current counts.
func (h *Handler) Stats() Stats {
	st := h.registry.stats()
	st.Pending = h.pool.len()
	return st
}
