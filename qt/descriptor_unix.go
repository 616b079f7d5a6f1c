//go:build unix

package qt

import (
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

var errNotListening = errors.New("not a listening socket")

// listenerFrom returns a listener on a copy of fd, and closes fd.
func listenerFrom(fd int) (net.Listener, error) {
	if fd < 0 {
		return nil, errNotListening
	}
	if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
		return nil, errNotListening
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	return net.FileListener(f)
}

// descriptorOf returns the socket of a listener, or -1.
func descriptorOf(l net.Listener) int {
	fd := -1
	if conn, ok := l.(syscall.Conn); ok {
		if raw, err := conn.SyscallConn(); err == nil {
			raw.Control(func(listening uintptr) { fd = int(listening) })
		}
	}
	return fd
}
