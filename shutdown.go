package foyer

import (
	"context"
	"fmt"
	"time"
)

// Shutdown closes the Handler in an orderly way: new handshakes get 503, those under way are broken off, Accept returns
// ErrClosed, and every socket, accepted or pending, gets a close frame with CloseGoingAway. It waits until all have
// answered it, each ForEach function has returned, and Closed was called for sockets that handle events, and returns nil
// then. When ctx ends before, the rest is cut off, and the error says how many sockets that were and wraps that of ctx. A
// client that does not answer takes CloseTimeout: ctx should last longer than that. A ForEach function that calls Shutdown
// waits for itself.
//
// http.Server.Shutdown forgets sockets over HTTP/1.1, and waits for those over HTTP/2: call this first.
func (h *Handler) Shutdown(ctx context.Context) error {
	h.init()
	return h.shutdown(ctx, CloseGoingAway)
}

// Drain is Shutdown for a process that another one replaces, without a rush: the sockets of the moment get a close frame
// with CloseServiceRestart one after the other, in no order, evenly over the time of spread, so that their clients do not
// all come back at once. Handshakes go on meanwhile, as a load balancer takes a while to learn. Then the rest is shut
// down, with the same code. When ctx ends before, what is left is cut off, and the error is that of Shutdown; ctx should last longer than spread and
// CloseTimeout together.
//
// A client over HTTP/2 comes back on the connection that it has, unless it was told to leave that: call
// http.Server.Shutdown at the same time, which does so, and waits for the sockets.
func (h *Handler) Drain(ctx context.Context, spread time.Duration) error {
	h.init()
	begin, closed := time.Now(), h.registry.whenClosed()
	sleepUntil := func(share float64) {
		timer := time.NewTimer(time.Until(begin.Add(time.Duration(share * float64(spread)))))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-closed:
		}
	}
	var leave []func()
	for _, s := range h.registry.all() {
		leave = append(leave, func() { s.beginClose(CloseServiceRestart, "") })
	}
	for _, c := range h.registry.allGuests() {
		leave = append(leave, func() { c.leave(CloseServiceRestart, h.config.closeTimeout) })
	}
	for i, goAway := range leave {
		sleepUntil(float64(i) / float64(len(leave)))
		goAway()
	}
	sleepUntil(1)
	return h.shutdown(ctx, CloseServiceRestart)
}

// shutdown closes the Handler, and every socket with code.
func (h *Handler) shutdown(ctx context.Context, code CloseCode) error {
	h.registry.close()
	h.pool.close()
	for _, s := range h.registry.all() {
		s.beginClose(code, "")
	}
	for _, c := range h.registry.allGuests() {
		c.leave(code, h.config.closeTimeout)
	}
	select {
	case <-h.registry.whenIdle():
		return nil
	case <-ctx.Done():
	}
	rest := h.registry.all()
	for _, s := range rest {
		s.abort(ctx.Err())
		s.wire.Close() // if it had ended, but lingered
	}
	guests := h.registry.allGuests()
	for _, c := range guests {
		c.cut()
	}
	return fmt.Errorf("foyer: shutdown was not finished, and %d sockets were cut off: %w", len(rest)+len(guests), ctx.Err())
}

// Close is Shutdown with a second's patience. It always returns nil.
func (h *Handler) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), lingerTime)
	defer cancel()
	h.Shutdown(ctx)
	return nil
}
