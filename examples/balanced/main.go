// Balanced is a server as it stands behind a load balancer. It believes what the proxies in -proxies say of the client's
// address, and nobody else. When it is to end, its readiness goes red first; once the balancer has had the time to see
// that, it closes its sockets one after the other, and the clients come back somewhere else.
//
//	go run ./examples/balanced -proxies 127.0.0.1/32
//
// docs/deploy.md has the configuration of several balancers.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/foyerws/foyer"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	proxies := flag.String("proxies", "127.0.0.1/32,::1/128", "prefixes of the proxies to believe, separated by commas")
	grace := flag.Duration("grace", 5*time.Second, "how long the balancer may take to see that this server is not ready any more")
	spread := flag.Duration("spread", 10*time.Second, "over what time the sockets are closed then")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	s := newServer(strings.Split(*proxies, ","))
	go s.sockets.ForEach(context.Background(), greet)
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	go s.web.Serve(l)
	log.Println("listening on", l.Addr())
	<-ctx.Done()
	log.Println("ended:", s.end(*grace, *spread))
}

type server struct {
	sockets *foyer.Handler
	web     *http.Server
	ending  atomic.Bool
}

func newServer(proxies []string) *server {
	s := &server{sockets: new(foyer.Handler)}
	r := chi.NewRouter()
	r.Use(middleware.ClientIPFromXFF(proxies...))
	r.Handle("/ws", s.sockets)
	r.Get("/ready", s.ready)
	s.web = &http.Server{Handler: r, ReadHeaderTimeout: 5 * time.Second}
	return s
}

// ready is what the balancer asks.
func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	if s.ending.Load() {
		http.Error(w, "ending", http.StatusServiceUnavailable)
	}
}

// end ends the server so that no client finds itself refused.
func (s *server) end(grace, spread time.Duration) error {
	s.ending.Store(true)
	time.Sleep(grace)
	ctx, cancel := context.WithTimeout(context.Background(), spread+10*time.Second)
	defer cancel()
	shut := make(chan error, 1)
	go func() { shut <- s.web.Shutdown(ctx) }() // over HTTP/2 this waits for the sockets, and tells clients to leave
	return errors.Join(s.sockets.Drain(ctx, spread), <-shut)
}

// greet tells the client its address, and then echoes.
func greet(ctx context.Context, s *foyer.Socket) {
	if s.SendText(ctx, middleware.GetClientIP(s.Request().Context())) != nil {
		return
	}
	for {
		t, p, err := s.Read(ctx)
		if err != nil || s.Write(ctx, t, p) != nil {
			return
		}
	}
}
