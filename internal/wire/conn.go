// Package wire is the path between gorilla's Conn and the network.
//
// A [Conn] is the only net.Conn that gorilla sees. Reading, it hands out well-formed data frames, one at a time, and
// deals with control frames itself, so that gorilla never waits for anything between two messages and waiting there
// can be cancelled. Writing, it takes bytes into memory and brings them to the network from there, so that gorilla
// never waits at all and no lock is held during I/O.
package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
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
	MaxMessage  int64 // bytes of payload of a message that is not compressed; 0: no limit
}

// Conn is a net.Conn for gorilla's Conn. One goroutine reads at a time; any number write.
type Conn struct {
	net net.Conn
	raw syscall.RawConn // of a TCP or Unix socket where the system has non-blocking calls, else nil

	// Input. Only the goroutine that reads touches these.
	in      []byte // a pooled buffer while it holds bytes, else nil
	r, w    int    // what is unread is in[r:w]
	dst     []byte // where the next raw read goes
	n       int    // what it gave
	err     error
	tap     tap
	framed  bool  // the handshake is over: bytes are frames
	left    int64 // bytes of the current frame that were not handed out, its header included
	rerr    error // what ended the input
	control func(opcode byte, payload []byte)
	tryRead func(fd uintptr) bool

	// The context that may interrupt a waiting read, see watch.
	watched     <-chan struct{}
	stop        func() bool
	interrupted chan struct{} // closed when the end of the watched context has done its work

	waiting atomic.Bool
	bytesIn atomic.Uint64

	output
}

// New returns a Conn on conn. The bytes of early, which somebody read from conn before, come first. What is written
// stays in memory until Open.
func New(conn net.Conn, early []byte) *Conn {
	c := &Conn{net: conn}
	c.raw = rawConn(conn)
	c.tryRead = c.readNow
	if len(early) > 0 {
		c.in = getBuffer()
		if len(early) > len(c.in) {
			c.in = make([]byte, len(early))
		}
		c.w = copy(c.in, early)
		c.bytesIn.Store(uint64(len(early)))
	}
	c.output.conn = c
	return c
}

// Frame ends the handshake: from here on the input is frames held to l. control gets each ping and pong on the reading
// goroutine; the payload is its to keep. failed is told, once, that the output has failed.
func (c *Conn) Frame(l Limits, control func(opcode byte, payload []byte), failed func(error)) {
	c.tap.limits = l
	c.control = control
	c.framed = true
	c.output.failed = failed
}

// NetConn returns the connection underneath.
func (c *Conn) NetConn() net.Conn { return c.net }

// BytesIn returns how many bytes came from the network.
func (c *Conn) BytesIn() uint64 { return c.bytesIn.Load() }

// Waiting reports whether a goroutine is waiting for input at this moment.
func (c *Conn) Waiting() bool { return c.waiting.Load() }

// Unread reports whether bytes were read from the network that nobody took. Only for the goroutine that reads.
func (c *Conn) Unread() bool { return c.r < c.w }

// Peek returns the unread bytes that are in memory. They stay valid until the next call of another method.
func (c *Conn) Peek() []byte { return c.in[c.r:c.w] }

// Discard drops the first n bytes of what Peek returned.
func (c *Conn) Discard(n int) {
	c.r += n
	if c.r == c.w {
		c.releaseInput()
	}
}

// Fill waits for more bytes behind those that Peek returns, which must be fewer than 16 KiB.
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
	if c.left > 0 {
		return nil
	}
	return c.advance()
}

// Within makes ctx the context of the reads that follow.
func (c *Conn) Within(ctx context.Context) error {
	if c.rerr != nil {
		return c.rerr
	}
	return c.watch(ctx)
}

// MidMessage reports whether the message at hand has frames that have not come yet.
func (c *Conn) MidMessage() bool { return c.tap.fragmented }

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
	if c.r == c.w {
		if len(p) >= directSize {
			n, err := c.receive(p)
			c.left -= int64(n)
			return n, c.midFrame(err)
		}
		if err := c.fill(); err != nil {
			return 0, c.midFrame(err)
		}
	}
	n := copy(p, c.in[c.r:c.w])
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

