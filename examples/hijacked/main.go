// Hijacked gives a foyer.Handler sockets from three places that are not an HTTP route of its own:
//
//   - a raw listener, whose every connection is a WebSocket;
//   - a port that HTTP and WebSocket share, where the first bytes of a connection decide;
//   - somebody else's handler, which has hijacked the connection already.
//
// Usage:
//
//	go run ./examples/hijacked
//
//	ws://127.0.0.1:8081/          the raw listener
//	ws://127.0.0.1:8080/ws        the shared port
//	ws://127.0.0.1:8080/takeover  the hijacking handler
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/foyerws/foyer"
)

func main() {
	rawAddr := flag.String("raw", "127.0.0.1:8081", "address of the raw listener")
	sharedAddr := flag.String("shared", "127.0.0.1:8080", "address of the port that is shared with HTTP")
	flag.Parse()
	raw, err := net.Listen("tcp", *rawAddr)
	if err != nil {
		log.Fatal(err)
	}
	shared, err := net.Listen("tcp", *sharedAddr)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on ws://%s/, ws://%s/ws and ws://%s/takeover", raw.Addr(), shared.Addr(), shared.Addr())
	h := &foyer.Handler{}
	go h.ForEach(context.Background(), echo)
	go serveRaw(raw, h)
	log.Fatal(serveShared(shared, h))
}

// serveRaw takes every connection of l for a WebSocket. A foyer.Server does the same and more.
func serveRaw(l net.Listener, h *foyer.Handler) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go h.HandleConnection(conn)
	}
}

// serveShared looks at the first bytes of each connection of l: those for /ws go to h, all others to net/http.
func serveShared(l net.Listener, h *foyer.Handler) error {
	rest := &queue{Listener: l, conns: make(chan net.Conn), closed: make(chan struct{})}
	srv := &http.Server{Handler: takeover(h), ReadHeaderTimeout: 5 * time.Second}
	go srv.Serve(rest)
	defer srv.Close()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			s := &sniffed{Conn: conn, r: bufio.NewReaderSize(conn, 512)}
			conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			const prefix = "GET /ws "
			begin, _ := s.r.Peek(len(prefix))
			conn.SetReadDeadline(time.Time{})
			if string(begin) == prefix {
				h.HandleConnection(s)
				return
			}
			select {
			case rest.conns <- s:
			case <-rest.closed:
				conn.Close()
			}
		}()
	}
}

// takeover is a handler that has its own reasons to hijack the connection, and leaves what comes of it to h.
func takeover(h *foyer.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "The WebSockets are at /ws and /takeover.")
	})
	mux.HandleFunc("/takeover", func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, "Internal server error.", http.StatusInternalServerError)
			return
		}
		h.HandleUpgrade(r, conn, rw)
	})
	return mux
}

// A sniffed connection gives the bytes that were looked at once more.
type sniffed struct {
	net.Conn
	r *bufio.Reader
}

func (s *sniffed) Read(p []byte) (int, error) { return s.r.Read(p) }

// A queue is a listener for connections that were accepted elsewhere.
type queue struct {
	net.Listener
	conns  chan net.Conn
	closed chan struct{}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case conn := <-q.conns:
		return conn, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	select {
	case <-q.closed:
		return errors.New("closed already")
	default:
		close(q.closed)
		return q.Listener.Close()
	}
}

func echo(ctx context.Context, s *foyer.Socket) {
	for {
		t, p, err := s.Read(ctx)
		if err != nil || s.Write(ctx, t, p) != nil {
			return
		}
	}
}
