// Proxyproto serves WebSockets behind a load balancer that speaks the PROXY protocol: sockets have the address of the
// client, not that of the balancer. Only balancers that are named are believed.
//
//	go run ./examples/proxyproto -from 127.0.0.1
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/foyerws/foyer"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	from := flag.String("from", "127.0.0.1", "addresses of the balancers, separated by commas")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	l, err := listen(*addr, strings.Split(*from, ","))
	if err != nil {
		log.Fatal(err)
	}
	s := &foyer.Server{Handler: newHandler()}
	go func() {
		if err := s.Serve(l); !errors.Is(err, foyer.ErrClosed) {
			log.Fatal(err)
		}
	}()
	log.Println("listening on", l.Addr())
	<-ctx.Done()
	if err := s.Close(); err != nil { // closes the sockets as well
		log.Fatal(err)
	}
}

// listen returns a listener whose connections begin with a PROXY header where they come from one of balancers, and have
// none where they do not.
func listen(addr string, balancers []string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	policy, err := proxyproto.PolicyFromRanges(balancers, proxyproto.REQUIRE, proxyproto.REJECT)
	if err != nil {
		l.Close()
		return nil, err
	}
	return &proxyproto.Listener{Listener: l, ConnPolicy: policy, ReadHeaderTimeout: 5 * time.Second}, nil
}

// newHandler returns a Handler whose sockets tell who the client is.
func newHandler() *foyer.Handler {
	h := &foyer.Handler{}
	go h.ForEach(context.Background(), func(ctx context.Context, s *foyer.Socket) {
		s.SendText(ctx, s.RemoteAddr().String())
		s.Read(ctx) // until the client closes
	})
	return h
}
