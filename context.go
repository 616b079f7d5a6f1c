package foyer

import (
	"context"
	"sync/atomic"
)

// contextFor returns a context for a ForEach function: it ends with ctx, with the socket, or with the function, which
// calls end.
func (s *Socket) contextFor(ctx context.Context) (_ context.Context, end func()) {
	if ctx.Done() == nil {
		c := &socketContext{Context: ctx, socket: s}
		return c, c.end
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s.endsAlso(cancel)
	return ctx, func() { cancel(nil) }
}

// endsAlso has cancel called when the socket ends.
func (s *Socket) endsAlso(cancel context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		cancel(s.ended)
	}
	s.cancel = cancel
}

// A socketContext is a context that ends with its socket. Reading with it needs nothing that watches over it, because a
// read ends with the socket anyway; only when it is used for something else does it become a context as others are.
type socketContext struct {
	context.Context // never ends
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
		return background
	}
	return ctx
}
