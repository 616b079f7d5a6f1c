package rooms

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/foyerws/foyer"

	"golang.org/x/time/rate"
)

// A SlowPolicy says what happens to a member that has fallen so far behind that the ring has dropped a message it needs.
type SlowPolicy uint8

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
	// What each message needs is close together, in two lines of the processor's cache.
	mu       sync.Mutex // a leaf but for that of the ring; guards what is marked with *
	slow     SlowPolicy
	falling  bool          // * fall is at work
	catching bool          // * it gets messages from the Backend until those of the ring follow
	entered  bool          // *
	left     bool          // *
	stepped  bool          // * the last Peek has left steps
	cursor   atomic.Uint64 // * of the ring: what comes next; may be read without the lock
	arrived  uint64        // * what the ring had when the member came
	conflate uint64        // * up to where it gets only the last message of each subject
	room     *room
	socket   *foyer.Socket
	renewed  int32 // * how often a deadline was set
	index    int32 // among the members of the room; guarded by room.mu
	feed     *foyer.Feed
	backlog  []private // * for this member, before what the ring has
	seen     Position  // * what the client had seen before it was delivered here

	steps     []step      // * of what Peek has returned from the ring
	last      Position    // * of what was written last, for Resync
	fetched   Position    // * of what came last from the Backend
	deadline  *time.Timer // *
	stop      func() bool // * ends the watch on the socket
	limiter   *rate.Limiter
	key, info string
	recovered bool
	gone      bool // it is not counted any more; guarded by hub.mu
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
	m.index = int32(len(r.members))
	r.members = append(r.members, m)
	announced := r.countHere(m, 1)
	r.mu.Unlock()
	_, upto := r.ring.bounds()
	m.feed.Pull(upto)
	if announced {
		r.flushLater()
	}
	return nil
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
		_, upto := m.room.ring.bounds()
		m.feed.Pull(upto) // what the program writes to this socket now leaves behind the message
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
		r.flushLater()
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
func (m *Member) expire(n int32) {
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
