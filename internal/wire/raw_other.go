//go:build !linux && !darwin

package wire

import (
	"net"
	"syscall"
)

func rawConn(net.Conn) syscall.RawConn { return nil }

func (c *Conn) receiveRaw() (int, error) { panic("wire: no raw connections on this system") }

func (c *Conn) readNow(uintptr) bool { panic("wire: no raw connections on this system") }

func writeNow(syscall.RawConn, net.Buffers) (int, error) {
	panic("wire: no raw connections on this system")
}

func look(syscall.RawConn) sight { panic("wire: no raw connections on this system") }
