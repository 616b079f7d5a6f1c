// Chat is the chat server of Qt's examples: each message goes to all other clients. It accepts connections from web
// pages of every origin, as the original does.
//
//	go run ./examples/qt/chat -port 1234
package main

import (
	"flag"
	"log"
	"net/netip"
	"os"
	"os/signal"
	"slices"

	"github.com/foyerws/foyer/qt"
)

// A ChatServer holds the clients of a chat.
type ChatServer struct {
	webSocketServer *qt.WebSocketServer
	clients         []*qt.WebSocket
}

func identifier(peer *qt.WebSocket) string {
	return netip.AddrPortFrom(peer.PeerAddress(), peer.PeerPort()).String()
}

// NewChatServer is the constructor.
func NewChatServer(port uint16) *ChatServer {
	c := &ChatServer{webSocketServer: qt.NewWebSocketServer("Chat Server", qt.NonSecureMode)}
	if c.webSocketServer.Listen(qt.Any, port) {
		log.Println("Chat Server listening on port", c.webSocketServer.ServerPort())
		c.webSocketServer.NewConnection.Connect(c.onNewConnection)
	}
	return c
}

func (c *ChatServer) onNewConnection() {
	socket := c.webSocketServer.NextPendingConnection()
	log.Println(identifier(socket), "connected!")
	socket.TextMessageReceived.Connect(func(message string) { c.processMessage(socket, message) })
	socket.Disconnected.Connect(func() { c.socketDisconnected(socket) })
	c.clients = append(c.clients, socket)
}

func (c *ChatServer) processMessage(sender *qt.WebSocket, message string) {
	for _, client := range c.clients {
		if client != sender { // which knows what it has said
			client.SendTextMessage(message)
		}
	}
}

func (c *ChatServer) socketDisconnected(client *qt.WebSocket) {
	log.Println(identifier(client), "disconnected!")
	c.clients = slices.DeleteFunc(c.clients, func(other *qt.WebSocket) bool { return other == client })
	client.DeleteLater()
}

func main() {
	port := flag.Int("port", 1234, "port for the chat server")
	flag.Parse()
	server := NewChatServer(uint16(*port))
	if !server.webSocketServer.IsListening() {
		log.Fatal(server.webSocketServer.ErrorString())
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	go func() {
		<-interrupted
		server.webSocketServer.Close()
		qt.Quit(0)
	}()
	os.Exit(qt.Exec())
}
