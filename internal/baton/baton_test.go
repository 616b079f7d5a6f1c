package baton

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestBaton(t *testing.T) {
	var b Baton
	if !b.Free() || !b.Take() || b.Free() {
		t.Fatal("a free one is not taken")
	}
	if b.Take() || b.TryLock() {
		t.Fatal("taken twice")
	}
	if b.Return() {
		t.Error("the word of Take was lost")
	}
	if b.Leave() != true || b.Leave() != false {
		t.Error("Leave does not tell what is news")
	}
	if b.Return() {
		t.Error("the word of Leave was lost")
	}
	if !b.Return() || !b.Free() {
		t.Error("not given back")
	}
	if !b.TryLock() || !b.Return() {
		t.Error("TryLock leaves word")
	}
	b.Leave()
	if !b.TryLock() || b.Return() {
		t.Error("TryLock takes the word with it")
	}
	b.Return()
}

func TestBatonCanBePassedOn(t *testing.T) {
	var b Baton
	b.Take()
	done := make(chan bool)
	go func() { done <- b.Return() }()
	if !<-done || !b.Free() {
		t.Error("not given back")
	}
}

// Whatever was there to be done before Take was called is done, by one goroutine at a time, and nobody who takes waits.
func TestNoWorkIsForgottenOrDoneTwiceAtOnce(t *testing.T) {
	const workers, rounds = 8, 20000
	var b Baton
	var todo, working atomic.Int64
	done := 0 // guarded by the baton
	var locked int
	work := func() {
		if working.Add(1) != 1 {
			t.Error("two at once")
		}
		done += int(todo.Swap(0))
		working.Add(-1)
	}
	settle := func() {
		if b.Take() {
			for again := true; again; again = !b.Return() {
				work()
			}
		}
	}
	var wg, later sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for k := range rounds {
				switch (i + k) % 4 {
				case 0:
					b.Lock()
					locked++
					for !b.Return() {
						work()
					}
				case 1:
					todo.Add(1)
					if b.Leave() {
						later.Go(settle)
					}
				default:
					todo.Add(1)
					settle()
				}
			}
		})
	}
	wg.Wait()
	later.Wait()
	if want := workers * rounds / 4 * 3; done != want || locked != workers*rounds/4 || todo.Load() != 0 {
		t.Errorf("%d of %d were done", done, want)
	}
}

func TestLockWork(t *testing.T) {
	var b Baton
	if b.LockWork() || !b.Free() {
		t.Error("there was work")
	}
	if !b.Leave() || !b.LockWork() || b.Free() {
		t.Error("there was no work")
	}
	if !b.Return() || b.LockWork() {
		t.Error("the work is there after it was done")
	}
}
