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

// A Handler lets sockets in. It is an http.Handler for any router, takes raw connections through HandleConnection, and
// keeps the sockets it accepted in a bounded pool until the program takes them with Accept or one of its kin.
//
// The zero value works: it lets in pages of its own host and requests without Origin, thirty sockets may wait for the
// program, and its limits are those named below. Fields must not be changed once the Handler is in use; the Set methods may be
// called at any time. All methods are safe for concurrent use. A Handler must not be copied.
type Handler struct {
	// ServerName is the Server header of every answer. Empty means no such header.
	ServerName string

	// Origins decides which web pages may connect. Nil is SameOrigin. If it allows too much, any page on the web can
	// open sockets in the name of a user whom the server knows by a cookie (RFC 6455 section 10.2).
	Origins OriginAuthenticator

	// Authorize, if not nil, has the last word on a request. The header it returns goes into the answer; the headers
	// of the handshake itself, and those that are malformed, are not allowed and make it fail with status 500. When it
	// returns an error the answer is 403 and the text of the error is not sent, or the status and the Reason of the
	// *HandshakeError that it returned. The request's context ends at the handshake's deadline. A panic is a refusal
	// with status 500.
	Authorize func(*http.Request) (http.Header, error)

	// Subprotocols are those the program speaks. The first in the client's list that is among them is agreed on; if
	// there is none, the socket has none, and browsers that asked for one fail the connection.
	Subprotocols []string

	// MaxPending is how many sockets may wait for Accept, including those whose handshake is being answered. 0 is 30,
	// negative is no limit. While a ForEach runs nothing waits, and the limit has no effect.
	//
	// A handshake that finds the pool full waits for a place, first come, first served, within HandshakeTimeout, if the
	// program takes its sockets: a call of Accept is waiting, or a socket was taken, or NextPending called, within the last
	// second, or the first handshake was less than a second ago. At most 4,096 handshakes wait. Otherwise the client gets 503 at once, and
	// Origins and Authorize are not asked.
	MaxPending int

	// MaxOpen is how many sockets may be open, including those that wait for Accept. Further requests get 503. 0 is no
	// limit.
	MaxOpen int

	// HandshakeTimeout bounds a handshake as a whole, from the call of HandleConnection or ServeHTTP to the answer. The
	// context of the hooks ends with it, and they must heed that. 0 is 10 seconds; negative is no limit, and then a client
	// that sends nothing holds its connection for ever.
	HandshakeTimeout time.Duration

	// MaxMessageSize is how many bytes a message from the client may have, after decompression. A longer one ends the
	// socket with CloseMessageTooBig before it is taken in. 0 is 1 MiB; negative is no limit, and then one client can
	// fill the memory.
	MaxMessageSize int64

	// MaxFrameSize is how many bytes of payload a single frame from the client may have, before decompression. A longer
	// one ends the socket with CloseMessageTooBig. 0 is no limit but MaxMessageSize.
	MaxFrameSize int64

	// MaxWriteBuffer is how many bytes may wait to be written to a client that does not read, per socket. Beyond it
	// Write waits and TryWrite fails. 0 is 1 MiB; negative is no limit, and then one client can fill the memory. Messages of
	// 16 KiB and more are not buffered: Write waits until the kernel has them.
	MaxWriteBuffer int

	// OutgoingFrameSize is how many bytes of payload a frame we send has at the most; longer messages go out in
	// several frames. 0 is no limit.
	OutgoingFrameSize int

	// Compression lets clients negotiate permessage-deflate (RFC 7692). It costs CPU time for each message, and about 1 MiB for
	// each that is being compressed at the moment.
	Compression CompressionMode

	// CompressionMemory is how many bytes the sockets of the Handler may keep for context takeover, all together. When they are spent,
	// further sockets get none. 0 is 64 MiB; negative is no limit.
	CompressionMemory int64

	// CompressionLevel is from 1, the fastest, to 9. 0 is 3. Others panic at the first use. Where a client asks for a window
	// smaller than 32 KiB the level does not count.
	CompressionLevel int

	// CompressionThreshold is how many bytes a message must have to be compressed; what a Writer sends always is. 0 is
	// 128; negative is no threshold, and then short messages get longer.
	CompressionThreshold int

	// PingInterval is after how long without input a client is pinged. 0 is 30 seconds; negative is no keepalive, and
	// then a client that vanished is only noticed when something is written to it, if at all.
	PingInterval time.Duration

	// PongTimeout is how long the client may take to answer that ping, or to take something of what waits to be written,
	// keepalive or not. After that the socket ends with ErrPingTimeout. 0 is 30 seconds. Any input is an answer. Where
	// input waits that the program does not read, an answer could not be seen: on Linux an acknowledgement by the
	// client's kernel counts instead, and elsewhere such a client is only judged by what it takes.
	PongTimeout time.Duration

	// CloseTimeout is how long a client may take to answer a close frame before its connection is cut. 0 is 5 seconds.
	CloseTimeout time.Duration

	// Logger gets a line for each handshake that was refused, with a hint at the cause, and for panics of the program's
	// functions, with their stack. Of each kind of line at most five are written in a second, and then how many there
	// were. The query of a URL, headers other than Host and Origin, and messages are never logged. Nil is slog.Default();
	// slog.New(slog.DiscardHandler) is silent.
	Logger *slog.Logger

	// OnError, if not nil, gets each handshake that was refused or failed (*HandshakeError, *TLSError), a Server's failed
	// accepts (*AcceptError), and panics of ForEach and Events functions (*PanicError). It is called on the goroutine
	// where the error occurred and should return soon. A panic in it is caught and logged.
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
			maxMessage:   h.MaxMessageSize,
			maxWrite:     h.MaxWriteBuffer,
			frameSize:    h.OutgoingFrameSize,
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
		if err := h.config.complete(true, h.MaxFrameSize, nil); err != nil {
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

// ServeHTTP performs the opening handshake on a request and puts the socket into the pool. It returns as soon as that
// is done; nothing of net/http stays behind. A request that is no handshake, or is refused, gets an HTTP answer and its
// connection is closed.
//
// Over HTTP/2 (RFC 8441, see [EnableHTTP2]) and HTTP/3 (RFC 9220) the handshake is a CONNECT, the socket is the stream of
// the request, and ServeHTTP returns when the socket has ended. A refusal does not close the connection there.
//
// Whatever middleware wraps the http.ResponseWriter must have an Unwrap method (see http.ResponseController), or, for
// HTTP/1.1, pass on http.Hijacker; otherwise the answer is 500 and the error names the type that is in the way. Headers
// that middleware has set are part of the answer.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.serve(w, r, true)
}

// Upgrade is ServeHTTP past the pool: the socket is returned, and counts as accepted. When it returns an error, a
// *HandshakeError, the request has been answered.
//
// It returns at once, over HTTP/2 and HTTP/3 as well. There the socket lives no longer than the request's handler, which
// must not return before [Socket.Done] is closed, not even when Read has returned an error:
//
//	defer func() {
//		s.Close(foyer.CloseNormalClosure, "")
//		<-s.Done()
//	}()
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

// HandleConnection performs the opening handshake on a connection that was accepted elsewhere: it reads the request,
// answers it, and puts the socket into the pool. It returns when that is done, nil or a *HandshakeError or *TLSError,
// after HandshakeTimeout at the latest, and a second more that a refused client has to take its answer. Any net.Conn
// will do: TCP, a Unix socket, net.Pipe. If it is a TLS connection its handshake is performed first. On one that knows no
// deadlines, contexts cannot end a Read.
//
// The connection belongs to the Handler from the call on, and is closed when the handshake fails. Bytes behind the
// request in the same packet are the first frames.
//
// A request line or header line may have 8 KiB, the header 100 lines, and all together 64 KiB.
func (h *Handler) HandleConnection(conn net.Conn) error {
	return h.enter(wire.New(conn, nil)).handle(shakeForSocket)
}

// HandleUpgrade performs the opening handshake on a request that somebody else has read, as a hijacking handler has: r is
// the request, conn its connection, and rw, which may be nil, what was buffered of it. It answers and puts the socket
// into the pool. conn belongs to the Handler from the call on, and is closed when an error, a *HandshakeError, is
// returned. r is not kept. Requests over HTTP/2 and HTTP/3 have no connection of their own: those are for ServeHTTP.
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

// A presence tells whether the client of a handshake is still there.
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
		return func() { h.seat(s, terms.pooled) }, nil
	})
	return s, refusal
}

