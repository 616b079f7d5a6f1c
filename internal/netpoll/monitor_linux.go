package netpoll

import (
	"sync/atomic"
	"time"
)

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
