// Package wire is the path between gorilla's Conn and the network.
//
// A [Conn] is the only net.Conn that gorilla sees. Reading, it hands out well-formed data frames, one at a time, and
// deals with control frames itself, so that gorilla never waits for anything between two messages and waiting there
// can be cancelled. Writing, it takes bytes into memory and brings them to the network from there, so that gorilla
// never waits at all and no lock is held during I/O.
//
// On Linux a Conn takes the descriptor of a TCP or Unix socket from the net package and waits for it in epoll sets of
// its own, see [loop]. Any other net.Conn is used as it is.
package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// directSize is how much of a payload must be missing, and how much room the reader must offer, for a read to go
// straight from the network to where it is wanted.
const directSize = 4 << 10

// Limits are what a peer is held to.
type Limits struct {
	Server      bool  // this end is the server: frames must be masked
	Compression bool  // permessage-deflate was negotiated: RSV1 may be set
	MaxFrame    int64 // bytes of payload; 0: no limit
	MaxMessage  int64 // bytes of payload of a message, a few more if it is compressed; 0: no limit
}

// An Owner is what a Conn has to tell.
type Owner interface {
	// Control gets each ping and pong, on the goroutine that reads. The payload is valid until it returns.
	Control(opcode byte, payload []byte)
	// Continues is told of each frame that continues a message, before any of it is handed out.
	Continues()
	// Wrote is told, where TellWritten asked for it, that the kernel has taken bytes. It must not call the Conn.
	Wrote()
	// Failed is told, once, that the output has failed.
	Failed(err error)
	// HungUp is told, at least once where a loop sees it, that the peer has closed its side. It must not wait.
	HungUp()
	// Ready is called when there may be something to read on a Conn that is attended to, also while a call before is
	// under way. On a loop, what takes long in it has the loop taken over.
	Ready(onLoop bool)
}

// Conn is a net.Conn for gorilla's Conn. One goroutine reads at a time; any number write.
type Conn struct {
	*network           // nil once the descriptor was taken
	descriptor         // taken from the net package, where that is possible
	owner      Owner   // nil until the handshake is over
	limits     *Limits // of the frames

	// Input. Only the goroutine that reads touches these.
	in        *buffer // nil while it holds nothing
	tap       tap
	left      int64 // bytes of the current frame that were not handed out, its header included
	rerr      error // what ended the input
	watched   *watch
	gathers   bool // this goroutine has made writes wait, see Gather
	impatient bool // reads do not wait

	waiting atomic.Bool
	bytesIn atomic.Uint64

	output
}

// network is a connection of the net package, or one that behaves like it.
type network struct {
	net    net.Conn
	below  syscall.RawConn // of the TCP connection under TLS, else nil
	credit int             // how many times more that is taken for writable; guarded by the lock of the output
}

// New returns a Conn on conn. The bytes of early, which somebody read from conn before, come first. What is written
// stays in memory until Open.
func New(conn net.Conn, early []byte) *Conn {
	c := &Conn{network: &network{net: conn}}
	if below, ok := underTLS(conn); ok {
		c.below = rawConn(below)
	}
	if len(early) > 0 {
		c.in = holding(early)
		c.bytesIn.Store(uint64(len(early)))
	}
	return c
}

// Frame ends the handshake: from here on the input is frames held to l, which must not change, and the connection
// belongs to the Conn alone.
func (c *Conn) Frame(l *Limits, owner Owner) {
	c.limits = l
	c.owner = owner
	if !c.taken() {
		c.takeDescriptor()
	}
	if c.taken() {
		c.Bound(time.Time{})
	} else {
		c.net.SetDeadline(time.Time{})
	}
	c.framed()
}

// Bound makes reads and writes fail at a deadline; the zero time is none. On a connection that knows no deadlines it
// returns an error. Only before Frame.
func (c *Conn) Bound(deadline time.Time) error {
	if !c.taken() {
		return c.net.SetDeadline(deadline)
	}
	if !deadline.IsZero() || c.bounded() {
		c.setDeadline(deadline)
	}
	return nil
}

