package foyer

import (
	"context"
	"fmt"
	"time"
)

// Shutdown closes the Handler. New handshakes get 503, handshakes under way are broken off, Accept returns ErrClosed,
// and every socket gets a close frame with CloseGoingAway. Shutdown waits until all clients have answered, each ForEach
// function has returned and each Events.Closed was called; then it returns nil. If ctx ends first, the rest is cut off,
// and the error says how many sockets that were and wraps ctx's. A client that does not answer takes CloseTimeout, so
// ctx should last longer than that. Do not call Shutdown from a ForEach function: it would wait for itself.
//
// http.Server.Shutdown ignores sockets over HTTP/1.1 and waits for those over HTTP/2, so call this first.
func (h *Handler) Shutdown(ctx context.Context) error {
	h.init()
	return h.shutdown(ctx, CloseGoingAway)
}

// Drain is a gentle Shutdown for a process that is being replaced. The open sockets get a close frame with
// CloseServiceRestart one after the other, in random order, evenly over spread, so that their clients do not all
// reconnect at once. New handshakes still succeed in that time, because a load balancer needs a while to notice. Then
// everything else is shut down with the same code. If ctx ends first, the rest is cut off, with Shutdown's error; ctx
// should last longer than spread and CloseTimeout together.
//
// A client over HTTP/2 reconnects on the same connection unless http.Server.Shutdown is called at the same time.
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

// Close is Shutdown with a timeout of one second. It always returns nil.
func (h *Handler) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), lingerTime)
	defer cancel()
	h.Shutdown(ctx)
	return nil
}
