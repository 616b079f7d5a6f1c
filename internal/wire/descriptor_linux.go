package wire

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unique"

	"golang.org/x/sys/unix"
)

// A descriptor is the file descriptor of a TCP or Unix socket that was taken from the net package. An idle one costs a
// quarter of what net.TCPConn and the runtime's poller keep, and a loop that serves many of them saves the system calls
// and the switching between goroutines with which each would find out for itself that it has nothing to read.
type descriptor struct {
	loop  *loop        // that waits for it; nil: not taken
	slot  slot         // where the loop has it
	fd    int32        //
	users atomic.Int32 // system calls under way; below zero when it is to be closed

	flags  flags
	slow   atomic.Int32 // how many more times the owner is not to be told on the loop
	reader waiter
	local  unique.Handle[netip.AddrPort] // many have the same
	remote netip.AddrPort
	rare   *rare // what few have; guarded by the lock of the output
}

// The flags of a descriptor.
type flags struct{ bits atomic.Uint32 }

const (
	ready    = 1 << iota // there may be something to read
	hungUp               // the peer has closed or reset: a read will never find nothing
	attended             // the owner is told of input, nobody waits for it
	closed               // by us
	overdue              // the deadline of reads has passed
	owned                // the owner is there, and told when the peer hangs up
	urgent               // urgent data has come: a short read need not have read all there is
)

func (f *flags) has(bits uint32) bool { return f.bits.Load()&bits != 0 }
func (f *flags) set(bits uint32)      { f.bits.Or(bits) }
func (f *flags) clear(bits uint32)    { f.bits.And(^bits) }

// A rare is what few descriptors have.
type rare struct {
	local, remote net.Addr    // of a socket that is not TCP
	shared        net.Conn    // what NetConn has made
	deadline      *time.Timer // of reads
}

// withRare has f change what few descriptors have.
func (c *Conn) withRare(f func(*rare)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rare == nil {
		c.rare = new(rare)
	}
	f(c.rare)
}

// rarely returns what few descriptors have.
func (c *Conn) rarely() rare {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rare == nil {
		return rare{}
	}
	return *c.rare
}

// takeDescriptor takes the socket from the net package. Where that does not work all stays as it was.
func (c *Conn) takeDescriptor() {
	switch c.net.(type) {
	case *net.TCPConn, *net.UnixConn: // other types may do something with the bytes on their way
	default:
		return
	}
	raw := rawConn(c.net)
	if raw == nil {
		return
	}
	fd := -1
	raw.Control(func(theirs uintptr) { fd, _ = unix.FcntlInt(theirs, unix.F_DUPFD_CLOEXEC, 0) })
	if fd < 0 || c.haveDescriptor(fd) != nil {
		return // too many open files
	}
	local, isTCP := c.net.LocalAddr().(*net.TCPAddr)
	remote, _ := c.net.RemoteAddr().(*net.TCPAddr)
	if isTCP && remote != nil {
		c.local, c.remote = unique.Make(local.AddrPort()), remote.AddrPort()
	} else {
		c.rare = &rare{local: c.net.LocalAddr(), remote: c.net.RemoteAddr()}
	}
	c.net.Close()
	c.network = nil
}

// haveDescriptor makes fd, a non-blocking socket, that of the Conn.
func (c *Conn) haveDescriptor(fd int) error {
	l, err := pickLoop()
	if err == nil {
		c.fd = int32(fd)
		err = l.add(c)
	}
	if err != nil {
		unix.Close(fd)
	}
	return err
}

// An Acceptor accepts the connections of a TCP listener past the net package: what that would set up for each would be
// taken down again right after the handshake.
type Acceptor struct {
	file  *os.File // shares the listening socket
	raw   syscall.RawConn
	local netip.AddrPort // of every connection; invalid when they differ
}