// BytesIn returns how many bytes came from the network.
func (c *Conn) BytesIn() uint64 { return c.bytesIn.Load() }

// HandshakeTLS performs the handshake of a TLS connection.
func (c *Conn) HandshakeTLS() error {
	if c.taken() {
		return nil
	}
	if t, ok := c.net.(interface{ Handshake() error }); ok {
		return t.Handshake()
	}
	return nil
}

// TLS returns the state of a TLS connection, nil for any other.
func (c *Conn) TLS() *tls.ConnectionState {
	if c.taken() {
		return nil
	}
	if t, ok := c.net.(interface{ ConnectionState() tls.ConnectionState }); ok {
		state := t.ConnectionState()
		return &state
	}
	return nil
}

// Waiting reports whether a goroutine is waiting for input at this moment.
func (c *Conn) Waiting() bool { return c.waiting.Load() }

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
	if c.rerr != nil {
		return c.rerr
	}
	if err := c.watch(ctx); err != nil {
		return err
	}
	return c.next()
}

// Next is Wait that does not wait: ErrNothing says that the next data frame is not whole in memory and that there is
// nothing more to read at the moment. A frame that is too long for a buffer is there when its header is.
func (c *Conn) Next() error {
	if c.rerr != nil {
		return c.rerr
	}
	c.impatient = true
	err := c.next()
	for err == nil && c.missing() && c.left <= int64(len(c.in.data)) {
		err = c.more()
	}
	c.impatient = false
	return err
}

// next moves to the next data frame, unless that at hand was not taken yet.
func (c *Conn) next() error {
	if c.left > 0 {
		return nil
	}
	return c.advance()
}

// missing reports whether bytes of the frame at hand, of which nothing was taken yet, are not in memory.
func (c *Conn) missing() bool { return c.in != nil && int64(c.in.len()) < c.left }

// more reads more of the frame at hand.
func (c *Conn) more() error {
	switch err := c.fill(); err {
	case nil, ErrNothing, ErrInterrupted:
		return err
	default:
		return c.midFrame(err)
	}
}

// Message returns the message at hand if it is a plain one, neither compressed nor in fragments, that lies whole in
// memory. It is unmasked where it lies, and valid until Taken is called, which must be done when it was taken.
//
// All other messages are for gorilla's reader, which costs an allocation each.
func (c *Conn) Message() (opcode byte, payload []byte, ok bool) {
	if c.in == nil || c.missing() {
		return 0, nil, false
	}
	f := &c.in.frame
	if !f.final || f.rsv1 || f.opcode == opContinuation || c.left != int64(f.header)+f.payload {
		return 0, nil, false
	}
	payload = c.in.bytes()[f.header : f.header+int(f.payload)]
	if f.masked {
		unmask(payload, f.mask)
	}
	return f.opcode, payload, true
}

// Taken drops the message that Message returned.
func (c *Conn) Taken() {
	n := int(c.left)
	c.left = 0
	c.Discard(n)
}

// Long reports whether the message at hand may make a reader wait for the rest of it.
func (c *Conn) Long() bool { return c.tap.fragmented || c.missing() }

// Within makes ctx the context of the reads that follow.
func (c *Conn) Within(ctx context.Context) error {
	if c.rerr != nil {
		return c.rerr
	}
	return c.watch(ctx)
}

// MidMessage reports whether the message at hand has frames that have not come yet.
func (c *Conn) MidMessage() bool { return c.tap.fragmented }

// FrameEnd returns how many bytes of payload the message at hand has up to the end of the frame at hand, which is not its
// last.
func (c *Conn) FrameEnd() int64 { return c.tap.length }

// Compressed reports whether the message at hand is compressed.
func (c *Conn) Compressed() bool { return c.tap.compressed }

