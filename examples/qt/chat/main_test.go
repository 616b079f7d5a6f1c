package main

import (
	"testing"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
	"github.com/foyerws/foyer/qt"
)

func TestChat(t *testing.T) {
	c := NewChatServer(0)
	joined := make(chan struct{}, 3)
	c.webSocketServer.NewConnection.Connect(func() { joined <- struct{}{} })
	defer c.webSocketServer.Close()
	var clients []*foyer.Socket
	for range 3 {
		clients = append(clients, foyertest.Dial(t, c.webSocketServer.ServerUrl().String(), nil))
		<-joined
	}
	for i, speaker := range clients {
		said := []string{"a", "b", "c"}[i]
		if err := speaker.SendText(t.Context(), said); err != nil {
			t.Fatal(err)
		}
		for _, other := range clients {
			if other == speaker {
				continue
			}
			if _, p, err := other.Read(t.Context()); err != nil || string(p) != said {
				t.Errorf("%q, %v", p, err)
			}
		}
	}
	for _, client := range clients {
		client.Abort()
	}
	for left := -1; left != 0; {
		counted := make(chan int)
		qt.InvokeMethod(func() { counted <- len(c.clients) })
		left = <-counted
	}
}
