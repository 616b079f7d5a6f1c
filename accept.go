package foyer

import (
	"context"
	"iter"
	"sync"
)

// Accept waits for a socket, oldest first. It returns ctx's error, or ErrClosed.
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

// NextPending returns the oldest waiting socket, or nil.
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

// Pending returns how many sockets wait for Accept.
func (h *Handler) Pending() int { return h.pool.len() }

// Incoming iterates over sockets as Accept does, until ctx or the Handler ends. The loop must not wait for clients.
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

// ForEach calls f for each new socket, on its own goroutine. f's context ends when f returns, ctx ends or the client
// leaves.
//
// When f returns, the socket is closed with CloseNormalClosure, or CloseGoingAway if ctx is done, unless it handles
// events; after a panic, with CloseInternalServerErr. ForEach returns ctx's error, or ErrClosed, once those that it
// closes have ended.
func (h *Handler) ForEach(ctx context.Context, f func(context.Context, *Socket)) error {
	h.init()
	if f == nil {
		panic("foyer: ForEach with a nil function")
	}
	var running sync.WaitGroup
	defer running.Wait()
	c := &consumer{func(s *Socket) {
		h.registry.handlerBegins()
		running.Go(func() {
			defer h.registry.handlerDone()
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
