package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/foyerws/foyer/internal/netpoll"
	"github.com/foyerws/foyer/internal/stream"
)

// HungUp reports whether the client of a handshake has gone. It does not wait. Only before Frame.
func (c *Conn) HungUp() bool {
	seen := c.Glance()
	return seen == netpoll.Broken || seen == netpoll.Cut || !c.Unread() && (seen == netpoll.Ended || seen == netpoll.Leaving && c.Hides())
}

// Glance returns what can be seen of the peer. It does not wait, and may be called at any time. On what hides the end of the
// input, see Hides, it speaks of what lies below that.
func (c *Conn) Glance() netpoll.Sight { return c.transport.Look() }

// Hides reports whether the end of the input may stand in bytes that have to be read to know, as with TLS.
func (c *Conn) Hides() bool {
	b, ok := c.transport.(*netpoll.Blocking)
	return ok && b.Hides()
}

// SeenHungUp reports whether the peer is known to have closed its side.
func (c *Conn) SeenHungUp() bool { return c.transport.HungUp() }

// AcknowledgedWithin reports whether the peer's kernel has acknowledged something within the last d, where that is known.
func (c *Conn) AcknowledgedWithin(d time.Duration) (yes, known bool) {
	return c.transport.AcknowledgedWithin(d)
}

// Look is Glance for the goroutine that has the reading side. It still does not wait.
func (c *Conn) Look() netpoll.Sight {
	if seen := c.Glance(); seen != netpoll.Unknown {
		return seen
	}
	if c.Unread() {
		return netpoll.Arrived
	}
	err := c.transport.Interrupt()
	c.transport.Resume()
	if errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) { // net.Pipe says so when either end is
		return netpoll.Broken
	}
	return netpoll.Unknown
}

// LookCloser reads ahead to see whether the peer is still there, and keeps what it finds. It waits for a millisecond, or
// for longer where TLS has something to answer that the peer does not take. Only for the goroutine that has the reading
// side.
func (c *Conn) LookCloser() netpoll.Sight {
	if c.Unread() {
		return netpoll.Arrived
	}
	c.Unwatch() // a context that a Read had, and that may have ended
	conn := c.conn()
	if conn == nil || conn.SetReadDeadline(time.Now().Add(time.Millisecond)) != nil {
		return c.Look()
	}
	_, err := c.receive(nil)
	conn.SetReadDeadline(time.Time{})
	switch {
	case err == nil:
		return netpoll.Arrived
	case err == ErrInterrupted, netpoll.IsTimeout(err):
		return netpoll.Quiet
	}
	return netpoll.Ended
}

// Done reports whether closing the connection now would lose nothing.
func (c *Conn) Done() bool { return !c.transport.Waits() && !c.OutputWaits() }

// Released returns a channel that is closed when nobody uses what carries the connection any more, nil where that is not
// lent, see [stream.Stream.Lend].
func (c *Conn) Released() <-chan struct{} {
	if s, ok := c.conn().(*stream.Stream); ok && s.Lent() {
		return s.Released()
	}
	return nil
}

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
		Linger(c.NetConn(), limit, c.rules.Load().Server)
	default:
		closeWrite(c.NetConn())
	}
}

// Linger closes conn so that what was written last arrives: input that nobody read would turn the end into a reset,
// which eats it. With first it tells the peer that nothing more comes, and then it takes in what the peer still sends,
// for no longer than limit.
func Linger(conn net.Conn, limit time.Duration, first bool) {
	defer netpoll.CutOff(conn)
	if conn.SetDeadline(time.Now().Add(limit)) != nil {
		return
	}
	if !first || closeWrite(conn) {
		io.Copy(io.Discard, io.LimitReader(conn, drainSize))
	}
}

// drainSize is how much of a peer's unread input Linger takes in before it closes all the same.
const drainSize = 4 << 20

// closeWrite tells the peer that nothing more comes, and reports whether conn has a way to.
func closeWrite(conn net.Conn) bool {
	half, ok := conn.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}
