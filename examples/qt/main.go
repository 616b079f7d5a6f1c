// Qt is the echo server of Qt's documentation for QWebSocketServer, part by part: what a Qt programmer knows is on the
// left in the comments.
//
//	go run ./examples/qt -port 1234 -debug
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"

	"github.com/foyerws/foyer"
)

// An echoServer is EchoServer.
type echoServer struct {
	handler foyer.Handler
	server  foyer.Server // m_pWebSocketServer
	debug   bool         // m_debug

	mu      sync.Mutex
	clients map[*foyer.Socket]struct{} // m_clients
}

// newEchoServer is the constructor.
func newEchoServer(ctx context.Context, port int, debug bool) (*echoServer, error) {
	e := &echoServer{debug: debug, clients: make(map[*foyer.Socket]struct{})}
	e.handler.ServerName = "Echo Server" // QWebSocketServer("Echo Server", NonSecureMode)
	e.handler.Origins = foyer.AnyOrigin()
	e.server.Handler = &e.handler
	if err := e.server.Listen("tcp", fmt.Sprintf(":%d", port)); err != nil { // listen(QHostAddress::Any, port)
		return nil, err
	}
	if e.debug {
		log.Println("Echo server listening on port", e.server.Port())
	}
	go func() { // connect(newConnection, onNewConnection)
		for s := range e.handler.Incoming(ctx) {
			e.onNewConnection(s)
		}
	}()
	return e, nil
}

// close is the destructor.
func (e *echoServer) close() error {
	return e.server.Close() // close(), and qDeleteAll(m_clients)
}

func (e *echoServer) onNewConnection(s *foyer.Socket) { // nextPendingConnection()
	e.mu.Lock()
	e.clients[s] = struct{}{} // m_clients << pSocket
	e.mu.Unlock()
	s.Handle(foyer.Events{
		Message: e.processMessage,     // connect(textMessageReceived), connect(binaryMessageReceived)
		Closed:  e.socketDisconnected, // connect(disconnected)
	})
}

func (e *echoServer) processMessage(s *foyer.Socket, t foyer.MessageType, message []byte) {
	if e.debug {
		log.Printf("%v message received: %q", t, message)
	}
	s.Write(context.Background(), t, message) // sendTextMessage(message), sendBinaryMessage(message)
}

func (e *echoServer) socketDisconnected(s *foyer.Socket, code foyer.CloseCode, reason string) {
	if e.debug {
		log.Println("socket disconnected:", code, reason)
	}
	e.mu.Lock()
	delete(e.clients, s) // m_clients.removeAll(pClient), deleteLater()
	e.mu.Unlock()
}

func main() {
	port := flag.Int("port", 1234, "port for the echo server")
	debug := flag.Bool("debug", false, "log what happens")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	server, err := newEchoServer(ctx, *port, *debug)
	if err != nil {
		log.Fatal(err)
	}
	<-ctx.Done() // a.exec()
	server.close()
}
