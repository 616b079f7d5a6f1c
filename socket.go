package foyer

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/wire"
)

// A MessageType is an opcode.
type MessageType int

const (
	Text   MessageType = MessageType(frame.Text)   // UTF-8
	Binary MessageType = MessageType(frame.Binary) // anything
)

// String returns "text" or "binary".
func (t MessageType) String() string {
	switch t {
	case Text:
		return "text"
	case Binary:
		return "binary"
	}
	return "invalid message type"
}

// A State is the state of a Socket after the handshake.
type State int32

const (
	StateOpen    State = iota // messages go both ways
	StateClosing              // a close frame was sent or received
	StateClosed               // the end
)

// String returns "open", "closing" or "closed".
func (s State) String() string {
	switch s {
	case StateOpen:
		return "open"
	case StateClosing:
		return "closing"
	case StateClosed:
		return "closed"
	}
	return "invalid state"
}

// A Socket is a WebSocket connection of a server or client. Close or Abort every one. All methods are safe for
// concurrent use; a second reader gets ErrReading. Until Close, pings are answered and close frames seen only during
// Read, Handle or CloseRead.
type Socket struct {
	wire        *wire.Conn
	config      *config
	request     record
	subprotocol string
	deflate     *compression // nil where permessage-deflate was not negotiated

	accepted atomic.Bool              // the program has it
	left     atomic.Bool              // the peer has left, and something that it sent may be left to read
	reading  readingSide              // one goroutine at a time reads; it stays with the events
	state    atomic.Int32             // changed in close.go only
	partial  *message                 // of which a part has come; touched only by the goroutine that reads
	streamed *messageReader           // the one that a Reader reads; the same
	events   atomic.Pointer[listener] // nil until Handle

	mu         sync.Mutex    // guards:
	fate       *CloseError   // how the socket ends, once that is certain; set in close.go only
	closeTimer *time.Timer   // ends a close handshake that the peer does not finish
	pings      *ping         // that wait for their pong, oldest first
	extra      *extra        // nil until needed
	done       chan struct{} // closed at the end; nil until somebody asks for it

	messagesIn atomic.Uint64

	keepalive keepalive // touched only by the sweep
}

// An extra is what few sockets have.
type extra struct {
	cancels []context.CancelCauseFunc // end the contexts of the socket
	context *socketContext            // of Context
	values  *values
	quiet   bool // the last long look at the peer has seen nothing
}

// more returns what few sockets have. The caller has s.mu.
func (s *Socket) more() *extra {
	if s.extra == nil {
		s.extra = new(extra)
	}
	return s.extra
}

// newSocket returns the Socket that speaks through c. What it writes stays in memory until c is opened.
func newSocket(c *wire.Conn, cfg *config, r record, subprotocol string, deflate *compression) *Socket {
	s := &Socket{wire: c, config: cfg, request: r, subprotocol: subprotocol, deflate: deflate}
	c.Frame(cfg.rules(deflate != nil), (*owner)(s))
	return s
}

// isServer reports whether this is the server's end.
func (s *Socket) isServer() bool { return s.config.plain.Server }

// State returns the current state.
func (s *Socket) State() State { return State(s.state.Load()) }

// Done is closed when the socket has ended. Its Events may still be running.
func (s *Socket) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		s.done = make(chan struct{})
		if s.State() == StateClosed {
			s.tellDone(s.done)
		}
	}
	return s.done
}

// Err returns nil, or a *CloseError once the socket has ended.
func (s *Socket) Err() error {
	if e := s.end(); e != nil {
		return e
	}
	return nil
}

// end returns how the socket ended, nil while it has not.
func (s *Socket) end() *CloseError {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.State() != StateClosed {
		return nil
	}
	return s.fate
}

// Request returns a copy of the handshake's request as Authorize got it, without body, with a context that never ends.
// Use its PathValue, not chi.URLParam.
func (s *Socket) Request() *http.Request {
	r := s.request.unpack()
	if s.request.base == nil {
		r.TLS = s.wire.TLS()
		r.RemoteAddr = address(s.wire.RemoteAddr())
	}
	return r
}

// Subprotocol returns the negotiated subprotocol, or "".
func (s *Socket) Subprotocol() string { return s.subprotocol }

// LocalAddr returns the local address.
func (s *Socket) LocalAddr() net.Addr { return s.wire.LocalAddr() }

// RemoteAddr returns the remote address, perhaps a proxy's.
func (s *Socket) RemoteAddr() net.Addr { return s.wire.RemoteAddr() }

// UnderlyingConn returns the connection, or a copy, to inspect or tune. Do not read, write, close it or set deadlines.
func (s *Socket) UnderlyingConn() net.Conn { return s.wire.NetConn() }

// traffic returns what went through the socket so far.
func (s *Socket) traffic() traffic {
	return traffic{s.messagesIn.Load(), s.wire.MessagesOut(), s.wire.BytesIn(), s.wire.Written()}
}

// background is the context of what foyer does on its own account.
var background = context.Background()
