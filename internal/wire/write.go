package wire

import (
	"context"
	"io"
	"math/bits"
	"sync"
	"sync/atomic"
)

// LendSize is the length from which a payload is not copied but written from where it lies.
const LendSize = 16 << 10

// gatherSize is how many bytes are held back at the most to leave together with more.
const gatherSize = 64 << 10

// output is the way from gorilla to the network. Bytes wait in order in a queue; whoever finds the network free
// carries them there, and everybody who comes meanwhile leaves theirs and goes.
type output struct {
	mu        sync.Mutex
	queue     *queue        // what waits; nil when nothing does
	queued    uint64        // bytes taken in since the beginning
	written   uint64        // of these, those the kernel has
	holds     int32         // reasons to let nothing leave: more is about to be written
	blocked   atomic.Bool   // who carries waits for the descriptor's loop to take over
	open      bool          // bytes may leave: the handshake is over
	busy      bool          // somebody is carrying bytes
	gathering gathering     // why one of holds is there
	scheduled bool          // a goroutine will end the gathering
	soon      bool          // a loop will carry what waits
	tells     bool          // the owner is told of what was written
	progress  chan struct{} // closed when written grows; nil when nobody waits
	err       error
	masker    *masker // of a client's frames; nil on a server
}

// A queue is bytes that wait to be written.
type queue struct {
	pieces []piece
	lent   []byte   // the payload that may be queued without a copy
	vector [][]byte // what is being written; for who carries
}

// A piece is bytes in a buffer, or lent by a caller.
type piece struct {
	p []byte
	b *buffer // nil when they are lent
}

var queues = sync.Pool{New: func() any { return new(queue) }}

// maxVector is how many pieces go into one system call.
const maxVector = 64

// Open lets bytes leave.
func (c *Conn) Open() {
	c.mu.Lock()
	c.open = true
	c.mu.Unlock()
	c.carry()
}

// Write takes p in. It does not wait: the bytes leave before it returns if the network takes them at once, and
// otherwise as soon as it does.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return 0, c.err
	}
	c.append(p)
	c.letGo()
	c.carryAndUnlock()
	return len(p), nil
}

// Queue is Write without its second half: the bytes leave after Kick.
func (c *Conn) Queue(p []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.append(p)
	}
	return c.err
}

// Kick lets the bytes leave that were queued.
func (c *Conn) Kick() {
	c.mu.Lock()
	c.letGo()
	c.carryAndUnlock()
}

// KickInline is Kick for a caller that may wait. Over TLS it writes a few bytes itself, which saves a goroutine, when the
// kernel seems to have room. It waits if that was wrong, or if TLS itself waits to answer a request for new keys.
func (c *Conn) KickInline() {
	c.mu.Lock()
	c.letGo()
	if c.taken() || c.busy || !c.waits() || !c.mayLeave() || c.queued-c.written > inlineSize || !c.writable() {
		c.carryAndUnlock()
		return
	}
	c.busy = true
	batch := c.batch()
	c.mu.Unlock()
	c.pump(batch, true)
}

// inlineSize is how many bytes KickInline writes itself.
const inlineSize = 2 << 10

// append puts p at the end of the queue, masked where that has to be.
func (o *output) append(p []byte) {
	if o.masker == nil {
		o.put(p, 0)
		return
	}
	for len(p) > 0 {
		out, n, mask := o.masker.next(p)
		o.put(out, mask)
		p = p[n:]
	}
}

// put puts p at the end of the queue, with a mask on it.
func (o *output) put(p []byte, mask uint32) {
	if len(p) == 0 {
		return
	}
	o.queued += uint64(len(p))
	q := o.getQueue()
	if q.isLent(p) {
		q.pieces = append(q.pieces, piece{p: p})
		return
	}
	for len(p) > 0 {
		last := len(q.pieces) - 1
		if last < 0 || q.pieces[last].b == nil || q.pieces[last].b.w == len(q.pieces[last].b.data) {
			b := getBuffer()
			q.pieces = append(q.pieces, piece{p: b.data[:0], b: b})
			last++
		}
		b := q.pieces[last].b
		n := copy(b.data[b.w:], p)
		if mask != 0 {
			applyMask(b.data[b.w:b.w+n], mask)
			mask = bits.RotateLeft32(mask, -8*(n&3))
		}
		b.w += n
		q.pieces[last].p = q.pieces[last].p[:len(q.pieces[last].p)+n]
		p = p[n:]
	}
}

