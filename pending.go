package foyer

import (
	"context"
	"slices"
	"sync"
	"time"
)

// defaultMaxPending is QWebSocketServer's.
const defaultMaxPending = 30

// takingGrace is how long a program counts as taking its sockets after it took one, and how long a new Handler does
// before it took any.
const takingGrace = time.Second

// maxWaiting is how many handshakes may wait for a place at the same time, and how many may be in their hooks.
const maxWaiting = 4096

// pruneInterval is how often a full pool looks for peers that have gone. Each look costs a system call a socket, and
// a flood of handshakes must not be able to buy more of them.
const pruneInterval = 100 * time.Millisecond

// A pool holds the sockets that wait for the program, and the handshakes that wait for a place among them, both first
// come, first served. A handshake reserves a place before it answers and then either fills or releases it, so that no
// client is let in and turned away after.
type pool struct {
	mu        sync.Mutex
	max       int            // places; no limit if not positive
	reserved  int            // places held by handshakes that answer
	sockets   []*Socket      // places held by sockets
	takers    []chan *Socket // calls that wait for a socket, or for nil at the end; empty while sockets wait
	handed    int            // sockets that were given to such calls, which have not returned yet
	consumers []*consumer    // functions that get every socket at once; while there are some, no place is needed
	waiters   []*waiter      // handshakes that wait for a place; empty while there is one
	began     time.Time      // the first handshake
	took      time.Time      // the last time that the program took a socket, or asked for one
	review    *time.Timer    // runs while handshakes wait
	neglect   *time.Timer    // runs from the first socket on that waits, until the program asks for one
	neglected func()         // is called when it has not
	closed    bool
	pruned    time.Time
}

// A waiter is a handshake that waits for a place. grant is called once, with nil when the place is the handshake's, or
// with why it gets none. The pool is locked then: grant must not wait, or use the pool.
type waiter struct{ grant func(error) }

// A consumer is given sockets. The pool is locked then: the function must not wait, or use the pool.
type consumer struct{ serve func(*Socket) }

// limit turns the number a program gave into the one that is used.
func (p *pool) limit(n int) {
	if n == 0 {
		n = defaultMaxPending
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max = n
	p.admit()
}

// begin notes that a handshake has begun. It returns ErrPendingFull when the handshake would not be let in now.
func (p *pool) begin() error {
	now := time.Now()
	p.mu.Lock()
	if p.began.IsZero() {
		p.began = now
	}
	promising := p.promising(now)
	p.mu.Unlock()
	if promising {
		return nil
	}
	p.prune(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.promising(now) {
		return ErrPendingFull
	}
	return nil
}

// promising reports whether a handshake could get a place, now or soon.
func (p *pool) promising(now time.Time) bool {
	return p.free() || p.taking(now) && len(p.waiters) < maxWaiting
}

// free reports whether there is a place, for a handshake that comes after those that wait.
func (p *pool) free() bool { return len(p.waiters) == 0 && p.room() }

// room reports whether not all places are taken. The caller has the lock, as for all that has no lock of its own here.
func (p *pool) room() bool {
	return p.max <= 0 || len(p.consumers) > 0 || p.reserved+len(p.sockets) < p.max
}

// taking reports whether the program takes its sockets.
func (p *pool) taking(now time.Time) bool {
	return len(p.takers)+p.handed > 0 || len(p.consumers) > 0 || now.Sub(p.took) < takingGrace || now.Sub(p.began) < takingGrace
}

// reserve takes a place, and reports whether there was one.
func (p *pool) reserve() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || !p.free() {
		return false
	}
	p.reserved++
	return true
}

// await has w wait for a place, behind those that wait already.
func (p *pool) await(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch now := time.Now(); {
	case p.closed:
		w.grant(ErrClosed)
	case p.free():
		p.reserved++
		w.grant(nil)
	case !p.promising(now):
		w.grant(ErrPendingFull)
	default:
		p.waiters = append(p.waiters, w)
		p.reviewLater(now)
	}
}

// withdraw ends the wait of w. It reports false when w has its answer already.
func (p *pool) withdraw(w *waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.waiters, w)
	if i < 0 {
		return false
	}
	p.waiters = slices.Delete(p.waiters, i, i+1)
	return true
}

// admit gives free places to the handshakes that wait. The caller has the lock, and has made a place free.
func (p *pool) admit() {
	for len(p.waiters) > 0 && p.room() {
		p.reserved++
		p.popWaiter().grant(nil)
	}
}

// turnAway gives err to the handshakes that wait. The caller has the lock.
func (p *pool) turnAway(err error) {
	for len(p.waiters) > 0 {
		p.popWaiter().grant(err)
	}
	p.waiters = nil
}

func (p *pool) popWaiter() *waiter {
	w := p.waiters[0]
	p.waiters[0] = nil
	p.waiters = p.waiters[1:]
	return w
}

// reviewLater sees to it that handshakes do not wait for a program that has stopped taking its sockets. The caller has
// the lock.
func (p *pool) reviewLater(now time.Time) {
	if p.review != nil || len(p.waiters) == 0 {
		return
	}
	last := p.began
	if p.took.After(last) {
		last = p.took
	}
	wait := last.Add(takingGrace).Sub(now)
	if wait <= 0 {
		wait = takingGrace // a call waits for a socket; when it stops, stopTaking looks
	}
	p.review = time.AfterFunc(wait, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.review = nil
		p.mayHaveStopped()
	})
}

// mayHaveStopped turns the handshakes away that wait if the program takes no sockets any more. The caller has the lock.
func (p *pool) mayHaveStopped() {
	now := time.Now()
	if p.taking(now) {
		p.reviewLater(now)
		return
	}
	p.turnAway(ErrPendingFull)
}

