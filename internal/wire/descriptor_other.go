//go:build !linux

package wire

import (
	"net"
	"syscall"
	"time"
)

// A descriptor is never taken on this system: each socket that is waited for has a goroutine.
type descriptor struct{}

func (*Conn) takeDescriptor()     {}
func (*descriptor) taken() bool   { return false }
func (*descriptor) mayRead() bool { panic(noDescriptor) }

func (*descriptor) read([]byte) (int, error)          { panic(noDescriptor) }
func (*descriptor) writeVector([][]byte) (int, error) { panic(noDescriptor) }
func (*descriptor) awaitRoom() error                  { panic(noDescriptor) }
func (*descriptor) await() error                      { panic(noDescriptor) }
func (*Conn) expire()                                 { panic(noDescriptor) }
func (*Conn) bounded() bool                           { panic(noDescriptor) }
func (*descriptor) setDeadline(time.Time)             { panic(noDescriptor) }
func (*descriptor) wake()                             { panic(noDescriptor) }
func (*descriptor) look() Sight                       { panic(noDescriptor) }
func (*Conn) framed()                                 {}
func (*descriptor) keptOffLoop() bool                 { return true }
func (*descriptor) closeDescriptor()                  { panic(noDescriptor) }

// An Acceptor does not exist on this system.
type Acceptor struct{}

// NewAcceptor returns nil.
func NewAcceptor(net.Listener) *Acceptor { return nil }

// Close is not called.
func (*Acceptor) Close() error { panic(noDescriptor) }

// Accept is not called.
func (*Acceptor) Accept() (*Conn, error) { panic(noDescriptor) }

const noDescriptor = "wire: no descriptors on this system"

// Attend has the owner told of input from now on instead of a goroutine that waits for it. It reports false where that
// cannot be.
func (*Conn) Attend() bool { return false }

// Attended reports whether the owner is told of input.
func (*Conn) Attended() bool { return false }

// Idle reports whether nothing has come on a Conn that is attended to.
func (*Conn) Idle() bool { return true }

func (*Conn) carrySoon() { panic(noDescriptor) }

// NetConn returns the connection underneath.
func (c *Conn) NetConn() net.Conn { return c.net }

// LocalAddr returns the address of this end.
func (c *Conn) LocalAddr() net.Addr { return c.net.LocalAddr() }

// RemoteAddr returns the address of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.net.RemoteAddr() }

func (*network) writable() bool { return false }

func rawConn(net.Conn) syscall.RawConn { return nil }

func lookRaw(syscall.RawConn) Sight { panic(noDescriptor) }

// SeenHungUp reports whether the peer is known to have closed its side.
func (*Conn) SeenHungUp() bool { return false }

// AcknowledgedWithin does not know here whether the peer's kernel has acknowledged something.
func (*Conn) AcknowledgedWithin(time.Duration) (yes, known bool) { return false, false }
