package netpoll

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"golang.org/x/sys/unix"
)

// A Socket is a TCP or Unix socket whose descriptor is ours. An idle one costs a quarter of what net.TCPConn and the runtime's poller
// keep, and a loop that serves many of them saves the system calls and the switching between goroutines with which each would find
// out for itself that it has nothing to read.
type Socket struct {
	owner  Owner
	loop   *loop // that waits for it
	slot   slot  // where the loop has it
	fd     int32
	users  atomic.Int32 // system calls under way; below zero when it is to be closed
	flags  flags
	slow   atomic.Int32                  // how many more times the owner is not notified on the loop
	local  unique.Handle[netip.AddrPort] // many have the same
	remote netip.AddrPort
	reader sync.WaitGroup // lets the goroutine wait that reads
	rare   atomic.Pointer[rare]
}

// The flags of a Socket.
type flags struct{ bits atomic.Uint32 }

const (
	ready       = 1 << iota // there may be something to read
	hungUp                  // the peer has closed or reset: a read will never find nothing
	attended                // the owner is notified of input; nobody waits for it
	closed                  // by us
	overdue                 // the deadline of reads has passed
	interrupted             // reads are not to wait
	waiting                 // a goroutine waits for input
	arriving                // arrived has not been called
	urgent                  // urgent data has come: a short read need not have read all there is
)

func (f *flags) has(bits uint32) bool { return f.bits.Load()&bits != 0 }
func (f *flags) set(bits uint32)      { f.bits.Or(bits) }
func (f *flags) clear(bits uint32)    { f.bits.And(^bits) }

// take clears a flag, and reports whether it was set.
func (f *flags) take(bit uint32) bool { return f.has(bit) && f.bits.And(^bit)&bit != 0 }

// A rare is what few Sockets have, or for a short time.
type rare struct {
	mu            sync.Mutex
	local, remote net.Addr          // of a socket that is not TCP
	shared        net.Conn          // what NetConn has made
	deadline      *time.Timer       // of reads
	arrived       func(onLoop bool) // see Own
}

// more returns what few Sockets have.
func (s *Socket) more() *rare {
	if r := s.rare.Load(); r != nil {
		return r
	}
	s.rare.CompareAndSwap(nil, new(rare))
	return s.rare.Load()
}

// Poll returns a Socket in the place of t where that is the connection of a TCP or Unix socket as the net package has it: other types
// may do something with the bytes on their way. Where that does not work it returns t.
func Poll(t Transport, owner Owner) Transport {
	b, ok := t.(*Blocking)
	if !ok {
		return t
	}
	raw := rawConn(b.Conn)
	if raw == nil {
		return t
	}
	fd := -1
	raw.Control(func(theirs uintptr) { fd, _ = unix.FcntlInt(theirs, unix.F_DUPFD_CLOEXEC, 0) })
	if fd < 0 {
		return t // too many open files
	}
	s := &Socket{fd: int32(fd)}
	local, isTCP := b.Conn.LocalAddr().(*net.TCPAddr)
	remote, _ := b.Conn.RemoteAddr().(*net.TCPAddr)
	if isTCP && remote != nil {
		s.local, s.remote = unique.Make(local.AddrPort()), remote.AddrPort()
	} else {
		r := s.more()
		r.local, r.remote = b.Conn.LocalAddr(), b.Conn.RemoteAddr()
	}
	if s.Own(owner, nil) != nil {
		return t
	}
	b.Conn.Close()
	return s
}

// Own sets the owner.
func (s *Socket) Own(owner Owner, arrived func(onLoop bool)) error {
	s.owner = owner
	flags := uint32(0)
	if arrived != nil {
		s.more().arrived = arrived
		flags = arriving
	}
	l, err := pickLoop()
	if err == nil {
		err = l.add(s, flags)
	}
	switch {
	case err != nil:
		s.SetDeadline(time.Time{})
		unix.Close(int(s.fd))
		return noRoom{err}
	case s.flags.has(interrupted | overdue): // already
		s.stir()
	}
	return nil
}

// noRoom says that the system had no room for a connection, and may have later.
type noRoom struct{ error }

