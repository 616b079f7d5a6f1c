package wire

import (
	"context"
	"errors"
	"math"
	"sync"

	"github.com/foyerws/foyer/internal/frame"
)

// LendSize is the length from which it is worth lending a payload instead of copying it.
const LendSize = 16 << 10

// gatherSize is how many bytes are held back at the most to leave together with more.
const gatherSize = 64 << 10

// output is the way to the network. Frames wait in order in a queue. A goroutine that finds nobody writing writes what is in the queue;
// the others only add their frames to it.
type output struct {
	mu        sync.Mutex
	queue     *queue        // what waits; nil when nothing does
	queued    uint64        // bytes taken in since the beginning, but for feeds and for what was put ahead of others
	written   uint64        // bytes that the kernel has, those of feeds included
	messages  uint64        // taken in, or taken from feeds
	open      bool          // bytes may leave: the handshake is over
	busy      bool          // somebody is carrying bytes
	claim     Claim         // who is in the middle of a message
	closed    bool          // a close frame was taken in, behind which nothing may follow
	gathering gathering     // why bytes are held back
	scheduled bool          // a goroutine will end the gathering
	batched   bool          // a loop will carry what waits
	reports   bool          // the owner is notified of what was written
	progress  chan struct{} // closed when written grows or the claim ends; nil when nobody waits
	err       error
}

// A Claim is why nobody else may send a message at the moment.
type Claim uint8

// The claims.
const (
	NoClaim   Claim = iota
	Preparing       // a message is being compressed, by somebody who waits for nobody
	Streaming       // a message is sent frame by frame, as its writer goes on
)

// Open lets bytes leave.
func (c *Conn) Open() {
	c.mu.Lock()
	c.open = true
	c.carryAndUnlock()
}

// Write takes in bytes that belong to the handshake. It does not wait: they leave as soon as they can, once the Conn is open.
func (c *Conn) Write(p []byte) error {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return c.err
	}
	c.put(p, 0)
	c.carryAndUnlock()
	return nil
}

// A Leave says when a frame that was taken in is to leave.
type Leave uint8

const (
	Now      Leave = iota // if the network takes it at once, and otherwise as soon as it does; nobody waits
	Inline                // the same, for a caller that may wait, see inlineSize
	Batched               // a loop writes it a little later, together with that of other sockets; without a loop as Now
	WithNext              // with the next frame
)

// A Frame is one to be sent.
type Frame struct {
	First   byte // its first byte: opcode, frame.Final, frame.RSV1
	Payload []byte
	Lent    bool // the payload is not copied; see WaitWritten
	Claimed bool // the caller has the claim
	Leave   Leave
	Room    Room
}

// A Room says what may wait to be written when a frame is taken in.
type Room struct {
	Max   int  // bytes, the frame's payload included; 0: no limit
	Alone bool // one that is longer may wait as well, when nothing else does
}

// Errors of Send. The frame was not taken in.
var (
	ErrNoRoom    = errors.New("no room")
	ErrClaimed   = errors.New("another message is under way")
	ErrCloseSent = errors.New("a close frame was sent")
)

// Send takes in a frame and lets it leave. It waits only where Inline allows it. The mark is for WaitWritten.
func (c *Conn) Send(f *Frame) (mark uint64, err error) {
	var key uint32
	if newKey := c.rules.Load().NewKey; newKey != nil {
		key = newKey() // the program's, which is called without a lock
	}
	c.mu.Lock()
	control := f.First&0x08 != 0
	switch {
	case c.err != nil:
		err = c.err
	case c.closed:
		err = ErrCloseSent
	case c.claim != NoClaim && !f.Claimed && !control:
		err = ErrClaimed
	case !c.fits(len(f.Payload), f.Room):
		err = ErrNoRoom
	}
	if err != nil {
		c.mu.Unlock()
		return 0, err
	}
	if f.First&0x0f == frame.Close {
		c.closed = true
		c.progressed()
		if c.queue != nil {
			c.queue.dropPlaces()
		}
	}
	if !control && f.First&frame.Final != 0 {
		c.messages++
	}
	c.putFrame(f, key)
	mark = c.queued
	c.leaveAndUnlock(f.Leave)
	return mark, nil
}

// leaveAndUnlock gives up the lock and lets leave what was taken in.
func (c *Conn) leaveAndUnlock(how Leave) {
	if how != WithNext {
		c.letGo()
	}
	switch how {
	case Now:
		c.carryAndUnlock()
	case Inline:
		c.carryInlineAndUnlock()
	case Batched:
		c.carryBatchedAndUnlock()
	case WithNext:
		c.mu.Unlock()
	}
}

