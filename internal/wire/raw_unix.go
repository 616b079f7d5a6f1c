//go:build linux || darwin

package wire

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// rawConn gives access to the descriptor of a TCP or Unix socket. Other types that have a descriptor may do something
// with the bytes on their way, and are left alone.
func rawConn(conn net.Conn) syscall.RawConn {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		if raw, err := conn.(syscall.Conn).SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// receiveRaw reads once, waiting without a buffer.
func (c *Conn) receiveRaw() (int, error) {
	if err := c.raw.Read(c.tryRead); err != nil {
		return 0, err
	}
	return c.n, c.err
}

// readNow reads what is there. It returns false when that is nothing, and holds no buffer then.
func (c *Conn) readNow(fd uintptr) bool {
	for {
		c.n, c.err = unix.Read(int(fd), c.room())
		switch c.err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			c.vacate()
			return false
		case nil:
			if c.n == 0 {
				c.err = io.EOF
			}
		default:
			c.n, c.err = 0, os.NewSyscallError("read", c.err)
		}
		return true
	}
}

// maxVector is how many buffers go into one system call.
const maxVector = 64

// writeNow writes as much of b as the kernel takes at once.
func writeNow(raw syscall.RawConn, b net.Buffers) (n int, err error) {
	rawErr := raw.Write(func(fd uintptr) bool {
		for {
			if len(b) == 1 {
				n, err = unix.Write(int(fd), b[0])
			} else {
				n, err = unix.Writev(int(fd), b[:min(len(b), maxVector)])
			}
			if err != unix.EINTR {
				return true
			}
		}
	})
	n = max(n, 0)
	switch {
	case rawErr != nil:
		return 0, rawErr
	case err == unix.EAGAIN:
		return n, nil
	case err != nil:
		return n, os.NewSyscallError("write", err)
	}
	return n, nil
}

// look looks at a connection.
func look(raw syscall.RawConn) (seen sight) {
	err := raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			seen = quiet
		case err != nil:
			seen = broken
		case n == 0:
			seen = ended
		default:
			seen = arrived
			// A reset may stand behind it.
			poll := []unix.PollFd{{Fd: int32(fd)}}
			unix.Poll(poll, 0)
			if poll[0].Revents&unix.POLLERR != 0 { // and not POLLHUP, which a Unix socket has when it was closed in order
				seen = broken
			}
		}
	})
	if err != nil {
		return broken
	}
	return seen
}
