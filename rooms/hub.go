package rooms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/foyerws/foyer"

	"golang.org/x/time/rate"
)

// A Hub holds rooms. The zero value holds rooms of this process. Its fields must not be changed once it is in use; a Hub
// must not be copied.
type Hub struct {
	// Backend carries the messages. Nil keeps them in this process.
	Backend Backend

	// Encode turns a Message into what members are sent, once for all of them. A nil result sends nothing. It is called
	// with a lock of the room: it must not call the Hub, and should return soon. A message whose Encode panics is not
	// sent. Nil means [Raw]: published messages as they are.
	Encode func(*Message) (foyer.MessageType, []byte)

	// Options says, for Serve, who a socket is and what its client has seen: from the values that Authorize has set, and
	// from the URL that the client has asked for. Nil means the zero JoinOptions.
	Options func(*foyer.Socket) JoinOptions

	// OnJoin is called before a member joins, and may refuse it. OnMessage is called before a member's message is
	// published. It may change Type, Data, Replaces and Transient of the message, or refuse it. OnLeave is called after a member has
	// left. The context is that of the call of Join, Publish or Serve. They are called on goroutines of their members; one
	// that blocks delays its member only. A panic in OnJoin and OnMessage refuses. All panics are logged with their stack.
	OnJoin    func(context.Context, *Member) error
	OnMessage func(context.Context, *Member, *Message) error
	OnLeave   func(*Member)

	// OnSlow is called when a member was too slow, with the number of messages that it has missed.
	OnSlow func(m *Member, missed uint64)

	// OnExpire is called when a member's deadline has passed. See [Member.SetDeadline].
	OnExpire func(*Member)

	// ExpiryGrace is how long a member whose deadline has passed has to renew it. Then its socket is closed with
	// ExpiryCode. 0 means 10 seconds, negative none. An ExpiryCode of 0 means foyer.ClosePolicyViolation.
	ExpiryGrace time.Duration
	ExpiryCode  foyer.CloseCode

	// Slow is what happens to members that are too slow, unless JoinOptions.Slow says something else.
	Slow SlowPolicy

	// HistoryMessages, HistoryBytes and HistoryAge limit what a room keeps. 0 means 4,096 messages, 1 MiB (each
	// message counts 256 bytes more) and 5 minutes. What a member may be behind is the same.
	HistoryMessages int
	HistoryBytes    int
	HistoryAge      time.Duration

	// HistoryMemory limits the bytes of all rooms together. When it is reached, the room in which something is published
	// drops its oldest messages, down to the last one. 0 means 64 MiB.
	HistoryMemory int64

	// MaxRooms is how many rooms there may be. 0 means 100,000. MaxMembers is how many members a room may have. 0 means
	// 100,000. MaxRoomsPerSocket is how many rooms a socket may be in. 0 means 100. MaxName limits the bytes of the name
	// of a room, of a key and of a subject. 0 means 128.
	MaxRooms          int
	MaxMembers        int
	MaxRoomsPerSocket int
	MaxName           int

	// PublishRate is how many messages a second a member may publish, and PublishBurst how many at once. 0 means 50 a
	// second and 100. A negative rate means no limit. Room.Publish has no limit.
	PublishRate  float64
	PublishBurst int

	// Logger receives panics. Nil means slog.Default().
	Logger *slog.Logger

	once    sync.Once
	set     settings
	backend Backend
	bytes   atomic.Int64 // of all rings
	stats   counters

	mu      sync.Mutex // guards:
	rooms   map[string]*room
	closing map[string]chan struct{}    // rooms whose Channel is being closed
	sockets map[*foyer.Socket]int       // in how many rooms each is
	users   map[string]map[*Member]bool // by key
	sweeper *time.Timer                 // runs while there are rooms
	closed  bool
	end     chan struct{} // closed with it

	leaving sync.WaitGroup // members; only before closed is anything added
}

// counters count what a Hub has done.
type counters struct {
	published, joins, slow, refused atomic.Uint64
}

// Errors to compare with errors.Is.
var (
	// ErrClosed: the Hub was shut down.
	ErrClosed = errors.New("rooms: closed")
	// ErrName: the name of a room, a key or a subject is empty, too long, no UTF-8, or has control characters.
	ErrName = errors.New("rooms: malformed name")
	// ErrFull: MaxRooms, MaxMembers or MaxRoomsPerSocket is reached.
	ErrFull = errors.New("rooms: too many")
	// ErrTooFast: a member publishes more than PublishRate allows.
	ErrTooFast = errors.New("rooms: too many messages")
	// ErrTooBig: a message is larger than HistoryBytes.
	ErrTooBig = errors.New("rooms: message too big")
	// ErrLeft: the member has left.
	ErrLeft = errors.New("rooms: the member has left")
	// ErrUnavailable: the Backend cannot be reached.
	ErrUnavailable = errors.New("rooms: not available")
	// ErrRefused: a function of the Hub has refused. The error it has returned is wrapped, too.
	ErrRefused = errors.New("rooms: refused")
)