// NewAcceptor returns an Acceptor for l, nil if there is none for its kind. It accepts until both are closed.
func NewAcceptor(l net.Listener) *Acceptor {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil
	}
	control, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	fd := -1
	control.Control(func(listener uintptr) { fd, _ = unix.FcntlInt(listener, unix.F_DUPFD_CLOEXEC, 0) })
	if fd < 0 {
		return nil
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // as the net package does; each connection has it from there
	a := &Acceptor{file: os.NewFile(uintptr(fd), "listener")}
	if a.raw, err = a.file.SyscallConn(); err != nil {
		a.file.Close()
		return nil
	}
	if addr := tcp.Addr().(*net.TCPAddr); !addr.IP.IsUnspecified() {
		a.local = addr.AddrPort()
	}
	return a
}

// Close has Accept return.
func (a *Acceptor) Close() error { return a.file.Close() }

// Accept waits for the next connection.
func (a *Acceptor) Accept() (*Conn, error) {
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
	c := &Conn{}
	local := a.local
	if !local.IsValid() {
		name, _ := syscall.Getsockname(fd)
		local = addrPort(name)
	}
	c.local, c.remote = unique.Make(local), addrPort(from)
	if err := c.haveDescriptor(fd); err != nil {
		return nil, noRoom{err}
	}
	return c, nil
}

// noRoom says that the system had no room for a connection, and may have later.
type noRoom struct{ error }

func (noRoom) Temporary() bool { return true }
func (e noRoom) Unwrap() error { return e.error }

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

func (d *descriptor) taken() bool { return d.loop != nil }

// closing is what is added to users when the descriptor is to be closed, and closed when it was.
const (
	closing = -1 << 20
	gone    = 2 * closing
)

// use lets a system call use the descriptor; it stays open until unuse.
func (d *descriptor) use() bool {
	if d.users.Add(1) < 0 {
		d.unuse()
		return false
	}
	return true
}

func (d *descriptor) unuse() {
	if d.users.Add(-1) == closing && d.users.CompareAndSwap(closing, gone) {
		unix.Close(int(d.fd))
	}
}

// closeDescriptor closes the descriptor as soon as nobody uses it.
func (c *Conn) closeDescriptor() {
	if c.flags.bits.Or(closed)&closed != 0 {
		return
	}
	few := c.rarely()
	shared := few.shared
	if few.deadline != nil {
		few.deadline.Stop()
	}
	c.loop.remove(c, shared != nil)
	if shared != nil {
		shared.Close()
	}
	c.users.Add(1)
	c.users.Add(closing)
	c.unuse()
	c.wake()
}

// mayRead reports whether a read may find something. A loop tells when there is more.
func (d *descriptor) mayRead() bool { return d.flags.has(ready | hungUp) }

// read reads what is there, ErrNothing if that is nothing.
func (d *descriptor) read(p []byte) (n int, err error) {
	if !d.use() {
		return 0, net.ErrClosed
	}
	gone := d.flags.has(hungUp)
	d.flags.clear(ready)
	for {
		n, err = unix.Read(int(d.fd), p)
		if err != unix.EINTR {
			break
		}
	}
	d.unuse()
	switch {
	case err == unix.EAGAIN:
		if gone {
			d.flags.clear(hungUp) // it has not; or it has since, and the loop has not told yet
		}
		return 0, ErrNothing
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		d.flags.set(ready)
		return 0, io.EOF
	case n == len(p), d.flags.has(urgent):
		d.flags.set(ready)
	}
	return n, nil
}

// writeVector writes as much of b as the kernel takes. When that is not all, the error is ErrNothing.
func (d *descriptor) writeVector(b [][]byte) (n int, err error) {
	if !d.use() {
		return 0, net.ErrClosed
	}
	defer d.unuse()
	size := 0
	for _, p := range b {
		size += len(p)
	}
	for {
		if len(b) == 1 {
			n, err = unix.Write(int(d.fd), b[0])
		} else {
			n, err = unix.Writev(int(d.fd), b)
		}
		if err != unix.EINTR {
			break
		}
	}
	switch {
	case err == unix.EAGAIN:
		return 0, ErrNothing
	case err != nil:
		return 0, os.NewSyscallError("write", err)
	case n < size:
		return n, ErrNothing
	}
	return n, nil
}

