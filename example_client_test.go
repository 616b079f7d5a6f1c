package foyer_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/foyerws/foyer"
)

// serveEcho serves an echo and returns its URL.
func serveEcho() (url string, stop func() error) {
	h := &foyer.Handler{}
	go h.ForEach(context.Background(), echo)
	s := &foyer.Server{Handler: h}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		panic(err)
	}
	return s.URL().String(), s.Close
}

// dialEcho opens a socket to an echo.
func dialEcho() (s *foyer.Socket, stop func() error) {
	url, stop := serveEcho()
	s, _, err := foyer.Dial(context.Background(), url, nil)
	if err != nil {
		panic(err)
	}
	return s, stop
}

// Dial is the client's side. The Socket is the same on both.
func ExampleDial() {
	url, stop := serveEcho()
	defer stop()

	ctx := context.Background()
	_, _, err := foyer.Dial(ctx, url, &foyer.DialOptions{Origin: "http://example.com"})
	var refused *foyer.HandshakeError
	if errors.As(err, &refused) {
		fmt.Println("refused with", refused.Status) // the page does not belong to the server
	}

	s, _, err := foyer.Dial(ctx, url, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	s.SendText(ctx, "hello")
	_, p, err := s.Read(ctx)
	fmt.Println(string(p), err)
	fmt.Println(s.Close(foyer.CloseNormalClosure, ""))
	// Output:
	// refused with 403
	// hello <nil>
	// <nil>
}

func ExampleRedial() {
	url, stop := serveEcho()
	defer stop()

	ctx, cancel := context.WithCancel(context.Background())
	err := foyer.Redial(ctx, url, nil, func(ctx context.Context, s *foyer.Socket) error {
		if err := s.SendText(ctx, "here I am"); err != nil {
			return err // the server has gone: Redial dials again
		}
		for {
			_, p, err := s.Read(ctx)
			if err != nil {
				return err
			}
			fmt.Println(string(p))
			cancel() // enough
		}
	})
	fmt.Println(err)
	// Output:
	// here I am
	// context canceled
}

// A socket that listens calls functions instead of being read from.
func ExampleSocket_Handle() {
	s, stop := dialEcho()
	defer stop()
	closed := make(chan struct{})
	s.Handle(foyer.Events{
		Message: func(s *foyer.Socket, t foyer.MessageType, p []byte) {
			fmt.Println(t, string(p))
			s.Close(foyer.CloseNormalClosure, "that was all")
		},
		Closed: func(s *foyer.Socket, code foyer.CloseCode, reason string) {
			fmt.Println(code)
			close(closed)
		},
	})
	s.SendText(context.Background(), "hello")
	<-closed
	// Output:
	// text hello
	// 1000 (normal closure)
}

// Who does not call Read has paused the peer: what it sends stays in the kernel, and then with the peer.
func ExampleSocket_Read() {
	s, stop := dialEcho()
	defer stop()
	defer s.Abort()
	for i := range 3 {
		s.SendText(context.Background(), fmt.Sprint("message ", i))
	}
	// Nothing is lost meanwhile, and nothing fills up.
	for range 3 {
		_, p, err := s.Read(context.Background())
		fmt.Println(string(p), err)
	}
	// Output:
	// message 0 <nil>
	// message 1 <nil>
	// message 2 <nil>
}

// Any goroutine may use a socket: messages do not mix.
func ExampleSocket_concurrent() {
	s, stop := dialEcho()
	defer stop()
	defer s.Abort()
	var writers sync.WaitGroup
	for i := range 3 {
		writers.Go(func() { s.SendText(context.Background(), fmt.Sprint("from goroutine ", i)) })
	}
	writers.Wait()
	for range 3 {
		_, p, _ := s.Read(context.Background())
		fmt.Println(string(p))
	}
	// Unordered output:
	// from goroutine 0
	// from goroutine 1
	// from goroutine 2
}

// NetConn makes a byte stream of a socket, for protocols that know nothing of messages.
func ExampleNetConn() {
	s, stop := dialEcho()
	defer stop()
	conn := foyer.NetConn(context.Background(), s, foyer.Binary)
	defer conn.Close()
	io.WriteString(conn, "one line\nanother ")
	io.WriteString(conn, "line\n")
	lines := bufio.NewScanner(conn)
	for range 2 {
		lines.Scan()
		fmt.Println(lines.Text())
	}
	// Output:
	// one line
	// another line
}

// Messages can be JSON.
func ExampleReadJSON() {
	ctx := context.Background()
	s, stop := dialEcho()
	defer stop()
	defer s.Abort()
	type greeting struct{ Hello string }
	foyer.WriteJSON(ctx, s, greeting{"world"})
	var g greeting
	fmt.Println(foyer.ReadJSON(ctx, s, &g), g.Hello)
	// Output: <nil> world
}

// Serve takes any listener: here one that counts, elsewhere one that unwraps what a proxy has put in front.
func ExampleServer_Serve() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	counting := &countingListener{Listener: l}
	s := &foyer.Server{Handler: &foyer.Handler{
		Authorize: func(r *http.Request) (http.Header, error) {
			fmt.Println("connection", counting.n)
			return nil, nil
		},
	}}
	served := make(chan error)
	go func() { served <- s.Serve(counting) }()

	c, _, err := foyer.Dial(context.Background(), "ws://"+l.Addr().String(), nil)
	fmt.Println(err)
	c.Abort()
	s.Close()
	fmt.Println(errors.Is(<-served, foyer.ErrClosed))
	// Output:
	// connection 1
	// <nil>
	// true
}

type countingListener struct {
	net.Listener
	n int
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	l.n++
	return conn, err
}
