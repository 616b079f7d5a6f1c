package foyer

import (
	"context"
	"fmt"
	"time"
)

// Shutdown closes the Handler: handshakes get 503 or are aborted, Accept returns ErrClosed, and every socket gets a
// close frame with CloseGoingAway. It waits until all clients have answered, each ForEach function has returned and
// each Events.Closed was called. If ctx is done first, Shutdown closes the remaining connections and returns an error
// that wraps that of ctx and says how many there were.
//
// Shutdown waits up to CloseTimeout for a client that does not answer, so ctx should have a later deadline. Do not call
// Shutdown from a ForEach function: it would wait for itself. Call it before http.Server.Shutdown, which ignores
// sockets over HTTP/1.1 and waits for those over HTTP/2.
func (h *Handler) Shutdown(ctx context.Context) error {
	h.init()
	return h.shutdown(ctx, CloseGoingAway)
}

// Drain is a gentle Shutdown for a process that is being replaced. The sockets get a close frame with
// CloseServiceRestart one after the other, in random order, evenly over spread, so that their clients do not all
// reconnect at once. Meanwhile handshakes still succeed, for clients that a load balancer still sends. Then Drain does
// what Shutdown does. The deadline of ctx should be later than spread plus CloseTimeout.
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
