package netpoll

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These calls do for sockets what read(2), write(2) and writev(2) do. The kernel skips what it does for files: an echo of short messages
// takes 3 % less CPU time. None of them waits, whatever mode a program may have put the descriptor into, so the scheduler is not told of
// them either.

// receive reads what is there.
func receive(fd int, p []byte) (int, error) {
	return result(unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		unix.MSG_DONTWAIT, 0, 0))
}

// send writes as much of p as the kernel takes.
func send(fd int, p []byte) (int, error) {
	return result(unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0))
}

// A vector is the pieces of one call, as the kernel wants them.
type vector struct {
	header unix.Msghdr
	pieces []unix.Iovec
}

var vectors = sync.Pool{New: func() any { return new(vector) }}

// sendAll writes as much of the pieces as the kernel takes.
func sendAll(fd int, pieces [][]byte) (int, error) {
	v := vectors.Get().(*vector)
	for _, p := range pieces {
		piece := unix.Iovec{Base: unsafe.SliceData(p)}
		piece.SetLen(len(p))
		v.pieces = append(v.pieces, piece)
	}
	v.header.Iov = unsafe.SliceData(v.pieces)
	v.header.SetIovlen(len(v.pieces))
	n, err := result(unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&v.header)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL))
	clear(v.pieces)
	v.pieces = v.pieces[:0]
	vectors.Put(v)
	return n, err
}

func result(n, _ uintptr, e unix.Errno) (int, error) {
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}
