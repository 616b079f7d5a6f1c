package rooms

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/foyerws/foyer"

	"golang.org/x/time/rate"
)

// A SlowPolicy says what happens to a member that has fallen so far behind that the ring has dropped a message it needs.
type SlowPolicy int

// The policies.
const (
	// Close closes the socket with foyer.CloseTryAgainLater. The client may come back, with its position.
	Close SlowPolicy = iota + 1
	// Skip goes on with the oldest message that the ring has. The member is sent a Gap before.
	Skip
	// Resync gets the missing messages from the Backend, and does as Skip if that does not have them any more.
	Resync
	// Conflate sends a Gap, then the last message of each subject (Message.Replaces), and messages without a subject that
	// the ring still has.
	Conflate
)

// JoinOptions are options of [Room.Join]. The zero value works.
type JoinOptions struct {
	// Key says who the member is. Members with one key are one user, who is present once. Empty is for those that do not
	// count. Info is for others to see, such as a name. Each has at most MaxName bytes.
	Key, Info string

	// Since is the position of the last message that the client has seen. The zero Position is for a client that has seen
	// none.
	Since Position

	// History is how many of the messages before a member gets that does not come back, or cannot be given what it has
	// missed.
	History int

	// Slow is the member's policy. 0 means Hub.Slow, and Close if that is 0, too.
	Slow SlowPolicy
}

// A Member is a socket in a room.
type Member struct {
	room      *room
	socket    *foyer.Socket
	key, info string
	slow      SlowPolicy
	feed      *foyer.Feed
	limiter   *rate.Limiter
	recovered bool

	index int  // among the members of the room; guarded by room.mu
	gone  bool // it is not counted any more; guarded by hub.mu

	mu       sync.Mutex // a leaf but for that of the ring; guards:
	backlog  []private  // for this member, before what the ring has
	cursor   uint64     // of the ring: what comes next
	arrived  uint64     // what the ring had when the member came
	conflate uint64     // up to where it gets only the last message of each subject
	catching bool       // it gets messages from the Backend until those of the ring follow
	seen     Position   // what the client had seen before it was delivered here
	steps    []step     // of what Peek has returned from the ring, where they are needed
	last     Position   // of what was written last, for Resync
	fetched  Position   // of what came last from the Backend
	falling  bool       // fall is at work
	entered  bool
	left     bool
	deadline *time.Timer
	renewed  int         // how often a deadline was set
	stop     func() bool // ends the watch on the socket
}

// Join makes a socket a member of the room. It leaves with Leave, or when the socket ends or its client is seen to have
// left. A socket may be in a room several times; it then gets each message as often.
func (r *Room) Join(ctx context.Context, s *foyer.Socket, o JoinOptions) (*Member, error) {
	m, err := r.join(ctx, s, o)
	if err != nil {
		return nil, r.hub.refused(err)
	}
	return m, nil
}

func (r *Room) join(ctx context.Context, s *foyer.Socket, o JoinOptions) (*Member, error) {
	h := r.hub
	if s == nil {
		return nil, errors.New("rooms: Join without a socket")
	}
	if o.Key != "" && !h.validName(o.Key) || o.Info != "" && !h.validName(o.Info) {
		return nil, ErrName
	}
	room, err := h.open(ctx, r.name)
	if err != nil {
		return nil, err
	}
	m := &Member{room: room, socket: s, key: o.Key, info: o.Info, slow: o.Slow, limiter: h.limiterOf(s)}
	if m.slow == 0 {
		m.slow = orDefault(h.Slow, Close)
	}
	if err := m.joinRoom(ctx, o); err != nil {
		m.SetDeadline(time.Time{}) // which OnJoin may have set
		h.release(room)
		return nil, err
	}
	h.stats.joins.Add(1)
	stop := context.AfterFunc(s.Context(), m.Leave)
	m.mu.Lock()
	m.stop = stop
	left := m.left
	m.mu.Unlock()
	if left {
		stop()
	}
	if h.isClosed() { // since a moment ago, and Shutdown may not have seen the member
		m.Leave()
		return nil, ErrClosed
	}
	return m, nil
}

