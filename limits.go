package foyer

import "github.com/foyerws/foyer/internal/wire"

// Limits are the limits of one socket, see [Socket.SetLimits]. Each field works as the field of [Handler] with the same
// name: for MaxMessageSize, 0 means 1 MiB and negative means no limit; for the others, 0 means no limit.
type Limits struct {
	MaxMessageSize    int64
	MaxFrameSize      int64
	OutgoingFrameSize int
}

// rules returns what r has, with these limits.
func (l Limits) rules(r *wire.Rules) *wire.Rules {
	limited := *r
	limited.MaxMessage = orDefault(l.MaxMessageSize, defaultMaxMessageSize)
	limited.MaxFrame = max(l.MaxFrameSize, 0)
	limited.Split = max(l.OutgoingFrameSize, 0)
	return &limited
}

// SetLimits changes the limits of this socket, for example to admit long messages after a login. They apply from the
// next frame on; of a message that has begun to arrive, what came before counts as well.
func (s *Socket) SetLimits(l Limits) { s.wire.SetRules(l.rules(s.wire.Rules())) }
