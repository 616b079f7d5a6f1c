package foyer

import (
	"math"
	"time"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/netpoll"
)

// A keepalive is what the sweep remembers of a socket. It is small, because every socket has one: the counts are the
// lowest bits of counts of bytes, the times are milliseconds.
type keepalive struct {
	received uint32 // at the last sweep
	written  uint32 // at the last sweep
	quiet    millis // for how long nothing has come in
	awaited  millis // for how long the pong has not come, though it would have been seen
	stuck    millis // for how long the peer has taken nothing of what waits
	pinged   bool   // a ping is out since
	reader   bool   // a reader was waiting at the last sweep
	left     bool   // the peer had left at the last sweep; awaited is for how long nothing was read since
}

// A millis is a time in milliseconds.
type millis uint32

// add returns m and d together, with what is left of a millisecond rounded up.
func (m millis) add(d time.Duration) millis {
	return millis(min(int64(m)+int64((d+time.Millisecond-1)/time.Millisecond), math.MaxUint32))
}

// reached reports whether m is d or more.
func (m millis) reached(d time.Duration) bool { return time.Duration(m)*time.Millisecond >= d }

// sweep looks after the socket, elapsed after the last time. It never waits.
func (s *Socket) sweep(elapsed time.Duration) {
	if s.State() == StateClosed {
		return
	}
	switch seen := s.checkPeer(); {
	case s.left.Load():
		s.sweepLeft(elapsed)
	case s.config.pingInterval > 0:
		s.sweepInput(elapsed, seen)
	}
	s.sweepOutput(elapsed)
	s.sweepCalls(elapsed)
}

// sweepInput pings a peer that is quiet, and ends the socket when it does not answer.
func (s *Socket) sweepInput(elapsed time.Duration, seen netpoll.Sight) {
	k := &s.keepalive
	if received := uint32(s.wire.BytesIn()); received != k.received {
		k.received, k.quiet, k.pinged = received, 0, false
		return
	}
	k.quiet = k.quiet.add(elapsed)
	if !k.pinged {
		if k.quiet.reached(s.config.pingInterval) && s.sendControl(frame.Ping, nil, s.room(false)) == nil {
			k.pinged, k.reader, k.awaited = true, false, 0
			if seen == netpoll.Unknown {
				go s.checkPeerCloser() // a peer on an unbuffered connection cannot answer before somebody reads
			}
		}
		return
	}
	reader := s.waitsForInput()
	switch {
	case reader && k.reader:
		k.awaited = k.awaited.add(elapsed)
	case reader: // since when cannot be known
	case seen == netpoll.Quiet:
		k.awaited = k.awaited.add(elapsed) // the answer would be seen
	case seen == netpoll.Unknown:
		if s.wasQuiet() {
			k.awaited = k.awaited.add(elapsed)
		}
		go s.checkPeerCloser()
	default: // input is waiting that nobody reads, and the answer may stand behind it
		waited := k.awaited.add(elapsed)
		switch acknowledged, known := s.wire.AcknowledgedWithin(time.Duration(waited) * time.Millisecond); {
		case !known: // only what the peer takes can tell
		case acknowledged:
			k.quiet, k.pinged = 0, false
		default:
			k.awaited = waited
		}
	}
	k.reader = reader
	if k.pinged && k.awaited.reached(s.config.pongTimeout) {
		s.abort(ErrPingTimeout)
	}
}

// waitsForInput reports whether somebody would see what comes in.
func (s *Socket) waitsForInput() bool {
	if l := s.events.Load(); l != nil && s.wire.Attended() {
		return l.serving.Free() || s.wire.Waiting()
	}
	return s.wire.Waiting()
}

// sweepLeft ends the socket when its peer has left and the program does not read what it has sent before.
func (s *Socket) sweepLeft(elapsed time.Duration) {
	k := &s.keepalive
	read := uint32(s.wire.BytesIn() + s.messagesIn.Load())
	if !k.left || read != k.received || s.callsEvents() {
		k.left, k.received, k.awaited = true, read, 0
		return
	}
	k.awaited = k.awaited.add(elapsed)
	if k.awaited.reached(s.config.pongTimeout) {
		s.abort(errLeft)
	}
}

// sweepOutput ends the socket when its peer takes nothing of what waits to be written.
func (s *Socket) sweepOutput(elapsed time.Duration) {
	k := &s.keepalive
	written := uint32(s.wire.Written())
	if written != k.written || !s.wire.OutputWaits() {
		k.written, k.stuck = written, 0
		return
	}
	k.stuck = k.stuck.add(elapsed)
	if k.stuck.reached(s.config.pongTimeout) {
		s.abort(ErrPingTimeout)
	}
}

// hungUp is called by a loop when the peer has closed its side, or the connection is broken.
func (s *Socket) hungUp() {
	if s.wire.Waiting() {
		return // a goroutine will read that
	}
	if l := s.events.Load(); l != nil && l.serving.Free() {
		return // the next call of serveReady will
	}
	go s.checkPeer()
}

// checkPeer looks whether the peer is still there. When it has left, the socket ends if nothing is left to read, and
// otherwise its contexts do. It never waits.
func (s *Socket) checkPeer() netpoll.Sight {
	seen := s.wire.Glance()
	if seen == netpoll.Quiet || seen == netpoll.Arrived || s.State() == StateClosed {
		return seen
	}
	if !s.reading.side.TryLock() {
		// A Read that is under way looks again when it is done. Events may be busy with a message.
		if seen >= netpoll.Leaving && s.events.Load() != nil && !s.waitsForInput() {
			s.peerLeft()
		}
		return seen
	}
	if seen == netpoll.Unknown {
		seen = s.wire.Look()
	}
	closer := seen >= netpoll.Leaving && seen != netpoll.Broken && s.wire.Hides() && !s.holdsInput()
	gone := !closer && s.seenLeaving(seen)
	s.returnReading()
	switch {
	case gone:
		s.abort(errLeft)
	case closer:
		go s.checkPeerCloser()
	}
	return seen
}

// seenLeaving draws the consequences of what was seen of the peer. It reports true when the socket is to be aborted: nothing
// is left to read, or nobody has the socket yet. Otherwise a peer that has left only ends the contexts. The caller has the
// reading side, so that no Read begins with a context that is about to end.
func (s *Socket) seenLeaving(seen netpoll.Sight) (gone bool) {
	switch {
	case seen < netpoll.Leaving:
		return false
	case seen == netpoll.Cut || seen == netpoll.Broken:
		if s.isServer() && !s.accepted.Load() || seen == netpoll.Broken && !s.holdsInput() {
			return true
		}
	case seen == netpoll.Ended && !s.holdsInput():
		return true
	}
	s.peerLeft()
	return false
}

// holdsInput reports whether something was read from the network that the program has not taken. The caller has the reading
// side.
func (s *Socket) holdsInput() bool {
	return s.wire.Unread() || s.partial != nil || s.streamed != nil
}

// checkPeerCloser is checkPeer where the end may stand in what can only be read: behind TLS, or where the system has no
// other way. It keeps what it reads, and may wait.
func (s *Socket) checkPeerCloser() {
	if !s.reading.side.TryLock() {
		return
	}
	seen := s.wire.LookCloser()
	gone := s.seenLeaving(seen)
	s.mu.Lock()
	s.more().quiet = seen == netpoll.Quiet
	s.mu.Unlock()
	s.returnReading()
	if gone {
		s.abort(errLeft)
	}
}

// wasQuiet reports whether the last long look has seen nothing.
func (s *Socket) wasQuiet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.extra != nil && s.extra.quiet
}
