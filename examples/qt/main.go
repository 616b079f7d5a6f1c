// Qt is the echo server of Qt's documentation for QWebSocketServer, statement by statement: docs/qt.md has both side by
// side.
//
//	go run ./examples/qt -port 1234 -debug
package main

import (
	"flag"
	"log"
	"os"
	"os/signal"
	"slices"

	"github.com/foyerws/foyer/qt"
)

// An EchoServer sends every message back.
type EchoServer struct {
	// Closed is emitted when the server has been closed.
	Closed qt.Signal[func()]

	webSocketServer *qt.WebSocketServer
	clients         []*qt.WebSocket
	debug           bool
}

// NewEchoServer is the constructor.
func NewEchoServer(port uint16, debug bool) *EchoServer {
	e := &EchoServer{
		webSocketServer: qt.NewWebSocketServer("Echo Server", qt.NonSecureMode),
		debug:           debug,
	}
	if e.webSocketServer.Listen(qt.Any, port) {
		if e.debug {
			log.Println("Echoserver listening on port", e.webSocketServer.ServerPort())
		}
		e.webSocketServer.NewConnection.Connect(e.onNewConnection)
		e.webSocketServer.Closed.Connect(func() { e.Closed.Emit(func(slot func()) { slot() }) })
	}
	return e
}

// DeleteLater is the destructor.
func (e *EchoServer) DeleteLater() {
	e.webSocketServer.Close()
	for _, client := range e.clients {
		client.DeleteLater()
	}
}

func (e *EchoServer) onNewConnection() {
	socket := e.webSocketServer.NextPendingConnection()

	// A closure knows the socket, for which Qt has sender().
	socket.TextMessageReceived.Connect(func(message string) { e.processTextMessage(socket, message) })
	socket.BinaryMessageReceived.Connect(func(message []byte) { e.processBinaryMessage(socket, message) })
	socket.Disconnected.Connect(func() { e.socketDisconnected(socket) })

	e.clients = append(e.clients, socket)
}

func (e *EchoServer) processTextMessage(client *qt.WebSocket, message string) {
	if e.debug {
		log.Printf("Message received: %q", message)
	}
	client.SendTextMessage(message)
}

func (e *EchoServer) processBinaryMessage(client *qt.WebSocket, message []byte) {
	if e.debug {
		log.Printf("Binary message received: %q", message)
	}
	client.SendBinaryMessage(message)
}

func (e *EchoServer) socketDisconnected(client *qt.WebSocket) {
	if e.debug {
		log.Println("socketDisconnected:", client.PeerAddress(), client.PeerPort())
	}
	e.clients = slices.DeleteFunc(e.clients, func(c *qt.WebSocket) bool { return c == client })
	client.DeleteLater()
}

func main() {
	port := flag.Int("port", 1234, "port for the echo server")
	debug := flag.Bool("debug", false, "log what happens")
	flag.Parse()
	server := NewEchoServer(uint16(*port), *debug)
	if !server.webSocketServer.IsListening() {
		log.Fatal(server.webSocketServer.ErrorString())
	}
	server.Closed.Connect(func() { qt.Quit(0) })
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	go func() {
		<-interrupted
		qt.InvokeMethod(server.DeleteLater) // on the event loop, as everything that touches the clients
	}()
	os.Exit(qt.Exec())
}
