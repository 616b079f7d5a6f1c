package foyer

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/foyerws/foyer/internal/wire"
)

// A ping is one that waits for its pong.
type ping struct {
	payload string
	sent    time.Time
	elapsed time.Duration
	pong    chan struct{} // closed when elapsed is set, or the socket has ended
	next    *ping         // sent after it
}

// lastPing numbers the pings that came without a payload of their own.
var lastPing atomic.Uint64

// Ping sends a ping and waits for its pong (RFC 6455 sections 5.5.2 and 5.5.3). It returns the time in between. payload
// has at most 125 bytes and comes back with the pong; an empty one is replaced by a number, so that pongs can be told
// apart.
//
// The pong is noticed by whoever reads from the socket: a goroutine that calls Read must be under way, or Ping waits
// until ctx ends.
func (s *Socket) Ping(ctx context.Context, payload []byte) (time.Duration, error) {
	if len(payload) > 125 {
		return 0, errors.New("foyer: a ping carries at most 125 bytes (RFC 6455 section 5.5)")
	}
	if len(payload) == 0 {
		payload = binary.BigEndian.AppendUint64(nil, lastPing.Add(1))
	}
	p := &ping{payload: string(payload), sent: time.Now(), pong: make(chan struct{})}

	s.mu.Lock()
	if s.ended != nil {
		s.mu.Unlock()
		return 0, s.Err()
	}
	last := &s.pings
	for *last != nil {
		last = &(*last).next
	}
	*last = p
	s.mu.Unlock()

	if err := s.writeControl(websocket.PingMessage, payload); err != nil {
		s.forgetPing(p)
		return 0, s.writeError(err)
	}
	select {
	case <-p.pong:
		if p.elapsed == 0 {
			return 0, s.Err()
		}
		return p.elapsed, nil
	case <-ctx.Done():
		s.forgetPing(p)
		return 0, ctx.Err()
	}
}

func (s *Socket) forgetPing(p *ping) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at := &s.pings; *at != nil; at = &(*at).next {
		if *at == p {
			*at = p.next
			return
		}
	}
}

// control deals with a ping or pong from the peer, on the goroutine that reads.
func (s *Socket) control(opcode byte, payload []byte) {
	switch opcode {
	case wire.OpPing:
		// A peer that pings and never reads gets no more pongs than there is room for.
		if s.room(len(payload), false) {
			s.writeControl(websocket.PongMessage, payload)
		}
	case wire.OpPong:
		elapsed := s.ponged(string(payload))
		if l := s.events.Load(); l != nil {
			l.pong(s, elapsed, payload)
		}
	}
}

// ponged ends the wait for the pong with this payload, and for those before it: a peer may answer only the last of
// several pings (RFC 6455 section 5.5.3). It returns the time since that ping was sent.
func (s *Socket) ponged(payload string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	answered := s.pings
	for answered != nil && answered.payload != payload {
		answered = answered.next
	}
	if answered == nil {
		return 0 // to a keepalive ping, or unasked for
	}
	now := time.Now()
	for p := s.pings; p != answered.next; p = p.next {
		p.elapsed = max(now.Sub(p.sent), 1)
		close(p.pong)
	}
	s.pings = answered.next
	return answered.elapsed
}

// A keepalive is what the sweep remembers of a socket. It is small, because every socket has one: the counts are the
// lowest bits of counts of bytes, the times are milliseconds.
type keepalive struct {
	received uint32 // at the last sweep
	written  uint32 // at the last sweep
	quiet    millis // for how long nothing has come in
	awaited  millis // for how long a reader has waited for the pong
	stuck    millis // for how long the peer has taken nothing of what waits
	pinged   bool   // a ping is out since
	reader   bool   // a reader was waiting at the last sweep
}

// A millis is a time in milliseconds.
type millis uint32

// add returns m and d together, with what is left of a millisecond rounded up.
func (m millis) add(d time.Duration) millis {
	return millis(min(int64(m)+int64((d+time.Millisecond-1)/time.Millisecond), math.MaxUint32))
}

// reached reports whether m is d or more.
func (m millis) reached(d time.Duration) bool { return time.Duration(m)*time.Millisecond >= d }

// sweep looks after the socket, elapsed after the last time.
func (s *Socket) sweep(elapsed time.Duration) {
	if s.State() == StateClosed || s.endIfGone(false) {
		return
	}
	if s.config.pingInterval > 0 {
		s.sweepInput(elapsed)
	}
	s.sweepOutput(elapsed)
}

// sweepInput pings a peer that is quiet, and ends the socket when it does not answer. Any input is an answer. Only the
// time in which somebody waits for input counts: what nobody reads cannot be seen.
func (s *Socket) sweepInput(elapsed time.Duration) {
	k := &s.keepalive
	if received := uint32(s.wire.BytesIn()); received != k.received {
		k.received, k.quiet, k.pinged = received, 0, false
		return
	}
	k.quiet = k.quiet.add(elapsed)
	if !k.pinged {
		if k.quiet.reached(s.config.pingInterval) && s.room(0, false) {
			s.writeControl(websocket.PingMessage, nil)
			k.pinged, k.reader, k.awaited = true, false, 0
		}
		return
	}
	reader := s.waitsForInput()
	if reader && k.reader {
		k.awaited = k.awaited.add(elapsed)
		if k.awaited.reached(s.config.pongTimeout) {
			s.abort(ErrPingTimeout)
		}
	}
	k.reader = reader
}

// waitsForInput reports whether somebody would see what comes in.
func (s *Socket) waitsForInput() bool {
	if l := s.events.Load(); l != nil && s.wire.Attended() {
		return l.turns.idle() || s.wire.Waiting()
	}
	return s.wire.Waiting()
}

// sweepOutput ends the socket when its peer takes nothing of what waits to be written.
func (s *Socket) sweepOutput(elapsed time.Duration) {
	k := &s.keepalive
	written := uint32(s.wire.Written())
	if written != k.written || s.wire.BytesToWrite() == 0 {
		k.written, k.stuck = written, 0
		return
	}
	k.stuck = k.stuck.add(elapsed)
	if k.stuck.reached(s.config.pongTimeout) {
		s.abort(ErrPingTimeout)
	}
}

// beginWait notes that the socket waits in the pool from now on.
func (s *Socket) beginWait(waits bool) {
	s.waitMu.Lock()
	s.waits = waits
	s.waitMu.Unlock()
}

// endIfGone ends a socket whose peer went away while it waited in the pool, where nobody reads. With take, the socket
// leaves the pool, and is the program's to read when this returns.
func (s *Socket) endIfGone(take bool) bool {
	s.waitMu.Lock()
	gone := s.waits && s.hungUp()
	if take {
		s.waits = false
	}
	s.waitMu.Unlock()
	if gone {
		s.abort(errGone)
	}
	return gone
}

// hungUp reports whether the peer can be seen to have gone.
func (s *Socket) hungUp() bool {
	if !s.reading.CompareAndSwap(false, true) {
		return false // a close handshake is under way
	}
	defer s.unlockRead()
	return s.wire.HungUp()
}
