//go:build linux

package main

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// serveTCP is the limit: an event loop like foyer's that sends back what it reads and knows nothing of WebSockets.
func serveTCP(o options) error {
	loop, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	unix.SetNonblock(loop, true)
	raw, err := os.NewFile(uintptr(loop), "epoll").SyscallConn()
	if err != nil {
		return err
	}
	l, err := o.listen()
	if err != nil {
		return err
	}
	conns := make(map[int32]net.Conn) // keeps them open
	go echoTCP(raw)
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		c, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			return err
		}
		c.Control(func(fd uintptr) {
			conns[int32(fd)] = conn
			unix.EpollCtl(loop, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: int32(fd)})
		})
	}
}

func echoTCP(loop syscall.RawConn) {
	events := make([]unix.EpollEvent, 128)
	buf := make([]byte, 64<<10)
	for {
		n := 0
		loop.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events, 0)
			return n > 0
		})
		for _, e := range events[:n] {
			for {
				n, err := unix.Read(int(e.Fd), buf)
				if n <= 0 || err != nil {
					break
				}
				writeAll(int(e.Fd), buf[:n])
				if n < len(buf) {
					break
				}
			}
		}
	}
}

// writeAll writes p, waiting where it must.
func writeAll(fd int, p []byte) {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if err == unix.EAGAIN {
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1)
			continue
		}
		if err != nil {
			return
		}
		p = p[n:]
	}
}
