package foyer

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"
)

type userKey struct{}

func TestValuesComeFromMiddlewareAndHooks(t *testing.T) {
	t.Parallel()
	type roleKey struct{}
	h := closeHandler(t, &Handler{Authorize: func(r *http.Request) (http.Header, error) {
		if r.Header.Get("X-Role") != "" {
			SetValue(r, roleKey{}, r.Header.Get("X-Role"))
		}
		SetValue(r, "overwritten", 2)
		return nil, nil
	}})
	middleware := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		SetValue(r, userKey{}, "alice")
		SetValue(r, "overwritten", 1)
		SetValue(r, "removed", 1)
		SetValue(r, "removed", nil)
		type other struct{}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), other{}, 1))) // as routers do
	})
	dial(t, serveHTTP(t, middleware), http.Header{"X-Role": {"admin"}})
	s := accept(t, h)
	for key, want := range map[any]any{userKey{}: "alice", roleKey{}: "admin", "overwritten": 2, "removed": nil, "unknown": nil} {
		if got := s.Value(key); got != want {
			t.Errorf("%v is %v, want %v", key, got, want)
		}
	}
	dial(t, serveRaw(t, h), nil)
	raw := accept(t, h)
	if raw.Value(userKey{}) != nil || raw.Value("overwritten") != 2 {
		t.Error("values of another socket, or none of its own")
	}
	raw.Abort()
	if raw.SetValue("late", 1); raw.Value("late") != 1 {
		t.Error("a socket that has ended loses its values")
	}
}

func TestValuesOfASocket(t *testing.T) {
	_, s := connectTCP(t, closeHandler(t, &Handler{}))
	if s.Value(userKey{}) != nil {
		t.Error("a value that nobody has set")
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 100 {
				s.SetValue(i, i)
				if s.Value(i) != i {
					t.Error("lost")
				}
			}
		})
	}
	wg.Wait()
}

func TestSocketsAreThoseThatWereTaken(t *testing.T) {
	h := closeHandler(t, &Handler{})
	addr := serveRaw(t, h)
	dial(t, addr, nil)
	first := accept(t, h)
	dial(t, addr, nil)
	eventually(t, "the second to wait", func() bool { return h.Pending() > 0 })
	list := func() (sockets []*Socket) {
		for s := range h.Sockets() {
			sockets = append(sockets, s)
		}
		return sockets
	}
	if got := list(); len(got) != 1 || got[0] != first {
		t.Errorf("%v while one waits", got)
	}
	second := accept(t, h)
	if len(list()) != 2 {
		t.Error("not both")
	}
	for s := range h.Sockets() {
		s.Abort() // no lock is held
		h.Stats()
		break
	}
	if got := list(); len(got) != 1 {
		t.Errorf("%v when one has ended", got)
	}
	first.Abort()
	second.Abort()
	if got := list(); got != nil {
		t.Error(got)
	}
}

func TestContextOfASocket(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	ctx := s.Context()
	if ctx != s.Context() || ctx.Err() != nil {
		t.Error("not one context, or an ended one")
	}
	go s.Read(ctx)
	ended := make(chan struct{})
	context.AfterFunc(ctx, func() { close(ended) })
	c.WriteControl(8, []byte("\x03\xe9"), time.Now().Add(time.Second))
	<-ended
	var end *CloseError
	if !errors.As(context.Cause(ctx), &end) || end.Code != CloseGoingAway {
		t.Error(context.Cause(ctx))
	}
	if s.Context().Err() == nil {
		t.Error("a context that came later lives")
	}
}

func TestTryWriteSaysWhy(t *testing.T) {
	h := closeHandler(t, &Handler{MaxWriteBuffer: 1000})
	_, s := connectTCP(t, h)
	if err := s.TryWrite(Binary, make([]byte, 1001)); err != ErrMessageTooBig {
		t.Error("a message that can never fit:", err)
	}
	dropped := Broadcast(h.Sockets(), Binary, make([]byte, 1001))
	if len(dropped) != 1 || dropped[0].Socket != s || dropped[0].Err != ErrMessageTooBig {
		t.Error(dropped)
	}
	message := bytes.Repeat([]byte("m"), 900)
	err := s.TryWrite(Binary, message)
	for err == nil { // the client does not read
		err = s.TryWrite(Binary, message)
	}
	if err != ErrWriteBufferFull {
		t.Error("a full buffer:", err)
	}
	s.Abort()
	var end *CloseError
	if err := s.TryWrite(Binary, nil); !errors.As(err, &end) {
		t.Error("an ended socket:", err)
	}
}
