package foyer

import (
	"context"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"time"

	"github.com/foyerws/foyer/internal/frame"
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

// maxControl is how many bytes of payload a control frame may have, RFC 6455 section 5.5.
const maxControl = 125

var errLongPing = errors.New("foyer: a ping carries at most 125 bytes (RFC 6455 section 5.5)")

// lastPing numbers the pings that came without a payload of their own.
var lastPing atomic.Uint64

// Ping sends a ping of up to 125 bytes and returns the time until its pong. ErrPingTimeout, after PongTimeout, leaves
// the socket open. Something must read. Callbacks use TryPing.
func (s *Socket) Ping(ctx context.Context, payload []byte) (time.Duration, error) {
	if len(payload) > maxControl {
		return 0, errLongPing
	}
	if len(payload) == 0 {
		payload = binary.BigEndian.AppendUint64(nil, lastPing.Add(1))
	}
	p := &ping{payload: string(payload), sent: time.Now(), pong: make(chan struct{})}

	s.mu.Lock()
	if s.State() == StateClosed {
		s.mu.Unlock()
		return 0, s.Err()
	}
	last := &s.pings
	for *last != nil {
		last = &(*last).next
	}
	*last = p
	s.mu.Unlock()

	if err := s.sendControl(frame.Ping, payload, wire.Room{}); err != nil {
		s.forgetPing(p)
		return 0, s.writeError(err)
	}
	late := time.NewTimer(s.config.pongTimeout)
	defer late.Stop()
	select {
	case <-late.C:
		s.forgetPing(p)
		return 0, ErrPingTimeout
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

// TryPing sends a ping of up to 125 bytes without waiting; Events.Pong gets the pong. It may return ErrWriteBufferFull.
func (s *Socket) TryPing(payload []byte) error {
	if len(payload) > maxControl {
		return errLongPing
	}
	switch err := s.sendControl(frame.Ping, payload, s.room(false)); err {
	case nil:
		return nil
	case wire.ErrNoRoom:
		return ErrWriteBufferFull
	default:
		return s.writeError(err)
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
	case frame.Ping:
		s.sendControl(frame.Pong, payload, s.room(false)) // a peer that never reads gets no more pongs than there is room for
	case frame.Pong:
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