// fits reports whether n bytes may be taken in.
func (o *output) fits(n int, room Room) bool {
	waiting := o.waiting()
	return room.Max == 0 || waiting+n <= room.Max || room.Alone && waiting == 0
}

// Claim keeps all other messages back until Unclaim. The errors are those of Send.
func (c *Conn) Claim(why Claim, n int, room Room) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err
	case c.closed:
		return ErrCloseSent
	case c.claim != NoClaim:
		return ErrClaimed
	case !c.fits(n, room):
		return ErrNoRoom
	}
	c.claim = why
	return nil
}

// Unclaim ends a claim, and lets leave what was taken in.
func (c *Conn) Unclaim(how Leave) {
	c.mu.Lock()
	c.claim = NoClaim
	c.progressed()
	if c.queue != nil {
		c.queue.putHeld()
	}
	c.leaveAndUnlock(how)
}

// Claimed returns who is in the middle of a message.
func (c *Conn) Claimed() Claim {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.claim
}

// CloseSent reports whether a close frame was sent.
func (c *Conn) CloseSent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// WaitClaim waits until nobody is in the middle of a message.
func (c *Conn) WaitClaim(ctx context.Context) error {
	return c.awaitOutput(ctx, func() bool { return c.claim == NoClaim || c.closed })
}

// WaitPrepared is WaitClaim for a caller that must not wait for a message that is sent as its writer goes on.
func (c *Conn) WaitPrepared() error {
	return c.awaitOutput(context.Background(), func() bool { return c.claim != Preparing || c.closed })
}

// carryInlineAndUnlock is carryAndUnlock for a caller that may wait. On a transport that blocks it writes a few bytes itself, which
// saves a goroutine, when the kernel seems to have room. It waits if that was wrong, or if TLS itself waits to answer a request for
// new keys.
func (c *Conn) carryInlineAndUnlock() {
	if c.busy || !c.waits() || !c.mayLeave() || c.queue.waiting > inlineSize || c.queue.places > 0 || !c.transport.Waits() || !c.transport.Roomy() {
		c.carryAndUnlock()
		return
	}
	c.busy = true
	batch := c.batch()
	c.mu.Unlock()
	c.carry(batch, 1)
}

// inlineSize is how many bytes are written in this way.
const inlineSize = 2 << 10

// carryBatchedAndUnlock has a loop carry what waits, and what is taken in until then.
func (c *Conn) carryBatchedAndUnlock() {
	switch {
	case c.batched:
		c.mu.Unlock()
	case c.transport.FlushLater():
		c.batched = true
		c.mu.Unlock()
	default:
		c.carryAndUnlock()
	}
}

// flushNow carries what carryBatchedAndUnlock has left.
func (c *Conn) flushNow() {
	c.mu.Lock()
	c.batched = false
	c.carryAndUnlock()
}

// putFrame puts a frame at the end of the queue. A client's payload is masked with key, and always copied.
func (c *Conn) putFrame(f *Frame, key uint32) {
	var header [frame.MaxHeader]byte
	masked := c.rules.Load().NewKey != nil
	switch {
	case f.First&0x08 != 0:
		h := frame.AppendHeader(header[:0], f.First, len(f.Payload))
		if masked {
			h = frame.AppendMaskedHeader(header[:0], f.First, len(f.Payload), key)
		}
		c.putControl(h, f.Payload, key)
	case masked:
		c.put(frame.AppendMaskedHeader(header[:0], f.First, len(f.Payload), key), 0)
		c.put(f.Payload, key)
	case f.Lent && len(f.Payload) > 0:
		c.put(frame.AppendHeader(header[:0], f.First, len(f.Payload)), 0)
		c.putLent(f.Payload)
	default:
		c.put(frame.AppendHeader(header[:0], f.First, len(f.Payload)), 0)
		c.put(f.Payload, 0)
	}
}

// letGo sees to it that what is being gathered does not wait for long. The caller has the lock.
func (c *Conn) letGo() {
	switch {
	case c.gathering == no:
	case c.waiting() >= gatherSize:
		c.gathering = no
	case c.gathering == untilRead && !c.scheduled && c.waits():
		c.scheduled = true
		go c.scatterLater()
	}
}

// A gathering is why bytes are held back.
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

// GatherTurn is Gather for an owner that is notified of input. Scatter ends it, or the loop's monitor.
func (c *Conn) GatherTurn() { c.gather(untilTurn) }

