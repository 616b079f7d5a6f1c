package rooms_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/rooms"
)

// A chat in a few lines: each path is a room.
func ExampleRoom_Serve() {
	var hub rooms.Hub
	var h foyer.Handler
	go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
		hub.Room(s.Request().PathValue("room")).Serve(ctx, s)
	})
	mux := http.NewServeMux()
	mux.Handle("/rooms/{room}", &h)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	defer h.Close()

	ctx := context.Background()
	url := "ws" + strings.TrimPrefix(srv.URL, "http") + "/rooms/attic"
	alice, _, err := foyer.Dial(ctx, url, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer alice.Abort()
	alice.SendText(ctx, "hello")
	_, p, _ := alice.Read(ctx)
	fmt.Printf("%s\n", p)
	// Output: hello
}

// A client that was away gets what it has missed.
func ExampleRoom_Join() {
	ctx := context.Background()
	hub := rooms.Hub{Encode: rooms.JSON}
	room := hub.Room("news")
	seen, _ := room.Publish(ctx, foyer.Text, []byte("one"))
	room.Publish(ctx, foyer.Text, []byte("two"))

	h := &foyer.Handler{}
	srv := httptest.NewServer(h)
	defer srv.Close()
	defer h.Close()
	client, _, err := foyer.Dial(ctx, srv.URL, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Abort()
	s, _ := h.Accept(ctx)
	m, _ := room.Join(ctx, s, rooms.JoinOptions{Key: "alice", Since: seen})
	fmt.Println(m.Recovered(), room.Members())
	for range 2 {
		_, p, _ := client.Read(ctx)
		fmt.Println(strings.Contains(string(p), `"welcome"`), strings.Contains(string(p), `"two"`))
	}
	// Output:
	// true [{alice  1}]
	// true false
	// false true
}
