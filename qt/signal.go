package qt

import (
	"slices"
	"sync"
	"sync/atomic"
)

// A Signal calls the slots that are connected to it. F is the type of the slots; its parameters are those of the
// signal. The zero value is ready to use, also for signals of one's own:
//
//	type EchoServer struct {
//		Closed qt.Signal[func()]
//	}
//
//	e.Closed.Emit(func(slot func()) { slot() })
//
// A Signal must not be copied.
type Signal[F any] struct {
	mu    sync.Mutex // guards:
	slots []slot[F]  // replaced, never changed
}

type slot[F any] struct {
	connection *Connection
	f          F
}

// A Connection is that of a slot to a signal, QMetaObject::Connection. It serves to disconnect the slot, because Go
// cannot compare functions.
type Connection struct {
	ended      atomic.Bool
	disconnect func()
}

// Disconnect ends the connection. If a slot calls it, the disconnected slot is not called again; otherwise a call that is
// just being made may still follow.
func (c *Connection) Disconnect() { c.disconnect() }

// Connect has f called, on the event loop, each time the signal is emitted. Slots are called in the order in which they
// were connected. A slot that was connected several times is called several times.
func (s *Signal[F]) Connect(f F) *Connection {
	c := new(Connection)
	c.disconnect = func() {
		c.ended.Store(true)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.slots = slices.DeleteFunc(slices.Clone(s.slots), func(x slot[F]) bool { return x.connection == c })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots = append(slices.Clip(s.slots), slot[F]{c, f})
	return c
}

// Disconnect ends the connections of all slots.
func (s *Signal[F]) Disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.slots {
		x.connection.ended.Store(true)
	}
	s.slots = nil
}

// Emit has call called, on the event loop, with each slot that is connected then. It returns at once.
func (s *Signal[F]) Emit(call func(slot F)) { application.post(func() { s.emit(call) }) }

// emit calls call with each slot, on the event loop.
func (s *Signal[F]) emit(call func(slot F)) {
	for _, x := range s.connected() {
		if !x.connection.ended.Load() {
			call(x.f)
		}
	}
}

// connected returns the slots. They must not be changed.
func (s *Signal[F]) connected() []slot[F] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slots
}

// isConnected reports whether there is a slot.
func (s *Signal[F]) isConnected() bool { return len(s.connected()) > 0 }
