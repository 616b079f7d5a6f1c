// Package wire is one connection that carries frames.
//
// Reading, a [Conn] hands out data frames, one at a time, and deals with control frames itself; a wait between two messages
// can be cancelled. Writing, it takes frames into memory and brings them to the network from there, so that no lock is held
// during I/O and nobody waits who must not.
//
// The bytes are moved by a [netpoll.Transport].
package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/netpoll"
)

// directSize is how much of a payload must be missing, and how much room the reader must offer, for a read to go
// straight from the network to where it is wanted.
const directSize = 4 << 10

// An Owner is notified of what happens to a Conn.
type Owner interface {
	// Control gets each ping and pong, on the goroutine that reads. The payload is valid until it returns.
	Control(opcode byte, payload []byte)
	// Wrote is called when the kernel has taken bytes, if ReportWritten was called. It must not call the Conn.
	Wrote()
	// Failed is called once when the output has failed.
	Failed(err error)
	// HungUp is called, at least once on a loop, when the peer has closed its side. It must not wait.
	HungUp()
	// Ready is called when there may be something to read on a Conn that is attended to, also while a call before is
	// under way. On a loop, what takes long in it has the loop taken over.
	Ready(onLoop bool)
}

// Conn is a connection that carries frames. One goroutine reads at a time; any number write.
type Conn struct {
	transport netpoll.Transport
	rules     atomic.Pointer[Rules] // for the frames
	output                          // whatever a write needs is close together, because memory is slow
	flags     atomic.Uint32

	// Input. Only the goroutine that reads touches these.
	gathers   bool    // this goroutine has made writes wait, see Gather
	impatient bool    // reads do not wait
	in        *buffer // nil while it holds nothing
	sequence  frame.Sequence
	atHand    dataFrame
	rerr      error // what ended the input
	watched   *watch

	bytesIn atomic.Uint64
	owner   Owner // nil until the handshake is over
}

// The flags of a Conn.
const (
	isFramed   = 1 << iota // the owner is there
	isAttended             // and notified of input
	isWaiting              // a goroutine waits for input
	isBlocked              // whoever carries waits for the descriptor's loop to take over
)

// Rules are what the frames of both directions are held to.
type Rules struct {
	frame.Limits               // of the peer
	Split        int           // bytes of payload from which a message is sent in several frames; 0: never
	NewKey       func() uint32 // makes the mask of each frame that is sent; nil on a server. The sender calls it
}

// A dataFrame is one whose header was read.
type dataFrame struct {
	left   int64  // bytes of payload that were not taken
	key    uint32 // of their mask; 0 if they have none
	opcode byte
	final  bool
	there  bool // until the next one is wanted
}

// New returns a Conn on conn. The bytes of early, which somebody read from conn before, come first. What is written
// stays in memory until Open.
func New(conn net.Conn, early []byte) *Conn {
	c := &Conn{transport: netpoll.NewBlocking(conn)}
	if len(early) > 0 {
		c.in = holding(early)
		c.bytesIn.Store(uint64(len(early)))
	}
	return c
}

// On returns a Conn on t, which was accepted.
func On(t netpoll.Transport) *Conn { return &Conn{transport: t} }

// Arrive has arrived called when the first bytes have come to a Conn that On has made, or reads fail: on a loop, where it must not wait,
// or on a goroutine.
func (c *Conn) Arrive(arrived func(onLoop bool)) error {
	return c.transport.Own((*below)(c), arrived)
}

// Frame ends the handshake: from here on all is frames held to the rules, and the connection belongs to the Conn alone.
func (c *Conn) Frame(rules *Rules, owner Owner) {
	c.rules.Store(rules)
	c.owner = owner
	if t := netpoll.Poll(c.transport, (*below)(c)); t != c.transport {
		c.transport = t
	}
	c.transport.SetDeadline(time.Time{})
	c.flags.Or(isFramed)
	if c.transport.HungUp() {
		owner.HungUp()
	}
}

// Rules returns what the frames are held to. It must not be changed.
func (c *Conn) Rules() *Rules { return c.rules.Load() }

// SetRules has the frames held to other rules, from the next header on. Only the limits may be others.
func (c *Conn) SetRules(rules *Rules) { c.rules.Store(rules) }

// SetDeadline has reads and writes fail from a deadline on; the zero time is none. On a connection that knows no deadlines it
// returns an error. Only before Frame.
func (c *Conn) SetDeadline(t time.Time) error { return c.transport.SetDeadline(t) }

// BytesIn returns how many bytes came from the network.
func (c *Conn) BytesIn() uint64 { return c.bytesIn.Load() }

