package netpoll

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/foyerws/foyer/internal/baton"
)

// A loop waits for many descriptors with one epoll set and notifies their Sockets of events, one after the other on
// one goroutine. There are as many loops as Go runs goroutines at once.
//
// The set itself is a descriptor in Go's own poller: a loop with nothing to do waits as any other goroutine does, and
// takes no thread.
//
// An owner that is notified of input runs the program's callbacks, which may be slow. A monitor looks at all loops about
// once a millisecond while they are busy. A loop that has hardly moved since is taken over: a new goroutine serves the
// descriptors that were still to come, while the old one finishes with the one it is at, and ends. That socket is notified
// on goroutines of its own for a while, so that a program whose callbacks take their time does not depend on
// the monitor.
type loop struct {
	epoll int
	file  *os.File // epoll again, for Go's poller
	raw   syscall.RawConn

	mu      sync.Mutex // guards:
	slots   []entry
	free    []int32
	count   int
	running bool
	ending  bool    // it will be seen soon whether the runner is still needed
	toFlush []Owner // whose Flush is to be called

	flushing baton.Baton // held by who does that

	runner atomic.Pointer[runner]
	seen   uint64 // the runner's position when the monitor looked last
}

// A slot is where a loop has a Socket. Its round tells the Sockets apart that were there one after the other: an event may
// come late.
type slot struct{ index, round int32 }

type entry struct {
	socket *Socket
	round  int32
}

// A runner is a goroutine that serves a loop.
type runner struct {
	// position counts the descriptors that were served, times two, plus one while one is. Who changes it first, the
	// runner or the monitor, has what comes next.
	position atomic.Uint64
	begin    uint64 // the position before the first of these:

	events  [batchSize]unix.EpollEvent
	sockets [batchSize]*Socket
	n       int                // of them there are
	ask     func(uintptr) bool // is poll; made once, because it would be an allocation each time
}

func newRunner() *runner {
	r := new(runner)
	r.ask = r.poll
	return r
}

// poll asks for what has happened, and reports false if that is nothing.
func (r *runner) poll(epoll uintptr) bool {
	n, err := unix.EpollWait(int(epoll), r.events[:], 0)
	r.n = max(n, 0)
	return r.n > 0 || err != nil && err != unix.EINTR
}

// batchSize is how many descriptors the kernel is asked for at once.
const batchSize = 128

// replaced is the position of a runner that was taken over.
const replaced = ^uint64(0)

var loops struct {
	mu   sync.Mutex
	all  []*loop
	next int
}

// pickLoop returns the loop for the next descriptor.
func pickLoop() (*loop, error) {
	loops.mu.Lock()
	defer loops.mu.Unlock()
	if len(loops.all) < runtime.GOMAXPROCS(0) {
		l, err := newLoop()
		if err == nil {
			loops.all = append(loops.all, l)
		} else if len(loops.all) == 0 {
			return nil, err
		}
	}
	loops.next = (loops.next + 1) % len(loops.all)
	return loops.all[loops.next], nil
}

func newLoop() (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	unix.SetNonblock(fd, true) // or os.NewFile would not give it to Go's poller
	l := &loop{epoll: fd, file: os.NewFile(uintptr(fd), "epoll")}
	if l.raw, err = l.file.SyscallConn(); err == nil {
		err = l.file.SetReadDeadline(time.Time{}) // fails if it is not in Go's poller
	}
	if err != nil {
		l.file.Close()
		return nil, err
	}
	return l, nil
}

// add puts s into the set, with the flags.
func (l *loop) add(s *Socket, flags uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.free); n > 0 {
		s.slot.index = l.free[n-1]
		l.free = l.free[:n-1]
	} else {
		s.slot.index = int32(len(l.slots))
		l.slots = append(l.slots, entry{})
	}
	e := &l.slots[s.slot.index]
	e.socket, s.slot.round = s, e.round
	s.loop = l
	if err := l.control(unix.EPOLL_CTL_ADD, s, inputEdges); err != nil {
		l.vacate(s)
		return err
	}
	s.flags.set(flags) // not before: arrived may close s. The loop needs l.mu to find the Socket of an event
	l.count++
	if !l.running {
		l.running = true
		l.run(newRunner())
	}
	return nil
}

// The edges that are waited for: always, and while output is blocked as well.
const (
	inputEdges  = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET&(1<<32-1)
	outputEdges = inputEdges | unix.EPOLLOUT
)

func (l *loop) control(op int, s *Socket, edges uint32) error {
	event := unix.EpollEvent{Events: edges, Fd: s.slot.index, Pad: s.slot.round}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.epoll, op, int(s.fd), &event))
}

