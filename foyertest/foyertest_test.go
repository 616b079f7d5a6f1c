package foyertest_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

// echo is a ForEach function.
func echo(ctx context.Context, s *foyer.Socket) {
	for {
		t, p, err := s.Read(ctx)
		if err != nil || s.Write(ctx, t, p) != nil {
			return
		}
	}
}

func say(t *testing.T, s *foyer.Socket) {
	t.Helper()
	if err := s.SendText(t.Context(), "hello"); err != nil {
		t.Fatal(err)
	}
	if _, p, err := s.Read(t.Context()); err != nil || string(p) != "hello" {
		t.Errorf("%q, %v", p, err)
	}
}

func TestServer(t *testing.T) {
	h := &foyer.Handler{}
	go h.ForEach(context.Background(), echo)
	srv := foyertest.NewServer(t, h)
	say(t, srv.Dial(t, "/", nil))
	say(t, srv.DialSecure(t, "", &foyer.DialOptions{Compression: foyer.CompressionContextTakeover}))
}

func TestServerOfARouter(t *testing.T) {
	h := &foyer.Handler{}
	defer h.Close()
	go h.ForEach(context.Background(), echo)
	r := chi.NewRouter()
	r.Handle("/rooms/{room}", h)
	srv := foyertest.NewServer(t, r)
	say(t, srv.Dial(t, "/rooms/1", nil))
}

// A failure is a testing.TB that notes what it failed with.
type failure struct {
	testing.TB
	text string
}

type fatal struct{}

func (f *failure) Fatalf(format string, args ...any) {
	f.text = strings.TrimSpace(format)
	for _, a := range args {
		if err, ok := a.(error); ok {
			f.text += " " + err.Error()
		} else if s, ok := a.(string); ok {
			f.text += " " + s
		}
	}
	panic(fatal{})
}

func TestDialTellsWhatTheServerSaid(t *testing.T) {
	h := &foyer.Handler{Authorize: func(*http.Request) (http.Header, error) {
		return nil, &foyer.HandshakeError{Status: 402, Reason: "Pay first."}
	}}
	srv := foyertest.NewServer(t, h)
	for _, dial := range []func(*failure){
		func(f *failure) { srv.Dial(f, "/", nil) },
		func(f *failure) { foyertest.Pair(f, h) },
	} {
		f := &failure{TB: t}
		func() {
			defer func() {
				if v := recover(); v != nil && v != (fatal{}) {
					panic(v)
				}
			}()
			dial(f)
		}()
		if !strings.Contains(f.text, "status 402") || !strings.Contains(f.text, "Pay first.") {
			t.Errorf("%q", f.text)
		}
	}
}

func TestPair(t *testing.T) {
	for _, compression := range []foyer.CompressionMode{foyer.CompressionDisabled, foyer.CompressionContextTakeover} {
		h := &foyer.Handler{Compression: compression, Subprotocols: []string{"a"}}
		client, server := foyertest.PairWith(t, h, "ws://user:secret@example.com/chat", &foyer.DialOptions{Compression: compression, Subprotocols: []string{"a"}})
		go echo(t.Context(), server)
		say(t, client)
		if user, _, _ := server.Request().BasicAuth(); user != "user" || server.Subprotocol() != "a" || h.Pending() != 0 {
			t.Error(user, server.Subprotocol(), h.Pending())
		}
		client.Close(4000, "bye")
		if end := foyertest.Ended(t, client); end.Code != 4000 {
			t.Error(end)
		}
	}
}

// TestKeepaliveOnFakeTime has a day pass in no time, and then a peer fall silent.
func TestKeepaliveOnFakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := foyertest.Pair(t, &foyer.Handler{})
		pongs := 0
		server.Handle(foyer.Events{Pong: func(*foyer.Socket, time.Duration, []byte) { pongs++ }})
		ctx, stop := context.WithCancel(t.Context())
		go client.Read(ctx)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if pongs < 1000 || server.Err() != nil {
			t.Errorf("%d pongs, %v", pongs, server.Err())
		}
		stop() // nobody reads any more
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if !errors.Is(server.Err(), foyer.ErrPingTimeout) {
			t.Error(server.Err())
		}
	})
}
