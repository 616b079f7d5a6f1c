// Router mounts one foyer.Handler in three routers beside each other. Each has rooms, whose name the socket learns from
// the path; the chi router also has a fetch API for pages of the same origins. README.md has more routers.
//
//	go run ./examples/router
//
//	ws://127.0.0.1:8080/std/rooms/attic       http.ServeMux
//	ws://127.0.0.1:8080/chi/rooms/attic       github.com/go-chi/chi/v5, with github.com/rs/cors
//	ws://127.0.0.1:8080/gorilla/rooms/attic   github.com/gorilla/mux
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	"github.com/gorilla/mux"
	"github.com/rs/cors"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/middleware"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	flag.Parse()
	h := &foyer.Handler{Origins: foyer.AllowOrigins("http://localhost:*", "http://127.0.0.1:*")}
	go h.ForEach(context.Background(), greet)
	log.Printf("listening on ws://%s/{std,chi,gorilla}/rooms/{room}", *addr)
	srv := &http.Server{Addr: *addr, Handler: routes(h), ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(srv.ListenAndServe())
}

// routes mounts h in all three routers.
func routes(h *foyer.Handler) http.Handler {
	c := chi.NewRouter()
	c.Use(chimiddleware.RequestID, chimiddleware.Recoverer, middleware.CORS(h.Origins, cors.Options{}))
	c.Handle("/rooms/{room}", h)
	c.Get("/stats", func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(h.Stats()) })

	g := mux.NewRouter()
	g.Handle("/gorilla/rooms/{room}", h)

	m := http.NewServeMux()
	m.Handle("/std/rooms/{room}", h)
	m.Handle("/chi/", http.StripPrefix("/chi", c))
	m.Handle("/gorilla/", g)
	return m
}

// greet says where the socket is, and then echoes.
func greet(ctx context.Context, s *foyer.Socket) {
	if s.SendText(ctx, fmt.Sprintf("Welcome to the %s.", room(s.Request()))) != nil {
		return
	}
	for {
		t, p, err := s.Read(ctx)
		if err != nil || s.Write(ctx, t, p) != nil {
			return
		}
	}
}

// room returns the name in the path: http.ServeMux and chi have it in PathValue, gorilla/mux in its Vars.
func room(r *http.Request) string {
	if name := r.PathValue("room"); name != "" {
		return name
	}
	return mux.Vars(r)["room"]
}