// TakeCompressed is Compressed for who will decompress the message at hand, of which nothing was taken yet: gorilla is
// not told that it is.
func (c *Conn) TakeCompressed() bool {
	if c.tap.compressed {
		c.in.bytes()[0] &^= 0x40
	}
	return c.tap.compressed
}

// FrameLeft returns how many bytes of the frame at hand are still to be read, its header included.
func (c *Conn) FrameLeft() int64 { return c.left }

// Read hands out bytes up to the end of the current frame, so that gorilla's own buffer is empty between frames.
func (c *Conn) Read(p []byte) (int, error) {
	if c.rerr != nil {
		return 0, c.rerr
	}
	if c.left == 0 {
		if err := c.advance(); err != nil {
			c.rerr = err // gorilla cannot take up again where it was interrupted
			return 0, err
		}
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	if c.in == nil {
		if len(p) >= directSize {
			n, err := c.receive(p)
			c.left -= int64(n)
			return n, c.midFrame(err)
		}
		if err := c.fill(); err != nil {
			return 0, c.midFrame(err)
		}
	}
	n := copy(p, c.in.bytes())
	c.left -= int64(n)
	c.Discard(n)
	return n, nil
}

// midFrame makes err final: gorilla cannot take up a frame again that it was interrupted in.
func (c *Conn) midFrame(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		c.rerr = err
	}
	return err
}

var errNotFramed = errors.New("read before the handshake was over")

// advance moves to the next data frame.
func (c *Conn) advance() error {
	if c.owner == nil {
		return errNotFramed
	}
	for {
		f, ok, err := c.tap.peek(c.limits, c.Peek())
		if err != nil {
			c.rerr = err
			return err
		}
		if !ok || f.control() && c.in.len() < f.header+int(f.payload) {
			if err := c.fill(); err != nil {
				return c.betweenFrames(err)
			}
			continue
		}
		if !f.control() {
			c.tap.accept(&f)
			c.in.frame = f
			c.left = int64(f.header) + f.payload
			if c.left < 0 {
				c.left = int64(^uint64(0) >> 1)
			}
			if f.opcode == opContinuation {
				c.owner.Continues()
			}
			return nil
		}
		if err := c.takeControl(&f); err != nil {
			c.rerr = err
			return err
		}
	}
}

// takeControl deals with the control frame at hand, which lies whole in memory.
func (c *Conn) takeControl(f *frame) error {
	var copied [maxControl]byte
	payload := copied[:copy(copied[:], c.in.bytes()[f.header:f.header+int(f.payload)])]
	if f.masked {
		unmask(payload, f.mask)
	}
	c.Discard(f.header + int(f.payload))
	if f.opcode == opClose {
		return parseClose(payload)
	}
	c.owner.Control(f.opcode, payload)
	return nil
}

