//go:build !linux

package netpoll

import (
	"net"
	"syscall"
	"time"
)

// Poll returns t: there are no epoll sets on this system.
func Poll(t Transport, _ Owner) Transport { return t }

// NewAcceptor returns an Acceptor for l.
func NewAcceptor(l net.Listener) Acceptor { return Plain(l) }

func rawConn(net.Conn) syscall.RawConn { return nil }

func look(syscall.RawConn) Sight { return Unknown }

func writable(syscall.RawConn) bool { return false }

func acknowledged(syscall.RawConn, time.Duration) (yes, known bool) { return false, false }
