package wire

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A loop waits for many descriptors with one epoll set and tells their Conns what has happened, one after the other on
// one goroutine. There are as many loops as Go runs goroutines at once.
//
// The set itself is a descriptor in Go's own poller: a loop with nothing to do waits as any other goroutine does, and
// takes no thread.
//
// An owner that is told of input runs the program's callbacks, which may be slow. A monitor looks at all loops about
// once a millisecond while they are busy. A loop that has hardly moved since is taken over: a new goroutine serves the
// descriptors that were still to come, while the old one finishes with the one it is at, and ends. That socket is told
// of input on goroutines of its own for a while, so that a program whose callbacks take their time does not depend on
// the monitor.
type loop struct {
	epoll int
	file  *os.File // epoll again, for Go's poller
	raw   syscall.RawConn

	mu      sync.Mutex // guards:
	slots   []seat
	free    []int32
	count   int
	running bool
	ending  bool    // it will be seen soon whether the runner is still needed
	soon    []*Conn // to be carried, see ReleaseSoon
	flushes bool    // a goroutine does that

	runner atomic.Pointer[runner]
	seen   uint64 // the runner's position when the monitor looked last
}

// A slot is where a loop has a Conn. Its round tells the Conns apart that were there one after the other: an event may
// come late.
type slot struct{ index, round int32 }

type seat struct {
	conn  *Conn
	round int32
}

// A runner is a goroutine that serves a loop.
type runner struct {
	// position counts the descriptors that were served, times two, plus one while one is. Who changes it first, the
	// runner or the monitor, has what comes next.
	position atomic.Uint64
	begin    uint64 // the position before the first of these:

	events [batchSize]unix.EpollEvent
	conns  [batchSize]*Conn
	n      int                // of them there are
	ask    func(uintptr) bool // is poll; made once, because it would be an allocation each time
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

// add puts c into the set.
func (l *loop) add(c *Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.free); n > 0 {
		c.slot.index = l.free[n-1]
		l.free = l.free[:n-1]
	} else {
		c.slot.index = int32(len(l.slots))
		l.slots = append(l.slots, seat{})
	}
	s := &l.slots[c.slot.index]
	s.conn, c.slot.round = c, s.round
	if err := l.control(unix.EPOLL_CTL_ADD, c, inputEdges); err != nil {
		l.vacate(c)
		return err
	}
	c.loop = l
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

func (l *loop) control(op int, c *Conn, edges uint32) error {
	event := unix.EpollEvent{Events: edges, Fd: c.slot.index, Pad: c.slot.round}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.epoll, op, int(c.fd), &event))
}

// remove takes c out of the set, which closing the descriptor does as well unless another shares the socket.
func (l *loop) remove(c *Conn, shared bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if shared {
		unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, int(c.fd), nil)
	}
	l.vacate(c)
	if l.count--; l.count == 0 && !l.ending {
		l.ending = true
		l.file.SetReadDeadline(time.Now().Add(endDelay))
	}
}

// endDelay is for how long a runner waits for a new descriptor before it ends.
const endDelay = 100 * time.Millisecond

func (l *loop) vacate(c *Conn) {
	s := &l.slots[c.slot.index]
	s.conn = nil
	s.round++
	l.free = append(l.free, c.slot.index)
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
			l.tell(r.conns[i], r.events[i].Events)
		}
		end := r.begin + 2*uint64(r.n)
		if !r.position.CompareAndSwap(at, end) {
			return
		}
		r.begin = end
		clear(r.conns[:r.n])
		runtime.Gosched() // others want to run, too
		if !l.wait(r) {
			return
		}
	}
}

// tell tells c what has happened.
func (l *loop) tell(c *Conn, events uint32) {
	if c == nil || !c.happened(events) {
		return
	}
	if c.slow.Load() > 0 {
		c.slow.Add(-1)
		go c.owner.Ready(false)
		return
	}
	c.owner.Ready(true)
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
		if s := l.slots[e.Fd]; s.round == e.Pad {
			r.conns[i] = s.conn
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
	c := r.conns[i]
	fresh := newRunner()
	fresh.n = copy(fresh.conns[:], r.conns[i+1:r.n])
	copy(fresh.events[:], r.events[i+1:r.n])
	l.run(fresh)
	if c != nil {
		c.slow.Store(slowTurns)
		c.scatter()
	}
}

// carrySoon has the loop's flusher carry what waits.
func (c *Conn) carrySoon() {
	l := c.loop
	l.mu.Lock()
	defer l.mu.Unlock()
	l.soon = append(l.soon, c)
	if !l.flushes {
		l.flushes = true
		go l.flush()
	}
}

// flush carries what waits on the Conns that were left to it.
func (l *loop) flush() {
	var conns []*Conn
	for {
		l.mu.Lock()
		clear(conns)
		conns, l.soon = l.soon, conns[:0]
		if len(conns) == 0 {
			l.flushes = false
			l.soon = nil
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		for _, c := range conns {
			c.mu.Lock()
			c.soon = false
			c.carryAndUnlock()
		}
	}
}

// The monitor's measures.
const (
	lookInterval = time.Millisecond / 2 // between two looks; timers make it up to one and a half
	minTurns     = 4                    // descriptors that a loop serves in that time unless a callback is slow
	slowTurns    = 64                   // for how long a socket with a slow callback is kept off the loop
	quietLooks   = 20                   // the monitor ends when it has seen no loop busy so many times
)

// monitor sees to it that a slow callback delays its own socket only.
var monitor watcher

// A watcher is a goroutine that looks at the loops while they are busy.
type watcher struct{ looks atomic.Bool }

// look has the goroutine run.
func (w *watcher) look() {
	if !w.looks.Load() && w.looks.CompareAndSwap(false, true) {
		go w.run()
	}
}

func (w *watcher) run() {
	for {
		for quiet := 0; quiet < quietLooks; quiet++ {
			time.Sleep(lookInterval)
			if anyLoop((*loop).lookAt) {
				quiet = 0
			}
		}
		// A loop that has seen us look, and begun to serve since, must not be left alone.
		w.looks.Store(false)
		if !anyLoop((*loop).serves) || !w.looks.CompareAndSwap(false, true) {
			return
		}
	}
}

// anyLoop asks all loops and reports whether one said yes.
func anyLoop(ask func(*loop) bool) (yes bool) {
	loops.mu.Lock()
	all := loops.all
	loops.mu.Unlock()
	for _, l := range all {
		if ask(l) {
			yes = true
		}
	}
	return yes
}

// serves reports whether the loop is serving a descriptor.
func (l *loop) serves() bool {
	r := l.runner.Load()
	return r != nil && r.position.Load()&1 == 1
}

// lookAt takes the loop over if it is slow, and reports whether it is busy.
func (l *loop) lookAt() bool {
	r := l.runner.Load()
	if r == nil {
		return false
	}
	at, before := r.position.Load(), l.seen
	l.seen = at
	if at == replaced {
		return false
	}
	if at&1 == 1 && before&1 == 1 && at-before < 2*minTurns {
		l.takeOver(r, at)
	}
	return at != before || at&1 == 1
}