func (o *output) getQueue() *queue {
	if o.queue == nil {
		o.queue = queues.Get().(*queue)
	}
	return o.queue
}

// isLent reports whether p is the end of the lent payload, of which gorilla keeps the beginning for its own buffer.
func (q *queue) isLent(p []byte) bool {
	return len(p) <= len(q.lent) && &p[len(p)-1] == &q.lent[len(q.lent)-1]
}

// waits reports whether there is something in the queue.
func (o *output) waits() bool { return o.queue != nil && len(o.queue.pieces) > 0 }

// Hold keeps bytes back until Release, so that a message of several writes leaves in one system call.
func (c *Conn) Hold() {
	c.mu.Lock()
	c.holds++
	c.mu.Unlock()
}

// Release ends a Hold.
func (c *Conn) Release() {
	c.mu.Lock()
	c.holds--
	c.letGo()
	c.carryAndUnlock()
}

// ReleaseSoon is Release for who writes to many sockets: where a loop can bring the bytes to the network, it will do so
// right after, for all of them in turn. What is written until then leaves with them.
func (c *Conn) ReleaseSoon() {
	c.mu.Lock()
	c.holds--
	c.letGo()
	if !c.taken() {
		c.carryAndUnlock()
		return
	}
	known := c.soon
	c.soon = true
	c.mu.Unlock()
	if !known {
		c.carrySoon()
	}
}

// letGo sees to it that what is being gathered does not wait for long. The caller has the lock.
func (c *Conn) letGo() {
	switch {
	case c.gathering == no:
	case c.queued-c.written >= gatherSize:
		c.endGather()
	case c.gathering == untilRead && !c.scheduled && c.waits():
		c.scheduled = true
		go c.scatterLater()
	}
}

// A gathering is why bytes are held back that nobody has called Hold for.
type gathering uint8

const (
	no        gathering = iota
	untilRead           // until the goroutine that reads has used up its input
	untilTurn           // until the loop has finished with the socket, or is seen to be stuck with it
)

// Gather holds back what is written from now on, because the goroutine that reads is about to write more: it has input
// left. Bytes leave when it comes back for more than it has, or as soon as a goroutine can run that is started with the
// first of them: a program that writes and then does something else does not delay them. Only for the goroutine that
// reads.
func (c *Conn) Gather() { c.gather(untilRead) }

// GatherTurn is Gather for an owner that is told of input: Scatter ends it, or the monitor of the loop.
func (c *Conn) GatherTurn() { c.gather(untilTurn) }

func (c *Conn) gather(why gathering) {
	if c.gathers {
		return
	}
	c.gathers = true
	c.mu.Lock()
	if why == untilTurn && c.keptOffLoop() {
		why = untilRead // the loop was taken over: nobody but a goroutine of our own would let go
	}
	if c.gathering == no {
		c.gathering = why
		c.holds++
		c.letGo() // of what was queued before
	}
	c.carryAndUnlock()
}

// Scatter ends a Gather. Only for the goroutine that reads.
func (c *Conn) Scatter() {
	c.gathers = false
	c.scatter()
}

// scatter lets go of what is held back.
func (c *Conn) scatter() {
	c.mu.Lock()
	c.endGather()
	c.carryAndUnlock()
}

// endGather lets bytes leave again. The caller has the lock.
func (c *Conn) endGather() {
	if c.gathering != no {
		c.gathering = no
		c.holds--
	}
}

func (c *Conn) scatterLater() {
	c.mu.Lock()
	c.scheduled = false
	c.endGather()
	c.carryAndUnlock()
}

