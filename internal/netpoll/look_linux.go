package netpoll

import (
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// rawConn gives access to the descriptor of a connection of the net package, nil where it has none.
func rawConn(conn net.Conn) syscall.RawConn {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		if raw, err := conn.(syscall.Conn).SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// look looks at a connection of the net package, if there is one.
func look(raw syscall.RawConn) (seen Sight) {
	if raw != nil && raw.Control(func(fd uintptr) { seen = lookFD(int(fd)) }) != nil {
		return Broken
	}
	return seen
}

// lookFD looks at a socket without taking anything from it.
func lookFD(fd int) Sight {
	var b [1]byte
	n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return Quiet
	case err != nil:
		return Broken
	case n == 0:
		return Ended
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	unix.Poll(poll, 0)
	switch seen := poll[0].Revents; {
	case seen&unix.POLLERR != 0: // a reset; and not POLLHUP, which a Unix socket has when it was closed in order
		return Cut
	case seen&unix.POLLRDHUP != 0:
		return Leaving
	}
	return Arrived
}

// writable reports whether the kernel calls a connection writable.
func writable(raw syscall.RawConn) (ok bool) {
	raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		events, _ := unix.Poll(poll, 0)
		ok = events > 0
	})
	return ok
}

// acknowledged reports whether the kernel of the peer of a TCP connection, if there is one, has acknowledged something within the
// last d.
func acknowledged(raw syscall.RawConn, d time.Duration) (yes, known bool) {
	if raw != nil {
		raw.Control(func(fd uintptr) { yes, known = acknowledgedFD(int(fd), d) })
	}
	return yes, known
}

func acknowledgedFD(fd int, d time.Duration) (yes, known bool) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return false, false
	}
	return time.Duration(info.Last_ack_recv)*time.Millisecond <= d+clockSlack, true
}

// clockSlack is how much coarser the kernel's clock may be.
const clockSlack = 10 * time.Millisecond
