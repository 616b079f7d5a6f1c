package foyer

import (
	"context"
	"fmt"
	"time"
)

// Shutdown refuses handshakes, closes every socket with CloseGoingAway, and waits for clients, ForEach functions and
// Events.Closed. When ctx is done (allow more than CloseTimeout), it cuts off the rest and returns ctx's error. No
// callback may call it. Call it before http.Server.Shutdown.
func (h *Handler) Shutdown(ctx context.Context) error {
	h.init()
	return h.shutdown(ctx, CloseGoingAway)
}

// Drain is Shutdown with CloseServiceRestart, for a process that is being replaced. First it closes the sockets in
// random order, evenly over spread; meanwhile handshakes succeed. ctx should allow spread and CloseTimeout.
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

// Close is Shutdown within a second.
func (h *Handler) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), lingerTime)
	defer cancel()
	h.Shutdown(ctx)
	return nil
}
