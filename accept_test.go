package foyer

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

func TestForEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reported := make(chan error, 1)
		h := &Handler{OnError: func(err error) { reported <- err }}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		var contexts atomic.Int32
		go func() {
			ended <- h.ForEach(ctx, func(ctx context.Context, s *Socket) {
				switch _, p, _ := s.Read(ctx); string(p) {
				case "panic":
					panic(io.ErrNoProgress)
				case "wait":
					<-ctx.Done()
					contexts.Add(1)
				}
			})
		}()
		say := func(m string) *websocket.Conn {
			c := dialPipe(t, h)
			c.WriteMessage(websocket.TextMessage, []byte(m))
			return c
		}
		if _, _, err := say("return").ReadMessage(); !websocket.IsCloseError(err, 1000) {
			t.Errorf("after return: %v", err)
		}
		if _, _, err := say("panic").ReadMessage(); !websocket.IsCloseError(err, 1011) {
			t.Errorf("after panic: %v", err)
		}
		var panicked *PanicError
		if err := <-reported; !errors.As(err, &panicked) || !errors.Is(err, io.ErrNoProgress) || !strings.Contains(string(panicked.Stack), "TestForEach") || !strings.Contains(err.Error(), "panic") {
			t.Errorf("reported: %v", err)
		}
		gone := say("wait")
		synctest.Wait()
		gone.Close()
		time.Sleep(2 * time.Minute) // its end is noticed, though nobody reads: by the keepalive
		if contexts.Load() != 1 {
			t.Error("the context does not end with the socket")
		}
		left := say("wait")
		synctest.Wait()
		cancel()
		if _, _, err := left.ReadMessage(); !websocket.IsCloseError(err, 1001) {
			t.Errorf("after the context's end: %v", err)
		}
		if err := <-ended; err != context.Canceled || contexts.Load() != 2 {
			t.Errorf("ForEach ended with %v, %d", err, contexts.Load())
		}
		h.Close()
	})
}

// While a ForEach runs, MaxPending has no effect, whatever its functions wait for; MaxOpen has.
func TestForEachNeedsNoPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := door{t, &Handler{MaxPending: 2, MaxOpen: 50}}
		if code := decided(d.knock("before")); code != 101 {
			t.Fatal(code)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		var running atomic.Int32
		go func() {
			ended <- d.h.ForEach(ctx, func(ctx context.Context, s *Socket) {
				running.Add(1)
				<-ctx.Done()
			})
		}()
		time.Sleep(10 * time.Second)
		for i := range 49 {
			if code := decided(d.knock("")); code != 101 {
				t.Fatalf("client %d: %d", i, code)
			}
		}
		if running.Load() != 50 || d.h.Pending() != 0 {
			t.Errorf("%d run, %d wait", running.Load(), d.h.Pending())
		}
		if code := decided(d.knock("one too many")); code != 503 {
			t.Error(code)
		}
		cancel()
		if err := <-ended; err != context.Canceled {
			t.Error(err)
		}
		if d.h.Stats().Open != 0 {
			t.Error("ForEach has returned before its sockets ended")
		}
		d.h.Close()
	})
}

func TestTwoForEachShareTheSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := door{t, &Handler{}}
		var counts [2]atomic.Int32
		for i := range counts {
			go d.h.ForEach(t.Context(), func(ctx context.Context, s *Socket) {
				counts[i].Add(1)
				<-ctx.Done()
			})
		}
		synctest.Wait()
		for range 10 {
			d.knock("")
		}
		if counts[0].Load() != 5 || counts[1].Load() != 5 {
			t.Error(counts[0].Load(), counts[1].Load())
		}
		d.h.Close()
	})
}