// advance moves to the next data frame.
func (c *Conn) advance() error {
	if !c.framed {
		return errors.New("read before the handshake was over")
	}
	for {
		f, ok, err := c.tap.peek(c.in[c.r:c.w])
		if err != nil {
			c.rerr = err
			return err
		}
		if !ok || f.control() && c.w-c.r < f.header+int(f.payload) {
			if err := c.fill(); err != nil {
				return c.betweenFrames(err)
			}
			continue
		}
		if !f.control() {
			c.tap.accept(&f)
			c.left = int64(f.header) + f.payload
			if c.left < 0 {
				c.left = int64(^uint64(0) >> 1)
			}
			return nil
		}
		payload := f.unmask(c.in[c.r+f.header : c.r+f.header+int(f.payload)])
		c.Discard(f.header + int(f.payload))
		if f.opcode == opClose {
			c.rerr = parseClose(payload)
			return c.rerr
		}
		c.control(f.opcode, payload)
	}
}

// betweenFrames makes err final unless it only says that the context ended, which does no harm to who waits outside of
// gorilla.
func (c *Conn) betweenFrames(err error) error {
	switch {
	case err == ErrInterrupted:
		return err
	case c.tap.fragmented || c.r < c.w:
		return c.midFrame(err)
	}
	c.rerr = err
	return err
}

// fill reads once from the network behind what is unread.
func (c *Conn) fill() error {
	if c.r > 0 {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
	}
	_, err := c.receive(nil)
	return err
}