// conn returns the connection of a transport that blocks, else nil.
func (c *Conn) conn() net.Conn {
	if b, ok := c.transport.(*netpoll.Blocking); ok {
		return b.Conn
	}
	return nil
}

// HandshakeTLS performs the handshake of a TLS connection.
func (c *Conn) HandshakeTLS() error {
	if t, ok := c.conn().(interface{ Handshake() error }); ok {
		return t.Handshake()
	}
	return nil
}

// TLS returns the state of a TLS connection, nil for any other.
func (c *Conn) TLS() *tls.ConnectionState {
	if t, ok := c.conn().(interface{ ConnectionState() tls.ConnectionState }); ok {
		state := t.ConnectionState()
		return &state
	}
	return nil
}

// NetConn returns the connection underneath, see [netpoll.Transport].
func (c *Conn) NetConn() net.Conn { return c.transport.NetConn() }

// LocalAddr returns the address of this end.
func (c *Conn) LocalAddr() net.Addr { return c.transport.LocalAddr() }

// RemoteAddr returns the address of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.transport.RemoteAddr() }

// Attend notifies the owner of input from now on, so that no goroutine needs to wait for it. It reports false if that is not
// possible. Nobody may be reading.
func (c *Conn) Attend() bool {
	if !c.transport.Attend() {
		return false
	}
	c.flags.Or(isAttended)
	return true
}

// Attended reports whether the owner is notified of input.
func (c *Conn) Attended() bool { return c.flags.Load()&isAttended != 0 }

// Idle reports whether nothing has come on a Conn that is attended to.
func (c *Conn) Idle() bool { return c.transport.Idle() && !c.Unread() }

// Waiting reports whether a goroutine is waiting for input at this moment.
func (c *Conn) Waiting() bool { return c.flags.Load()&isWaiting != 0 }

// Unread reports whether bytes were read from the network that nobody took. Only for the goroutine that reads.
func (c *Conn) Unread() bool { return c.in != nil && c.in.len() > 0 }

// Peek returns the unread bytes that are in memory. They stay valid until the next call of another method.
func (c *Conn) Peek() []byte {
	if c.in == nil {
		return nil
	}
	return c.in.bytes()
}

// Discard drops the first n bytes of what Peek returned.
func (c *Conn) Discard(n int) {
	if c.in == nil {
		return
	}
	c.in.r += n
	if c.in.len() == 0 {
		c.releaseInput()
	}
}

// Fill waits for more bytes behind those that Peek returns, which must be fewer than a buffer holds.
func (c *Conn) Fill() error { return c.fill() }

// Wait waits until a data frame begins and deals with the control frames that come before it. When ctx ends first, the
// answer is ErrInterrupted and nothing is lost. Any other error is final.
func (c *Conn) Wait(ctx context.Context) error {
	if err := c.Within(ctx); err != nil {
		return err
	}
	return c.Next()
}

// Within makes ctx the context of the reads that follow.
func (c *Conn) Within(ctx context.Context) error {
	if c.rerr != nil {
		return c.rerr
	}
	return c.watch(ctx)
}

// Next moves to the next data frame, unless the one at hand was not ended yet. It is how one message begins, and how it goes
// on in its next frame. Where reads do not wait, ErrNothing says that there is nothing more to read at the moment.
func (c *Conn) Next() error {
	switch {
	case c.rerr != nil:
		return c.rerr
	case c.atHand.there:
		return nil
	}
	return c.advance()
}

// DoNotWait has reads return ErrNothing instead of waiting, or wait again.
func (c *Conn) DoNotWait(now bool) { c.impatient = now }

// Waits reports whether reads wait.
func (c *Conn) Waits() bool { return !c.impatient }

// Opcode returns that of the frame at hand.
func (c *Conn) Opcode() byte { return c.atHand.opcode }

// Compressed reports whether the message at hand is compressed.
func (c *Conn) Compressed() bool { return c.sequence.Compressed }

// Left returns how many bytes of payload of the frame at hand were not taken.
func (c *Conn) Left() int64 { return c.atHand.left }

// LastFrame reports whether the frame at hand is the last of its message.
func (c *Conn) LastFrame() bool { return c.atHand.final }

// EndFrame ends the frame at hand, of which everything was taken.
func (c *Conn) EndFrame() { c.atHand = dataFrame{} }

// Whole returns the payload of the frame at hand, of which nothing was taken, if it is a message by itself and lies in memory, or in
// what can be read at once and fits into a buffer. It is unmasked where it lies, and valid until Taken is called, which must be
// done when it was taken.
func (c *Conn) Whole() (payload []byte, ok bool) {
	f := &c.atHand
	if !f.final || f.opcode == frame.Continuation {
		return nil, false
	}
	for c.inMemory() < f.left {
		if !c.impatient || f.left > bufferSize || c.fill() != nil {
			return nil, false // an error will come again
		}
	}
	if f.left == 0 {
		return nil, true
	}
	payload = c.in.bytes()[:f.left]
	if f.key != 0 {
		frame.Mask(payload, f.key)
	}
	return payload, true
}

