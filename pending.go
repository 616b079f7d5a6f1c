package foyer

import (
	"context"
	"slices"
	"sync"
	"time"
)

// defaultMaxPending is QWebSocketServer's.
const defaultMaxPending = 30

// pruneInterval is how often a full pool looks for peers that have gone. Each look costs a system call a socket, and
// a flood of handshakes must not be able to buy more of them.
const pruneInterval = 100 * time.Millisecond

// A pool holds the sockets that wait for the program, first come, first served. A handshake reserves a place before it
// answers and then either fills or releases it, so that no peer is let in and turned away after.
type pool struct {
	mu       sync.Mutex
	max      int
	reserved int            // places held by handshakes under way
	waiting  []*Socket      // places held by sockets
	takers   []chan *Socket // those who wait for a socket, or for nil at the end; empty while sockets wait
	closed   bool
	pruned   time.Time
}

// limit turns the number a program gave into the one that is used.
func (p *pool) limit(n int) {
	if n == 0 {
		n = defaultMaxPending
	}
	p.mu.Lock()
	p.max = n
	p.mu.Unlock()
}

// reserve takes a place, and reports whether there was one.
func (p *pool) reserve() bool {
	if p.tryReserve() {
		return true
	}
	p.prune()
	return p.tryReserve()
}

func (p *pool) tryReserve() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.max > 0 && p.reserved+len(p.waiting) >= p.max {
		return false
	}
	p.reserved++
	return true
}

// release gives a reserved place back.
func (p *pool) release() {
	p.mu.Lock()
	p.reserved--
	p.mu.Unlock()
}

// fill puts s into a reserved place, or straight into the hands of who waits longest. A socket that has ended already
// needs none. It reports false when the pool is closed.
func (p *pool) fill(s *Socket) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reserved--
	switch {
	case p.closed:
		return false
	case s.State() == StateClosed: // and will not be dropped any more
	case len(p.takers) > 0:
		p.takers[0] <- s // has room for one
		p.takers = slices.Delete(p.takers, 0, 1)
	default:
		p.waiting = append(p.waiting, s)
	}
	return true
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
		if p.withdraw(taker) {
			return nil, ctx.Err()
		}
		s = <-taker // it came at the same moment, and must not be lost
	}
	if s == nil {
		return nil, ErrClosed
	}
	return s, nil
}

// withdraw lets taker wait no more. It reports false when it has been served already.
func (p *pool) withdraw(taker chan *Socket) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.takers, taker)
	if i < 0 {
		return false
	}
	p.takers = slices.Delete(p.takers, i, i+1)
	return true
}

// tryTake returns the socket that waits longest, or nil.
func (p *pool) tryTake() *Socket {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pop()
}

func (p *pool) pop() *Socket {
	if len(p.waiting) == 0 {
		return nil
	}
	s := p.waiting[0]
	p.waiting = slices.Delete(p.waiting, 0, 1)
	return s
}

// drop takes s out of the pool if it is still there.
func (p *pool) drop(s *Socket) {
	p.mu.Lock()
	if i := slices.Index(p.waiting, s); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	p.mu.Unlock()
}

// prune ends the sockets whose peers have gone while they waited.
func (p *pool) prune() {
	now := time.Now()
	p.mu.Lock()
	if now.Sub(p.pruned) < pruneInterval {
		p.mu.Unlock()
		return
	}
	p.pruned = now
	waiting := slices.Clone(p.waiting)
	p.mu.Unlock()
	for _, s := range waiting {
		s.endIfGone(false)
	}
}

// len returns how many sockets wait.
func (p *pool) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting)
}

// close lets nobody wait any more, on either side. The sockets that waited are the caller's to end.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, taker := range p.takers {
		taker <- nil
	}
	p.takers, p.waiting = nil, nil
}