// awaitRoom has the loop call unblock when the kernel takes bytes again, or the connection is broken, if need be at
// once.
func (c *Conn) awaitRoom() error {
	if !c.use() {
		return net.ErrClosed
	}
	defer c.unuse()
	return c.loop.control(unix.EPOLL_CTL_MOD, c, outputEdges)
}

// await waits until there may be something to read.
func (c *Conn) await() error {
	for {
		c.reader.begin()
		ends, err := c.awaited()
		if ends {
			c.reader.wake()
		}
		c.reader.wait()
		if ends {
			return err
		}
	}
}

// awaited reports whether a wait for input is over, and whether it ended with something else.
func (c *Conn) awaited() (bool, error) {
	switch {
	case c.watched != nil && c.watched.ended():
		return true, ErrInterrupted
	case c.flags.has(overdue):
		return true, os.ErrDeadlineExceeded
	case c.mayRead():
		return true, nil
	case c.flags.has(closed):
		return true, net.ErrClosed
	}
	return false, nil
}

// setDeadline makes reads fail from t on.
func (c *Conn) setDeadline(t time.Time) {
	c.withRare(func(r *rare) {
		if r.deadline != nil {
			r.deadline.Stop()
		}
		c.flags.clear(overdue)
		r.deadline = nil
		if t.IsZero() {
			return
		}
		var timer *time.Timer
		timer = time.AfterFunc(time.Until(t), func() {
			c.withRare(func(r *rare) {
				if r.deadline == timer {
					c.expire()
				}
			})
		})
		r.deadline = timer
	})
}

// bounded reports whether reads have a deadline.
func (c *Conn) bounded() bool { return c.rarely().deadline != nil }

// expire has the deadline of reads pass now.
func (c *Conn) expire() {
	c.flags.set(overdue)
	c.wake()
}

// wake ends the wait of a reader.
func (c *Conn) wake() { c.reader.wake() }

// A waiter lets one goroutine wait for others.
type waiter struct {
	waits atomic.Bool
	group sync.WaitGroup
}

func (w *waiter) begin() {
	w.group.Add(1)
	w.waits.Store(true)
}

func (w *waiter) wait() { w.group.Wait() }

func (w *waiter) wake() {
	if w.waits.Load() && w.waits.CompareAndSwap(true, false) {
		w.group.Done()
	}
}

// Attend has the owner told of input from now on instead of a goroutine that waits for it. It reports false where that
// cannot be. Nobody reads at the time.
func (c *Conn) Attend() bool {
	if !c.taken() {
		return false
	}
	c.flags.set(attended)
	return true
}

// Attended reports whether the owner is told of input.
func (c *Conn) Attended() bool { return c.flags.has(attended) }

// Idle reports whether nothing has come on a Conn that is attended to.
func (c *Conn) Idle() bool { return !c.mayRead() && !c.Unread() }

// happened is told by the loop what has happened to the descriptor. It reports whether the owner is to be told.
func (c *Conn) happened(events uint32) bool {
	hangsUp := false
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		hangsUp = c.flags.bits.Or(hungUp)&(hungUp|owned) == owned
	}
	if events&unix.EPOLLPRI != 0 {
		c.flags.set(urgent)
	}
	if events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		c.unblock()
	}
	if events&^unix.EPOLLOUT == 0 {
		return false
	}
	c.flags.set(ready)
	c.wake()
	if hangsUp {
		c.owner.HungUp()
	}
	return c.flags.has(attended)
}

