// Http3 serves the same WebSockets over HTTP/1.1, HTTP/2 (RFC 8441) and HTTP/3 (RFC 9220), on one port.
//
//	go run ./examples/http3 -cert cert.pem -key key.pem
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/foyerws/foyer"
	_ "github.com/foyerws/foyer/extendedconnect"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8443", "address to listen on, TCP and UDP")
	cert := flag.String("cert", "cert.pem", "file with the certificate")
	key := flag.String("key", "key.pem", "file with its key")
	flag.Parse()
	certificate, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	s, err := listen(*addr, certificate)
	if err != nil {
		log.Fatal(err)
	}
	log.Println("listening on", s.addr())
	<-ctx.Done()
	log.Println(s.shutdown())
}

// A server has one Handler behind two servers of HTTP.
type server struct {
	sockets  *foyer.Handler
	listener net.Listener
	tcp      *http.Server
	packets  net.PacketConn
	quic     *http3.Server
}

// listen serves at addr.
func listen(addr string, certificate tls.Certificate) (*server, error) {
	s := &server{sockets: &foyer.Handler{}}
	go s.sockets.ForEach(context.Background(), echo)

	m := http.NewServeMux()
	m.Handle("/ws", s.sockets)
	s.quic = &http3.Server{Handler: m, TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{certificate}})}
	s.tcp = &http.Server{
		Handler:           s.alternative(m),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}},
		ReadHeaderTimeout: 5 * time.Second,
	}
	if err := foyer.EnableHTTP2(s.tcp); err != nil {
		return nil, err
	}
	var err error
	if s.listener, err = net.Listen("tcp", addr); err != nil {
		return nil, err
	}
	if s.packets, err = net.ListenPacket("udp", s.addr()); err != nil {
		return nil, errors.Join(err, s.listener.Close())
	}
	go s.tcp.ServeTLS(s.listener, "", "")
	go s.quic.Serve(s.packets)
	return s, nil
}

func (s *server) addr() string { return s.listener.Addr().String() }

// alternative tells clients that come over TCP of HTTP/3.
func (s *server) alternative(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.quic.SetQUICHeaders(w.Header()) // an error says that it does not listen yet
		next.ServeHTTP(w, r)
	})
}

// echo is what each socket does, whatever carries it.
func echo(ctx context.Context, s *foyer.Socket) {
	for {
		t, p, err := s.Read(ctx)
		if err != nil || s.Write(ctx, t, p) != nil {
			return
		}
	}
}

// shutdown closes the sockets, and then the servers, which would wait for them.
func (s *server) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(s.sockets.Shutdown(ctx), s.tcp.Shutdown(ctx), s.quic.Shutdown(ctx), s.packets.Close())
}