// joinRoom makes m a member of its room, which is open.
func (m *Member) joinRoom(ctx context.Context, o JoinOptions) error {
	h := m.room.hub
	if h.OnJoin != nil {
		if err := h.guard("OnJoin", func() error { return h.OnJoin(ctx, m) }); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	if err := h.attach(m); err != nil {
		return err
	}
	if err := m.enter(ctx, o); err != nil {
		h.detach(m)
		h.leaving.Done()
		return err
	}
	return nil
}

// limiterKey is the key of a socket's value that limits what it publishes in the rooms of a Hub.
type limiterKey struct{ hub *Hub }

// limiterOf returns what limits a socket. It is the socket's, not the member's: leaving and joining must not help.
func (h *Hub) limiterOf(s *foyer.Socket) *rate.Limiter {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := limiterKey{h}
	if l, ok := s.Value(key).(*rate.Limiter); ok {
		return l
	}
	l := rate.NewLimiter(h.set.rate, h.set.burst)
	s.SetValue(key, l)
	return l
}

// attach counts a member, unless its socket is in too many rooms.
func (h *Hub) attach(m *Member) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return ErrClosed
	case h.sockets[m.socket] >= h.set.each:
		return fmt.Errorf("%w rooms for one socket", ErrFull)
	}
	h.leaving.Add(1)
	h.sockets[m.socket]++
	if m.key != "" {
		if h.users[m.key] == nil {
			h.users[m.key] = make(map[*Member]bool)
		}
		h.users[m.key][m] = true
	}
	return nil
}

// detach is the reverse of attach.
func (h *Hub) detach(m *Member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m.gone = true
	if h.sockets[m.socket]--; h.sockets[m.socket] == 0 {
		delete(h.sockets, m.socket)
	}
	if m.key != "" {
		if delete(h.users[m.key], m); len(h.users[m.key]) == 0 {
			delete(h.users, m.key)
		}
	}
}

// enter puts the member among those of its room, at the place where it is to go on.
func (m *Member) enter(ctx context.Context, o JoinOptions) error {
	r := m.room
	earlier, err := r.earlier(ctx, o)
	if err != nil {
		return err
	}
	m.feed = m.socket.NewFeed((*source)(m))
	r.mu.Lock()
	if len(r.members)+len(r.streams) >= r.hub.set.members {
		r.mu.Unlock()
		return fmt.Errorf("%w members", ErrFull)
	}
	if !m.begin(o, earlier) {
		r.mu.Unlock()
		return ErrLeft
	}
	m.index = len(r.members)
	r.members = append(r.members, m)
	announced := r.countHere(m, 1)
	r.mu.Unlock()
	m.pull(r.ring.bounds())
	if announced {
		r.flush()
	}
	return nil
}

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
	m.cursor, m.arrived, m.last = start.seq, start.arrived, start.before
	switch known := o.Since != (Position{}); {
	case known && ok:
		m.recovered = true
	case known && earlier.intact:
		m.recovered = true
		if len(earlier.messages) > 0 {
			m.follow(earlier.messages)
		} else {
			m.cursor, m.last, m.seen = earlier.next, o.Since, o.Since // nothing was behind it when the Backend was asked
		}
	case len(earlier.messages) > 0:
		if seq, ok := r.ring.follows(earlier.messages[len(earlier.messages)-1].position); ok {
			m.queue(earlier.messages)
			m.cursor = seq
		}
	}
	welcome := private{message: r.prepare(&Message{Kind: Welcome, Room: r.name, Position: start.last, Key: m.key, Info: m.info, Recovered: m.recovered})}
	if m.cursor == m.arrived && len(m.backlog) == 0 {
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
	m.cursor, m.catching = seq, !ok
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

// A private is a message for one member.
type private struct {
	message  *foyer.Prepared
	position Position // zero if it has none
}

// maxLag is how far a member may be behind before it is written to at once. Further ones are left to the loops of their
// sockets, which write for many of them.
const maxLag = 32

// pull has the socket get what is below upto, of a ring that begins with first. An error means that it has ended, and then the
// member leaves soon.
//
// A socket whose client does not read at all is not asked what it needs next. So it is found out here that it is too slow, if
// something is to be done about it at once. All others find out when the client reads again.
func (m *Member) pull(first, upto uint64) {
	m.mu.Lock()
	behind := m.cursor < first && !m.falling && !m.left && !m.catching
	lags := m.cursor+maxLag < upto
	if behind && m.slow == Close {
		m.falling = true
		go m.fall()
	}
	m.mu.Unlock()
	if lags {
		m.feed.PullNow(upto)
	} else {
		m.feed.Pull(upto)
	}
}

// A source is a Member as its Feed sees it.
type source Member

// Peek implements foyer.Source.
func (s *source) Peek(messages []*foyer.Prepared, upto uint64, max int) []*foyer.Prepared {
	m := (*Member)(s)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left || m.falling {
		return messages
	}
	m.steps = m.steps[:0]
	for _, p := range m.backlog[:min(len(m.backlog), max)] {
		messages = append(messages, p.message)
	}
	if max -= min(len(m.backlog), max); max == 0 {
		return messages
	}
	if m.catching {
		m.falling = true
		go m.fall()
		return messages
	}
	if m.cursor < m.conflate {
		messages, m.cursor = m.room.ring.latest(messages, m.cursor, min(upto, m.conflate), max, &m.steps)
		return messages
	}
	var steps *[]step
	if m.slow == Resync || m.cursor < m.arrived || m.seen != (Position{}) {
		steps = &m.steps
	} else {
		m.steps = nil
	}
	messages, from, ok := m.room.ring.read(messages, m.cursor, upto, m.arrived, m.seen, max, steps)
	m.cursor = from
	if !ok {
		m.falling = true
		go m.fall()
	}
	return messages
}

// Advance implements foyer.Source.
func (s *source) Advance(n int) {
	m := (*Member)(s)
	m.mu.Lock()
	defer m.mu.Unlock()
	k := min(n, len(m.backlog))
	for _, p := range m.backlog[:k] {
		if p.position != (Position{}) {
			m.last = p.position
		}
	}
	if m.backlog = m.backlog[k:]; len(m.backlog) == 0 {
		m.backlog = nil
	}
	switch n -= k; {
	case n == 0:
	case n <= len(m.steps):
		m.cursor, m.last = m.steps[n-1].next, m.steps[n-1].position
	default:
		m.cursor += uint64(n)
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
		m.cursor, m.catching = seq, false
	}
	return ok
}

// skip goes on where the ring begins, and returns how many messages the member has missed. It reports false if the member has
// gone on meanwhile.
func (m *Member) skip() (missed uint64, ok bool) {
	r := m.room
	m.mu.Lock()
	defer m.mu.Unlock()
	to, before, missed, end, ok := r.ring.skip(m.cursor, m.slow == Conflate)
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
		m.cursor = to
	}
	if missed > 0 {
		if gap := r.prepare(&Message{Kind: Gap, Room: r.name, Position: before, Missed: missed}); gap != nil {
			m.backlog = append(m.backlog, private{gap, before})
		}
	}
	return missed, true
}

