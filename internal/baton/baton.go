// Package baton is about work that one goroutine at a time does for all.
package baton

import (
	"sync"
	"sync/atomic"
)

// A Baton is held by one goroutine at a time, which does some work. A goroutine that finds it held leaves word and goes on; the holder
// then does the work once more before it gives the Baton back. So nobody waits, no work is forgotten, and two never do it at once.
//
//	if b.Take() {
//		for again := true; again; again = !b.Return() {
//			work()
//		}
//	}
//
// The zero value is free. The holder may pass it on to another goroutine.
type Baton struct {
	mu   sync.Mutex // locked by the holder
	held atomic.Bool
	word atomic.Bool
}

// Take takes the Baton, or leaves word and reports false.
func (b *Baton) Take() bool {
	b.word.Store(true)
	return b.retake()
}

// retake takes the Baton if there is word and nobody holds it.
func (b *Baton) retake() bool {
	if b.word.Load() && b.TryLock() {
		b.word.Store(false)
		return true
	}
	return false
}

// Return gives the Baton back. It reports false when word was left: the caller holds it again, and has to do the work once more.
func (b *Baton) Return() bool {
	b.held.Store(false)
	b.mu.Unlock()
	return !b.retake()
}

// Leave leaves word without taking the Baton. It reports whether that is news: then the caller has somebody call Take.
func (b *Baton) Leave() bool { return !b.word.Swap(true) }

// Lock takes the Baton for something else than the work, and waits for it. Return gives it back.
func (b *Baton) Lock() {
	b.mu.Lock()
	b.held.Store(true)
}

// LockWork is Lock for the work. It reports false, and the Baton is free again, if there is no word: all that word was left for before is
// done.
func (b *Baton) LockWork() bool {
	b.Lock()
	if b.word.Swap(false) { // which nobody else does meanwhile
		return true
	}
	return !b.Return()
}

// TryLock is Lock if nobody holds the Baton, and otherwise reports false. It leaves no word.
func (b *Baton) TryLock() bool {
	if !b.mu.TryLock() {
		return false
	}
	b.held.Store(true)
	return true
}

// Free reports whether nobody holds the Baton at this moment.
func (b *Baton) Free() bool { return !b.held.Load() }
