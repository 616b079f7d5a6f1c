package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// A sight is what can be seen of a connection without reading from it.
type sight int

const (
	quiet   sight = iota // nothing has come
	arrived              // something has come
	ended                // the peer has closed, and all it sent was read
	broken               // the connection is no more
)

// HungUp reports whether the peer has gone: the connection is broken, or the peer closed it and nothing that it sent is
// left to read. It loses nothing of the input, and does not wait but for a millisecond where TLS may hide the end. Only
// for the goroutine that reads.
func (c *Conn) HungUp() bool {
	if c.taken() {
		seen := c.look()
		return seen == broken || seen == ended && !c.Unread()
	}
	if stream, ok := c.net.(*Stream); ok && stream.Gone(c.Unread()) {
		return true
	}
	deadline := longAgo
	if c.below != nil {
		switch lookRaw(c.below) {
		case broken:
			return true
		case quiet:
			return false
		}
		deadline = time.Now().Add(time.Millisecond) // for the record that TLS has, or that has come
	}
	if c.Unread() {
		return false
	}
	if err := c.net.SetReadDeadline(deadline); err != nil {
		return errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) // net.Pipe says so when either end is
	}
	_, err := c.receive(nil)
	c.net.SetReadDeadline(time.Time{})
	return err != nil && err != ErrInterrupted && !isTimeout(err)
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
		Linger(c.NetConn(), limit, c.limits.Server)
	default:
		closeWrite(c.NetConn())
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

// drainSize is how much of a peer's unread input Linger takes in before it closes all the same.
const drainSize = 1 << 20

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
