package netpoll

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// A Blocking is a connection whose reads and writes wait: any net.Conn.
type Blocking struct {
	Conn        net.Conn
	below       syscall.RawConn // of the TCP connection under TLS, else nil
	interrupted atomic.Bool
	credit      int // how many times more Roomy says yes
}

// NewBlocking returns a Blocking for conn.
func NewBlocking(conn net.Conn) *Blocking {
	b := &Blocking{Conn: conn}
	if below, ok := underTLS(conn); ok {
		b.below = rawConn(below)
	}
	return b
}

// Own calls arrived on a goroutine, because only a read can find out whether there is input.
func (b *Blocking) Own(_ Owner, arrived func(onLoop bool)) error {
	if arrived != nil {
		go arrived(false)
	}
	return nil
}

// Waits returns true.
func (b *Blocking) Waits() bool { return true }

// Read is net.Conn's.
func (b *Blocking) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if n <= 0 && err != nil && b.interrupted.Load() && IsTimeout(err) {
		err = ErrInterrupted
	}
	return n, err
}

// Await returns at once: Read waits.
func (b *Blocking) Await() error { return nil }

// Interrupt makes use of the deadline for reads.
func (b *Blocking) Interrupt() error {
	b.interrupted.Store(true)
	return b.Conn.SetReadDeadline(longAgo)
}

// Resume takes the deadline for reads back.
func (b *Blocking) Resume() {
	b.interrupted.Store(false)
	b.Conn.SetReadDeadline(time.Time{})
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// pieceSize is the most that one write is given, so that a peer which takes bytes slowly is seen to take them.
const pieceSize = 64 << 10

// Write waits until the network has some of the first piece.
func (b *Blocking) Write(pieces [][]byte) (int, error) {
	p := pieces[0][:min(len(pieces[0]), pieceSize)]
	n, err := b.Conn.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}

// AwaitRoom does nothing: Write waits.
func (b *Blocking) AwaitRoom() error { return nil }

// Roomy asks the kernel. When it says yes it is not asked again the next few times: Linux calls a connection writable when a third of
// its buffer is free.
func (b *Blocking) Roomy() bool {
	if b.credit > 0 {
		b.credit--
		return true
	}
	if b.below == nil || !writable(b.below) {
		return false
	}
	b.credit = 3
	return true
}

// SetDeadline is net.Conn's.
func (b *Blocking) SetDeadline(t time.Time) error { return b.Conn.SetDeadline(t) }

// Close closes the connection without the goodbye of TLS.
func (b *Blocking) Close() error { return CutOff(b.Conn) }

// Attend returns false.
func (b *Blocking) Attend() bool { return false }

// Idle returns true: only a read could find out.
func (b *Blocking) Idle() bool { return true }

// FlushLater returns false.
func (b *Blocking) FlushLater() bool { return false }

// Crowded returns true: no owner is notified on a loop.
func (b *Blocking) Crowded() bool { return true }

// Look looks at what carries the connection. Where that is under TLS it does not see an end that TLS has in what was not read.
func (b *Blocking) Look() Sight {
	switch conn := b.Conn.(type) {
	case interface{ Look() Sight }: // a stream of HTTP/2
		return conn.Look()
	case *net.TCPConn, *net.UnixConn:
		return look(rawConn(conn))
	}
	return look(b.below)
}

// Hides reports whether the end of the input may stand in bytes that have to be read to know, as with TLS.
func (b *Blocking) Hides() bool { return b.below != nil }

// HungUp returns false: only Look can find out.
func (b *Blocking) HungUp() bool { return false }

// AcknowledgedWithin asks the kernel about the connection under TLS.
func (b *Blocking) AcknowledgedWithin(d time.Duration) (yes, known bool) {
	return acknowledged(b.below, d)
}

// NetConn returns the connection.
func (b *Blocking) NetConn() net.Conn { return b.Conn }

// LocalAddr is net.Conn's.
func (b *Blocking) LocalAddr() net.Addr { return b.Conn.LocalAddr() }

// RemoteAddr is net.Conn's.
func (b *Blocking) RemoteAddr() net.Addr { return b.Conn.RemoteAddr() }

// IsTimeout reports whether err says that a deadline has passed.
func IsTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
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
