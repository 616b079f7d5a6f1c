package rooms

import (
	"context"
	"time"

	"github.com/foyerws/foyer"
)

// A private is a message for one member.
type private struct {
	message  *foyer.Prepared
	position Position // zero if it has none
}

// tooSlow closes the socket of a member whose policy is Close and that needs what the ring has dropped. Its client may not read at all,
// and then nobody asks what it needs next. Members with another policy find out when the client reads again.
func (m *Member) tooSlow(first uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.slow == Close && m.cursor.Load() < first && !m.falling && !m.left && !m.catching {
		m.falling = true
		go m.fall()
	}
}

// A source is a Member as its Feed sees it.
type source Member

// Peek implements foyer.Source.
func (s *source) Peek(messages []*foyer.Prepared, upto uint64, max int) (_ []*foyer.Prepared, more bool) {
	m := (*Member)(s)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left || m.falling {
		return messages, false
	}
	for _, p := range m.backlog[:min(len(m.backlog), max)] {
		messages = append(messages, p.message)
	}
	if max -= min(len(m.backlog), max); max == 0 {
		return messages, true
	}
	if m.catching {
		m.falling = true
		go m.fall()
		return messages, false
	}
	cursor := m.cursor.Load()
	steps := m.takeSteps(m.slow == Resync || cursor < m.conflate || cursor < m.arrived || m.seen != (Position{}))
	if cursor < m.conflate {
		begin := len(messages)
		messages, cursor = m.room.ring.latest(messages, cursor, min(upto, m.conflate), max, steps)
		m.cursor.Store(cursor)
		if len(messages) > begin {
			return messages, true
		}
	}
	messages, cursor, more, ok := m.room.ring.read(messages, cursor, upto, m.arrived, m.seen, max, steps)
	m.cursor.Store(cursor)
	if !ok {
		m.falling = true
		go m.fall()
	}
	return messages, more
}

// takeSteps returns where Peek puts the steps, nil if they are not needed. The caller has m.mu.
func (m *Member) takeSteps(needed bool) *[]step {
	if !needed {
		if m.stepped {
			m.stepped, m.steps = false, nil
		}
		return nil
	}
	m.stepped, m.steps = true, m.steps[:0]
	return &m.steps
}

// Advance implements foyer.Source.
func (s *source) Advance(n int) {
	m := (*Member)(s)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left {
		return // its place is not needed any more, and the backlog is gone
	}
	for ; n > 0 && len(m.backlog) > 0; n-- {
		if at := m.backlog[0].position; at != (Position{}) {
			m.last = at
		}
		m.backlog[0] = private{}
		if m.backlog = m.backlog[1:]; len(m.backlog) == 0 {
			m.backlog = nil
		}
	}
	switch {
	case n == 0:
	case m.stepped:
		m.cursor.Store(m.steps[n-1].next)
		m.last = m.steps[n-1].position
		if n == len(m.steps) && m.slow != Resync {
			m.takeSteps(false) // they may not be needed again
		}
	default:
		m.cursor.Add(uint64(n))
	}
}

// resyncTimeout is how long a member waits for what it has missed.
const resyncTimeout = 10 * time.Second

// fall is called when the ring has dropped what the member needs next.
func (m *Member) fall() {
	h := m.room.hub
	m.mu.Lock()
	catching := m.catching
	m.mu.Unlock()
	if (catching || m.slow == Resync) && m.resync() {
		if !catching {
			h.stats.slow.Add(1)
		}
		m.rise()
		return
	}
	missed, fallen := m.skip()
	if fallen && m.slow == Close {
		m.socket.Close(foyer.CloseTryAgainLater, "too slow")
	} else {
		m.rise()
	}
	if fallen {
		h.stats.slow.Add(1)
		m.reportSlow(missed)
	}
}

// rise is the end of fall for a member that goes on.
func (m *Member) rise() {
	m.mu.Lock()
	m.falling = false
	m.mu.Unlock()
	_, upto := m.room.ring.bounds()
	m.feed.Pull(upto)
}

func (m *Member) reportSlow(missed uint64) {
	if h := m.room.hub; h.OnSlow != nil {
		h.guard("OnSlow", func() error { h.OnSlow(m, missed); return nil })
	}
}

// resync gets what the member has missed from the Backend.
func (m *Member) resync() bool {
	r := m.room
	ctx, cancel := context.WithTimeout(context.Background(), resyncTimeout)
	defer cancel()
	m.mu.Lock()
	since := m.last
	if m.catching || len(m.backlog) > 0 && m.fetched != (Position{}) {
		since = m.fetched // and what is before it is written or in the backlog
	}
	m.mu.Unlock()
	page, intact, err := r.channel.History(ctx, since, pageSize)
	if err != nil || !intact {
		return false
	}
	messages := r.oldest(page)
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(messages) > 0 {
		m.follow(messages)
		return true
	}
	seq, ok := r.ring.follows(since) // what was dropped were no published messages
	if ok {
		m.cursor.Store(seq)
		m.catching = false
	}
	return ok
}

// skip goes on where the ring begins, and returns how many messages the member has missed. It reports false if the member has
// gone on meanwhile.
func (m *Member) skip() (missed uint64, ok bool) {
	r := m.room
	m.mu.Lock()
	defer m.mu.Unlock()
	to, before, missed, end, ok := r.ring.skip(m.cursor.Load(), m.slow == Conflate)
	if m.catching { // and the ring may begin behind what the Backend does not have any more
		m.catching, ok, missed = false, true, 1
		if before.Epoch == m.fetched.Epoch && before.Offset > m.fetched.Offset {
			missed = before.Offset - m.fetched.Offset
		}
	}
	switch {
	case !ok || m.slow == Close:
		return missed, ok
	case m.slow == Conflate:
		m.conflate = end
	default:
		m.cursor.Store(to)
	}
	if missed > 0 {
		if gap := r.prepare(&Message{Kind: Gap, Room: r.name, Position: before, Missed: missed}); gap != nil {
			m.backlog = append(m.backlog, private{gap, before})
		}
	}
	return missed, true
}
