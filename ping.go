package foyer

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
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
	s.pings = append(s.pings, p)
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
	if i := slices.Index(s.pings, p); i >= 0 {
		s.pings = slices.Delete(s.pings, i, i+1)
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
		s.ponged(string(payload))
	}
}

// ponged ends the wait for the pong with this payload, and for those before it: a peer may answer only the last of
// several pings (RFC 6455 section 5.5.3).
func (s *Socket) ponged(payload string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.pings, func(p *ping) bool { return p.payload == payload })
	if i < 0 {
		return // to a keepalive ping, or unasked for
	}
	now := time.Now()
	for _, p := range s.pings[:i+1] {
		p.elapsed = max(now.Sub(p.sent), 1)
		close(p.pong)
	}
	s.pings = slices.Delete(s.pings, 0, i+1)
}

// A keepalive is what the sweep remembers of a socket.
type keepalive struct {
	received uint64        // bytes, at the last sweep
	quiet    time.Duration // for how long nothing has come in
	pinged   bool          // a ping is out since
	awaited  time.Duration // for how long a reader has waited for its pong
	reader   bool          // a reader was waiting at the last sweep

	written uint64        // bytes, at the last sweep
	stuck   time.Duration // for how long the peer has taken nothing of what waits
}

// sweep looks after the socket, elapsed after the last time.
func (s *Socket) sweep(elapsed time.Duration) {
	if s.State() == Closed || s.endIfGone(false) {
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
	if received := s.wire.BytesIn(); received != k.received {
		k.received, k.quiet, k.pinged = received, 0, false
		return
	}
	k.quiet += elapsed
	if !k.pinged {
		if k.quiet >= s.config.pingInterval && s.room(0, false) {
			s.writeControl(websocket.PingMessage, nil)
			k.pinged, k.reader, k.awaited = true, false, 0
		}
		return
	}
	reader := s.wire.Waiting()
	if reader && k.reader {
		k.awaited += elapsed
		if k.awaited >= s.config.pongTimeout {
			s.abort(ErrPingTimeout)
		}
	}
	k.reader = reader
}

// sweepOutput ends the socket when its peer takes nothing of what waits to be written.
func (s *Socket) sweepOutput(elapsed time.Duration) {
	k := &s.keepalive
	written := s.wire.Written()
	if written != k.written || s.wire.BytesToWrite() == 0 {
		k.written, k.stuck = written, 0
		return
	}
	k.stuck += elapsed
	if k.stuck >= s.config.pongTimeout {
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
