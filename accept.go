package foyer

import (
	"context"
	"iter"
	"sync"
)

// Accept waits for the next socket that passed its handshake, oldest first, and gives it to the program. It returns
// the error of ctx, or ErrClosed once the Handler is closed.
//
// A program must come back to Accept quickly: when it has taken no socket for a second and no call is waiting, the
// Handler refuses clients that find the pool full. [Handler.ForEach] has no such condition.
func (h *Handler) Accept(ctx context.Context) (*Socket, error) {
	h.init()
	for {
		s, err := h.pool.take(ctx)
		if err != nil {
			return nil, err
		}
		if h.took(s) {
			return s, nil
		}
	}
}

// NextPending returns the socket that waits longest, or nil if none waits.
func (h *Handler) NextPending() *Socket {
	h.init()
	for {
		s := h.pool.tryTake()
		if s == nil || h.took(s) {
			return s
		}
	}
}

// took records that the program has s. It reports false when the client has left in the meantime.
func (h *Handler) took(s *Socket) bool {
	s.checkPeer()
	if s.State() == StateClosed {
		return false
	}
	s.accepted.Store(true)
	h.registry.countAccept()
	return true
}

// HasPending reports whether a socket waits for Accept.
func (h *Handler) HasPending() bool { return h.Pending() > 0 }

// Pending returns how many sockets wait for Accept.
func (h *Handler) Pending() int { return h.pool.len() }

// Incoming returns an iterator over the sockets as they come in. Each is taken as [Handler.Accept] takes it, so the loop
// must not wait for anything that a client does. The iterator ends with ctx and with the Handler.
func (h *Handler) Incoming(ctx context.Context) iter.Seq[*Socket] {
	return func(yield func(*Socket) bool) {
		for {
			s, err := h.Accept(ctx)
			if err != nil || !yield(s) {
				return
			}
		}
	}
}

// ForEach calls f for each socket that comes in, on a goroutine of its own. While it runs, sockets do not wait in the
// pool, and MaxPending has no effect. The context that f gets ends with ctx, with the socket, or when the client is seen
// to have left.
//
// When f returns, the socket is closed with CloseNormalClosure, or with CloseGoingAway if ctx has ended. A socket that
// handles events (see [Socket.Handle]) stays open. When f panics, the socket is closed with CloseInternalServerErr, and
// the panic is logged and given to OnError.
//
// ForEach returns when ctx ends, with its error, or when the Handler is closed, with ErrClosed. It first waits until
// every f has returned and the sockets that it closed have ended; so does [Handler.Shutdown], within its context. Several
// ForEach may run at once, and share the sockets. How many functions run is only limited by MaxOpen.
func (h *Handler) ForEach(ctx context.Context, f func(context.Context, *Socket)) error {
	h.init()
	if f == nil {
		panic("foyer: ForEach with a nil function")
	}
	var running sync.WaitGroup
	defer running.Wait()
	c := &consumer{func(s *Socket) {
		h.registry.listens()
		running.Go(func() {
			defer h.registry.told()
			if h.took(s) {
				h.run(ctx, s, f)
			}
		})
	}}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !h.pool.startConsuming(c) {
		return ErrClosed
	}
	defer h.pool.stopConsuming(c)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-h.registry.whenClosed():
		return ErrClosed
	}
}

// run runs a ForEach function to its end.
func (h *Handler) run(ctx context.Context, s *Socket, f func(context.Context, *Socket)) {
	socketCtx, cancel := s.contextFor(ctx)
	defer cancel()
	code := CloseInternalServerErr
	defer func() { // also when f ends its goroutine
		if v := recover(); v != nil {
			h.config.reportPanic("a ForEach function", s, v)
		}
		if !s.handlesEvents() || code == CloseInternalServerErr {
			s.Close(code, "")
			<-s.Done()
		}
	}()
	f(socketCtx, s)
	code = CloseNormalClosure
	if ctx.Err() != nil {
		code = CloseGoingAway
	}
}
