package rooms

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/internal/baton"
)

// A Room is what the members of a room hear. See [Hub.Room].
type Room struct {
	hub  *Hub
	name string
}

// Name returns the name of the room.
func (r *Room) Name() string { return r.name }

// Publish publishes a message of the program. It returns when the Backend has the message: see Backend.Publish. A
// message that a member may not have is refused with ErrTooBig, if it is larger than HistoryBytes. p is not kept.
func (r *Room) Publish(ctx context.Context, t foyer.MessageType, p []byte) (Position, error) {
	return r.PublishMessage(ctx, &Message{Type: t, Data: p})
}

// PublishMessage is Publish for a message with a Key, Info, Replaces or Transient. Its other fields are set by
// PublishMessage.
func (r *Room) PublishMessage(ctx context.Context, m *Message) (Position, error) {
	room, err := r.hub.open(ctx, r.name)
	if err != nil {
		return Position{}, r.hub.refused(err)
	}
	defer r.hub.release(room)
	defer room.flush() // what the program writes now leaves behind the message
	return room.publish(ctx, m)
}

// Members returns who is in the room, in all processes, in the order of their keys. Members without a key are not among
// them. A room that was just opened here hears a moment later who is elsewhere.
func (r *Room) Members() []Presence {
	room := r.hub.existing(r.name)
	if room == nil {
		return nil
	}
	room.mu.Lock()
	defer room.mu.Unlock()
	all := make([]Presence, 0, len(room.present))
	for _, p := range room.present {
		all = append(all, p.Presence)
	}
	slices.SortFunc(all, func(a, b Presence) int {
		switch {
		case a.Key < b.Key:
			return -1
		case a.Key > b.Key:
			return 1
		}
		return 0
	})
	return all
}

// Count returns how many members the room has, in all processes, and how many keys they have.
func (r *Room) Count() (members, keys int) {
	room := r.hub.existing(r.name)
	if room == nil {
		return 0, 0
	}
	room.mu.Lock()
	defer room.mu.Unlock()
	return len(room.members) + room.away, len(room.present)
}

// existing returns the room with a name, or nil.
func (h *Hub) existing(name string) *room {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rooms[name]
}

// A room is a Room that exists.
type room struct {
	hub   *Hub
	name  string
	users int // members, and calls that use it; guarded by hub.mu

	opening chan struct{} // has room for one, which opens
	channel Channel       // nil until it is open; guarded by opening
	reading chan struct{} // has room for one, which reads history; guards:
	failed  time.Time     // when that has failed last
	failure error

	ring     ring
	flushing baton.Baton // held while members pull

	mu       sync.Mutex // guards:
	members  []*Member
	present  map[string]*presence      // by key, here and elsewhere
	nameless int                       // members without a key, here
	nodes    map[string]map[string]int // sockets elsewhere, by process and key
	away     int                       // the sum of them
	coming   []arrivals                // elsewhere, of which the members were not told yet
	telling  bool                      // they are being told
	streams  map[chan struct{}]bool    // of Events; each is told that there is something
}

func newRoom(h *Hub, name string) *room {
	return &room{hub: h, name: name, opening: make(chan struct{}, 1), reading: make(chan struct{}, 1), ring: newRing()}
}