// settings are the fields of a Hub with their defaults.
type settings struct {
	encode                     func(*Message) (foyer.MessageType, []byte)
	messages, bytes            int
	age, grace                 time.Duration
	memory                     int64
	rooms, members, each, name int
	rate                       rate.Limit
	burst                      int
	expired                    foyer.CloseCode
}

func (h *Hub) init() {
	h.once.Do(func() {
		if h.backend = h.Backend; h.backend == nil {
			h.backend = memory{}
		}
		h.set = settings{
			encode:   h.Encode,
			messages: max(orDefault(h.HistoryMessages, 4096), 1),
			bytes:    max(orDefault(h.HistoryBytes, 1<<20), 2*entryOverhead),
			age:      orDefault(h.HistoryAge, 5*time.Minute),
			grace:    max(orDefault(h.ExpiryGrace, 10*time.Second), 0),
			memory:   orDefault(h.HistoryMemory, 64<<20),
			rooms:    orDefault(h.MaxRooms, 100_000),
			members:  orDefault(h.MaxMembers, 100_000),
			each:     orDefault(h.MaxRoomsPerSocket, 100),
			name:     orDefault(h.MaxName, 128),
			rate:     rate.Limit(orDefault(h.PublishRate, 50)),
			burst:    orDefault(h.PublishBurst, 100),
			expired:  orDefault(h.ExpiryCode, foyer.ClosePolicyViolation),
		}
		if h.set.encode == nil {
			h.set.encode = Raw
		}
		if h.set.rate < 0 {
			h.set.rate = rate.Inf
		}
		h.end = make(chan struct{})
		h.rooms = make(map[string]*room)
		h.closing = make(map[string]chan struct{})
		h.sockets = make(map[*foyer.Socket]int)
		h.users = make(map[string]map[*Member]bool)
	})
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Room returns the room with a name. It exists while it has members or history; a Room that does not exist yet costs
// nothing. A name that is not allowed makes the methods of the Room return ErrName.
func (h *Hub) Room(name string) *Room {
	h.init()
	return &Room{h, name}
}

// Rooms returns the names of the rooms that exist, in order.
func (h *Hub) Rooms() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.rooms))
}

// validName reports whether a name may be used: it stands in log lines, in messages, and in the subjects of a Backend.
func (h *Hub) validName(name string) bool {
	return name != "" && len(name) <= h.set.name && utf8.ValidString(name) && !containsControl(name)
}

func containsControl(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return true
		}
	}
	return false
}

// open returns the room with a name, which it creates if it does not exist. The caller must release it.
func (h *Hub) open(ctx context.Context, name string) (*room, error) {
	if !h.validName(name) {
		return nil, ErrName
	}
	r, err := h.find(name)
	for closing := (*closingError)(nil); errors.As(err, &closing); r, err = h.find(name) {
		select {
		case <-closing.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	if err := r.open(ctx); err != nil {
		h.release(r)
		return nil, fmt.Errorf("rooms: opening a room: %w", err)
	}
	return r, nil
}

// find returns the room with a name, whether it is open or not, and keeps it from being removed until release.
func (h *Hub) find(name string) (*room, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	r := h.rooms[name]
	if done := h.closing[name]; r == nil && done != nil {
		return nil, &closingError{done}
	}
	if r == nil {
		if len(h.rooms) >= h.set.rooms {
			return nil, fmt.Errorf("%w rooms", ErrFull)
		}
		r = newRoom(h, name)
		h.rooms[name] = r
		if h.sweeper == nil {
			h.sweeper = time.AfterFunc(sweepInterval, h.sweep)
		}
	}
	r.users++
	return r, nil
}

// release is the end of what open has begun.
func (h *Hub) release(r *room) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.users--
	if r.users == 0 && (r.channel == nil || h.closed || r.ring.history() == 0) {
		h.remove(r)
	}
}

// remove removes a room that nobody uses. The caller has h.mu.
func (h *Hub) remove(r *room) {
	delete(h.rooms, r.name)
	h.bytes.Add(int64(-r.ring.clear()))
	if r.channel == nil {
		return
	}
	done := make(chan struct{})
	h.closing[r.name] = done
	go func() {
		r.channel.Close()
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.closing, r.name)
		close(done)
	}()
}

// A closingError says that a room is being closed. It can be opened when done is closed.
type closingError struct{ done chan struct{} }

func (*closingError) Error() string { return "rooms: the room is being closed" }

// retain keeps the room of a member as long as a call of it needs it, and reports false if the member has left. The caller must
// release it.
func (h *Hub) retain(m *Member) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m.gone {
		return false
	}
	m.room.users++
	return true
}

