// Package netpoll moves the bytes of connections.
//
// On Linux a [Socket] takes the descriptor of a TCP or Unix socket from the net package and waits for it in epoll sets of its own:
// it needs no goroutine while nothing happens. Any other connection, and every one elsewhere, is a [Blocking] one: who reads it
// waits on a goroutine.
package netpoll

import (
	"errors"
	"net"
	"time"
)

// A Transport moves the bytes of one connection. One goroutine reads and one writes at a time; everything else may be called at any
// time.
type Transport interface {
	// Own makes owner the one that is told of events, before anything else is called. With arrived, that is called once: when there
	// is something to read, or the deadline has passed, or reads were interrupted. On a loop it must not wait.
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
	// AwaitRoom has the owner told when the network takes bytes again, or the connection is broken.
	AwaitRoom() error
	// Roomy reports whether the network seems to have room for a few KiB. The caller is the one that writes.
	Roomy() bool

	// SetDeadline has reads fail from t on, and writes that wait. The zero time is no deadline.
	SetDeadline(t time.Time) error
	// Close closes the connection at once. Calls that wait return.
	Close() error

	// Attend has the owner told of input from now on, instead of a goroutine that waits for it, and reports false where that cannot
	// be.
	Attend() bool
	// Idle reports whether nothing has come that was not read, where the owner is told of input.
	Idle() bool
	// Soon has the owner's Flush called a little later, together with those of others, or reports false.
	Soon() bool
	// Crowded reports whether the owner is told of input on goroutines of its own for now, because it was slow on the loop.
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

// An Owner is told what happens to a Transport. On a Blocking one nothing does.
type Owner interface {
	// Readable is told where the owner is attended to that there may be something to read, also while a call before is under way.
	// On a loop, what takes long in it has the loop taken over.
	Readable(onLoop bool)
	// Writable is told after AwaitRoom. It does not wait.
	Writable()
	// HungUp is told, at least once, that the peer has closed its side. It does not wait.
	HungUp()
	// TakenOver is told when a call of Readable was so slow that the loop goes on without it.
	TakenOver()
	// Flush is told after Soon. It does not wait.
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
