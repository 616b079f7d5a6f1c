//go:build unix

package foyer

import (
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenerFile returns a copy of a listener's file. That of net.TCPListener.File would not do: its Fd method, which
// os/exec calls, makes the listener itself block, so that it could not be closed before one more connection has come.
func listenerFile(l net.Listener) (*os.File, error) {
	conn, ok := l.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var dupErr error
	if err := raw.Control(func(listening uintptr) {
		fd, dupErr = unix.FcntlInt(listening, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, os.NewSyscallError("fcntl", dupErr)
	}
	return os.NewFile(uintptr(fd), "listener"), nil
}