// release gives a reserved place back.
func (p *pool) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reserved--
	p.admit()
}

// fill puts s into a reserved place, or straight into the program's hands. A socket that has ended already needs no
// place. It reports false when the pool is closed.
func (p *pool) fill(s *Socket) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reserved--
	defer p.admit()
	switch {
	case p.closed:
		return false
	case s.State() == StateClosed: // and will not be dropped any more
	case len(p.takers) > 0:
		p.takers[0] <- s // has room for one
		p.takers = slices.Delete(p.takers, 0, 1)
		p.handed++
		p.took = time.Now()
	case len(p.consumers) > 0:
		p.consume(s)
	default:
		p.sockets = append(p.sockets, s)
		p.watchForNeglect()
	}
	return true
}

// neglectTime is for how long the first socket may wait before a warning is logged that nobody takes it.
const neglectTime = 5 * time.Second

// watchForNeglect begins to wait for the program's first call. The caller has the lock.
func (p *pool) watchForNeglect() {
	if p.neglect != nil || !p.took.IsZero() || p.neglected == nil {
		return
	}
	p.neglect = time.AfterFunc(neglectTime, func() {
		p.mu.Lock()
		neglected := !p.closed && p.took.IsZero() && len(p.takers) == 0 && len(p.sockets) > 0
		p.mu.Unlock()
		if neglected {
			p.neglected()
		}
	})
}

// consume gives s to the consumers in turn. The caller has the lock.
func (p *pool) consume(s *Socket) {
	c := p.consumers[0]
	copy(p.consumers, p.consumers[1:])
	p.consumers[len(p.consumers)-1] = c
	c.serve(s)
	p.took = time.Now()
}

// take waits for a socket.
func (p *pool) take(ctx context.Context) (*Socket, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	if s := p.pop(); s != nil || p.closed {
		p.mu.Unlock()
		if s == nil {
			return nil, ErrClosed
		}
		return s, nil
	}
	taker := make(chan *Socket, 1)
	p.takers = append(p.takers, taker)
	p.mu.Unlock()

	var s *Socket
	select {
	case s = <-taker:
	case <-ctx.Done():
		if p.stopTaking(taker) {
			return nil, ctx.Err()
		}
		s = <-taker // it came at the same moment, and must not be lost
	}
	if s == nil {
		return nil, ErrClosed
	}
	p.tookOver()
	return s, nil
}

// tookOver notes that a call has the socket that was given to it. On a busy machine that takes a while.
func (p *pool) tookOver() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handed--
	p.took = time.Now()
}

// stopTaking ends the wait of taker. It reports false when it has been served already.
func (p *pool) stopTaking(taker chan *Socket) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.takers, taker)
	if i < 0 {
		return false
	}
	p.takers = slices.Delete(p.takers, i, i+1)
	p.mayHaveStopped()
	return true
}

// tryTake returns the socket that waits longest, or nil.
func (p *pool) tryTake() *Socket {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took = time.Now() // a program that asks takes its sockets, though there may be none
	return p.pop()
}

func (p *pool) pop() *Socket {
	if len(p.sockets) == 0 {
		return nil
	}
	s := p.sockets[0]
	p.sockets = slices.Delete(p.sockets, 0, 1)
	p.took = time.Now()
	p.admit()
	return s
}

// startConsuming gives c the sockets that wait, and from then on every new one. It reports false when the pool is
// closed.
func (p *pool) startConsuming(c *consumer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.consumers = append(p.consumers, c)
	for _, s := range p.sockets {
		p.consume(s)
	}
	p.sockets = nil
	p.admit()
	return true
}

// stopConsuming gives c no more sockets from now on.
func (p *pool) stopConsuming(c *consumer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.consumers, c); i >= 0 {
		p.consumers = slices.Delete(p.consumers, i, i+1)
	}
	p.mayHaveStopped()
}

// drop takes s out of the pool if it is still there.
func (p *pool) drop(s *Socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.sockets, s); i >= 0 {
		p.sockets = slices.Delete(p.sockets, i, i+1)
		p.admit()
	}
}

// prune ends the sockets whose peers have gone while they waited.
func (p *pool) prune(now time.Time) {
	p.mu.Lock()
	if now.Sub(p.pruned) < pruneInterval {
		p.mu.Unlock()
		return
	}
	p.pruned = now
	waiting := slices.Clone(p.sockets)
	p.mu.Unlock()
	for _, s := range waiting {
		s.checkPeer()
	}
}

// len returns how many sockets wait.
func (p *pool) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sockets)
}

// hint says what the program could do about a full pool.
func (p *pool) hint() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch now := time.Now(); {
	case p.taking(now) && p.took.IsZero():
		return "no goroutine calls Accept, Incoming or ForEach yet"
	case p.taking(now):
		return "sockets come faster than the program takes them; ForEach takes each at once"
	case p.took.IsZero():
		return "no goroutine calls Accept, Incoming or ForEach"
	}
	return "the program has stopped taking sockets: its accept loop has ended, or blocks; ForEach runs a function for each socket on a goroutine of its own"
}

// close lets nobody wait any more, on either side. The sockets that waited are the caller's to end.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, taker := range p.takers {
		taker <- nil
	}
	p.takers, p.consumers, p.sockets = nil, nil, nil
	if p.review != nil {
		p.review.Stop()
		p.review = nil
	}
	if p.neglect != nil {
		p.neglect.Stop()
	}
	p.turnAway(ErrClosed)
}
