// Echo sends every message back to the socket it came from. Its page, at /, has one to try it with; the WebSocket is at
// /ws and below. What is sent to /ws/broadcast goes to all sockets there.
//
//	go run ./examples/echo
package main

import (
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/foyerws/foyer"
	_ "github.com/foyerws/foyer/extendedconnect" // WebSockets over HTTP/2, where there is TLS
)

//go:embed page.html
var page []byte

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go collectOnSignal(os.Stdout)
	err := run(ctx, os.Args[1:], os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until ctx ends. It logs to w.
func run(ctx context.Context, args []string, w io.Writer) error {
	flags := flag.NewFlagSet("echo", flag.ContinueOnError)
	flags.SetOutput(w)
	addr := flags.String("addr", "127.0.0.1:8080", "address to listen on")
	secure := flags.Bool("tls", false, "serve https and wss, with a certificate made at the start")
	raw := flags.Bool("raw", false, "serve the WebSocket alone, without net/http")
	maxPending := flags.Int("max-pending", 0, "sockets that may wait to be accepted (0: 30)")
	maxMessage := flags.Int64("max-message", 0, "bytes a message may have (0: 1 MiB)")
	compression := flags.Bool("compression", false, "negotiate permessage-deflate")
	origins := flags.String("origins", "", "allowed origins, separated by commas; * for any (default: the page's own)")
	mode := flags.String("mode", "events", "how sockets are served: events (callbacks) or read (a goroutine each)")
	verbose := flags.Bool("v", false, "log each socket's beginning and end")
	if err := flags.Parse(args); err != nil {
		return err
	}

	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
	h := &foyer.Handler{
		ServerName:     "foyer-echo",
		MaxPending:     *maxPending,
		MaxMessageSize: *maxMessage,
		Logger:         log,
	}
	if *compression {
		h.Compression = foyer.CompressionContextTakeover
	}
	switch *origins {
	case "":
	case "*":
		h.Origins = foyer.AnyOrigin()
	default:
		h.Origins = foyer.AllowOrigins(strings.Split(*origins, ",")...)
	}
	var config *tls.Config
	if *secure {
		certificate, err := selfSigned()
		if err != nil {
			return err
		}
		config = &tls.Config{Certificates: []tls.Certificate{certificate}}
	}

	serve := serveHTTP
	if *raw {
		serve, h.Authorize = serveRaw, onlyBelowWS
	}
	e := &echo{log: log}
	switch *mode {
	case "events":
		go e.listen(h)
	case "read":
		go e.read(h)
	default:
		return fmt.Errorf("-mode is events or read, not %q", *mode)
	}
	return serve(ctx, h, *addr, config, log)
}

// patience is how long sockets have to answer the close frame of a shutdown.
const patience = 10 * time.Second

// serveHTTP serves the page and the WebSocket with net/http.
func serveHTTP(ctx context.Context, h *foyer.Handler, addr string, config *tls.Config, log *slog.Logger) error {
	r := chi.NewRouter()
	r.Use(middleware.Recoverer)
	r.Get("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'self' 'unsafe-inline'; connect-src 'self'")
		w.Write(page)
	})
	r.Handle("/ws", h)
	r.Handle("/ws/*", h)
	srv := &http.Server{
		Handler:           r,
		TLSConfig:         config,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	if err := foyer.EnableHTTP2(srv); err != nil {
		log.Warn("sockets over HTTP/1.1 only", "err", err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	if config == nil {
		log.Info("listening", "page", "http://"+l.Addr().String()+"/", "websocket", "ws://"+l.Addr().String()+"/ws")
		go func() { served <- srv.Serve(l) }()
	} else {
		log.Info("listening", "page", "https://"+l.Addr().String()+"/", "websocket", "wss://"+l.Addr().String()+"/ws")
		go func() { served <- srv.ServeTLS(l, "", "") }()
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}

	// http.Server forgets sockets over HTTP/1.1, and waits for those over HTTP/2: they are closed first.
	log.Info("shutting down")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return errors.Join(h.Shutdown(ctx), srv.Shutdown(ctx))
}

// serveRaw serves the WebSocket without net/http.
func serveRaw(ctx context.Context, h *foyer.Handler, addr string, config *tls.Config, log *slog.Logger) error {
	s := &foyer.Server{Handler: h, TLSConfig: config}
	if err := s.Listen("tcp", addr); err != nil {
		return err
	}
	log.Info("listening", "websocket", s.URL().JoinPath("ws").String())
	<-ctx.Done()

	log.Info("shutting down")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return s.Shutdown(ctx)
}

// onlyBelowWS is an Authorize function that does what a router does otherwise.
func onlyBelowWS(r *http.Request) (http.Header, error) {
	if r.URL.Path != "/ws" && !strings.HasPrefix(r.URL.Path, "/ws/") {
		return nil, &foyer.HandshakeError{Status: http.StatusNotFound, Reason: "The WebSocket is at /ws."}
	}
	return nil, nil
}

// An echo is what the sockets do.
type echo struct {
	log *slog.Logger
	all room
}

// callbacks returns the events of a socket.
func (e *echo) callbacks(s *foyer.Socket) foyer.Events {
	path := s.Request().URL.Path
	e.log.Debug("open", "remote", s.RemoteAddr(), "path", path)
	events := foyer.Events{Message: answer, Closed: e.closed}
	if path == "/ws/broadcast" {
		e.all.join(s)
		events.Message = e.all.send
		events.Closed = func(s *foyer.Socket, code foyer.CloseCode, reason string) {
			e.all.leave(s)
			e.closed(s, code, reason)
		}
	}
	return events
}

// answer sends p back.
func answer(s *foyer.Socket, t foyer.MessageType, p []byte) { s.Write(context.Background(), t, p) }

func (e *echo) closed(s *foyer.Socket, code foyer.CloseCode, reason string) {
	e.log.Debug("closed", "remote", s.RemoteAddr(), "code", code, "reason", reason)
}

// listen serves each socket with callbacks.
func (e *echo) listen(h *foyer.Handler) {
	for s := range h.Incoming(context.Background()) {
		s.Handle(e.callbacks(s))
	}
}

// read serves each socket with a goroutine that reads from it. It does the same.
func (e *echo) read(h *foyer.Handler) {
	h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
		events := e.callbacks(s)
		for {
			t, p, err := s.Read(ctx)
			if err != nil {
				break
			}
			events.Message(s, t, p)
		}
		var end *foyer.CloseError
		if errors.As(s.Err(), &end) {
			events.Closed(s, end.Code, end.Reason)
		}
	})
}

// A room is the sockets that hear each other.
type room struct {
	mu      sync.Mutex
	sockets map[*foyer.Socket]struct{}
}

func (r *room) join(s *foyer.Socket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sockets == nil {
		r.sockets = make(map[*foyer.Socket]struct{})
	}
	r.sockets[s] = struct{}{}
}

func (r *room) leave(s *foyer.Socket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sockets, s)
}

// send sends p to everybody in the room.
func (r *room) send(_ *foyer.Socket, t foyer.MessageType, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	foyer.Broadcast(maps.Keys(r.sockets), t, p) // never waits
}
