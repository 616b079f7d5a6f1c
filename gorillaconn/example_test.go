package gorillaconn_test

import (
	"log"
	"net/http"

	"github.com/gorilla/websocket"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/gorillaconn"
)

// A program of gorilla's keeps its loops. What was an Upgrader becomes a Handler, and CheckOrigin becomes Origins.
func Example() {
	door := &foyer.Handler{Origins: foyer.AllowOrigins("https://example.com")}
	http.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		conn, err := gorillaconn.Upgrade(door, w, r) // was upgrader.Upgrade(w, r, nil)
		if err != nil {
			return // which was answered and logged
		}
		defer conn.Close()
		for {
			_, message, err := conn.ReadMessage()
			if err != nil {
				return
			}
			if err := conn.WriteMessage(websocket.TextMessage, message); err != nil {
				return
			}
		}
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