// open opens the room if it is not open.
func (r *room) open(ctx context.Context) error {
	select {
	case r.opening <- struct{}{}:
		defer func() { <-r.opening }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.channel != nil {
		return nil
	}
	channel, err := r.hub.backend.Open(ctx, r.name, (*sink)(r))
	if err != nil {
		return err
	}
	r.ring.begin(channel.Last())
	r.hub.mu.Lock() // for release
	defer r.hub.mu.Unlock()
	r.channel = channel
	return nil
}

// publish checks a message and gives it to the Backend.
func (r *room) publish(ctx context.Context, m *Message) (Position, error) {
	h := r.hub
	switch {
	case m.Type != foyer.Text && m.Type != foyer.Binary:
		return Position{}, fmt.Errorf("rooms: a message is Text or Binary")
	case len(m.Data) > h.set.bytes-entryOverhead:
		return Position{}, h.refused(ErrTooBig)
	case m.Key != "" && !h.validName(m.Key) || m.Replaces != "" && !h.validName(m.Replaces):
		return Position{}, h.refused(ErrName)
	}
	sent := *m
	sent.Kind, sent.Room, sent.Time = Published, r.name, time.Now()
	sent.Data = append([]byte{}, m.Data...) // never nil, which Encode would take for nothing
	position, err := r.channel.Publish(ctx, &sent)
	if err != nil {
		return Position{}, err
	}
	h.stats.published.Add(1)
	return position, nil
}

// prepare encodes a message, and returns nil if it is not to be sent.
func (r *room) prepare(m *Message) (prepared *foyer.Prepared) {
	r.hub.guard("Encode", func() error {
		if t, p := r.hub.set.encode(m); p != nil {
			prepared = foyer.Prepare(t, p)
		}
		return nil
	})
	return prepared
}

// add adds a message to the ring, where it begins to age: the clock of whoever published it may be wrong, or have been set.
func (r *room) add(m *Message) {
	h := r.hub
	e := r.encode(m)
	e.time = time.Now()
	total := h.bytes.Add(int64(r.ring.append(e, h.set.messages, h.set.bytes)))
	for total > h.set.memory {
		shrunk := r.ring.dropSome()
		if shrunk == 0 {
			return
		}
		total = h.bytes.Add(int64(-shrunk))
	}
}

// A sink is a room as its Channel sees it.
type sink room

// Deliver implements Sink.
func (s *sink) Deliver(m *Message) {
	r := (*room)(s)
	if m.Kind == Gap {
		r.ring.interrupt(m.Position)
	}
	r.add(m)
}

// Flush implements Sink.
func (s *sink) Flush() { (*room)(s).flushLater() }

var snapshots = sync.Pool{New: func() any { return new([]*Member) }}

// flushLater writes what the ring has to all members, on a goroutine of its own: what is published until that runs is written with it.
func (r *room) flushLater() {
	if r.flushing.Leave() {
		go func() {
			if r.flushing.TryLock() && !r.flushing.Return() { // or else somebody has done it, or does it
				r.flushAndUnlock()
			}
		}()
	}
}

// flushAndUnlock does what flushLater promises, also for what is published meanwhile. The caller has locked r.flushing.
func (r *room) flushAndUnlock() {
	for again := true; again; again = !r.flushing.Return() {
		r.pull(0)
	}
}

// flush has all members pull what the ring has. The loops of their sockets write it, where there are loops. What is published meanwhile
// is left to a goroutine, or it might have no end.
func (r *room) flush() {
	if !r.flushing.LockWork() {
		return // somebody has done it
	}
	r.pull(maxLag)
	if !r.flushing.Return() {
		go r.flushAndUnlock()
	}
}

// maxLag is how far a member may be behind before it is not left to a loop.
const maxLag = 32

// pull has all members get what the ring has. Those that lag so many messages behind are written to at once. The caller has locked
// r.flushing.
func (r *room) pull(lag uint64) {
	members := snapshots.Get().(*[]*Member)
	*members = r.snapshot((*members)[:0])
	if n := min(runtime.GOMAXPROCS(0), len(*members)/partSize); n > 1 {
		var parts sync.WaitGroup
		for part := range slices.Chunk(*members, (len(*members)+n-1)/n) {
			parts.Go(func() { r.pullPart(part, lag) })
		}
		parts.Wait()
	} else {
		r.pullPart(*members, lag)
	}
	clear(*members)
	snapshots.Put(members)
	r.wakeStreams()
}

// partSize is for how many members it is worth having a goroutine write to them.
const partSize = 256

// pullPart is pull for some of the members. Memory is slow: several of them are fetched from there at a time.
func (r *room) pullPart(members []*Member, lag uint64) {
	var late [8]*foyer.Feed
	for group := range slices.Chunk(members, len(late)) {
		n := 0
		first, upto := r.ring.bounds() // what has come meanwhile spares those that follow a write
		for _, m := range group {
			cursor := m.cursor.Load()
			if cursor < first {
				m.tooSlow(first)
			}
			switch {
			case cursor+lag < upto:
				late[n] = m.feed
				n++
			case cursor < upto:
				m.feed.Pull(upto)
			}
		}
		foyer.PullAll(late[:n], upto)
	}
}

// snapshot appends the members.
func (r *room) snapshot(members []*Member) []*Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(members, r.members...)
}

// depart removes a member, and announces its user if that is not there any more. The caller flushes if it returns true.
func (r *room) depart(m *Member) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := len(r.members) - 1
	r.members[m.index] = r.members[end]
	r.members[m.index].index = m.index
	r.members[end] = nil
	r.members = r.members[:end]
	return r.countHere(m, -1)
}
