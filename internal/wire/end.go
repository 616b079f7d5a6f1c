package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// A Sight is what can be seen of a peer without reading from the connection.
type Sight int

// The sights, worse ones later.
const (
	Unknown Sight = iota // it has to be read
	Quiet                // nothing has come that was not read
	Arrived              // something has
	Leaving              // something has, and the peer has closed its side behind it
	Cut                  // something has, and the connection is no more behind it
	Ended                // the peer has closed its side, and all it sent was read from the system
	Broken               // the connection is no more
)

// HungUp reports whether the client of a handshake has gone. It does not wait. Only before Frame.
func (c *Conn) HungUp() bool {
	seen := c.Glance()
	if seen == Unknown {
		if raw := rawConn(c.net); raw != nil {
			seen = lookRaw(raw)
		}
	}
	return seen == Broken || seen == Cut || !c.Unread() && (seen == Ended || seen == Leaving && c.Hides())
}

// Glance returns what can be seen of the peer. It does not wait, and may be called at any time. On what hides the end of the
// input, see Hides, it speaks of what lies below that.
func (c *Conn) Glance() Sight {
	if c.taken() {
		return c.look()
	}
	if stream, ok := c.net.(*Stream); ok {
		return stream.look()
	}
	if c.below != nil {
		return lookRaw(c.below)
	}
	return Unknown
}

// Hides reports whether the end of the input may stand in bytes that have to be read to know, as with TLS.
func (c *Conn) Hides() bool { return !c.taken() && c.below != nil }

// Look is Glance for the goroutine that has the reading side. It still does not wait.
func (c *Conn) Look() Sight {
	if seen := c.Glance(); seen != Unknown {
		return seen
	}
	if c.Unread() {
		return Arrived
	}
	err := c.net.SetReadDeadline(longAgo)
	c.net.SetReadDeadline(time.Time{})
	if errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) { // net.Pipe says so when either end is
		return Broken
	}
	return Unknown
}

// LookCloser reads ahead to see whether the peer is still there, and keeps what it finds. It waits for a millisecond, or
// for longer where TLS has something to answer that the peer does not take. Only for the goroutine that has the reading
// side of a Conn whose descriptor was not taken.
func (c *Conn) LookCloser() Sight {
	if c.Unread() {
		return Arrived
	}
	c.Unwatch() // a context that a Read had, and that may have ended
	if c.net.SetReadDeadline(time.Now().Add(time.Millisecond)) != nil {
		return c.Look()
	}
	_, err := c.receive(nil)
	c.net.SetReadDeadline(time.Time{})
	switch {
	case err == nil:
		return Arrived
	case err == ErrInterrupted, isTimeout(err):
		return Quiet
	}
	return Ended
}

// isTimeout reports whether err says that a deadline has passed.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// Done reports whether closing the connection now would lose nothing.
func (c *Conn) Done() bool { return c.taken() && c.BytesToWrite() == 0 }

// Released returns a channel that is closed when nobody uses what carries the connection any more, nil where that is not
// lent, see [Stream.Lend].
func (c *Conn) Released() <-chan struct{} {
	if !c.taken() {
		if stream, ok := c.net.(*Stream); ok && stream.lent {
			return stream.Released()
		}
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
		Linger(c.NetConn(), limit, c.rules.Server)
	default:
		closeWrite(c.NetConn())
	}
}

// Linger closes conn so that what was written last arrives: input that nobody read would turn the end into a reset,
// which eats it. With first it tells the peer that nothing more comes, and then it takes in what the peer still sends,
// for no longer than limit.
func Linger(conn net.Conn, limit time.Duration, first bool) {
	defer CutOff(conn)
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

// CutOff closes conn at once. Closing a TLS connection would wait for the peer to take a last record.
func CutOff(conn net.Conn) error {
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
