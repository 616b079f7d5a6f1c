// Package netpoll moves the bytes of connections.
//
// On Linux a [Socket] takes the descriptor of a TCP or Unix socket from the net package and waits for it in epoll sets of its own:
// it needs no goroutine while nothing happens. Any other connection, and every one on other systems, is a [Blocking] one: a
// goroutine waits in its Read.
package netpoll

import (
	"errors"
	"net"
	"time"
)

// A Transport moves the bytes of one connection. One goroutine reads and one writes at a time; everything else may be called at any
// time.
type Transport interface {
	// Own sets the owner, which is notified of events. It is called first. arrived, if not nil, is called once: when there is something
	// to read, when the deadline has passed, or when reads were interrupted. On a loop it must not wait.
	Own(owner Owner, arrived func(onLoop bool)) error

	// Waits reports whether Read and Write wait.
	Waits() bool
	// Read reads some bytes. Where Read does not wait, ErrNothing says that none have come.
	Read(p []byte) (int, error)
	// Await waits until Read may return something else than ErrNothing.
	Await() error
	// Interrupt has reads that would wait, now and later, return ErrInterrupted until Resume is called. The error is that of a
	// connection whose reads cannot be interrupted.
	Interrupt() error
	// Resume ends an Interrupt.
	Resume()
	// Write writes the pieces one behind the other, or as much of them as it can; that is something, unless there is an error. Where
	// Write does not wait, ErrNothing says that the network takes no more than n bytes for now.
	Write(pieces [][]byte) (n int, err error)
	// AwaitRoom calls the owner's Writable when the network takes bytes again, or the connection is broken.
	AwaitRoom() error
	// Roomy reports whether the network seems to have room for a few KiB. The caller is the one that writes.
	Roomy() bool

	// SetDeadline has reads fail from t on, and writes that wait. The zero time is no deadline.
	SetDeadline(t time.Time) error
	// Close closes the connection at once. Calls that wait return.
	Close() error

	// Attend notifies the owner of input from now on, so that no goroutine needs to wait for it. It reports false if that is not
	// possible.
	Attend() bool
	// Idle reports whether there is no unread input. It is only known where the owner is notified of input.
	Idle() bool
	// FlushLater has the owner's Flush called a little later, together with those of others, or reports false.
	FlushLater() bool
	// Crowded reports whether the owner is notified on goroutines of its own for now, because it was slow on the loop.
	Crowded() bool

	// Look returns what can be seen of the peer without reading.
	Look() Sight
	// HungUp reports whether the peer is known to have closed its side.
	HungUp() bool
	// AcknowledgedWithin reports whether the peer's kernel has acknowledged something within the last d, where that is known.
	AcknowledgedWithin(d time.Duration) (yes, known bool)

	// NetConn returns the connection as the net package has it. A Socket makes one that shares its socket.
	NetConn() net.Conn
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
}

// An Owner is notified of what happens to a Transport. A Blocking one never calls it.
type Owner interface {
	// Readable is called after Attend when there may be something to read, also while an earlier call is still running. If it is
	// slow on a loop, the loop is taken over.
	Readable(onLoop bool)
	// Writable is called after AwaitRoom. It does not wait.
	Writable()
	// HungUp is called, at least once, when the peer has closed its side. It does not wait.
	HungUp()
	// TakenOver is called when a call of Readable was so slow that the loop has gone on without it.
	TakenOver()
	// Flush is called after FlushLater. It does not wait.
	Flush()
}

// ErrNothing says that there is nothing to read at the moment, or no room to write.
var ErrNothing = errors.New("nothing to read")

// ErrInterrupted says that a read was interrupted.
var ErrInterrupted = errors.New("read interrupted")

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

// An Acceptor accepts connections.
type Acceptor interface {
	// Accept waits for the next connection.
	Accept() (Transport, error)
	// Close closes the listener.
	Close() error
}

// A plainAcceptor accepts connections of any listener.
type plainAcceptor struct{ net.Listener }

// Plain returns the Acceptor of any listener. Its connections are Blocking.
func Plain(l net.Listener) Acceptor { return plainAcceptor{l} }

func (a plainAcceptor) Accept() (Transport, error) {
	conn, err := a.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return NewBlocking(conn), nil
}
