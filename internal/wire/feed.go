package wire

import "slices"

// A Source has frames for many Conns, which take them when the network can. Its methods are called with a lock of the Conn: they must
// not wait and must not call a Conn.
type Source interface {
	// Peek appends the next frames, as they are on the wire, to frames, up to max and none behind the position upto. The bytes must
	// not change any more. If it reports that there are more, they are asked for when these are written; otherwise after the next
	// Pull, as they are if it returns none.
	Peek(frames [][]byte, upto uint64, max int) (_ [][]byte, more bool)

	// Advance follows each Peek that has returned frames. The first n of them were written, perhaps none; rest is what is left of the
	// last of these, and will be. Advance returns how many messages that makes, and how much of rest to keep, at least a byte. What is
	// cut off is asked for again, as the other frames are.
	Advance(n int, rest []byte) (messages int, _ []byte)
}

// A Feed is what one Conn gets from a Source.
type Feed struct {
	Source Source
	last   *place // the newest; nil before the first Pull
	first  place  // saves an allocation
}

// A place is where frames of a Feed belong in a queue. What was put into the queue before leaves before them, what is put there later
// leaves behind them.
type place struct {
	feed   *Feed
	upto   uint64
	writes uint64 // the queue's when the place was put there
	where  where
	last   bool // the frames before it are the last until the next Pull
}

type where uint8

const (
	nowhere where = iota // used up
	inQueue
	isHeld // back by a claim
)

// Pull has the frames of f up to the position upto written, behind all that was sent before and, but for control frames, before all that
// is sent from now on. It does not wait. Frames that Peek does not have when their turn has come need another Pull.
//
// A close frame drops what was not written.
func (c *Conn) Pull(f *Feed, upto uint64, how Leave) error {
	c.mu.Lock()
	if c.err != nil || c.closed {
		defer c.mu.Unlock()
		if c.err != nil {
			return c.err
		}
		return ErrCloseSent
	}
	c.getQueue().place(f, upto, c.claim != NoClaim)
	c.leaveAndUnlock(how)
	return nil
}

// place finds or makes the place of frames up to upto.
func (q *queue) place(f *Feed, upto uint64, hold bool) {
	p := f.last
	if p != nil {
		p.last = false
	}
	switch {
	case p == nil || p.where == nowhere:
		p = &f.first
	case upto <= p.upto:
		return
	case p.where == isHeld || p.writes == q.writes:
		p.upto = upto
		return
	default:
		p = &f.first
	}
	if p.where != nowhere {
		p = new(place)
	}
	p.feed, p.upto = f, upto
	f.last = p
	if hold {
		p.where = isHeld
		q.held = append(q.held, p)
	} else {
		q.putPlace(p)
	}
}

func (q *queue) putPlace(p *place) {
	p.where = inQueue
	p.writes = q.writes
	q.places++
	q.pieces = append(q.pieces, piece{place: p})
}

// putHeld puts the places into the queue that a claim has kept back.
func (q *queue) putHeld() {
	for _, p := range q.held {
		q.putPlace(p)
	}
	clear(q.held)
	q.held = q.held[:0]
}

// dropPlaces drops what the feeds have not had written.
func (q *queue) dropPlaces() {
	q.putHeld()
	q.pieces = slices.DeleteFunc(q.pieces, func(p piece) bool { return p.isPlace() && q.leave(p.place) })
}

// leave notes that p is no longer in the queue.
func (q *queue) leave(p *place) bool {
	p.where = nowhere
	q.places--
	return true
}

// fill puts the next frames of the first place before it, and drops places that have none left.
func (q *queue) fill() {
	for i := 0; q.places > 0 && i < min(len(q.pieces), maxVector); i++ {
		if !q.pieces[i].isPlace() {
			continue
		}
		p := q.pieces[i].place
		var more bool
		q.offered, more = p.feed.Source.Peek(q.offered[:0], p.upto, maxVector-i)
		if len(q.offered) == 0 {
			q.leave(p)
			q.pieces = slices.Delete(q.pieces, i, i+1)
			i--
			continue
		}
		size, n := 0, 0
		for ; n < len(q.offered) && size < gatherSize; n++ {
			size += len(q.offered[n])
		}
		p.last = !more && n == len(q.offered)
		q.filled = p
		end := len(q.pieces)
		q.pieces = slices.Grow(q.pieces, n)[:end+n]
		copy(q.pieces[i+n:], q.pieces[i:end])
		for k, frame := range q.offered[:n] {
			q.pieces[i+k] = piece{p: frame, place: p}
		}
		return
	}
}

// giveBack drops the frames that fill has put before their place and that were not begun.
func (q *queue) giveBack() {
	if q.places == 0 && len(q.offered) == 0 {
		return
	}
	q.pieces = slices.DeleteFunc(q.pieces, func(p piece) bool { return p.p != nil && p.place != nil && !p.begun })
	clear(q.offered)
	q.offered = q.offered[:0]
}