// Room returns the name of the room.
func (m *Member) Room() string { return m.room.name }

// Socket returns the member's socket.
func (m *Member) Socket() *foyer.Socket { return m.socket }

// Key returns JoinOptions.Key.
func (m *Member) Key() string { return m.key }

// Info returns JoinOptions.Info.
func (m *Member) Info() string { return m.info }

// Recovered reports whether the member gets everything that was published after JoinOptions.Since.
func (m *Member) Recovered() bool { return m.recovered }

// Publish publishes a message of the member, if PublishRate and Hub.OnMessage let it. The error is ErrTooFast, ErrTooBig,
// ErrRefused, ErrLeft, or one of the Backend.
func (m *Member) Publish(ctx context.Context, t foyer.MessageType, p []byte) (Position, error) {
	h := m.room.hub
	m.mu.Lock()
	left := m.left
	m.mu.Unlock()
	if left || !h.retain(m) {
		return Position{}, ErrLeft
	}
	defer h.release(m.room)
	if !m.limiter.Allow() {
		return Position{}, h.refused(ErrTooFast)
	}
	message := &Message{Type: t, Data: p, Key: m.key, Info: m.info, Room: m.room.name}
	if h.OnMessage != nil {
		if err := h.guard("OnMessage", func() error { return h.OnMessage(ctx, m, message) }); err != nil {
			return Position{}, h.refused(fmt.Errorf("%w: %w", ErrRefused, err))
		}
	}
	position, err := m.room.publish(ctx, message)
	if err == nil {
		m.pull(m.room.ring.bounds()) // what the program writes to this socket now leaves behind the message
	}
	return position, err
}

// Leave ends the membership. The socket stays open. What was published and has not been sent to it is dropped. Further calls
// do nothing. In OnJoin it makes Join fail.
func (m *Member) Leave() {
	m.mu.Lock()
	if m.left || !m.entered {
		m.left = true
		m.mu.Unlock()
		return
	}
	m.left = true
	m.backlog = nil
	if m.deadline != nil {
		m.deadline.Stop()
	}
	stop := m.stop
	m.mu.Unlock()
	if stop != nil {
		stop()
	}
	r, h := m.room, m.room.hub
	if r.depart(m) {
		r.flush()
	}
	defer h.leaving.Done()
	h.detach(m)
	h.release(r)
	if h.OnLeave != nil {
		h.guard("OnLeave", func() error { h.OnLeave(m); return nil })
	}
}

