package foyer

import (
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/gorilla/websocket"
)

func TestBroadcast(t *testing.T) {
	h := closeHandler(t, &Handler{MaxPending: -1, MaxWriteBuffer: 20000, Compression: CompressionContextTakeover})
	addr := serveRaw(t, h)
	var clients []*websocket.Conn
	var sockets []*Socket
	for i := range 5 {
		d := websocket.Dialer{EnableCompression: i == 0}
		c, _, err := d.Dial("ws://"+addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients = append(clients, c)
		sockets = append(sockets, accept(t, h))
	}
	sockets[4].Abort()
	w, err := sockets[3].Writer(t.Context(), Text) // takes nothing else
	if err != nil {
		t.Fatal(err)
	}
	var all iter.Seq[*Socket] = slices.Values(sockets)
	dropped := Broadcast(all, Text, []byte("to everybody"))
	if len(dropped) != 2 || dropped[0].Socket != sockets[3] || dropped[0].Err != ErrWriterOpen ||
		dropped[1].Socket != sockets[4] || !errors.Is(dropped[1].Err, ErrClosed) {
		t.Errorf("dropped %v", dropped)
	}
	w.Close()
	for _, c := range clients[:3] {
		if _, p, err := c.ReadMessage(); err != nil || string(p) != "to everybody" {
			t.Error(string(p), err)
		}
	}
	if dropped := Broadcast(all, 0, nil); len(dropped) != 5 {
		t.Errorf("dropped %v", dropped)
	}
}