func (c *Conn) gather(why gathering) {
	if c.gathers {
		return
	}
	c.gathers = true
	c.mu.Lock()
	if why == untilTurn && c.transport.Crowded() {
		why = untilRead // the loop was taken over: nobody but a goroutine of our own would let go
	}
	if c.gathering == no {
		c.gathering = why
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
	c.gathering = no
	c.carryAndUnlock()
}

func (c *Conn) scatterLater() {
	c.mu.Lock()
	c.scheduled = false
	c.gathering = no
	c.carryAndUnlock()
}

// carryAndUnlock gives up the lock and brings the queue to the network unless somebody does so already. It does not wait: what
// the kernel does not take at once is left to the loop, and where a write waits, for the peer or for the lock of TLS, a goroutine does.
func (c *Conn) carryAndUnlock() {
	if c.busy || !c.waits() || !c.mayLeave() {
		c.mu.Unlock()
		return
	}
	c.busy = true
	batch := c.batch()
	c.mu.Unlock()
	if c.transport.Waits() {
		go c.carry(batch, forever)
	} else {
		c.carry(batch, maxRounds)
	}
}

// mayLeave reports whether nothing holds bytes back. The caller has the lock.
func (c *Conn) mayLeave() bool { return c.open && c.gathering == no && c.err == nil }

// How many times a goroutine that writes carries other goroutines' bytes along before it is let go.
const (
	maxRounds = 8
	forever   = math.MaxInt
)

// carry writes batch, and what comes meanwhile, rounds times at the most. The caller has made the Conn busy.
func (c *Conn) carry(batch [][]byte, rounds int) {
	for batch != nil {
		n, err := c.transport.Write(batch)
		full := err == ErrNothing
		if err != nil && !full {
			c.fail(err, true)
			return
		}
		var blocked bool
		if batch, blocked = c.wrote(n, full); blocked {
			if err := c.transport.AwaitRoom(); err != nil && c.unblocks() {
				c.fail(err, true)
			}
			return // unblock carries on
		}
		if rounds--; rounds == 0 && batch != nil {
			go c.carry(batch, forever)
			return
		}
	}
}

// unblock carries on where the kernel had no room.
func (c *Conn) unblock() {
	if c.unblocks() {
		c.mu.Lock()
		batch := c.batch()
		c.mu.Unlock()
		c.carry(batch, maxRounds)
	}
}

// unblocks clears isBlocked, and reports whether it was set.
func (c *Conn) unblocks() bool {
	return c.flags.Load()&isBlocked != 0 && c.flags.And(^uint32(isBlocked))&isBlocked != 0
}

// batch returns what is to be written next, or nil where there is nothing or something holds it back; nobody is busy
// then. The caller has the lock and is busy.
func (c *Conn) batch() [][]byte {
	if c.waits() && c.mayLeave() {
		if next := c.queue.next(); len(next) > 0 {
			return next
		}
		c.putQueue()
	}
	c.busy = false
	c.progressed()
	return nil
}

// wrote takes the first n bytes out of the queue, which were written, and returns what is to be written next. If the kernel is full, unblock
// will ask for that instead.
func (c *Conn) wrote(n int, full bool) (batch [][]byte, blocked bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.consume(n)
		c.putQueue()
	} else {
		c.written += uint64(n)
	}
	if n > 0 {
		c.progressed()
		if c.reports {
			c.owner.Wrote()
		}
	}
	if full && c.waits() && c.mayLeave() {
		c.flags.Or(isBlocked)
		return nil, true
	}
	return c.batch(), false
}

// fail ends the output. With carrying, the caller was busy and stops.
func (c *Conn) fail(err error, carrying bool) {
	c.mu.Lock()
	if carrying || c.unblocks() {
		c.busy = false
	}
	first := c.err == nil
	if first {
		c.err = err
		c.queued -= c.left()
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

// progressed wakes the goroutines that wait for a change. The caller holds c.mu.
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
	return c.waiting()
}

// ReportWritten calls the owner's Wrote from now on. It returns how many bytes were written before.
func (c *Conn) ReportWritten() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reports = true
	return c.written
}

// Written returns how many bytes the kernel has taken.
func (c *Conn) Written() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written
}

// MessagesOut returns how many messages were taken in, or taken from feeds.
func (c *Conn) MessagesOut() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.messages
}

// Touch has the processor fetch what a write needs from memory. It does not wait for it, so that several Conns are fetched at once.
func (c *Conn) Touch() {
	c.flags.Load()
	c.transport.HungUp()
}

// OutputWaits reports whether anything waits for the kernel to take it.
func (c *Conn) OutputWaits() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && c.waits()
}

// WaitRoom waits until no more than n bytes are waiting.
func (c *Conn) WaitRoom(ctx context.Context, n int) error {
	return c.awaitOutput(ctx, func() bool { return c.waiting() <= n })
}

// WaitWritten waits until the kernel has all bytes up to mark.
func (c *Conn) WaitWritten(ctx context.Context, mark uint64) error {
	return c.awaitOutput(ctx, func() bool { return c.queued-c.left() >= mark })
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
			c.gathering = no
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