// remove takes s out of the set, which closing the descriptor does as well unless another shares the socket.
func (l *loop) remove(s *Socket, shared bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if shared {
		unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, int(s.fd), nil)
	}
	l.vacate(s)
	if l.count--; l.count == 0 && !l.ending {
		l.ending = true
		l.file.SetReadDeadline(time.Now().Add(endDelay))
	}
}

// endDelay is for how long a runner waits for a new descriptor before it ends.
const endDelay = 100 * time.Millisecond

func (l *loop) vacate(s *Socket) {
	e := &l.slots[s.slot.index]
	e.socket = nil
	e.round++
	l.free = append(l.free, s.slot.index)
}

// run has r serve the loop.
func (l *loop) run(r *runner) {
	l.runner.Store(r)
	go func() {
		ended := false
		defer func() {
			if !ended { // a callback has ended the goroutine
				l.takeOver(r, r.position.Load())
			}
		}()
		l.serve(r)
		ended = true
	}()
}

// serve serves what r has, and then what comes.
func (l *loop) serve(r *runner) {
	for {
		at := r.begin
		for i := range r.n {
			next := r.begin + 2*uint64(i) + 1
			if !r.position.CompareAndSwap(at, next) {
				return
			}
			at = next
			if i == 0 {
				monitor.look()
			}
			l.dispatch(r.sockets[i], r.events[i].Events)
		}
		end := r.begin + 2*uint64(r.n)
		if !r.position.CompareAndSwap(at, end) {
			return
		}
		r.begin = end
		clear(r.sockets[:r.n])
		runtime.Gosched() // others want to run, too
		if !l.wait(r) {
			return
		}
	}
}

// dispatch passes events on to s.
func (l *loop) dispatch(s *Socket, events uint32) {
	if s == nil || !s.happened(events) {
		return
	}
	if s.slow.Load() > 0 {
		s.slow.Add(-1)
		go s.readable(false)
		return
	}
	s.readable(true)
}

// happened takes note of events. It reports whether the owner must be notified of input.
func (s *Socket) happened(events uint32) bool {
	hangsUp := false
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		hangsUp = s.flags.bits.Or(hungUp)&hungUp == 0
	}
	if events&unix.EPOLLPRI != 0 {
		s.flags.set(urgent)
	}
	if events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		s.owner.Writable()
	}
	if events&^unix.EPOLLOUT == 0 {
		return false
	}
	s.flags.set(ready)
	s.wake()
	if hangsUp {
		s.owner.HungUp()
	}
	return s.flags.has(attended | arriving)
}

// readable notifies the owner of input.
func (s *Socket) readable(onLoop bool) {
	if s.flags.take(arriving) {
		s.callArrived(onLoop)
	} else if s.flags.has(attended) {
		s.owner.Readable(onLoop)
	}
}

// callArrived calls arrived. The caller has taken the flag.
func (s *Socket) callArrived(onLoop bool) {
	r := s.more()
	arrived := r.arrived
	r.arrived = nil
	arrived(onLoop)
}

// wait waits until something has happened. It reports false when no descriptors are left.
func (l *loop) wait(r *runner) bool {
	r.n = 0
	l.raw.Read(r.ask)
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.n == 0 && l.ending { // the deadline has passed
		l.ending = false
		l.file.SetReadDeadline(time.Time{})
		if l.count == 0 {
			l.running = false
			return false
		}
	}
	for i, e := range r.events[:r.n] {
		if entry := l.slots[e.Fd]; entry.round == e.Pad {
			r.sockets[i] = entry.socket
		}
	}
	return true
}

// takeOver puts a new runner in the place of r, which was seen at a position and is still there. The new one goes on
// behind what r is at.
func (l *loop) takeOver(r *runner, at uint64) {
	if at == replaced || at&1 == 0 || !r.position.CompareAndSwap(at, replaced) {
		return
	}
	i := int(at-r.begin) / 2
	s := r.sockets[i]
	fresh := newRunner()
	fresh.n = copy(fresh.sockets[:], r.sockets[i+1:r.n])
	copy(fresh.events[:], r.events[i+1:r.n])
	l.run(fresh)
	if s != nil {
		s.slow.Store(slowTurns)
		s.owner.TakenOver()
	}
}

// flushLater has o.Flush called.
func (l *loop) flushLater(o Owner) {
	l.mu.Lock()
	l.toFlush = append(l.toFlush, o)
	l.mu.Unlock()
	if l.flushing.Leave() {
		go l.flush()
	}
}

// flush calls Flush of the owners that were left to it.
func (l *loop) flush() {
	if !l.flushing.Take() {
		return
	}
	var owners []Owner
	for again := true; again; again = !l.flushing.Return() {
		l.mu.Lock()
		owners, l.toFlush = l.toFlush, owners[:0]
		l.mu.Unlock()
		for _, o := range owners {
			o.Flush()
		}
		clear(owners)
	}
}