// keptOffLoop reports whether the owner is told on goroutines of its own. A loop that is taken over says so before it lets
// go of what was gathered.
func (d *descriptor) keptOffLoop() bool { return d.slow.Load() > 0 }

// framed has the owner told when the peer hangs up, which may have happened before.
func (c *Conn) framed() {
	if c.flags.bits.Or(owned)&hungUp != 0 {
		c.owner.HungUp()
	}
}

// SeenHungUp reports whether the peer is known to have closed its side.
func (c *Conn) SeenHungUp() bool { return c.flags.has(hungUp) }

// AcknowledgedWithin reports whether the peer's kernel has acknowledged something within the last d. It is known for TCP
// only. The peers of Unix sockets do not vanish without a sign.
func (c *Conn) AcknowledgedWithin(d time.Duration) (yes, known bool) {
	ask := func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			yes, known = time.Duration(info.Last_ack_recv)*time.Millisecond <= d+clockSlack, true
		}
	}
	switch {
	case !c.taken() && c.below != nil:
		c.below.Control(ask)
	case c.taken() && c.use():
		ask(uintptr(c.fd))
		c.unuse()
	}
	return yes, known
}

// clockSlack is how much coarser the kernel's clock may be.
const clockSlack = 10 * time.Millisecond

// look looks at the connection. As long as the loop has not told that the peer is gone there is no need to ask the system.
func (c *Conn) look() Sight {
	switch {
	case !c.flags.has(hungUp | closed | ready):
		return Quiet
	case !c.flags.has(hungUp | closed):
		return Arrived
	case !c.use():
		return Broken
	}
	defer c.unuse()
	return lookFD(int(c.fd))
}

// NetConn returns the connection underneath. Where its descriptor was taken it is one that shares it.
func (c *Conn) NetConn() net.Conn {
	if !c.taken() {
		return c.net
	}
	var shared net.Conn
	c.withRare(func(r *rare) {
		if r.shared == nil {
			r.shared = c.share()
		}
		shared = r.shared
	})
	switch {
	case shared != nil:
		return shared
	case c.remote.IsValid():
		return &net.TCPConn{}
	}
	return &net.UnixConn{}
}

// share returns a connection of the net package on the same socket, nil if there cannot be one.
func (c *Conn) share() net.Conn {
	if !c.flags.has(closed) && c.use() {
		defer c.unuse()
		if fd, err := unix.FcntlInt(uintptr(c.fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			f := os.NewFile(uintptr(fd), "socket")
			defer f.Close()
			if conn, err := net.FileConn(f); err == nil {
				return conn
			}
		}
	}
	return nil
}

// LocalAddr returns the address of this end.
func (c *Conn) LocalAddr() net.Addr {
	switch {
	case !c.taken():
		return c.net.LocalAddr()
	case !c.remote.IsValid():
		return c.rarely().local
	}
	return net.TCPAddrFromAddrPort(c.local.Value())
}

// RemoteAddr returns the address of the other end.
func (c *Conn) RemoteAddr() net.Addr {
	switch {
	case !c.taken():
		return c.net.RemoteAddr()
	case !c.remote.IsValid():
		return c.rarely().remote
	}
	return net.TCPAddrFromAddrPort(c.remote)
}

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

// writable reports whether the TCP connection under TLS seems to have room for inlineSize bytes. Where it does it is not
// asked again the next few times: Linux calls it writable when a third of its buffer is free.
func (n *network) writable() (ok bool) {
	switch {
	case n.below == nil:
		return false
	case n.credit > 0:
		n.credit--
		return true
	}
	n.below.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		events, _ := unix.Poll(poll, 0)
		ok = events > 0
	})
	if ok {
		n.credit = 3
	}
	return ok
}

// lookRaw looks at a connection of the net package.
func lookRaw(raw syscall.RawConn) (seen Sight) {
	if raw.Control(func(fd uintptr) { seen = lookFD(int(fd)) }) != nil {
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
