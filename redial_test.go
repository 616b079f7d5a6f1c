package foyer

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// redialTo returns options that dial h without a network.
func redialTo(h *Handler, dialled func()) *DialOptions {
	return &DialOptions{NetDial: func(context.Context, string, string) (net.Conn, error) {
		dialled()
		ours, theirs := net.Pipe()
		go h.HandleConnection(theirs)
		return ours, nil
	}}
}

// A client comes back each time that its socket ends, after ever longer random times, and without a pause of half a minute after a socket that
// has lived.
func TestRedialComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{MaxPending: -1}
		defer h.Close()
		go h.ForEach(t.Context(), func(ctx context.Context, s *Socket) {
			s.Read(ctx)
			s.Abort()
		})
		var times []time.Time
		ctx, cancel := context.WithCancel(t.Context())
		heard := 0
		err := Redial(ctx, "ws://example.com/", redialTo(h, func() { times = append(times, time.Now()) }),
			func(ctx context.Context, s *Socket) error {
				if heard++; heard == 12 {
					time.Sleep(steadyTime)
				}
				if heard == 20 {
					cancel()
					return nil
				}
				s.SendText(ctx, "end")
				_, _, err := s.Read(ctx)
				return err
			})
		if err != context.Canceled || heard != 20 {
			t.Fatal(err, heard)
		}
		limit := firstRedialDelay
		for i := 1; i < len(times); i++ {
			waited := times[i].Sub(times[i-1])
			if i == 12 {
				waited, limit = waited-steadyTime, firstRedialDelay
			}
			if waited < 0 || waited > limit {
				t.Errorf("attempt %d came after %v, at most %v was due", i+1, waited, limit)
			}
			limit = min(2*limit, maxRedialDelay)
		}
		if total := times[11].Sub(times[0]); total < 5*time.Second {
			t.Errorf("eleven attempts within %v", total)
		}
	})
}

func TestRedialEnds(t *testing.T) {
	stop := errors.New("enough")
	for name, test := range map[string]struct {
		authorize error
		target    string
		f         func(ctx context.Context, s *Socket) error
		want      func(error) bool
		attempts  int
	}{
		"an error of the function": {
			f: func(context.Context, *Socket) error { return stop }, attempts: 1,
			want: func(err error) bool { return err == stop },
		},
		"refused for good": {
			authorize: &HandshakeError{Status: http.StatusUnauthorized}, attempts: 1,
			want: func(err error) bool {
				var refusal *HandshakeError
				return errors.As(err, &refusal) && refusal.Status == http.StatusUnauthorized
			},
		},
		"refused for now": {
			authorize: &HandshakeError{Status: http.StatusTooManyRequests}, attempts: 5,
			want: func(err error) bool { return errors.Is(err, context.DeadlineExceeded) },
		},
		"no URL": {
			target: "example.com", attempts: 0,
			want: func(err error) bool { return err != nil },
		},
		"the context, in the function": {
			f:    func(ctx context.Context, s *Socket) error { _, _, err := s.Read(ctx); return err },
			want: func(err error) bool { return err == context.DeadlineExceeded }, attempts: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &Handler{Authorize: func(*http.Request) (http.Header, error) { return nil, test.authorize }}
				defer h.Close()
				go h.ForEach(t.Context(), func(ctx context.Context, s *Socket) { s.CloseRead(); <-ctx.Done() })
				attempts := 0
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				target := test.target
				if target == "" {
					target = "ws://example.com/"
				}
				err := Redial(ctx, target, redialTo(h, func() { attempts++ }), test.f)
				if !test.want(err) {
					t.Error(err)
				}
				if attempts < test.attempts || test.attempts < 2 && attempts != test.attempts {
					t.Errorf("%d attempts", attempts)
				}
			})
		})
	}
}

// A server that asks its clients to wait is obeyed, within limits.
func TestRedialHeedsRetryAfter(t *testing.T) {
	for header, least := range map[string]time.Duration{"20": 20 * time.Second, "86400": maxRedialDelay, "-1": 0, "soon": 0, "99999999999999999999": 0} {
		if got := retryAfter(&http.Response{Header: http.Header{"Retry-After": {header}}}); got != least {
			t.Errorf("%q: %v", header, got)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		var second time.Duration
		attempts := 0
		o := &DialOptions{NetDial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			if attempts++; attempts == 2 {
				second = time.Since(begun)
			}
			go func() {
				theirs.Read(make([]byte, 4096))
				io.WriteString(theirs, "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 20\r\nContent-Length: 0\r\n\r\n")
				theirs.Close()
			}()
			return ours, nil
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		Redial(ctx, "ws://example.com/", o, nil)
		if second < 20*time.Second || second > 31*time.Second {
			t.Errorf("came back after %v", second)
		}
	})
}