func (c *Conn) inMemory() int64 {
	if c.in == nil {
		return 0
	}
	return int64(c.in.len())
}

// InMemory returns how many bytes were read from the network that nobody took.
func (c *Conn) InMemory() int { return int(c.inMemory()) }

// Taken drops the payload that Whole returned.
func (c *Conn) Taken() {
	n := int(c.atHand.left)
	c.atHand = dataFrame{}
	c.Discard(n)
}

// ReadPayload reads payload of the frame at hand, of which some is left. A long piece is read to where it is wanted.
func (c *Conn) ReadPayload(p []byte) (n int, err error) {
	if c.rerr != nil {
		return 0, c.rerr
	}
	f := &c.atHand
	if int64(len(p)) > f.left {
		p = p[:f.left]
	}
	if c.in == nil && len(p) >= directSize {
		n, err = c.receive(p)
	} else {
		if c.in == nil {
			err = c.fill()
		}
		if c.in != nil {
			n = copy(p, c.in.bytes())
			c.Discard(n)
		}
	}
	if f.key != 0 {
		f.key = frame.Mask(p[:n], f.key)
	}
	f.left -= int64(n)
	if n > 0 {
		return n, nil
	}
	return 0, c.midFrame(err)
}

// Skip drops the rest of the frame at hand and ends it.
func (c *Conn) Skip() error {
	for c.atHand.left > 0 {
		if c.in == nil {
			if err := c.fill(); err != nil {
				return c.midFrame(err)
			}
		}
		n := int(min(int64(c.in.len()), c.atHand.left))
		c.atHand.left -= int64(n)
		c.Discard(n)
	}
	c.EndFrame()
	return nil
}

// midFrame makes err final unless it says that there is nothing at the moment: the peer has sent half of a message.
func (c *Conn) midFrame(err error) error {
	switch err {
	case nil, ErrNothing:
		return err
	case io.EOF:
		err = io.ErrUnexpectedEOF
	}
	c.rerr = err
	return err
}

var errNotFramed = errors.New("read before the handshake was over")

// advance moves to the next data frame.
func (c *Conn) advance() error {
	if c.owner == nil {
		return errNotFramed
	}
	for {
		h, ok, err := c.sequence.Parse(&c.rules.Load().Limits, c.Peek())
		if err != nil {
			c.rerr = err
			return err
		}
		if !ok || h.Control() && c.in.len() < h.Size+int(h.Payload) {
			if err := c.fill(); err != nil {
				return c.betweenFrames(err)
			}
			continue
		}
		if !h.Control() {
			c.sequence.Accept(&h)
			c.Discard(h.Size)
			c.atHand = dataFrame{left: h.Payload, key: h.Key, opcode: h.Opcode, final: h.Final, there: true}
			return nil
		}
		if err := c.takeControl(&h); err != nil {
			c.rerr = err
			return err
		}
	}
}

// takeControl deals with the control frame at hand, which lies whole in memory.
func (c *Conn) takeControl(h *frame.Header) error {
	var copied [frame.MaxControl]byte
	payload := copied[:copy(copied[:], c.in.bytes()[h.Size:h.Size+int(h.Payload)])]
	if h.Masked {
		frame.Mask(payload, h.Key)
	}
	c.Discard(h.Size + int(h.Payload))
	if h.Opcode == frame.Close {
		return frame.ParseClose(payload)
	}
	c.owner.Control(h.Opcode, payload)
	return nil
}

// betweenFrames makes err final unless it only says that the wait has ended, which does no harm between messages.
func (c *Conn) betweenFrames(err error) error {
	switch {
	case err == ErrNothing, err == ErrInterrupted && !c.sequence.Fragmented:
		return err
	case c.sequence.Fragmented || c.Unread():
		return c.midFrame(err)
	}
	c.rerr = err
	return err
}

// fill reads once from the network behind what is unread.
func (c *Conn) fill() error {
	if b := c.in; b != nil && b.r > 0 {
		b.w = copy(b.data, b.bytes())
		b.r = 0
	}
	_, err := c.receive(nil)
	return err
}

