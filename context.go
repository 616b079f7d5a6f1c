package foyer

import (
	"context"
	"sync/atomic"
)

// Context ends with the socket, or once the peer is seen to be gone; its cause says how. Read still returns what
// arrived.
func (s *Socket) Context() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.more()
	if x.context == nil {
		x.context = &socketContext{Context: background, socket: s}
	}
	return x.context
}

// contextFor returns a context for a ForEach function: it ends with ctx, with the socket, when the peer has left, or with
// the function, which calls end.
func (s *Socket) contextFor(ctx context.Context) (_ context.Context, end func()) {
	c := &socketContext{Context: ctx, socket: s}
	return c, c.end
}

// endsAlso has cancel called when the socket ends, or the peer has left.
func (s *Socket) endsAlso(cancel context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.State() == StateClosed:
		cancel(s.fate)
	case s.left.Load():
		cancel(errLeft)
	default:
		x := s.more()
		x.cancels = append(x.cancels, cancel)
	}
}

// peerLeft ends the contexts of the socket, because the peer is seen to have left. The socket itself ends when what the
// peer sent before has been read.
func (s *Socket) peerLeft() {
	s.mu.Lock()
	if s.State() == StateClosed || s.left.Swap(true) {
		s.mu.Unlock()
		return
	}
	cancels := s.takeCancels()
	s.mu.Unlock()
	for _, cancel := range cancels {
		cancel(errLeft)
	}
}

// takeCancels returns the functions that end the contexts of the socket. The caller has s.mu.
func (s *Socket) takeCancels() []context.CancelCauseFunc {
	if s.extra == nil {
		return nil
	}
	cancels := s.extra.cancels
	s.extra.cancels = nil
	return cancels
}

// A socketContext is a context that ends with its socket. Reading with it needs nothing that watches over it, because a
// read ends with the socket anyway; only when it is used for something else does it become a context as others are.
type socketContext struct {
	context.Context // ends it as well
	socket          *Socket
	full            atomic.Pointer[fullContext]
	over            atomic.Bool // the function has returned
}

type fullContext struct {
	context.Context
	cancel context.CancelCauseFunc
}

func (c *socketContext) become() *fullContext {
	if full := c.full.Load(); full != nil {
		return full
	}
	ctx, cancel := context.WithCancelCause(c.Context)
	full := &fullContext{ctx, cancel}
	if !c.full.CompareAndSwap(nil, full) {
		cancel(nil)
		return c.full.Load()
	}
	c.socket.endsAlso(cancel)
	return full
}

func (c *socketContext) Done() <-chan struct{} { return c.become().Done() }
func (c *socketContext) Err() error            { return c.become().Err() }
func (c *socketContext) Value(key any) any     { return c.become().Value(key) }

// end ends the context because the function has returned.
func (c *socketContext) end() {
	c.over.Store(true)
	c.become().cancel(nil)
}

// plainContext returns a context that serves as well as ctx for waiting on this socket, and costs less.
func (s *Socket) plainContext(ctx context.Context) context.Context {
	if c, ok := ctx.(*socketContext); ok && c.socket == s && !c.over.Load() {
		return c.Context
	}
	return ctx
}

// readContext is plainContext for reading: a context that has only ended because the peer has left does not keep anyone
// from what the peer sent before. Nothing is left to wait for then.
func (s *Socket) readContext(ctx context.Context) context.Context {
	ctx = s.plainContext(ctx)
	if s.left.Load() && ctx.Err() != nil && context.Cause(ctx) == errLeft {
		return background
	}
	return ctx
}
