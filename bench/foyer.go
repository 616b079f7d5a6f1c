//go:build linux

package main

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/rooms"
	"github.com/foyerws/foyer/rooms/natsrooms"
)

// newFoyer has the limits that a program gets which sets none.
func newFoyer(o options) *foyer.Handler {
	h := new(foyer.Handler)
	if o.deflate {
		h.Compression = foyer.CompressionNoContextTakeover // as the others
	}
	return h
}

func serveFoyer(o options) error {
	h := newFoyer(o)
	go echoEvents(h)
	return listenAndServe(h, o)
}

func serveFoyerHTTP(o options) error {
	h := newFoyer(o)
	go echoEvents(h)
	return serveHTTP(o, h)
}

func serveFoyerRead(o options) error {
	h := newFoyer(o)
	var all foyerRoom
	go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
		broadcast := s.Request().URL.Path == "/broadcast"
		if broadcast {
			all.join(s)
			defer all.leave(s)
		}
		for {
			t, p, err := s.Read(ctx)
			if err != nil {
				return
			}
			if broadcast {
				all.send(t, p)
			} else if s.Write(ctx, t, p) != nil {
				return
			}
		}
	})
	return listenAndServe(h, o)
}

// serveFoyerAccept is the most obvious program: it accepts, and starts a goroutine for each socket.
func serveFoyerAccept(o options) error {
	h := newFoyer(o)
	go func() {
		ctx := context.Background()
		for {
			s, err := h.Accept(ctx)
			if err != nil {
				return
			}
			go echoSocket(ctx, s)
		}
	}()
	return serveHTTP(o, h)
}

func echoSocket(ctx context.Context, s *foyer.Socket) {
	for {
		t, p, err := s.Read(ctx)
		if err != nil || s.Write(ctx, t, p) != nil {
			return
		}
	}
}

// listenAndServe serves h without net/http.
func listenAndServe(h *foyer.Handler, o options) error {
	s := &foyer.Server{Handler: h, TLSConfig: o.tls}
	if err := s.Listen("tcp4", "127.0.0.1:0"); err != nil {
		return err
	}
	announce(s.Addr())
	select {}
}

// echoEvents echoes with callbacks.
func echoEvents(h *foyer.Handler) {
	var all foyerRoom
	echo := &foyer.Events{Message: func(s *foyer.Socket, t foyer.MessageType, p []byte) { s.Write(context.Background(), t, p) }}
	for s := range h.Incoming(context.Background()) {
		if s.Request().URL.Path != "/broadcast" {
			s.Handle(*echo)
			continue
		}
		all.join(s)
		s.Handle(foyer.Events{
			Message: func(_ *foyer.Socket, t foyer.MessageType, p []byte) { all.send(t, p) },
			Closed:  func(s *foyer.Socket, _ foyer.CloseCode, _ string) { all.leave(s) },
		})
	}
}

// A foyerRoom is the sockets at /broadcast.
type foyerRoom struct {
	mu      sync.Mutex
	sockets map[*foyer.Socket]struct{}
}

func (r *foyerRoom) join(s *foyer.Socket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sockets == nil {
		r.sockets = make(map[*foyer.Socket]struct{})
	}
	r.sockets[s] = struct{}{}
}

func (r *foyerRoom) leave(s *foyer.Socket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sockets, s)
}

func (r *foyerRoom) send(t foyer.MessageType, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	foyer.Broadcast(func(yield func(*foyer.Socket) bool) {
		for s := range r.sockets {
			if !yield(s) {
				return
			}
		}
	}, t, p)
}

func serveFoyerRooms(o options) error { return serveHub(o, nil) }

func serveFoyerCore(o options) error { return serveFoyerNATS(o, natsrooms.Core) }

func serveFoyerJetStream(o options) error { return serveFoyerNATS(o, natsrooms.JetStream) }

func serveFoyerNATS(o options, backend func(*nats.Conn, ...natsrooms.Options) *natsrooms.Backend) error {
	nc, err := nats.Connect(o.broker)
	if err != nil {
		return err
	}
	return serveHub(o, backend(nc))
}

// serveHub has the sockets in a room.
func serveHub(o options, backend rooms.Backend) error {
	h := newFoyer(o)
	hub := &rooms.Hub{PublishRate: -1, Backend: backend} // one client publishes for all
	go func() {
		for s := range h.Incoming(context.Background()) {
			m, err := hub.Room("all").Join(context.Background(), s, rooms.JoinOptions{})
			if err != nil {
				s.Close(foyer.CloseInternalServerErr, "")
				continue
			}
			s.Handle(foyer.Events{Message: func(_ *foyer.Socket, t foyer.MessageType, p []byte) {
				m.Publish(context.Background(), t, p)
			}})
		}
	}()
	return listenAndServe(h, o)
}
