package foyer

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/foyerws/foyer/internal/baton"
)

// Events are callbacks for [Socket.Handle]; each may be nil. A socket's callbacks run one at a time. One that blocks
// delays its own socket only; one that panics ends it with CloseInternalServerErr. On Linux, over TCP and Unix sockets,
// an idle socket has no goroutine.
type Events struct {
	// Each message. p is valid until it returns; text is UTF-8. Writes in it leave together, within about a
	// millisecond.
	Message func(s *Socket, t MessageType, p []byte)

	// Each frame, before Message. p is valid until it returns, and may cut a character. A compressed message is one
	// frame.
	Frame func(s *Socket, t MessageType, p []byte, last bool)

	// Each pong, with the time since its Ping, or 0. payload is valid until it returns.
	Pong func(s *Socket, elapsed time.Duration, payload []byte)

	// The kernel has taken n more bytes, headers included.
	BytesWritten func(s *Socket, n int)

	// StateClosing (unless aborted or broken) and StateClosed.
	StateChanged func(s *Socket, state State)

	// A *CloseError with an Err. Closed follows.
	Error func(s *Socket, err error)

	// A close frame is about to be sent or answered; what this writes goes first.
	Closing func(s *Socket)

	// Always called, last.
	Closed func(s *Socket, code CloseCode, reason string)
}

// Handle returns at once; e is called in place of Read. It panics if called twice, after CloseRead, or during a Read.
func (s *Socket) Handle(e Events) {
	if !s.handle(&listener{Events: e}) {
		panic("foyer: Handle on a socket that is being read, or handles events already")
	}
}

// CloseRead starts dropping messages and answering pings and close frames, where programs only write. It panics after
// Handle or during a Read.
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
	l.serving.Take()
	if e.BytesWritten != nil {
		l.written = s.wire.ReportWritten()
	}
	reads := s.reading.take()
	s.config.registry.handlerBegins()
	if !reads && s.State() == StateOpen || !s.events.CompareAndSwap(nil, l) {
		s.config.registry.handlerDone()
		return false
	}
	if s.State() != StateOpen || e.BytesWritten != nil {
		s.notify()
	}
	switch {
	case !reads: // the close handshake does
	case !s.wire.Attend():
		go s.serveBlocking(l)
	case s.streamed != nil:
		go s.serveLong(l)
	default:
		s.wire.DoNotWait(true)
		if !s.wire.Idle() || s.State() == StateClosed || !l.serving.Return() {
			go s.serveReady(l, false)
		}
	}
	return true
}

