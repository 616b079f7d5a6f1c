package qt

import (
	"log/slog"
	"runtime/debug"
	"sync"
)

// InvokeMethod calls f on the event loop, after the slots that are due before. It returns at once. It is
// QMetaObject::invokeMethod with Qt::QueuedConnection.
func InvokeMethod(f func()) { application.post(f) }

// Exec waits until Quit is called, and returns the argument of Quit. It is QCoreApplication::exec. The event loop runs
// without it, too.
func Exec() int { return <-exitCode }

// Quit makes Exec return. It is QCoreApplication::exit. If no Exec is waiting, the next one returns; further calls of
// Quit have no effect until then.
func Quit(code int) {
	select {
	case exitCode <- code:
	default:
	}
}

var exitCode = make(chan int, 1)

// application is the event loop.
var application eventLoop

// An eventLoop calls functions one after the other.
type eventLoop struct {
	mu      sync.Mutex // guards:
	queue   []func()
	running bool // a goroutine works on the queue
}

// post has f called after all that were posted before.
func (l *eventLoop) post(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, f)
	if !l.running {
		l.running = true
		go l.run()
	}
}

// next returns the function to be called next, or nil when the goroutine is to end.
func (l *eventLoop) next() func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		l.queue, l.running = nil, false
		return nil
	}
	f := l.queue[0]
	l.queue[0] = nil
	l.queue = l.queue[1:]
	return f
}

// run calls functions while there are some. If one ends the goroutine, another goroutine continues.
func (l *eventLoop) run() {
	finished := false
	defer func() {
		if !finished {
			go l.run()
		}
	}()
	for f := l.next(); f != nil; f = l.next() {
		l.call(f)
	}
	finished = true
}

func (l *eventLoop) call(f func()) {
	defer func() {
		if v := recover(); v != nil {
			logPanic(v)
		}
	}()
	f()
}

func logPanic(v any) {
	slog.Error("foyer: panic in a slot", "panic", v, "stack", string(debug.Stack()))
}
