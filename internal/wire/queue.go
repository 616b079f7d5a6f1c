package wire

import (
	"slices"
	"sync"

	"github.com/foyerws/foyer/internal/frame"
)

// A queue is what waits to be written, in order. It exists only while there is something.
type queue struct {
	pieces  []piece
	vector  [][]byte // what is being written; for the goroutine that carries
	filled  *place   // whose frames are in it; nil if none are
	waiting int      // bytes, but for those of feeds
	ahead   int      // of these, those of control frames that were put before others

	places  int      // how many pieces are places
	writes  uint64   // how often something was put behind the places
	held    []*place // of feeds, kept back by a claim
	offered [][]byte // room for what a Source returns
}

// A piece is one of four things: bytes in a buffer, bytes that a caller lends, a frame of a Source on its way, or the place where the
// frames of a Source belong.
type piece struct {
	p     []byte
	b     *buffer // nil for bytes that are lent
	place *place  // of the Source; nil for other bytes
	begun bool    // a part of the frame is written
	ahead bool    // a control frame that was put before others
}

// isPlace reports whether p is the place itself.
func (p *piece) isPlace() bool { return p.place != nil && p.p == nil }

var queues = sync.Pool{New: func() any { return new(queue) }}

// maxVector is how many pieces go into one system call.
const maxVector = 64

func (o *output) getQueue() *queue {
	if o.queue == nil {
		o.queue = queues.Get().(*queue)
	}
	return o.queue
}

// putQueue gives the queue back if it is empty.
func (o *output) putQueue() {
	q := o.queue
	if q == nil || len(q.pieces) > 0 || len(q.held) > 0 {
		return
	}
	o.queue = nil
	queues.Put(q)
}

// waits reports whether there is something in the queue.
func (o *output) waits() bool { return o.queue != nil && len(o.queue.pieces) > 0 }

// take counts n bytes that are put at the end of the queue.
func (o *output) take(n int) *queue {
	q := o.getQueue()
	q.writes++
	q.waiting += n
	o.queued += uint64(n)
	return q
}

// waiting returns how many bytes are in the queue, but for those of feeds.
func (o *output) waiting() int {
	if o.queue == nil {
		return 0
	}
	return o.queue.waiting
}

// left returns how many of the bytes that count as queued have not left. Those leave in the order in which they were queued.
func (o *output) left() uint64 {
	if o.queue == nil {
		return 0
	}
	return uint64(o.queue.waiting - o.queue.ahead)
}

// put puts p at the end of the queue, with a mask on it.
func (o *output) put(p []byte, key uint32) {
	q := o.take(len(p))
	for len(p) > 0 {
		last := len(q.pieces) - 1
		if last < 0 || q.pieces[last].b == nil || q.pieces[last].ahead || q.pieces[last].b.w == len(q.pieces[last].b.data) {
			b := getBuffer()
			q.pieces = append(q.pieces, piece{p: b.data[:0], b: b})
			last++
		}
		b := q.pieces[last].b
		n := copy(b.data[b.w:], p)
		if key != 0 {
			key = frame.Mask(b.data[b.w:b.w+n], key)
		}
		b.w += n
		q.pieces[last].p = q.pieces[last].p[:len(q.pieces[last].p)+n]
		p = p[n:]
	}
}

// putLent is put for bytes that stay where they are until they are written.
func (o *output) putLent(p []byte) {
	q := o.take(len(p))
	q.pieces = append(q.pieces, piece{p: p})
}

// putControl is put for a control frame. It leaves before what the feeds have to offer: a peer that is behind gets its pings and pongs in time.
func (o *output) putControl(header, payload []byte, key uint32) {
	if o.queue == nil || o.queue.places == 0 {
		o.put(header, 0)
		o.put(payload, key)
		return
	}
	b := holding(header) // and no write that would separate what is pulled before it from what is pulled later
	b.w += copy(b.data[b.w:], payload)
	if key != 0 {
		frame.Mask(b.data[len(header):b.w], key)
	}
	q := o.queue
	q.waiting += b.w
	q.ahead += b.w
	first := slices.IndexFunc(q.pieces, func(p piece) bool { return p.isPlace() })
	q.pieces = slices.Insert(q.pieces, first, piece{p: b.bytes(), b: b, ahead: true})
}

// next returns what is to be written next; nothing when the queue turns out to be empty. The bytes stay in the queue until consume.
func (q *queue) next() [][]byte {
	q.fill()
	for i := range q.pieces[:min(len(q.pieces), maxVector)] {
		if q.pieces[i].isPlace() {
			break
		}
		q.vector = append(q.vector, q.pieces[i].p)
	}
	return q.vector
}

// consume drops the first n bytes of the queue, which were written. Frames of a Source that were not begun go back to it, so that a
// peer that is slow keeps no more than one of them in memory.
func (o *output) consume(n int) {
	q := o.queue
	o.written += uint64(n)
	clear(q.vector) // nothing may be kept from being freed
	q.vector = q.vector[:0]
	advanced := 0
	done := 0
	for ; done < len(q.pieces) && !q.pieces[done].isPlace() && (n > 0 || len(q.pieces[done].p) == 0); done++ {
		p := &q.pieces[done]
		k := min(n, len(p.p))
		switch {
		case p.ahead:
			q.ahead -= k
			q.waiting -= k
		case p.place == nil:
			q.waiting -= k
		case !p.begun:
			p.begun = true
			advanced++
		}
		n -= k
		if k < len(p.p) {
			p.p = p.p[k:]
			break
		}
		if p.b != nil {
			putBuffer(p.b)
		}
	}
	q.pieces = slices.Delete(q.pieces, 0, done)
	if q.filled != nil {
		o.advance(q.filled, advanced)
		q.filled = nil
	}
	q.giveBack()
}

// advance tells the source of a place that n of its frames were written, or at least begun.
func (o *output) advance(p *place, n int) {
	q := o.queue
	var rest []byte
	if n > 0 && q.pieces[0].begun { // there is a piece: the place, or a close frame that has dropped it
		rest = q.pieces[0].p
	}
	messages, kept := p.feed.Source.Advance(n, rest)
	o.messages += uint64(messages)
	switch {
	case len(kept) > 0:
		q.pieces[0].p = kept
	case n > 0 && p.last && q.pieces[0].isPlace():
		q.leave(p)
		q.pieces = slices.Delete(q.pieces, 0, 1)
	}
}
