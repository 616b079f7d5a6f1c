// Chat is a chat for browsers: rooms, names, who is there, history, who is typing, unread marks. A page that was offline
// shows what it has missed. docs/rooms.md walks through this program.
//
//	go run ./examples/chat
//	go run ./examples/chat -nodes 3                          three nodes and a NATS server, in one process
//	go run ./examples/chat -nats nats://localhost:4222       one of many nodes
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/rooms"
)

//go:embed page.html
var page string

// maxText is how many bytes a message may have.
const maxText = 2000

func main() {
	addr := flag.String("addr", "localhost:8080", "address to listen on; further nodes take the next ports")
	nodes := flag.Int("nodes", 1, "how many nodes to run, with a NATS server if -nats does not name one")
	url := flag.String("nats", "", "URL of a NATS server with JetStream, whose other nodes have the same rooms")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	connect, stopNATS, err := openNATS(*url, *nodes > 1)
	if err != nil {
		stopNATS()
		log.Fatal(err)
	}
	defer stopNATS()
	var running sync.WaitGroup
	for i := range *nodes {
		backend, err := connect()
		if err != nil {
			log.Fatal(err)
		}
		l, err := net.Listen("tcp", nextPort(*addr, i))
		if err != nil {
			log.Fatal(err)
		}
		log.Printf("listening on http://%s", l.Addr())
		running.Go(func() { serve(ctx, l, backend) })
	}
	running.Wait()
}

// serve is a node: it serves the chat until ctx is done.
func serve(ctx context.Context, l net.Listener, backend *node) {
	hub := &rooms.Hub{Backend: backend.rooms(), Encode: rooms.JSON, Options: whoJoins, OnMessage: check}
	h := new(foyer.Handler)
	go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
		hub.Room(s.Request().PathValue("room")).Serve(ctx, s)
	})

	mux := http.NewServeMux()
	mux.Handle("GET /rooms/{room}/socket", h)
	mux.HandleFunc("GET /rooms/{room}/members", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, hub.Room(r.PathValue("room")).Members())
	})
	mux.HandleFunc("GET /admin/rooms", func(w http.ResponseWriter, r *http.Request) { writeJSON(w, counts(hub)) })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		if err := backend.ready(r.Context()); err != nil || ctx.Err() != nil { // it is about to stop
			http.Error(w, "not ready", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; base-uri 'none'")
		w.Write([]byte(page))
	})

	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		ending, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		h.Drain(ending, time.Second) // so that not all clients come back at once, to another node
		hub.Shutdown(ending)
		backend.close()
		srv.Shutdown(ending)
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-ended
}

// whoJoins says who a client is and what it has seen. The page sends both in the URL; a program with a login takes the
// name from there: see docs/identity.md.
func whoJoins(s *foyer.Socket) rooms.JoinOptions {
	query := s.Request().URL.Query()
	since, _ := rooms.ParsePosition(query.Get("since"))
	return rooms.JoinOptions{Key: strings.TrimSpace(query.Get("name")), Since: since, History: 50}
}

// check lets through what the page sends: {"text":"..."} or {"typing":true}.
func check(_ context.Context, _ *rooms.Member, m *rooms.Message) error {
	var sent struct {
		Text   string `json:"text,omitempty"`
		Typing bool   `json:"typing,omitempty"`
	}
	if err := json.Unmarshal(m.Data, &sent); err != nil {
		return &rooms.Refusal{Reason: "malformed message"}
	}
	switch sent.Text = strings.TrimSpace(sent.Text); {
	case len(sent.Text) > maxText:
		return &rooms.Refusal{Reason: "the message is too long"}
	case sent.Text == "" && !sent.Typing:
		return &rooms.Refusal{Reason: "the message is empty"}
	}
	m.Transient = sent.Text == "" // who is typing is of no interest to those who come later
	m.Type = foyer.Text
	m.Data, _ = json.Marshal(sent)
	return nil
}

// A count is what an admin sees of a room.
type count struct {
	Room          string
	Members, Keys int
}

func counts(hub *rooms.Hub) (all []count) {
	for _, name := range hub.Rooms() {
		members, keys := hub.Room(name).Count()
		all = append(all, count{name, members, keys})
	}
	return all
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
