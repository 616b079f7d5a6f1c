package main

import (
	"testing"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
	"github.com/foyerws/foyer/internal/crowd"
	"github.com/foyerws/foyer/qt"
)

func TestEchoServer(t *testing.T) {
	e := NewEchoServer(0, true)
	closed := make(chan struct{})
	e.Closed.Connect(func() { close(closed) })
	s := foyertest.Dial(t, e.webSocketServer.ServerUrl().String(), &foyer.DialOptions{Origin: "https://elsewhere.example.com"})
	for i := range 1000 {
		typ := foyer.MessageType(1 + i%2)
		if err := s.Write(t.Context(), typ, []byte("message")); err != nil {
			t.Fatal(err)
		}
		if got, p, err := s.Read(t.Context()); err != nil || got != typ || string(p) != "message" {
			t.Fatalf("%v %q, %v", got, p, err)
		}
	}
	go s.Read(t.Context())
	qt.InvokeMethod(e.DeleteLater)
	<-closed
	if end := foyertest.Ended(t, s); end.Code != foyer.CloseGoingAway {
		t.Error(end)
	}
}

func TestClientIsForgotten(t *testing.T) {
	e := NewEchoServer(0, false)
	defer qt.InvokeMethod(e.DeleteLater)
	s := foyertest.Dial(t, e.webSocketServer.ServerUrl().String(), nil)
	clients := func() (n int) {
		counted := make(chan struct{})
		qt.InvokeMethod(func() {
			n = len(e.clients)
			close(counted)
		})
		<-counted
		return n
	}
	for want, then := range []func(){func() {}, func() { s.Abort() }} {
		then()
		for range 1000 {
			if clients() == 1-want {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		if n := clients(); n != 1-want {
			t.Errorf("%d clients, want %d", n, 1-want)
		}
	}
}

func TestCrowd(t *testing.T) {
	e := NewEchoServer(0, false)
	defer qt.InvokeMethod(e.DeleteLater)
	crowd.Come(t, e.webSocketServer.ServerUrl().String(), nil, crowd.Echo(""))
}
