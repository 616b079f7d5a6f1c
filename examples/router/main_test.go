package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/internal/crowd"
)

func TestRoutes(t *testing.T) {
	h := &foyer.Handler{Origins: foyer.AllowOrigins("http://localhost:*")}
	defer h.Close()
	go h.ForEach(t.Context(), greet)
	srv := httptest.NewServer(routes(h))
	defer srv.Close()
	url := "ws" + strings.TrimPrefix(srv.URL, "http")
	for _, path := range []string{"/std/rooms/attic", "/chi/rooms/attic", "/gorilla/rooms/attic"} {
		c, _, err := websocket.DefaultDialer.Dial(url+path, http.Header{"Origin": {"http://localhost:3000"}})
		if err != nil {
			t.Fatal(path, err)
		}
		defer c.Close()
		c.WriteMessage(websocket.TextMessage, []byte("hello"))
		for _, want := range []string{"Welcome to the attic.", "hello"} {
			if _, p, err := c.ReadMessage(); err != nil || string(p) != want {
				t.Error(path, string(p), err)
			}
		}
		if _, resp, _ := websocket.DefaultDialer.Dial(url+path, http.Header{"Origin": {"http://evil.example"}}); resp == nil || resp.StatusCode != 403 {
			t.Error(path, resp)
		}
	}
	for _, path := range []string{"/std/rooms/attic", "/chi/rooms/attic", "/gorilla/rooms/attic"} {
		crowd.Come(t, url+path, nil, crowd.Echo("Welcome to the attic."))
	}
	r, _ := http.NewRequest("GET", srv.URL+"/chi/stats", nil)
	r.Header.Set("Origin", "http://localhost:3000")
	resp, err := http.DefaultClient.Do(r)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Access-Control-Allow-Origin") != "http://localhost:3000" {
		t.Error(resp, err)
	}
}