// receive reads into p, or behind the unread input when p is nil.
func (c *Conn) receive(p []byte) (n int, err error) {
	if c.gathers && !c.impatient {
		c.Scatter() // the input is used up
	}
	if !c.impatient && c.watched != nil && c.watched.ended() {
		return 0, ErrInterrupted // a peer that never stops sending must not keep the reader
	}
	for {
		if n, err = c.read(p); n > 0 {
			c.bytesIn.Add(uint64(n))
			return n, nil // an error that came with bytes will come again
		}
		if err == nil {
			err = io.ErrNoProgress
		}
		if err != ErrNothing || c.impatient {
			return 0, err
		}
		c.flags.Or(isWaiting)
		err = c.transport.Await()
		c.flags.And(^uint32(isWaiting))
		if err != nil {
			return 0, err
		}
	}
}

// read reads once. It borrows a buffer when there is something to put into it. Only the read itself can tell that of a transport that
// blocks: then it waits with a buffer that is only large enough for most requests and small messages.
func (c *Conn) read(p []byte) (n int, err error) {
	blocks := c.transport.Waits()
	if blocks {
		c.flags.Or(isWaiting)
		defer c.flags.And(^uint32(isWaiting))
	}
	switch {
	case p != nil:
		return c.transport.Read(p)
	case blocks && c.in == nil:
		first := smallBuffers.Get().(*[smallSize]byte)
		if n, err = c.transport.Read(first[:]); n > 0 {
			c.in = holding(first[:n])
		}
		smallBuffers.Put(first)
		return n, err
	case !blocks && c.transport.Idle():
		return 0, ErrNothing
	}
	b := c.in
	if b == nil {
		b = getBuffer()
	}
	n, err = c.transport.Read(b.data[b.w:])
	b.w += max(n, 0)
	if c.in = b; b.len() == 0 {
		c.releaseInput()
	}
	return n, err
}

func (c *Conn) releaseInput() {
	if c.in != nil {
		putBuffer(c.in)
	}
	c.in = nil
}

// What netpoll says, too.
var (
	ErrNothing     = netpoll.ErrNothing     // there is nothing to read at the moment
	ErrInterrupted = netpoll.ErrInterrupted // a read ended because its context did
)

// A watch has the end of a context interrupt a read that waits. It outlives the read: a program reads in a loop with
// one context, and then finds it in place.
type watch struct {
	done        <-chan struct{}
	stop        func() bool
	interrupted chan struct{} // closed when the end of the context has done its work
}

func (w *watch) ended() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// watch arranges that the end of ctx interrupts a read that waits.
func (c *Conn) watch(ctx context.Context) error {
	done := ctx.Done()
	if c.watched != nil && c.watched.done != done {
		c.Unwatch()
	}
	if done == nil {
		return nil
	}
	if c.watched == nil {
		interrupted := make(chan struct{})
		c.watched = &watch{done: done, interrupted: interrupted, stop: context.AfterFunc(ctx, func() {
			c.transport.Interrupt()
			close(interrupted)
		})}
	}
	if ctx.Err() != nil {
		return ErrInterrupted
	}
	return nil
}

// Interrupt breaks off a read that waits, and all to come. A connection whose reads cannot be interrupted is closed. Only before Frame.
func (c *Conn) Interrupt() {
	if c.transport.Interrupt() != nil {
		c.transport.Close()
	}
}

// Unwatch makes reads wait without a context again.
func (c *Conn) Unwatch() {
	if c.stopWatching() {
		c.transport.Resume()
	}
}

// stopWatching forgets the watched context and reports whether its end has interrupted the reads.
func (c *Conn) stopWatching() (ended bool) {
	w := c.watched
	if w == nil {
		return false
	}
	if ended = !w.stop(); ended {
		<-w.interrupted
	}
	c.watched = nil
	return ended
}

// Err returns what ended the input, nil while it goes on.
func (c *Conn) Err() error { return c.rerr }

// Forget gives back what the reading side holds. Only for the goroutine that reads, when it will do so no more.
func (c *Conn) Forget() {
	c.stopWatching() // and leave the deadline: Linger may have set its own
	c.releaseInput()
	if c.rerr == nil {
		c.rerr = net.ErrClosed
	}
}

// Abandon closes a connection whose handshake has failed, in the way that its own Close does.
func (c *Conn) Abandon() error {
	conn := c.conn()
	switch {
	case conn == nil:
		return c.Close()
	case conn.SetWriteDeadline(time.Now().Add(abandonTime)) != nil:
		return netpoll.CutOff(conn) // the goodbye of TLS could wait for ever
	}
	return conn.Close()
}

// abandonTime is how long a connection whose handshake has failed may take to say goodbye.
const abandonTime = time.Second

// Close closes the connection at once. Reads and writes under way end with an error.
func (c *Conn) Close() error {
	c.fail(net.ErrClosed, false)
	return c.transport.Close()
}
