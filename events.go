package foyer

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/foyerws/foyer/internal/baton"
)

// Events are functions that a Socket calls from [Socket.Handle] on, instead of being read from. Each may be nil.
//
// The functions of one socket are called one after the other, in the order in which things happened, and never two at
// once; those of different sockets run at the same time. A function may take its time, and may block: that delays what
// comes for its own socket, and no other. A panic in one ends its socket with CloseInternalServerErr and is reported as
// that of a ForEach function is.
//
// On Linux a socket that waits for input over TCP or a Unix socket has no goroutine: its functions run on a goroutine
// that serves many. Elsewhere, and over TLS, HTTP/2 and HTTP/3, it has one.
type Events struct {
	// Message is called for each message. p is valid until it returns. Text is valid UTF-8.
	//
	// What is written to the socket meanwhile leaves together, in one system call, when the messages that have come are
	// dealt with, or after about a millisecond if that takes longer.
	Message func(s *Socket, t MessageType, p []byte)

	// Frame is called for each frame of a message as it comes in whole, and before Message; last says that it is the last
	// of its message. p is valid until it returns. A frame may begin and end in the middle of a character of a text. A
	// compressed message counts as one frame.
	Frame func(s *Socket, t MessageType, p []byte, last bool)

	// Pong is called for each pong from the peer; elapsed is the time since the Ping that it answers, 0 if it answers
	// none. payload is valid until it returns.
	Pong func(s *Socket, elapsed time.Duration, payload []byte)

	// BytesWritten is called when the kernel has taken n bytes more, frame headers included. What was written meanwhile
	// is told of in one call. Closed may come before the last bytes are told of.
	BytesWritten func(s *Socket, n int)

	// StateChanged is called when the socket is Closing, which an aborted one never is, and when it is Closed.
	StateChanged func(s *Socket, state State)

	// Error is called before Closed when the socket did not end with a close handshake. The error is that of Err.
	Error func(s *Socket, err error)

	// Closing is called before a close frame is sent, be it ours or our answer to the peer's. What it writes still
	// goes out before that.
	Closing func(s *Socket)

	// Closed is called last, and always.
	Closed func(s *Socket, code CloseCode, reason string)
}

// Handle has the socket call the functions of e from now on, until it has ended, and returns at once. It takes the place
// of Read: what was not read of a message is dropped, and Read and Reader return ErrReading from now on. It panics if
// the socket handles events already, CloseRead was called, or a Read is under way.
//
// Where there is a function Closing, Close sends the close frame after that has returned. A socket that handles events
// outlives the ForEach function that it was given to.
func (s *Socket) Handle(e Events) {
	if !s.handle(&listener{Events: e}) {
		panic("foyer: Handle on a socket that is being read, or handles events already")
	}
}

// CloseRead is for programs that only write: it drops all messages that come from now on, answers pings and the close
// frame, and returns at once. Read and Reader return ErrReading from now on. On Linux it takes no goroutine over TCP and
// Unix sockets. A second call does nothing; on a socket that handles events, or while a Read is under way, CloseRead
// panics.
func (s *Socket) CloseRead() {
	if l := s.events.Load(); l != nil && l.drops {
		return
	}
	if !s.handle(&listener{drops: true}) {
		panic("foyer: CloseRead on a socket that is being read, or handles events")
	}
}

// handlesEvents reports whether the socket is the business of its Events.
func (s *Socket) handlesEvents() bool {
	l := s.events.Load()
	return l != nil && !l.drops
}

// handle gives the reading side to l, and reports false when something else has it.
func (s *Socket) handle(l *listener) bool {
	e := &l.Events
	l.turns.Take()
	if e.BytesWritten != nil {
		l.written = s.wire.TellWritten()
	}
	reads := s.reading.take()
	s.config.registry.listens()
	if !reads && s.State() == StateOpen || !s.events.CompareAndSwap(nil, l) {
		s.config.registry.told()
		return false
	}
	if s.State() != StateOpen || e.BytesWritten != nil {
		s.announce()
	}
	switch {
	case !reads: // the close handshake does
	case !s.wire.Attend():
		go s.converse(l)
	case s.streamed != nil:
		go s.serveLong(l)
	default:
		s.wire.DoNotWait(true)
		if !s.wire.Idle() || !l.turns.Return() {
			go s.turn(l, false)
		}
	}
	return true
}

