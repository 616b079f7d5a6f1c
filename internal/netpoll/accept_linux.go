package netpoll

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"unique"

	"golang.org/x/sys/unix"
)

// A tcpAcceptor accepts the connections of a TCP listener past the net package: what that would set up for each would be
// taken down again right after the handshake.
type tcpAcceptor struct {
	listener net.Listener
	file     *os.File // shares the listening socket
	raw      syscall.RawConn
	local    netip.AddrPort // of every connection; invalid when they differ
}

// NewAcceptor returns an Acceptor for l, which makes Sockets where l listens on TCP.
func NewAcceptor(l net.Listener) Acceptor {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return Plain(l)
	}
	control, err := tcp.SyscallConn()
	if err != nil {
		return Plain(l)
	}
	fd := -1
	control.Control(func(listener uintptr) { fd, _ = unix.FcntlInt(listener, unix.F_DUPFD_CLOEXEC, 0) })
	if fd < 0 {
		return Plain(l)
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // as the net package does; each connection has it from there
	a := &tcpAcceptor{listener: l, file: os.NewFile(uintptr(fd), "listener")}
	if a.raw, err = a.file.SyscallConn(); err != nil {
		a.file.Close()
		return Plain(l)
	}
	if addr := tcp.Addr().(*net.TCPAddr); !addr.IP.IsUnspecified() {
		a.local = addr.AddrPort()
	}
	return a
}

// Close has Accept return.
func (a *tcpAcceptor) Close() error {
	err := a.listener.Close()
	a.file.Close()
	return err
}

// Accept waits for the next connection.
func (a *tcpAcceptor) Accept() (Transport, error) {
	fd, from, err := -1, syscall.Sockaddr(nil), error(nil)
	closed := a.raw.Read(func(listener uintptr) bool {
		for {
			// Not package unix's, which asks the system for each connection's protocol.
			fd, from, err = syscall.Accept4(int(listener), syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
			if err != syscall.EINTR && err != syscall.ECONNABORTED {
				return err != syscall.EAGAIN
			}
		}
	})
	if closed != nil {
		return nil, closed
	}
	if err != nil {
		return nil, os.NewSyscallError("accept4", err)
	}
	local := a.local
	if !local.IsValid() {
		name, _ := syscall.Getsockname(fd)
		local = addrPort(name)
	}
	return &Socket{fd: int32(fd), local: unique.Make(local), remote: addrPort(from)}, nil
}

// addrPort returns an address as Go has it.
func addrPort(sa syscall.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *syscall.SockaddrInet6:
		addr := netip.AddrFrom16(a.Addr).Unmap()
		if a.ZoneId != 0 {
			if i, err := net.InterfaceByIndex(int(a.ZoneId)); err == nil {
				addr = addr.WithZone(i.Name)
			}
		}
		return netip.AddrPortFrom(addr, uint16(a.Port))
	}
	return netip.AddrPort{}
}