// receive reads into p, or behind the unread input when p is nil.
func (c *Conn) receive(p []byte) (int, error) {
	c.waiting.Store(true)
	c.dst = p
	var n int
	var err error
	if c.raw != nil {
		n, err = c.receiveRaw()
	} else {
		n, err = c.net.Read(c.room())
	}
	c.waiting.Store(false)
	c.dst = nil

	if n > 0 {
		c.bytesIn.Add(uint64(n))
		if p == nil {
			c.w += n
		}
		return n, nil // an error that came with bytes will come again
	}
	if c.r == c.w {
		c.releaseInput()
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	if c.watched != nil && isTimeout(err) {
		select {
		case <-c.watched:
			return 0, ErrInterrupted
		default:
		}
	}
	return 0, err
}

// room returns where the next bytes go, and borrows a buffer if there is none.
func (c *Conn) room() []byte {
	if c.dst != nil {
		return c.dst
	}
	if c.in == nil {
		c.in = getBuffer()
	}
	return c.in[c.w:]
}

// vacate gives the buffer back while there is nothing to put into it.
func (c *Conn) vacate() {
	if c.dst == nil && c.w == 0 {
		c.releaseInput()
	}
}

func (c *Conn) releaseInput() {
	if c.in != nil {
		putBuffer(c.in)
	}
	c.in, c.r, c.w = nil, 0, 0
}

// ErrInterrupted says that a read ended because its context did.
var ErrInterrupted = errors.New("read interrupted")

// watch arranges that the end of ctx interrupts a read that waits. The arrangement outlives the call: a program reads
// in a loop with one context, and then finds it made already.
func (c *Conn) watch(ctx context.Context) error {
	done := ctx.Done()
	if done != c.watched {
		c.Unwatch()
		if done != nil {
			interrupted := make(chan struct{})
			c.watched, c.interrupted = done, interrupted
			c.stop = context.AfterFunc(ctx, func() {
				c.net.SetReadDeadline(longAgo)
				close(interrupted)
			})
		}
	}
	if done != nil && ctx.Err() != nil {
		return ErrInterrupted
	}
	return nil
}

// Interrupt breaks off a read that waits, and all to come. On a connection that knows no deadlines it closes it.
func (c *Conn) Interrupt() {
	if c.net.SetReadDeadline(longAgo) != nil {
		c.net.Close()
	}
}

// Unwatch makes reads wait without a context again.
func (c *Conn) Unwatch() {
	if c.stopWatching() {
		c.net.SetReadDeadline(time.Time{})
	}
}

// stopWatching forgets the watched context and reports whether its end has set a deadline.
func (c *Conn) stopWatching() (ended bool) {
	if c.watched == nil {
		return false
	}
	if ended = !c.stop(); ended {
		<-c.interrupted
	}
	c.watched, c.stop, c.interrupted = nil, nil, nil
	return ended
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// HungUp reports whether the peer has gone: the connection is broken, or the peer closed it and nothing that it sent is
// left to read. It loses nothing of the input, and does not wait but for a millisecond where TLS may hide the end. Only
// for the goroutine that reads.
func (c *Conn) HungUp() bool {
	if c.raw != nil {
		seen := look(c.raw)
		return seen == broken || seen == ended && !c.Unread()
	}
	deadline := longAgo
	if below, ok := underTLS(c.net); ok {
		if raw := rawConn(below); raw != nil {
			switch look(raw) {
			case broken:
				return true
			case quiet:
				return false
			}
			deadline = time.Now().Add(time.Millisecond) // for the record that TLS has, or that has come
		}
	}
	if c.Unread() {
		return false
	}
	if err := c.net.SetReadDeadline(deadline); err != nil {
		return errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) // net.Pipe says so when either end is
	}
	_, err := c.receive(nil)
	c.net.SetReadDeadline(time.Time{})
	return err != nil && !isTimeout(err)
}

// isTimeout reports whether err says that a deadline has passed.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// A sight is what can be seen of a connection without reading from it.
type sight int

const (
	quiet   sight = iota // nothing has come
	arrived              // something has come
	ended                // the peer has closed, and all it sent was read
	broken               // the connection is no more
)

// Finish closes the connection when all that waits was written. With linger it sees to it that this arrives though the
// peer may still be sending; a client waits for the server to close first then (RFC 6455 section 7.1.1). It takes
// longer than limit only where TLS needs up to five seconds to find that its goodbye cannot be sent.
func (c *Conn) Finish(limit time.Duration, linger bool) {
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	switch err := c.Flush(ctx); {
	case err != nil:
	case linger:
		Linger(c.net, limit, c.tap.limits.Server)
	default:
		closeWrite(c.net)
	}
}

// Linger closes conn so that what was written last arrives: input that nobody read would turn the end into a reset,
// which eats it. With first it tells the peer that nothing more comes, and then it takes in what the peer still sends,
// for no longer than limit.
func Linger(conn net.Conn, limit time.Duration, first bool) {
	defer cut(conn)
	if conn.SetDeadline(time.Now().Add(limit)) != nil {
		return
	}
	if !first || closeWrite(conn) {
		io.Copy(io.Discard, io.LimitReader(conn, drainSize))
	}
}

// closeWrite tells the peer that nothing more comes, and reports whether conn has a way to.
func closeWrite(conn net.Conn) bool {
	half, ok := conn.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}

// cut closes conn at once. Closing a TLS connection would wait for the peer to take a last record.
func cut(conn net.Conn) error {
	if below, ok := underTLS(conn); ok {
		below.Close()
	}
	return conn.Close()
}

// underTLS returns the connection that carries a TLS connection.
func underTLS(conn net.Conn) (below net.Conn, ok bool) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn(), true
	}
	return nil, false
}

// drainSize is how much of a peer's unread input Linger takes in before it closes all the same.
const drainSize = 1 << 20

// Skip drops the rest of the current frame.
func (c *Conn) Skip() error {
	for c.left > 0 {
		if c.r == c.w {
			if err := c.fill(); err != nil {
				return c.midFrame(err)
			}
		}
		n := int(min(int64(c.w-c.r), c.left))
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

// Close closes the connection at once. Reads and writes under way end with an error.
func (c *Conn) Close() error {
	c.output.fail(net.ErrClosed, false)
	return cut(c.net)
}

// Done reports whether closing the connection now would lose nothing.
func (c *Conn) Done() bool { return c.raw != nil && c.BytesToWrite() == 0 }

// LocalAddr and RemoteAddr are those of the connection underneath.
func (c *Conn) LocalAddr() net.Addr  { return c.net.LocalAddr() }
func (c *Conn) RemoteAddr() net.Addr { return c.net.RemoteAddr() }

// SetDeadline does nothing: gorilla sets deadlines before each write, and its writes never wait.
func (c *Conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline sets the deadline of reads from the network.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.net.SetReadDeadline(t) }

// SetWriteDeadline does nothing, as SetDeadline.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

var _ net.Conn = (*Conn)(nil)