// A listener is a socket's Events and where their calls stand.
type listener struct {
	Events
	asked atomic.Pointer[closeCall] // a close frame is to be sent after Closing
	turns baton.Baton               // held by who reads what has come

	calls   baton.Baton   // held while a function is called; the work is to tell what has changed. Guards the fields from written to over
	busy    atomic.Uint32 // 0 while no function is called; else one more than the milliseconds that sweeps saw of the call
	written uint64        // bytes that BytesWritten was told of
	told    State         // the last that StateChanged was told
	warned  bool          // Closing was called
	failed  bool          // Error was called, if it had to be
	over    bool          // Closed was called
	drops   bool          // messages are not wanted; does not change

	sent atomic.Bool // the close frame
}

// A closeCall is what Close was called with.
type closeCall struct {
	code   CloseCode
	reason string
}

// An owner is a Socket as the wire knows it.
type owner Socket

func (o *owner) Control(opcode byte, payload []byte) { (*Socket)(o).control(opcode, payload) }
func (o *owner) Wrote()                              { (*Socket)(o).announce() }
func (o *owner) Failed(err error)                    { (*Socket)(o).abort(err) }
func (o *owner) HungUp()                             { (*Socket)(o).hungUp() }
func (o *owner) Ready(onLoop bool)                   { (*Socket)(o).ready(onLoop) }

// ready is told by a loop that something has come.
func (s *Socket) ready(onLoop bool) {
	if l := s.events.Load(); l.turns.Take() {
		s.turn(l, onLoop)
	}
}

// turn serves what has come, without waiting for more. The caller has begun it.
func (s *Socket) turn(l *listener, onLoop bool) {
	for ; ; onLoop = false { // which may have been taken over meanwhile
		if onLoop {
			s.wire.GatherTurn()
		} else {
			s.wire.Gather()
		}
		long := s.serve(l)
		s.wire.Scatter()
		switch {
		case long:
			go s.serveLong(l)
			return
		case s.State() == StateClosed:
			s.forgetMessages()
			s.wire.Forget()
			return // and no turn begins any more
		case l.turns.Return():
			return
		}
	}
}

// serve hands over the messages that are there. It reports true when there is one that must be waited for.
func (s *Socket) serve(l *listener) (long bool) {
	served := false
	defer s.abortUnless(&served)
	for s.State() != StateClosed {
		if err := s.deliver(l); err != nil {
			long = err == errLong
			break
		}
	}
	served = true
	return long
}

// serveLong serves the socket on a goroutine that may wait: for the rest of a compressed message, or of one that was begun with a
// Reader. It continues a turn.
func (s *Socket) serveLong(l *listener) {
	served := false
	defer s.abortUnless(&served)
	s.wire.DoNotWait(false)
	if s.nextMessage(background) == nil {
		s.deliver(l)
	}
	s.wire.DoNotWait(true)
	served = true
	s.turn(l, false)
}

// converse serves a socket that no loop looks after, on a goroutine that waits.
func (s *Socket) converse(l *listener) {
	served := false
	defer s.abortUnless(&served)
	for s.nextMessage(background) == nil && s.deliver(l) == nil {
		if s.wire.Unread() {
			s.wire.Gather()
		}
	}
	served = true
	s.forgetMessages()
	s.wire.Forget()
}

// abortUnless ends a socket whose events will be served no more, because one of its functions ended the goroutine.
func (s *Socket) abortUnless(served *bool) {
	if !*served {
		s.abort(errGoexit)
	}
}

var errGoexit = errors.New("foyer: a function of the socket's Events ended its goroutine")

// deliver hands over the next message. The errors are those of take. A socket that is closing drops the message.
func (s *Socket) deliver(l *listener) error {
	if l.drops || s.State() != StateOpen {
		return s.dropFrame()
	}
	var onFrame func(t MessageType, p []byte, last bool)
	if l.Frame != nil {
		onFrame = func(t MessageType, p []byte, last bool) { l.frame(s, t, p, last) }
	}
	m, err := s.take(background, false, onFrame)
	if err != nil {
		return err
	}
	l.message(s, m.kind, m.p)
	s.took(m)
	return nil
}

func (l *listener) message(s *Socket, t MessageType, p []byte) {
	l.begin()
	defer s.called(l)
	if l.Message != nil && l.told == StateOpen {
		l.Message(s, t, p)
	}
}

func (l *listener) frame(s *Socket, t MessageType, p []byte, last bool) {
	l.begin()
	defer s.called(l)
	if l.told == StateOpen {
		l.Frame(s, t, p, last)
	}
}

func (l *listener) pong(s *Socket, elapsed time.Duration, payload []byte) {
	l.begin()
	defer s.called(l)
	if l.Pong != nil && l.told == StateOpen {
		l.Pong(s, elapsed, payload)
	}
}

// begin begins a call of one of the functions.
func (l *listener) begin() {
	l.calls.Lock()
	l.busy.Store(1)
}