func (noRoom) Temporary() bool { return true }
func (e noRoom) Unwrap() error { return e.error }

// Waits returns false.
func (s *Socket) Waits() bool { return false }

// closing is what is added to users when the descriptor is to be closed, and gone when it was.
const (
	closing = -1 << 20
	gone    = 2 * closing
)

// use lets a system call use the descriptor; it stays open until unuse.
func (s *Socket) use() bool {
	if s.users.Add(1) < 0 {
		s.unuse()
		return false
	}
	return true
}

func (s *Socket) unuse() {
	if s.users.Add(-1) == closing && s.users.CompareAndSwap(closing, gone) {
		unix.Close(int(s.fd))
	}
}

// Close closes the descriptor as soon as nobody uses it.
func (s *Socket) Close() error {
	if s.flags.bits.Or(closed)&closed != 0 {
		return nil
	}
	var shared net.Conn
	if r := s.rare.Load(); r != nil {
		r.mu.Lock()
		if r.deadline != nil {
			r.deadline.Stop()
		}
		shared = r.shared
		r.mu.Unlock()
	}
	s.loop.remove(s, shared != nil)
	if shared != nil {
		shared.Close()
	}
	s.users.Add(1)
	s.users.Add(closing)
	s.unuse()
	s.wake()
	return nil
}

// mayRead reports whether a read may find something. A loop says when there is more.
func (s *Socket) mayRead() bool { return s.flags.has(ready | hungUp) }

// Read reads what is there.
func (s *Socket) Read(p []byte) (n int, err error) {
	if !s.mayRead() {
		return 0, ErrNothing
	}
	if !s.use() {
		return 0, net.ErrClosed
	}
	gone := s.flags.has(hungUp)
	s.flags.clear(ready)
	for {
		n, err = receive(int(s.fd), p)
		if err != unix.EINTR {
			break
		}
	}
	s.unuse()
	switch {
	case err == unix.EAGAIN:
		if gone {
			s.flags.clear(hungUp) // it has not; or it has since, and the loop has not said so yet
		}
		return 0, ErrNothing
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		s.flags.set(ready)
		return 0, io.EOF
	case n == len(p), s.flags.has(urgent):
		s.flags.set(ready)
	}
	return n, nil
}