// betweenFrames makes err final unless it only says that the wait has ended, which does no harm to who waits outside of
// gorilla.
func (c *Conn) betweenFrames(err error) error {
	switch {
	case err == ErrInterrupted, err == ErrNothing:
		return err
	case c.tap.fragmented || c.Unread():
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

// ErrNothing says that there is nothing to read at the moment.
var ErrNothing = errors.New("nothing to read")

// receive reads into p, or behind the unread input when p is nil.
func (c *Conn) receive(p []byte) (n int, err error) {
	if c.gathers && !c.impatient {
		c.Scatter() // the input is used up
	}
	if !c.impatient && c.watched != nil && c.watched.ended() {
		return 0, ErrInterrupted // a peer that never stops sending must not keep the reader
	}
	if c.taken() {
		n, err = c.receiveTaken(p)
	} else {
		c.waiting.Store(true)
		n, err = c.receiveNet(p)
		c.waiting.Store(false)
	}
	if n > 0 {
		c.bytesIn.Add(uint64(n))
		return n, nil // an error that came with bytes will come again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return 0, err
}

// receiveNet reads from a connection of the net package. Nothing tells when it has something to read but the read
// itself: it waits with a buffer that is only large enough for most requests and small messages.
func (c *Conn) receiveNet(p []byte) (n int, err error) {
	switch {
	case p != nil:
		n, err = c.net.Read(p)
	case c.in == nil:
		first := smallBuffers.Get().(*[smallSize]byte)
		if n, err = c.net.Read(first[:]); n > 0 {
			c.in = holding(first[:n])
		}
		smallBuffers.Put(first)
	default:
		n, err = c.net.Read(c.in.data[c.in.w:])
		c.in.w += max(n, 0)
	}
	if n <= 0 && c.watched != nil && c.watched.ended() && isTimeout(err) {
		return 0, ErrInterrupted
	}
	return n, err
}

// receiveTaken reads from the descriptor. It borrows a buffer when there is something to put into it.
func (c *Conn) receiveTaken(p []byte) (n int, err error) {
	for {
		if n, err = c.tryReceive(p); err != ErrNothing || c.impatient {
			return n, err
		}
		c.waiting.Store(true)
		err = c.await()
		c.waiting.Store(false)
		if err != nil {
			return 0, err
		}
	}
}

func (c *Conn) tryReceive(p []byte) (int, error) {
	if !c.mayRead() {
		return 0, ErrNothing
	}
	if p != nil {
		return c.read(p)
	}
	b := c.in
	if b == nil {
		b = getBuffer()
	}
	n, err := c.read(b.data[b.w:])
	b.w += n
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

// ErrInterrupted says that a read ended because its context did.
var ErrInterrupted = errors.New("read interrupted")

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
			c.interruptRead()
			close(interrupted)
		})}
	}
	if ctx.Err() != nil {
		return ErrInterrupted
	}
	return nil
}

// interruptRead ends the wait of a read.
func (c *Conn) interruptRead() {
	if c.taken() {
		c.wake()
	} else {
		c.net.SetReadDeadline(longAgo)
	}
}

// Interrupt breaks off a read that waits, and all to come. On a connection that knows no deadlines it closes it. Only
// before Frame.
func (c *Conn) Interrupt() {
	if c.taken() {
		c.expire()
		return
	}
	if c.net.SetReadDeadline(longAgo) != nil {
		cut(c.net)
	}
}

// Unwatch makes reads wait without a context again.
func (c *Conn) Unwatch() {
	if c.stopWatching() && !c.taken() {
		c.net.SetReadDeadline(time.Time{})
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

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// Skip drops the rest of the current frame.
func (c *Conn) Skip() error {
	for c.left > 0 {
		if c.in == nil {
			if err := c.fill(); err != nil {
				return c.midFrame(err)
			}
		}
		n := int(min(int64(c.in.len()), c.left))
		c.left -= int64(n)
		c.Discard(n)
	}
	return nil
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
	if c.taken() {
		return c.Close()
	}
	if c.net.SetWriteDeadline(time.Now().Add(abandonTime)) != nil {
		return cut(c.net) // the goodbye of TLS could wait for ever
	}
	return c.net.Close()
}

// abandonTime is how long a connection whose handshake has failed may take to say goodbye.
const abandonTime = time.Second

// HangUp ends the connection as its own failure would.
func (c *Conn) HangUp() error {
	if c.owner == nil {
		return c.Close()
	}
	c.owner.Failed(net.ErrClosed)
	return nil
}

// Close closes the connection at once. Reads and writes under way end with an error.
func (c *Conn) Close() error {
	c.fail(net.ErrClosed, false)
	if c.taken() {
		c.closeDescriptor()
		return nil
	}
	return cut(c.net)
}

// SetDeadline does nothing: gorilla sets deadlines before each write, and its writes never wait.
func (c *Conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline sets the deadline of reads from the network, for programs that read through gorilla.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.taken() {
		c.setDeadline(t)
		return nil
	}
	return c.net.SetReadDeadline(t)
}

// SetWriteDeadline does nothing, as SetDeadline.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

var _ net.Conn = (*Conn)(nil)
