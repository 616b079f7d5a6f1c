package main

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/internal/crowd"
)

func TestSocketsFromThreePlaces(t *testing.T) {
	h := &foyer.Handler{}
	defer h.Close()
	go h.ForEach(t.Context(), echo)
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	raw, shared := listen(), listen()
	go serveRaw(raw, h)
	go serveShared(shared, h)
	for _, url := range []string{"ws://" + raw.Addr().String() + "/", "ws://" + shared.Addr().String() + "/ws", "ws://" + shared.Addr().String() + "/takeover"} {
		c, _, err := websocket.DefaultDialer.Dial(url, nil)
		if err != nil {
			t.Fatal(url, err)
		}
		defer c.Close()
		c.WriteMessage(websocket.TextMessage, []byte("hello"))
		if _, p, err := c.ReadMessage(); err != nil || string(p) != "hello" {
			t.Error(url, string(p), err)
		}
	}
	for _, url := range []string{"ws://" + raw.Addr().String() + "/", "ws://" + shared.Addr().String() + "/ws", "ws://" + shared.Addr().String() + "/takeover"} {
		crowd.Come(t, url, nil, crowd.Echo(""))
	}
	resp, err := http.Get("http://" + shared.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), "/takeover") {
		t.Error(string(body))
	}
}