// called ends a call of one of the functions.
func (s *Socket) called(l *listener) {
	v := recover()
	l.busy.Store(0)
	if v != nil {
		err := newPanicError(v)
		s.beginClose(CloseInternalServerErr, "")
		go s.config.reportPanicError("an Events function", s, err) // not on a loop
	}
	s.returnCalls(l)
}

// returnCalls gives l.calls back, and tells what has changed meanwhile.
func (s *Socket) returnCalls(l *listener) {
	if !l.calls.Return() {
		s.tellAll(l)
	}
}

// callsEvents reports whether a function of the socket's Events is being called.
func (s *Socket) callsEvents() bool {
	l := s.events.Load()
	return l != nil && l.busy.Load() != 0
}

// stuckCall is after how long a function of Events that has not returned is reported.
const stuckCall = 10 * time.Second

// sweepCalls reports a function of the socket's Events that does not return: nothing that comes for the socket is seen
// until it does.
func (s *Socket) sweepCalls(elapsed time.Duration) {
	l := s.events.Load()
	if l == nil {
		return
	}
	seen := l.busy.Load()
	longer := uint32(millis(seen).add(elapsed))
	if seen == 0 || !l.busy.CompareAndSwap(seen, longer) {
		return
	}
	if reported := millis(seen).reached(stuckCall); millis(longer).reached(stuckCall) && !reported {
		remote := address(s.RemoteAddr())
		go s.config.logLine(slog.LevelWarn, "stuck", "foyer: a function of a socket's Events has not returned for 10 s",
			slog.String("remote", remote), slog.String("hint", "the socket's messages, pongs and close frame wait for it; let it start a goroutine for what takes long"))
	}
}

// announce has what has changed told: by who calls a function, or on a goroutine.
func (s *Socket) announce() {
	if l := s.events.Load(); l != nil && l.calls.Leave() {
		go func() {
			if l.calls.Take() {
				s.tellAll(l)
			}
		}()
	}
}

// tellAll tells what has changed, until nothing has. The caller holds l.calls, which are given back. If a function ends the goroutine
// another goes on with the rest.
func (s *Socket) tellAll(l *listener) {
	returned := false
	defer func() {
		if !returned {
			go s.tellAll(l)
		}
	}()
	for again := true; again; again = !l.calls.Return() {
		s.tell(l)
	}
	returned = true
}

// tell tells what has changed. The caller has l.calls.
func (s *Socket) tell(l *listener) {
	if asked := l.asked.Load(); asked != nil {
		s.warn(l)
		l.asked.Store(nil)
		s.startClose(asked.code, asked.reason)
	}
	state := s.State()
	if l.over {
		return
	}
	s.tellWritten(l)
	if l.told == StateOpen && (state == StateClosing || l.sent.Load()) {
		l.told = StateClosing
		s.contained(func() {
			if l.StateChanged != nil {
				l.StateChanged(s, StateClosing)
			}
		})
	}
	end := s.end()
	if end == nil {
		return
	}
	if s.wire.Attended() && l.turns.Take() {
		s.forgetMessages()
		s.wire.Forget() // and no turn begins any more
	}
	if !l.failed {
		l.failed = true
		s.contained(func() {
			if l.Error != nil && end.Err != nil {
				l.Error(s, end)
			}
		})
	}
	if l.told != StateClosed {
		l.told = StateClosed
		s.contained(func() {
			if l.StateChanged != nil {
				l.StateChanged(s, StateClosed)
			}
		})
	}
	l.over = true
	s.contained(func() {
		defer s.config.registry.told()
		if l.Closed != nil {
			l.Closed(s, end.Code, end.Reason)
		}
	})
}

// tellWritten tells how many bytes were written since the last time. The caller has l.calls.
func (s *Socket) tellWritten(l *listener) {
	if l.BytesWritten == nil {
		return
	}
	if written := s.wire.Written(); written > l.written {
		n := written - l.written
		l.written = written
		s.contained(func() { l.BytesWritten(s, int(n)) })
	}
}

// warn calls Closing, once. The caller has l.calls.
func (s *Socket) warn(l *listener) {
	if l.warned || l.over || s.State() != StateOpen {
		return
	}
	l.warned = true
	s.contained(func() {
		if l.Closing != nil {
			l.Closing(s)
		}
	})
}

// warnReader is warn for the goroutine that reads, which calls no function at the time.
func (s *Socket) warnReader() {
	if l := s.events.Load(); l != nil {
		l.calls.Lock()
		defer s.returnCalls(l)
		s.warn(l)
	}
}

// contained calls f, which may panic.
func (s *Socket) contained(f func()) {
	defer func() {
		if v := recover(); v != nil {
			go s.config.reportPanicError("an Events function", s, newPanicError(v))
		}
	}()
	f()
}