// Lend is Hold, and makes it known that p, a payload about to be written, need not be copied until EndLend. Only one
// goroutine at a time may lend.
func (c *Conn) Lend(p []byte) {
	c.mu.Lock()
	c.holds++
	c.getQueue().lent = p
	c.mu.Unlock()
}

// EndLend says that the payload was written, but for Release. It must not be touched until WaitWritten has returned nil
// for the mark, or Break has returned.
func (c *Conn) EndLend() (mark uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if q := c.queue; q != nil {
		q.lent = nil
		c.consume(0)
	}
	return c.queued
}

// carry brings the queue to the network unless somebody does so already. It does not wait: what the kernel does not take
// at once is left to the descriptor's loop, or to a goroutine where there is none.
func (c *Conn) carry() {
	c.mu.Lock()
	c.carryAndUnlock()
}

// carryAndUnlock is carry for who has the lock.
func (c *Conn) carryAndUnlock() {
	if c.busy || !c.waits() || !c.mayLeave() {
		c.mu.Unlock()
		return
	}
	c.busy = true
	batch := c.batch()
	c.mu.Unlock()
	if c.taken() {
		c.carryOn(batch)
	} else {
		go c.pump(batch, false) // a write may wait there, for the peer or for the lock of TLS
	}
}

// mayLeave reports whether nothing holds bytes back. The caller has the lock.
func (c *Conn) mayLeave() bool { return c.open && c.holds == 0 && c.err == nil }

// maxRounds is how many times a goroutine that writes carries other goroutines' bytes along before it is let go.
const maxRounds = 8

// carryOn writes batch to the descriptor, and what comes meanwhile. The caller has made the Conn busy.
func (c *Conn) carryOn(batch [][]byte) {
	for round := 1; batch != nil; round++ {
		n, err := c.writeVector(batch)
		if err != nil && err != ErrNothing {
			c.fail(err, true)
			return
		}
		batch = c.wrote(n, err == ErrNothing)
		switch {
		case batch == nil:
		case err == ErrNothing:
			if err := c.awaitRoom(); err != nil && c.blocked.CompareAndSwap(true, false) {
				c.fail(err, true)
			}
			return // the loop carries on
		case round == maxRounds:
			go c.carryOn(batch)
			return
		}
	}
}

// unblock carries on where the kernel had no room.
func (c *Conn) unblock() {
	if c.blocked.Load() && c.blocked.CompareAndSwap(true, false) {
		c.mu.Lock()
		batch := c.batch()
		c.mu.Unlock()
		c.carryOn(batch)
	}
}

// pumpSize is the most that one blocking write is given, so that a peer which takes bytes slowly is seen to take them.
const pumpSize = 64 << 10

// pump writes batch to a connection of the net package, and what comes meanwhile, and waits where it must. The caller has
// made the Conn busy. With once it writes one batch and leaves the rest to a goroutine.
func (c *Conn) pump(batch [][]byte, once bool) {
	for batch != nil {
		p := batch[0][:min(len(batch[0]), pumpSize)]
		n, err := c.net.Write(p)
		if err == nil && n < len(p) {
			err = io.ErrShortWrite
		}
		if err != nil {
			c.fail(err, true)
			return
		}
		if batch = c.wrote(n, false); batch != nil && once {
			go c.pump(batch, false)
			return
		}
	}
}

// batch returns what is to be written next, or nil where there is nothing or something holds it back; nobody is busy
// then. The caller has the lock and is busy.
func (c *Conn) batch() [][]byte {
	if !c.waits() || !c.mayLeave() {
		c.busy = false
		c.progressed()
		return nil
	}
	q := c.queue
	q.vector = q.vector[:0]
	for _, piece := range q.pieces[:min(len(q.pieces), maxVector)] {
		q.vector = append(q.vector, piece.p)
	}
	return q.vector
}

