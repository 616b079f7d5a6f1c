package foyer

import (
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/foyerws/foyer/internal/wire"
)

// A registry knows the open sockets of a Handler. It counts them and looks after all of them with one timer.
type registry struct {
	mu       sync.Mutex
	entering map[*wire.Conn]struct{} // connections whose request is being read
	handling int                     // handshakes under way, and connections whose request is being read
	reserved int                     // handshakes that hold a place
	handlers int                     // sockets that handle events and have not called Closed yet, and ForEach functions that run
	sockets  map[*Socket]struct{}
	guests   map[*guestConn]struct{} // connections that are owned elsewhere; open as well
	closed   bool
	shut     chan struct{} // closed when closed is set; nil until somebody waits for that
	idle     chan struct{} // closed when nothing is open any more; nil when nobody waits for that

	tick     time.Duration // between two sweeps
	timer    *time.Timer   // runs while there are sockets
	last     time.Time     // the last sweep
	sweeping bool          // a sweep is under way

	upgraded, accepted uint64
	refused            map[int]uint64
	ended              map[CloseCode]uint64
	traffic            traffic // of the sockets that are gone
}

// enter remembers a connection whose request is about to be read. It reports false when the registry is closed.
func (g *registry) enter(c *wire.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	if g.entering == nil {
		g.entering = make(map[*wire.Conn]struct{})
	}
	g.entering[c] = struct{}{}
	g.handling++
	return true
}

// entered notes that the request of c was read: it is not to be interrupted from now on.
func (g *registry) entered(c *wire.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.entering, c)
}

// leave notes that a connection that entered is no more in its handshake.
func (g *registry) leave(c *wire.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.entering, c)
	g.handling--
	g.wakeIfIdle()
}

// beginHandshake notes that a handshake has begun whose request was read. It returns why no socket can be let in, nil if
// one can: max may be open, and no more than zero is no limit.
func (g *registry) beginHandshake(max int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.full(max); err != nil {
		return err
	}
	g.handling++
	return nil
}

// endHandshake notes that a handshake has ended.
func (g *registry) endHandshake() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.handling--
	g.wakeIfIdle()
}

// reserve takes a place among the open sockets, or returns why there is none.
func (g *registry) reserve(max int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.full(max); err != nil {
		return err
	}
	g.reserved++
	return nil
}

// full returns why no socket can be let in. The caller has the lock.
func (g *registry) full(max int) error {
	switch {
	case g.closed:
		return ErrClosed
	case max > 0 && g.reserved+g.open() >= max:
		return errMaxOpen
	}
	return nil
}

// release gives a reserved place back.
func (g *registry) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reserved--
	g.wakeIfIdle()
}

// add puts s into a reserved place, unless s has ended already. It reports false when the registry was closed in the
// meantime; s is in all the same.
func (g *registry) add(s *Socket) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reserved--
	g.upgraded++
	if s.State() == StateClosed { // and was not found here, or will not be
		g.traffic.add(s.traffic())
		return !g.closed
	}
	if g.sockets == nil {
		g.sockets = make(map[*Socket]struct{})
	}
	g.sockets[s] = struct{}{}
	if g.timer == nil {
		g.tick, g.last = s.config.tick(), time.Now()
		g.timer = time.AfterFunc(g.tick, g.sweep)
	}
	return !g.closed
}

// open returns how many sockets are open, guests included. The caller has the lock.
func (g *registry) open() int { return len(g.sockets) + len(g.guests) }

// addGuest is add for a connection that is owned elsewhere.
func (g *registry) addGuest(c *guestConn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reserved--
	g.upgraded++
	if g.guests == nil {
		g.guests = make(map[*guestConn]struct{})
	}
	g.guests[c] = struct{}{}
	return !g.closed
}

// removeGuest forgets c, whose connection is closed.
func (g *registry) removeGuest(c *guestConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, open := g.guests[c]; open {
		delete(g.guests, c)
		g.countEndLocked(CloseCode(c.code.Load()))
	}
	g.traffic.add(c.traffic())
	g.wakeIfIdle() // whoever waits for that sees the end counted
}

// allGuests returns the open connections that are owned elsewhere.
func (g *registry) allGuests() []*guestConn {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Keys(g.guests))
}

// countEnd records how s ended.
func (g *registry) countEnd(code CloseCode) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.countEndLocked(code)
}

