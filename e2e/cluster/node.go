//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/rooms"
	"github.com/foyerws/foyer/rooms/natsrooms"
)

// node is a process with members. It stops in order on SIGTERM.
func node(args []string) error {
	flags := flag.NewFlagSet("node", flag.ExitOnError)
	addr := flags.String("addr", "", "address to listen on")
	url := flags.String("nats", "", "URLs of NATS servers")
	replicas := flags.Int("replicas", 1, "of the stream")
	flags.Parse(args)
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	nc, err := nats.Connect(*url, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		return err
	}
	defer nc.Close()
	backend := natsrooms.JetStream(nc, natsrooms.Options{Replicas: *replicas})
	hub := &rooms.Hub{Backend: backend, Encode: rooms.JSON, Options: func(s *foyer.Socket) rooms.JoinOptions {
		query := s.Request().URL.Query()
		since, _ := rooms.ParsePosition(query.Get("since"))
		return rooms.JoinOptions{Key: query.Get("key"), Since: since}
	}}
	h := new(foyer.Handler)
	go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
		hub.Room(s.Request().PathValue("room")).Serve(ctx, s)
	})
	room := func(r *http.Request) (string, error) { return r.PathValue("room"), nil }
	mux := http.NewServeMux()
	mux.Handle("GET /{room}/socket", h)
	mux.Handle("POST /{room}", hub.PublishHandler(room))
	mux.HandleFunc("GET /{room}/members", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(hub.Room(r.PathValue("room")).Members())
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(backend.Stats()) })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		if err := backend.Ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		ending, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		h.Drain(ending, 2*time.Second)
		hub.Shutdown(ending)
		backend.Close()
		srv.Shutdown(ending)
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-ended
	return nil
}

// A process is a program that can be killed and started again.
type process struct {
	name  string
	args  []string
	clock clock
	cmd   *os.Process
}

func (p *process) start() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	p.cmd, err = os.StartProcess(p.name, append([]string{p.name}, p.args...), &os.ProcAttr{
		Files: []*os.File{null, null, os.Stderr},
		Env:   append(os.Environ(), clockFile+"="+string(p.clock)),
	})
	return err
}

// end sends a signal that ends the process, and waits for that.
func (p *process) end(s syscall.Signal) {
	if p.cmd == nil {
		return
	}
	p.cmd.Signal(s)
	p.cmd.Wait()
	p.cmd = nil
}

func (p *process) signal(s syscall.Signal) { p.cmd.Signal(s) }
