package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
	"github.com/foyerws/foyer/internal/crowd"
)

func TestEchoServer(t *testing.T) {
	e, err := newEchoServer(t.Context(), 0, true)
	if err != nil {
		t.Fatal(err)
	}
	s := foyertest.Dial(t, fmt.Sprintf("ws://127.0.0.1:%d", e.server.Port()), &foyer.DialOptions{Origin: "https://elsewhere.example.com"})
	for i, message := range []string{"text", "binary"} {
		if err := s.Write(t.Context(), foyer.MessageType(1+i), []byte(message)); err != nil {
			t.Fatal(err)
		}
		if typ, p, err := s.Read(t.Context()); err != nil || typ != foyer.MessageType(1+i) || string(p) != message {
			t.Errorf("%v %q, %v", typ, p, err)
		}
	}
	go s.Read(t.Context())
	e.close()
	<-s.Done()
	if s.CloseCode() != foyer.CloseGoingAway {
		t.Error(s.Err())
	}
	for range 1000 {
		e.mu.Lock()
		clients := len(e.clients)
		e.mu.Unlock()
		if clients == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("the client was not forgotten")
}

func TestCrowd(t *testing.T) {
	e, err := newEchoServer(t.Context(), 0, false)
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	crowd.Come(t, fmt.Sprintf("ws://127.0.0.1:%d", e.server.Port()), nil, crowd.Echo(""))
}
