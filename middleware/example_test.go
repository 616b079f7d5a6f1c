package middleware_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/gorilla/websocket"
	"github.com/rs/cors"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/middleware"
)

// A page and its WebSocket have the same address.
func ExampleUpgrade() {
	h := &foyer.Handler{}
	defer h.Close()
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "page") })
	srv := httptest.NewServer(middleware.Upgrade(h)(page))
	defer srv.Close()

	resp, _ := http.Get(srv.URL)
	fmt.Println(resp.Status)
	c, resp, _ := websocket.DefaultDialer.Dial(strings.Replace(srv.URL, "http", "ws", 1), nil)
	fmt.Println(resp.Status)
	c.Close()
	// Output:
	// 200 OK
	// 101 Switching Protocols
}

// The same origins may fetch and open WebSockets.
func ExampleCORS() {
	origins := foyer.AllowOrigins("https://app.example.com")
	h := &foyer.Handler{Origins: origins}
	api := middleware.CORS(origins, cors.Options{AllowCredentials: true})(h)

	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Origin", "https://app.example.com")
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	fmt.Println(w.Header().Get("Access-Control-Allow-Origin"), w.Header().Get("Vary"))
	// Output: https://app.example.com Origin
}

// A browser's token arrives where other clients put it.
func ExampleBearerToken() {
	h := &foyer.Handler{
		Subprotocols: []string{"chat.v1"},
		Authorize: func(r *http.Request) (http.Header, error) {
			fmt.Println(r.Header.Get("Authorization"))
			return nil, nil
		},
	}
	defer h.Close()
	srv := httptest.NewServer(middleware.BearerToken("bearer.")(h))
	defer srv.Close()

	d := websocket.Dialer{Subprotocols: []string{"bearer.czNjcmV0", "chat.v1"}}
	c, _, _ := d.Dial(strings.Replace(srv.URL, "http", "ws", 1), nil)
	fmt.Println(c.Subprotocol())
	c.Close()
	// Output:
	// Bearer s3cret
	// chat.v1
}