// countEndLocked is countEnd for a caller that has the lock.
func (g *registry) countEndLocked(code CloseCode) {
	if g.ended == nil {
		g.ended = make(map[CloseCode]uint64)
	}
	g.ended[code]++
}

// remove forgets s, whose connection is closed.
func (g *registry) remove(s *Socket) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.sockets[s]; !ok {
		return
	}
	delete(g.sockets, s)
	g.traffic.add(s.traffic())
	if len(g.sockets) == 0 {
		g.timer.Stop()
		g.timer = nil
	}
	g.wakeIfIdle()
}

// handlerBegins notes that a socket will call Closed, or that a ForEach function begins.
func (g *registry) handlerBegins() {
	g.mu.Lock()
	g.handlers++
	g.mu.Unlock()
}

// handlerDone notes that it has, or has returned.
func (g *registry) handlerDone() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.handlers--
	g.wakeIfIdle()
}

func (g *registry) wakeIfIdle() {
	if g.idle != nil && g.reserved+g.open()+g.handling+g.handlers == 0 {
		close(g.idle)
		g.idle = nil
	}
}

// whenIdle returns a channel that is closed when no socket is open, no handshake under way, each Closed was called, and
// each ForEach function has returned.
func (g *registry) whenIdle() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.idle == nil {
		g.idle = make(chan struct{})
	}
	idle := g.idle
	g.wakeIfIdle()
	return idle
}

// close lets nobody in any more, and breaks off the reading of requests.
func (g *registry) close() {
	g.mu.Lock()
	if !g.closed && g.shut != nil {
		close(g.shut)
	}
	g.closed = true
	entering := slices.Collect(maps.Keys(g.entering))
	g.mu.Unlock()
	for _, c := range entering {
		c.Interrupt()
	}
}

// whenClosed returns a channel that is closed when the registry is.
func (g *registry) whenClosed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == nil {
		g.shut = make(chan struct{})
		if g.closed {
			close(g.shut)
		}
	}
	return g.shut
}

func (g *registry) isClosed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

// all returns the open sockets.
func (g *registry) all() []*Socket {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.AppendSeq(make([]*Socket, 0, len(g.sockets)), maps.Keys(g.sockets))
}

// Sockets iterates over a snapshot of the open sockets that the program has taken.
func (h *Handler) Sockets() iter.Seq[*Socket] {
	return func(yield func(*Socket) bool) {
		for _, s := range h.registry.all() {
			if s.accepted.Load() && s.State() == StateOpen && !yield(s) {
				return
			}
		}
	}
}

// sweep looks at each open socket once: for peers that have gone silent, stopped reading, or left while they waited.
// The clock is read here, and not for each message.
func (g *registry) sweep() {
	now := time.Now()
	g.mu.Lock()
	if g.sweeping {
		g.mu.Unlock()
		return // a slow one, which will wind the timer up
	}
	elapsed := now.Sub(g.last)
	g.last, g.sweeping = now, true
	g.mu.Unlock()

	for _, s := range g.all() {
		s.sweep(elapsed)
	}

	g.mu.Lock()
	g.sweeping = false
	if g.timer != nil {
		g.timer.Reset(g.tick)
	}
	g.mu.Unlock()
}

// countRefusal records a refused handshake.
func (g *registry) countRefusal(status int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refused == nil {
		g.refused = make(map[int]uint64)
	}
	g.refused[status]++
}

// countAccept records that the program took a socket.
func (g *registry) countAccept() {
	g.mu.Lock()
	g.accepted++
	g.mu.Unlock()
}

// A traffic is what went through a socket, or through many.
type traffic struct{ messagesIn, messagesOut, bytesIn, bytesOut uint64 }

func (t *traffic) add(u traffic) {
	t.messagesIn += u.messagesIn
	t.messagesOut += u.messagesOut
	t.bytesIn += u.bytesIn
	t.bytesOut += u.bytesOut
}

// stats returns all but Pending.
func (g *registry) stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	total := g.traffic
	for s := range g.sockets {
		total.add(s.traffic())
	}
	for c := range g.guests {
		total.add(c.traffic())
	}
	return Stats{
		Open: g.open(), Upgraded: g.upgraded, Accepted: g.accepted,
		Refused: maps.Clone(g.refused), Closed: maps.Clone(g.ended),
		MessagesIn: total.messagesIn, MessagesOut: total.messagesOut, BytesIn: total.bytesIn, BytesOut: total.bytesOut,
	}
}