// A listener is a socket's Events and where their calls stand.
type listener struct {
	Events
	asked   atomic.Pointer[closeCall] // a close frame is to be sent after Closing
	serving baton.Baton               // held by the goroutine that reads what has come

	calls         baton.Baton   // held while a function is called; the work is to report what has changed. Guards the fields from written to over
	busy          atomic.Uint32 // 0 while no function is called; else one more than the milliseconds that sweeps saw of the call
	written       uint64        // bytes that BytesWritten has reported
	reported      State         // the last state that StateChanged has reported
	closingCalled bool          // Closing was called
	failed        bool          // Error was called, if it had to be
	over          bool          // Closed was called
	drops         bool          // messages are not wanted; does not change

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
func (o *owner) Wrote()                              { (*Socket)(o).notify() }
func (o *owner) Failed(err error)                    { (*Socket)(o).abort(err) }
func (o *owner) HungUp()                             { (*Socket)(o).hungUp() }
func (o *owner) Ready(onLoop bool)                   { (*Socket)(o).ready(onLoop) }

// ready is called by a loop when there is input.
func (s *Socket) ready(onLoop bool) {
	if l := s.events.Load(); l.serving.Take() {
		s.serveReady(l, onLoop)
	}
}

// serveReady serves what has come, without waiting for more. The caller has begun it.
func (s *Socket) serveReady(l *listener, onLoop bool) {
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
			return // and l.serving is never returned
		case l.serving.Return():
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
// Reader. The caller holds l.serving.
func (s *Socket) serveLong(l *listener) {
	served := false
	defer s.abortUnless(&served)
	s.wire.DoNotWait(false)
	if s.nextMessage(background) == nil {
		s.deliver(l)
	}
	s.wire.DoNotWait(true)
	served = true
	s.serveReady(l, false)
}

// serveBlocking serves a socket that no loop looks after, on a goroutine that waits.
func (s *Socket) serveBlocking(l *listener) {
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
	if l.Message != nil && l.reported == StateOpen {
		l.Message(s, t, p)
	}
}

func (l *listener) frame(s *Socket, t MessageType, p []byte, last bool) {
	l.begin()
	defer s.called(l)
	if l.reported == StateOpen {
		l.Frame(s, t, p, last)
	}
}

func (l *listener) pong(s *Socket, elapsed time.Duration, payload []byte) {
	l.begin()
	defer s.called(l)
	if l.Pong != nil && l.reported == StateOpen {
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
		s.panicked(v)
	}
	s.returnCalls(l)
}

// returnCalls gives l.calls back, and reports what has changed in the meantime.
func (s *Socket) returnCalls(l *listener) {
	if !l.calls.Return() {
		s.reportAll(l)
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

// notify arranges that changes are reported: by the goroutine that is calling a function, or on a new one.
func (s *Socket) notify() {
	if l := s.events.Load(); l != nil && l.calls.Leave() {
		go func() {
			if l.calls.Take() {
				s.reportAll(l)
			}
		}()
	}
}

// reportAll reports changes until there are none, and gives l.calls back, which the caller holds. If a function ends the goroutine,
// another one continues.
func (s *Socket) reportAll(l *listener) {
	returned := false
	defer func() {
		if !returned {
			go s.reportAll(l)
		}
	}()
	for again := true; again; again = !l.calls.Return() {
		s.reportChanges(l)
	}
	returned = true
}

// reportChanges reports what has changed since the last call. The caller holds l.calls.
func (s *Socket) reportChanges(l *listener) {
	if asked := l.asked.Load(); asked != nil {
		s.callClosing(l)
		l.asked.Store(nil)
		s.startClose(asked.code, asked.reason)
	}
	state := s.State()
	if l.over {
		return
	}
	s.reportWritten(l)
	if l.reported == StateOpen && (state == StateClosing || l.sent.Load()) {
		l.reported = StateClosing
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
	if s.wire.Attended() && l.serving.Take() {
		s.forgetMessages()
		s.wire.Forget() // and l.serving is never returned
	}
	if !l.failed {
		l.failed = true
		s.contained(func() {
			if l.Error != nil && end.Err != nil {
				l.Error(s, end)
			}
		})
	}
	if l.reported != StateClosed {
		l.reported = StateClosed
		s.contained(func() {
			if l.StateChanged != nil {
				l.StateChanged(s, StateClosed)
			}
		})
	}
	l.over = true
	s.contained(func() {
		defer s.config.registry.handlerDone()
		if l.Closed != nil {
			l.Closed(s, end.Code, end.Reason)
		}
	})
}

// reportWritten reports how many bytes were written since the last call. The caller holds l.calls.
func (s *Socket) reportWritten(l *listener) {
	if l.BytesWritten == nil {
		return
	}
	if written := s.wire.Written(); written > l.written {
		n := written - l.written
		l.written = written
		s.contained(func() { l.BytesWritten(s, int(n)) })
	}
}

// callClosing calls Closing once. The caller holds l.calls.
func (s *Socket) callClosing(l *listener) {
	if l.closingCalled || l.over || s.State() != StateOpen {
		return
	}
	l.closingCalled = true
	s.contained(func() {
		if l.Closing != nil {
			l.Closing(s)
		}
	})
}

// callClosingFromReader is callClosing for the reading goroutine, which must not hold l.calls.
func (s *Socket) callClosingFromReader() {
	if l := s.events.Load(); l != nil {
		l.calls.Lock()
		defer s.returnCalls(l)
		s.callClosing(l)
	}
}

// contained calls f, which may panic.
func (s *Socket) contained(f func()) {
	defer func() {
		if v := recover(); v != nil {
			s.panicked(v)
		}
	}()
	f()
}

// panicked closes the socket, because one of its functions has panicked.
func (s *Socket) panicked(v any) {
	err := newPanicError(v)
	s.beginClose(CloseInternalServerErr, "")
	go s.config.reportPanicError("an Events function", s, err) // not on a loop
}