// SetDeadline says until when the member may stay, for example until its token expires. Then OnExpire is called. If the
// deadline is not set again within ExpiryGrace, the socket is closed with ExpiryCode. The zero time takes the deadline
// away.
func (m *Member) SetDeadline(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deadline != nil {
		m.deadline.Stop()
		m.deadline = nil
	}
	if t.IsZero() || m.left {
		return
	}
	m.renewed++
	n := m.renewed
	m.deadline = time.AfterFunc(time.Until(t), func() { m.expire(n) })
}

// expire is called when a deadline has passed, which is the n-th.
func (m *Member) expire(n int) {
	h := m.room.hub
	m.mu.Lock()
	if m.renewed != n || m.deadline == nil || m.left {
		m.mu.Unlock()
		return
	}
	m.deadline = time.AfterFunc(h.set.grace, func() { m.socket.Close(h.set.expired, "expired") })
	m.mu.Unlock()
	if h.OnExpire != nil {
		h.guard("OnExpire", func() error { h.OnExpire(m); return nil })
	}
}

// Serve joins the room, publishes what comes from the socket, and leaves when the socket or ctx ends. What the client may do
// and who it is say the fields of the Hub. It is for the function of foyer.Handler.ForEach.
//
// If the client cannot join, its socket is closed with a code that says why: foyer.ClosePolicyViolation for a name that is
// malformed or refused, foyer.CloseTryAgainLater for a limit, or a Backend that cannot be reached. So is that of one that publishes too fast or too much. A
// message that OnMessage refuses is answered with a Refused. Serve returns the error that ended it; nil when the socket has
// ended, or been closed by the client.
func (r *Room) Serve(ctx context.Context, s *foyer.Socket) error {
	var o JoinOptions
	if options := r.hub.Options; options != nil {
		o = options(s)
	}
	m, err := r.Join(ctx, s, o)
	if err != nil {
		code, reason := closeFor(err)
		s.Close(code, reason)
		return err
	}
	defer m.Leave()
	for {
		t, p, err := s.Read(ctx)
		if err != nil {
			if errors.Is(err, foyer.ErrClosed) {
				return nil
			}
			return err
		}
		if _, err := m.Publish(ctx, t, p); err != nil && !m.goesOn(err) {
			code, reason := closeFor(err)
			s.Close(code, reason)
			return err
		}
	}
}

// goesOn tells a client that its message was not published, and reports false if its socket is to be closed instead.
func (m *Member) goesOn(err error) bool {
	reason := "not published"
	var refusal *Refusal
	switch {
	case errors.Is(err, ErrTooFast), errors.Is(err, ErrTooBig), errors.Is(err, ErrLeft):
		return false
	case errors.As(err, &refusal):
		reason = refusal.Reason
	case errors.Is(err, ErrRefused):
		reason = "refused"
	}
	if p := m.room.prepare(&Message{Kind: Refused, Room: m.room.name, Reason: reason}); p != nil {
		m.socket.TryWrite(p.Type(), p.Payload())
	}
	return true
}

// A Refusal is an error whose Reason is told to the client. OnJoin and OnMessage may return one; the text of other errors
// is not told.
type Refusal struct{ Reason string }

func (e *Refusal) Error() string { return "rooms: " + e.Reason }

// closeFor returns the close code and reason for an error.
func closeFor(err error) (foyer.CloseCode, string) {
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		return foyer.ClosePolicyViolation, refusal.Reason
	case errors.Is(err, ErrRefused):
		return foyer.ClosePolicyViolation, "refused"
	case errors.Is(err, ErrName):
		return foyer.ClosePolicyViolation, "malformed name"
	case errors.Is(err, ErrTooFast):
		return foyer.ClosePolicyViolation, "too many messages"
	case errors.Is(err, ErrTooBig):
		return foyer.CloseMessageTooBig, "message too big"
	case errors.Is(err, ErrFull):
		return foyer.CloseTryAgainLater, "full"
	case errors.Is(err, ErrUnavailable):
		return foyer.CloseTryAgainLater, "not available"
	case errors.Is(err, ErrClosed), errors.Is(err, ErrLeft), errors.Is(err, context.Canceled):
		return foyer.CloseGoingAway, ""
	}
	return foyer.CloseInternalServerErr, ""
}