// Write writes as much of the pieces as the kernel takes.
func (s *Socket) Write(pieces [][]byte) (n int, err error) {
	if !s.use() {
		return 0, net.ErrClosed
	}
	defer s.unuse()
	size := 0
	for _, p := range pieces {
		size += len(p)
	}
	whole := pieces[0]
	gather := len(pieces) > 1
	if gather && size <= joinSize {
		b := joined.Get().(*[joinSize]byte)
		defer joined.Put(b)
		whole, gather = b[:0], false
		for _, p := range pieces {
			whole = append(whole, p...)
		}
	}
	for {
		if !gather {
			n, err = send(int(s.fd), whole)
		} else {
			n, err = sendAll(int(s.fd), pieces)
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

// joinSize is up to how many bytes it is faster to copy several pieces together than to have the kernel gather them.
const joinSize = 4 << 10

var joined = sync.Pool{New: func() any { return new([joinSize]byte) }}

// AwaitRoom makes the loop call Writable, perhaps at once.
func (s *Socket) AwaitRoom() error {
	if !s.use() {
		return net.ErrClosed
	}
	defer s.unuse()
	return s.loop.control(unix.EPOLL_CTL_MOD, s, outputEdges)
}

// Roomy returns true: a Write does not wait.
func (s *Socket) Roomy() bool { return true }

// Await waits until there may be something to read.
func (s *Socket) Await() error {
	for {
		s.reader.Add(1)
		s.flags.set(waiting)
		ends, err := s.awaited()
		if ends {
			s.wake()
		}
		s.reader.Wait()
		if ends {
			return err
		}
	}
}

// wake ends the wait of a reader.
func (s *Socket) wake() {
	if s.flags.take(waiting) {
		s.reader.Done()
	}
}

// awaited reports whether a wait for input is over, and whether it ended with something else.
func (s *Socket) awaited() (bool, error) {
	switch {
	case s.flags.has(interrupted):
		return true, ErrInterrupted
	case s.flags.has(overdue):
		return true, os.ErrDeadlineExceeded
	case s.mayRead():
		return true, nil
	case s.flags.has(closed):
		return true, net.ErrClosed
	}
	return false, nil
}

// Interrupt has reads not wait.
func (s *Socket) Interrupt() error {
	s.flags.set(interrupted)
	s.stir()
	return nil
}

// Resume ends an Interrupt.
func (s *Socket) Resume() { s.flags.clear(interrupted) }

// stir has whoever waits for input look again.
func (s *Socket) stir() {
	s.wake()
	if s.flags.take(arriving) {
		go s.callArrived(false)
	}
}

// SetDeadline makes reads fail from t on. Writes do not wait. Nobody else may use the Socket meanwhile but the loop.
func (s *Socket) SetDeadline(t time.Time) error {
	r := s.rare.Load()
	if r == nil {
		if t.IsZero() {
			return nil
		}
		r = s.more()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.deadline != nil {
		r.deadline.Stop()
	}
	s.flags.clear(overdue)
	r.deadline = nil
	if t.IsZero() {
		if r.shared == nil && s.remote.IsValid() {
			s.rare.Store(nil) // the handshake is over, and needs it no more
		}
		return nil
	}
	var timer *time.Timer
	timer = time.AfterFunc(time.Until(t), func() {
		r.mu.Lock()
		current := r.deadline == timer
		if current {
			s.flags.set(overdue)
		}
		r.mu.Unlock()
		if current {
			s.stir()
		}
	})
	r.deadline = timer
	return nil
}

// Attend notifies the owner of input. Nobody may be reading.
func (s *Socket) Attend() bool {
	s.flags.set(attended)
	return true
}

// Idle reports whether nothing has come that was not read.
func (s *Socket) Idle() bool { return !s.mayRead() }

// FlushLater has the loop's flusher call the owner's Flush.
func (s *Socket) FlushLater() bool {
	s.loop.flushLater(s.owner)
	return true
}

// Crowded reports whether the owner is notified on goroutines of its own. A loop that is taken over sets that first.
func (s *Socket) Crowded() bool { return s.slow.Load() > 0 }

// HungUp reports whether the peer is known to have closed its side.
func (s *Socket) HungUp() bool { return s.flags.has(hungUp) }

// AcknowledgedWithin asks the kernel. It is known for TCP only: the peers of Unix sockets do not vanish without a sign.
func (s *Socket) AcknowledgedWithin(d time.Duration) (yes, known bool) {
	if !s.use() {
		return false, false
	}
	defer s.unuse()
	return acknowledgedFD(int(s.fd), d)
}

// Look looks at the connection. The system is only asked after the loop has seen the peer leave.
func (s *Socket) Look() Sight {
	switch {
	case !s.flags.has(hungUp | closed | ready):
		return Quiet
	case !s.flags.has(hungUp | closed):
		return Arrived
	case !s.use():
		return Broken
	}
	defer s.unuse()
	return lookFD(int(s.fd))
}

// NetConn returns a connection that shares the socket, the same one each time.
func (s *Socket) NetConn() net.Conn {
	r := s.more()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shared == nil {
		r.shared = s.share()
	}
	switch {
	case r.shared != nil:
		return r.shared
	case s.remote.IsValid():
		return &net.TCPConn{}
	}
	return &net.UnixConn{}
}

// share returns a connection of the net package on the same socket, nil if there cannot be one.
func (s *Socket) share() net.Conn {
	if !s.flags.has(closed) && s.use() {
		defer s.unuse()
		if fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
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
func (s *Socket) LocalAddr() net.Addr {
	if !s.remote.IsValid() {
		return s.more().local
	}
	return net.TCPAddrFromAddrPort(s.local.Value())
}

// RemoteAddr returns the address of the other end.
func (s *Socket) RemoteAddr() net.Addr {
	if !s.remote.IsValid() {
		return s.more().remote
	}
	return net.TCPAddrFromAddrPort(s.remote)
}
