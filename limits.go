package foyer

import "github.com/foyerws/foyer/internal/wire"

// Limits are like [Handler]'s fields of these names, 0 included.
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

// SetLimits replaces all limits from the next frame on.
func (s *Socket) SetLimits(l Limits) { s.wire.SetRules(l.rules(s.wire.Rules())) }
