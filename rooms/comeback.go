package rooms

import (
	"context"
	"slices"
	"time"
)

// pageSize is how many messages are asked of the Backend at a time for a member that catches up.
const pageSize = 64

// An earlier is what a Backend has for a member that the ring did not have.
type earlier struct {
	messages []entry
	intact   bool   // they follow what the member has seen
	next     uint64 // of the ring, before the Backend was asked
}

// failureLasts is for how long nobody asks a Backend for history that has failed: those that wait would fail one after the other.
const failureLasts = time.Second

// earlier gets messages from the Backend, if o asks for some that the ring does not have. The ring takes them if they fit: of
// many members that come back at once, one asks.
func (r *room) earlier(ctx context.Context, o JoinOptions) (e earlier, err error) {
	wanted := min(o.History, r.hub.set.messages)
	enough := func() bool {
		if o.Since != (Position{}) {
			_, ok := r.ring.follows(o.Since)
			return ok
		}
		return wanted <= 0 || r.ring.history() >= wanted
	}
	if enough() {
		return e, nil
	}
	select {
	case r.reading <- struct{}{}:
		defer func() { <-r.reading }()
	case <-ctx.Done():
		return e, ctx.Err()
	}
	if enough() {
		return e, nil
	}
	if time.Since(r.failed) < failureLasts {
		return e, r.failure
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			r.failed, r.failure = time.Now(), err
		}
	}()
	_, e.next = r.ring.bounds()
	if o.Since != (Position{}) {
		page, intact, err := r.channel.History(ctx, o.Since, pageSize)
		if err != nil || intact {
			e.messages, e.intact = r.oldest(page), intact
			r.extend(o.Since, e.messages)
			return e, err
		}
	}
	if wanted <= 0 || r.ring.history() >= wanted {
		return e, nil
	}
	page, _, err := r.channel.History(ctx, Position{}, wanted)
	if e.messages = r.newest(page); len(e.messages) > 0 {
		first := e.messages[0].position
		r.extend(Position{first.Epoch, first.Offset - 1}, e.messages)
	}
	return e, err
}

// extend has the ring take messages that come before those that it has.
func (r *room) extend(after Position, older []entry) {
	if slices.ContainsFunc(older, func(e entry) bool { return e.message == nil }) {
		return
	}
	h := r.hub
	left := int(min(h.set.memory-h.bytes.Load(), int64(h.set.bytes)))
	h.bytes.Add(int64(r.ring.extend(after, older, h.set.messages, left)))
}

// encode makes an entry of a message.
func (r *room) encode(m *Message) entry {
	return entry{message: r.prepare(m), position: m.Position, history: m.Kind == Published && !m.Transient, replaces: m.Replaces, time: m.Time}
}

// oldest encodes the first of messages, as many as one member may hold.
func (r *room) oldest(messages []*Message) (encoded []entry) {
	size := 0
	for _, m := range messages {
		if size > r.hub.set.bytes {
			break
		}
		encoded = append(encoded, r.encode(m))
		size += encoded[len(encoded)-1].size()
	}
	return encoded
}

// newest encodes the last of messages, as many as one member may hold.
func (r *room) newest(messages []*Message) (encoded []entry) {
	size := 0
	for _, m := range slices.Backward(messages) {
		e := r.encode(m)
		if size += e.size(); size > r.hub.set.bytes {
			break
		}
		encoded = append(encoded, e)
	}
	slices.Reverse(encoded)
	return encoded
}

// begin finds the place where the member goes on, and reports false if it has left already. The caller has r.mu, so that nobody
// has the member pull before.
func (m *Member) begin(o JoinOptions, earlier earlier) bool {
	r := m.room
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left {
		return false
	}
	m.entered = true
	start, ok := r.ring.start(o.Since, o.History)
	m.cursor.Store(start.seq)
	m.arrived, m.last = start.arrived, start.before
	switch known := o.Since != (Position{}); {
	case known && ok:
		m.recovered = true
	case known && earlier.intact:
		m.recovered = true
		if len(earlier.messages) > 0 {
			m.follow(earlier.messages)
		} else {
			m.cursor.Store(earlier.next)
			m.last, m.seen = o.Since, o.Since // nothing was behind it when the Backend was asked
		}
	case len(earlier.messages) > 0:
		if seq, ok := r.ring.follows(earlier.messages[len(earlier.messages)-1].position); ok {
			m.queue(earlier.messages)
			m.cursor.Store(seq)
		}
	}
	welcome := private{message: r.prepare(&Message{Kind: Welcome, Room: r.name, Position: start.last, Key: m.key, Info: m.info, Recovered: m.recovered})}
	if m.cursor.Load() == m.arrived && len(m.backlog) == 0 {
		welcome.position = start.last // or else positions before it will come
	}
	if welcome.message != nil {
		m.backlog = append([]private{welcome}, m.backlog...)
	}
	return true
}

// follow has the member get messages of the Backend, and then what follows them: from the ring, or once more from the Backend.
// The caller has m.mu.
func (m *Member) follow(messages []entry) {
	m.queue(messages)
	seq, ok := m.room.ring.follows(m.fetched)
	m.cursor.Store(seq)
	m.catching = !ok
}

// queue has the member get messages. The caller has m.mu.
func (m *Member) queue(messages []entry) {
	for _, e := range messages {
		if e.message != nil {
			m.backlog = append(m.backlog, private{e.message, e.position})
		}
		m.fetched = e.position
	}
}
