package foyer

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// The delays of Redial.
const (
	firstRedialDelay = time.Second
	maxRedialDelay   = 30 * time.Second
	steadyTime       = 30 * time.Second // a socket that lived so long was no failure
)

// Redial keeps a client connected. It dials, calls f with a context that ends with f, ctx or the socket, closes the
// socket, and dials again, after a random time of up to 1 second, which doubles up to 30 seconds until sockets last so
// long, or what Retry-After says.
//
// It returns ctx's error, or one that retrying cannot fix: an invalid argument, f's on an open socket, or a refusal
// with a status of 300 to 499 other than 408, 425 and 429.
func Redial(ctx context.Context, target string, o *DialOptions, f func(ctx context.Context, s *Socket) error) error {
	if o == nil {
		o = new(DialOptions)
	}
	if _, _, err := o.request(target); err != nil {
		return err
	}
	if _, err := o.config(); err != nil {
		return err
	}
	limit := firstRedialDelay
	for {
		s, resp, err := Dial(ctx, target, o)
		if err == nil {
			begun := time.Now()
			if err := useRedialed(ctx, s, f); err != nil {
				return err
			}
			if time.Since(begun) >= steadyTime {
				limit = firstRedialDelay
			}
		} else if ctx.Err() == nil && !worthRetrying(err) {
			return err
		}
		timer := time.NewTimer(max(rand.N(limit), retryAfter(resp)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		limit = min(2*limit, maxRedialDelay)
	}
}

// useRedialed calls f and closes s. It returns the error of f, but nil when that may come from the end of the socket.
func useRedialed(ctx context.Context, s *Socket, f func(ctx context.Context, s *Socket) error) error {
	within, end := s.contextFor(ctx)
	defer func() {
		end()
		s.Close(CloseNormalClosure, "")
		<-s.Done()
	}()
	if err := f(within, s); err != nil && within.Err() == nil && s.State() == StateOpen {
		return err
	}
	return nil
}

// worthRetrying reports whether Dial may succeed later where it has failed with err.
func worthRetrying(err error) bool {
	var refusal *HandshakeError
	if !errors.As(err, &refusal) {
		return true
	}
	switch status := refusal.Status; status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	default:
		return status < 300 || status > 499
	}
}

// retryAfter returns how long a server has asked its clients to wait.
func retryAfter(resp *http.Response) time.Duration {
	if resp == nil {
		return 0
	}
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(min(seconds, 3600))*time.Second, maxRedialDelay)
}
