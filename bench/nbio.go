//go:build linux && nbio

package main

import (
	"net"
	"net/http"

	"github.com/lesismal/nbio/logging"
	"github.com/lesismal/nbio/nbhttp"
	"github.com/lesismal/nbio/nbhttp/websocket"
)

func init() { nbio = serveNBIO }

// serveNBIO has nbio's own server, on epoll, in place of net/http's.
func serveNBIO(o options) error {
	logging.SetLevel(logging.LevelNone) // it writes to standard output
	var all room[*websocket.Conn]
	echo := newNBIOUpgrader(o, func(c *websocket.Conn, t websocket.MessageType, p []byte) { c.WriteMessage(t, p) })
	broadcast := newNBIOUpgrader(o, func(_ *websocket.Conn, t websocket.MessageType, p []byte) {
		all.each(func(c *websocket.Conn) { c.WriteMessage(t, p) })
	})
	broadcast.OnOpen(all.join)
	broadcast.OnClose(func(c *websocket.Conn, _ error) { all.leave(c) })
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { echo.Upgrade(w, r, nil) })
	mux.HandleFunc("/broadcast", func(w http.ResponseWriter, r *http.Request) { broadcast.Upgrade(w, r, nil) })
	engine := nbhttp.NewEngine(nbhttp.Config{
		Network: "tcp4",
		Addrs:   []string{"127.0.0.1:0"},
		Listen:  func(string, string) (net.Listener, error) { return o.listen() },
		Handler: mux,

		MaxWebsocketFramePayloadSize: 512 << 10, // an echo that comes in pieces is not what was sent
	})
	if err := engine.Start(); err != nil {
		return err
	}
	select {}
}

func newNBIOUpgrader(o options, f func(*websocket.Conn, websocket.MessageType, []byte)) *websocket.Upgrader {
	u := websocket.NewUpgrader()
	u.EnableCompression(o.deflate)
	u.OnMessage(f)
	return u
}