// sweepInterval is how often old messages and empty rooms are looked for.
const sweepInterval = time.Second

// sweep drops old messages, and rooms that have neither members nor history.
func (h *Hub) sweep() {
	h.mu.Lock()
	rooms := make([]*room, 0, len(h.rooms))
	for _, r := range h.rooms {
		rooms = append(rooms, r)
	}
	h.mu.Unlock()
	old := time.Now().Add(-h.set.age)
	var empty []*room
	for _, r := range rooms {
		shrunk, nothing := r.ring.expire(old)
		h.bytes.Add(int64(-shrunk))
		if nothing {
			empty = append(empty, r)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range empty {
		if r.users == 0 && h.rooms[r.name] == r && r.ring.history() == 0 {
			h.remove(r)
		}
	}
	h.sweeper = nil
	if len(h.rooms) > 0 && !h.closed {
		h.sweeper = time.AfterFunc(sweepInterval, h.sweep)
	}
}

// A User is all sockets that are in a room with one key.
type User struct {
	hub *Hub
	key string
}

// User returns the user with a key, who need not be there.
func (h *Hub) User(key string) *User {
	h.init()
	return &User{h, key}
}

// Sockets returns the sockets of the user on this machine.
func (u *User) Sockets() []*foyer.Socket {
	u.hub.mu.Lock()
	defer u.hub.mu.Unlock()
	var sockets []*foyer.Socket
	for m := range u.hub.users[u.key] {
		if !slices.Contains(sockets, m.socket) {
			sockets = append(sockets, m.socket)
		}
	}
	return sockets
}

// Send sends a message to all sockets of the user, as foyer.Broadcast does. It returns how many there are, and which of
// them did not get it.
func (u *User) Send(t foyer.MessageType, p []byte) (sockets int, dropped []foyer.Dropped) {
	s := u.Sockets()
	return len(s), foyer.Broadcast(slices.Values(s), t, p)
}

// Disconnect closes all sockets of a user on this machine, and returns how many there were.
func (h *Hub) Disconnect(user string, code foyer.CloseCode, reason string) int {
	sockets := h.User(user).Sockets()
	for _, s := range sockets {
		s.Close(code, reason)
	}
	return len(sockets)
}

// Stats counts what a Hub has done, and what it has now.
type Stats struct {
	Rooms, Members, Users int    // now
	HistoryBytes          int64  // in all rings
	Joined                uint64 // members
	Published             uint64 // messages, by members and with Room.Publish
	Slow                  uint64 // how often a member was too slow
	Refused               uint64 // joins and messages that were refused, for whatever reason
}

// Stats returns the current counts.
func (h *Hub) Stats() Stats {
	h.init()
	st := Stats{HistoryBytes: h.bytes.Load(), Joined: h.stats.joins.Load(), Published: h.stats.published.Load(),
		Slow: h.stats.slow.Load(), Refused: h.stats.refused.Load()}
	h.mu.Lock()
	defer h.mu.Unlock()
	st.Rooms, st.Users = len(h.rooms), len(h.users)
	for _, n := range h.sockets {
		st.Members += n
	}
	return st
}

// Shutdown has all members leave, and closes the rooms. Their sockets stay open: see foyer.Handler.Shutdown. It returns
// when OnLeave has returned for all, or ctx's error.
func (h *Hub) Shutdown(ctx context.Context) error {
	h.init()
	h.mu.Lock()
	if !h.closed {
		close(h.end)
	}
	h.closed = true
	rooms := make([]*room, 0, len(h.rooms))
	for _, r := range h.rooms {
		rooms = append(rooms, r)
	}
	h.mu.Unlock()
	for _, r := range rooms {
		for _, m := range r.snapshot(nil) {
			go m.Leave() // one that blocks in OnLeave delays none of the others
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.leaving.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, r := range h.rooms {
			if r.users == 0 {
				h.remove(r)
			}
		}
		if h.sweeper != nil {
			h.sweeper.Stop()
		}
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *Hub) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

// whenClosed returns a channel that Shutdown closes.
func (h *Hub) whenClosed() <-chan struct{} { return h.end }

// guard calls a function of the program, and turns a panic into an error.
func (h *Hub) guard(what string, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			h.logPanic(what, v)
			err = fmt.Errorf("panic in %s", what)
		}
	}()
	return f()
}

func (h *Hub) logPanic(what string, v any) {
	logger := h.Logger
	if logger == nil {
		logger = slog.Default()
	}
	logger.Error("rooms: panic", "in", what, "panic", v, "stack", string(debug.Stack()))
}

// refused counts a refusal, and returns its error.
func (h *Hub) refused(err error) error {
	h.stats.refused.Add(1)
	return err
}