// wrote takes the first n bytes out of the queue, which were written, and returns what is to be written next, be it by
// the loop when the kernel has room again.
func (c *Conn) wrote(n int, full bool) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written += uint64(n)
	if c.err == nil {
		c.consume(n)
	}
	if n > 0 {
		c.progressed()
		if c.tells {
			c.owner.Wrote()
		}
	}
	batch := c.batch()
	c.blocked.Store(full && batch != nil)
	return batch
}

// consume drops the first n bytes of the queue.
func (o *output) consume(n int) {
	q := o.queue
	done := 0
	for done < len(q.pieces) && n >= len(q.pieces[done].p) {
		n -= len(q.pieces[done].p)
		if b := q.pieces[done].b; b != nil {
			putBuffer(b)
		}
		done++
	}
	if n > 0 {
		q.pieces[done].p = q.pieces[done].p[n:]
	}
	rest := copy(q.pieces, q.pieces[done:])
	clear(q.pieces[rest:])
	q.pieces = q.pieces[:rest]
	if rest == 0 && q.lent == nil {
		clear(q.vector)
		o.queue = nil
		queues.Put(q)
	}
}

// fail ends the output. With carrying, the caller was busy and stops.
func (c *Conn) fail(err error, carrying bool) {
	c.mu.Lock()
	if carrying || c.blocked.CompareAndSwap(true, false) {
		c.busy = false
	}
	first := c.err == nil
	if first {
		c.err = err
		c.queue = nil // and its buffers, which somebody may be writing from
	}
	c.progressed()
	c.mu.Unlock()
	if first && carrying && c.owner != nil {
		c.owner.Failed(err)
	}
}

// Failed returns what ended the output, nil while it goes on.
func (c *Conn) Failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// progressed tells those who wait that something has changed. The caller has the lock.
func (o *output) progressed() {
	if o.progress != nil {
		close(o.progress)
		o.progress = nil
	}
}

// BytesToWrite returns how many bytes wait for the kernel to take them.
func (c *Conn) BytesToWrite() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0
	}
	return int(c.queued - c.written)
}

// TellWritten has the owner told when bytes were written. It returns how many were.
func (c *Conn) TellWritten() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tells = true
	return c.written
}

// Written returns how many bytes the kernel has taken.
func (c *Conn) Written() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written
}

// WaitRoom waits until no more than n bytes are waiting.
func (c *Conn) WaitRoom(ctx context.Context, n int) error {
	return c.awaitOutput(ctx, func() bool { return c.queued-c.written <= uint64(n) })
}

// WaitWritten waits until the kernel has all bytes up to mark.
func (c *Conn) WaitWritten(ctx context.Context, mark uint64) error {
	return c.awaitOutput(ctx, func() bool { return c.written >= mark })
}

// Flush waits until the kernel has all bytes that were taken in before the call.
func (c *Conn) Flush(ctx context.Context) error {
	c.mu.Lock()
	mark := c.queued
	c.mu.Unlock()
	return c.WaitWritten(ctx, mark)
}

// awaitOutput waits until ok, asked under the lock, is true. Nothing is gathered meanwhile.
func (c *Conn) awaitOutput(ctx context.Context, ok func() bool) error {
	for {
		c.mu.Lock()
		if ok() || c.err != nil {
			err := c.err
			if ok() {
				err = nil
			}
			c.mu.Unlock()
			return err
		}
		if c.gathering != no {
			c.endGather()
			c.carryAndUnlock()
			continue
		}
		progress := c.onProgress()
		c.mu.Unlock()

		select {
		case <-progress:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// onProgress returns a channel that is closed when something has changed. The caller has the lock.
func (o *output) onProgress() <-chan struct{} {
	if o.progress == nil {
		o.progress = make(chan struct{})
	}
	return o.progress
}

// Break closes the connection and waits until nobody writes from lent memory any more.
func (c *Conn) Break() {
	c.Close()
	for {
		c.mu.Lock()
		if !c.busy {
			c.mu.Unlock()
			return
		}
		progress := c.onProgress()
		c.mu.Unlock()
		<-progress
	}
}
