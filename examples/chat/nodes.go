package main

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/foyerws/foyer/rooms"
	"github.com/foyerws/foyer/rooms/natsrooms"
)

// A node is what one node of the chat has of NATS. Nil is for a chat of one node.
type node struct {
	nc      *nats.Conn
	backend *natsrooms.Backend
}

// openNATS returns a function that connects a node: to the server at url, or to one inside this process, or to none.
func openNATS(url string, embedded bool) (connect func() (*node, error), stop func(), err error) {
	stop = func() {}
	options := []nats.Option{nats.Name("chat"), nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond)}
	switch {
	case url == "" && !embedded:
		return func() (*node, error) { return nil, nil }, stop, nil
	case url == "":
		folder, err := os.MkdirTemp("", "chat")
		if err != nil {
			return nil, stop, err
		}
		stop = func() { os.RemoveAll(folder) }
		s, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: folder, NoSigs: true})
		if err != nil {
			return nil, stop, err
		}
		s.Start()
		if !s.ReadyForConnections(10 * time.Second) {
			return nil, stop, errors.New("the NATS server does not start")
		}
		options = append(options, nats.InProcessServer(s))
		stop = func() {
			s.Shutdown()
			s.WaitForShutdown()
			os.RemoveAll(folder)
		}
	}
	return func() (*node, error) {
		nc, err := nats.Connect(url, options...)
		if err != nil {
			return nil, err
		}
		return &node{nc, natsrooms.JetStream(nc)}, nil
	}, stop, nil
}

// rooms returns the Backend of the node's Hub.
func (n *node) rooms() rooms.Backend {
	if n == nil {
		return nil
	}
	return n.backend
}

// ready returns nil if the node can serve.
func (n *node) ready(ctx context.Context) error {
	if n == nil {
		return nil
	}
	return n.backend.Ready(ctx)
}

func (n *node) close() {
	if n != nil {
		n.backend.Close()
		n.nc.Close()
	}
}

// nextPort returns the address of the i-th node.
func nextPort(addr string, i int) string {
	host, port, err := net.SplitHostPort(addr)
	if n, notNumber := strconv.Atoi(port); err == nil && notNumber == nil && n > 0 {
		return net.JoinHostPort(host, strconv.Itoa(n+i))
	}
	return addr
}