// letIn judges a request that was read, and has answer answer it when it is let in and has its places. The first check that fails is
// the refusal. answer returns what is done when nothing can fail any more.
func (h *Handler) letIn(r *http.Request, terms terms, answer func(asked *http.Request, authorized http.Header) (seat func(), refusal *HandshakeError)) *HandshakeError {
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

	seated := false
	defer func() {
		if !seated && terms.pooled {
			h.pool.release()
		}
	}()
	if refusal := h.reserveOpen(); refusal != nil {
		return refusal
	}
	defer func() {
		if !seated {
			h.registry.release()
		}
	}()
	seat, refusal := answer(asked, authorized)
	if refusal != nil {
		return refusal
	}
	seated = true
	seat()
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

// seat puts s, which has its places, among the open sockets and into the pool, and lets the answer leave.
func (h *Handler) seat(s *Socket, pooled bool) {
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

// Pause refuses handshakes with 503 until Resume. Sockets that are open or pending stay.
func (h *Handler) Pause() { h.paused.Store(true) }

// Resume lets handshakes through again.
func (h *Handler) Resume() { h.paused.Store(false) }

// SetMaxPending changes MaxPending from now on. Sockets that wait already stay.
func (h *Handler) SetMaxPending(n int) {
	h.init()
	h.pool.limit(n)
}

// SetServerName changes ServerName from now on.
func (h *Handler) SetServerName(s string) {
	h.init()
	h.name.Store(&s)
}

// SetHandshakeTimeout changes HandshakeTimeout for handshakes that begin from now on.
func (h *Handler) SetHandshakeTimeout(d time.Duration) {
	h.init()
	h.timeout.Store(int64(orDefault(d, defaultHandshakeTimeout)))
}

// Stats are counts since a Handler's first use, and what is open now.
type Stats struct {
	Open, Pending int                  // sockets, now; pending ones count as open
	Upgraded      uint64               // handshakes that succeeded
	Accepted      uint64               // sockets that the program took
	Refused       map[int]uint64       // handshakes by HTTP status; 0: the connection ended without an answer
	Closed        map[CloseCode]uint64 // sockets that ended, by their CloseCode
	MessagesIn    uint64
	MessagesOut   uint64
	BytesIn       uint64 // from the network, frame headers included; over HTTP/2 what is in the streams
	BytesOut      uint64 // to the network, handshakes and frame headers included; over HTTP/2 what is in the streams
}

// Stats returns the present counts.
func (h *Handler) Stats() Stats {
	st := h.registry.stats()
	st.Pending = h.pool.len()
	return st
}

// LastError returns the error that OnError got last, or would have got; nil if there was none. A *HandshakeError has no
// Request.
func (h *Handler) LastError() error {
	h.init()
	return h.config.last()
}
