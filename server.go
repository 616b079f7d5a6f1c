package foyer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/foyerws/foyer/internal/netpoll"
)

// A Server performs handshakes on one listener, for any path, without net/http. It is safe for concurrent use. Do not
// copy it.
type Server struct {
	// Performs the handshakes. It must not be nil.
	Handler *Handler

	// Makes the Server speak wss.
	TLSConfig *tls.Config

	mu       sync.Mutex // guards:
	listener net.Listener
	acceptor netpoll.Acceptor // of its connections
	closed   bool
	resumed  chan struct{} // closed by Resume; nil while not paused
	stopped  chan struct{} // closed when the listener is
}

var (
	errNoHandler   = errors.New("foyer: Server.Handler is nil")
	errIsListening = errors.New("foyer: already listening")
)

// Listen serves on addr in the background. network is "tcp", "tcp4", "tcp6" or "unix". Port 0 is any free one.
func (s *Server) Listen(network, addr string) error {
	l, err := listen(network, addr)
	if err != nil {
		return err
	}
	return s.serveInBackground(l)
}

// ListenFile is Listen on a copy of a listening socket: from systemd, or another Server's File.
func (s *Server) ListenFile(f *os.File) error {
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	return s.serveInBackground(l)
}

func (s *Server) serveInBackground(l net.Listener) error {
	a, err := s.open(l, netpoll.NewAcceptor)
	if err == nil {
		go s.accept(a)
	}
	return err
}

// ListenAndServe is Serve on a TCP address.
func (s *Server) ListenAndServe(addr string) error {
	l, err := listen("tcp", addr)
	if err != nil {
		return err
	}
	return s.serve(l, netpoll.NewAcceptor)
}

// listen turns TCP keepalive off, whose four system calls for each connection foyer's own pings make superfluous.
func listen(network, addr string) (net.Listener, error) {
	config := net.ListenConfig{KeepAlive: -1}
	return config.Listen(context.Background(), network, addr)
}

// Serve serves l's connections until the Server is closed, and closes l. It returns ErrClosed or an *AcceptError.
func (s *Server) Serve(l net.Listener) error { return s.serve(l, netpoll.Plain) }

func (s *Server) serve(l net.Listener, acceptor func(net.Listener) netpoll.Acceptor) error {
	a, err := s.open(l, acceptor)
	if err != nil {
		return err
	}
	return s.accept(a)
}

// open makes l what the Server listens on, or closes it, and returns what accepts its connections.
func (s *Server) open(l net.Listener, acceptor func(net.Listener) netpoll.Acceptor) (_ netpoll.Acceptor, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.Handler == nil:
		err = errNoHandler
	case s.closed:
		err = ErrClosed
	case s.listener != nil:
		err = errIsListening
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	s.Handler.init()
	if config := s.tlsConfig(); config != nil {
		s.acceptor = netpoll.Plain(tls.NewListener(l, config))
	} else {
		s.acceptor = acceptor(l)
	}
	s.listener, s.stopped = l, make(chan struct{})
	return s.acceptor, nil
}

// The delays before accepting again after a temporary error.
const (
	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// accept accepts connections until the listener is closed.
func (s *Server) accept(a netpoll.Acceptor) error {
	delay := minAcceptDelay
	for {
		t, err := a.Accept()
		if err == nil {
			s.whenResumed()
			err = s.Handler.arrive(t)
		}
		if err == nil {
			delay = minAcceptDelay
			continue
		}
		if s.Addr() == nil {
			return ErrClosed
		}
		err = &AcceptError{Err: err}
		s.Handler.failed(err)
		var temporary interface{ Temporary() bool }
		if !errors.As(err, &temporary) || !temporary.Temporary() {
			s.stopListening()
			return err
		}
		if !s.sleep(delay) {
			return ErrClosed
		}
		delay = min(2*delay, maxAcceptDelay)
	}
}

// whenResumed waits while the Server is paused and not closed.
func (s *Server) whenResumed() {
	s.mu.Lock()
	resumed, stopped := s.resumed, s.stopped
	s.mu.Unlock()
	if resumed == nil {
		return
	}
	select {
	case <-resumed:
	case <-stopped:
	}
}

// sleep waits for d, and reports false when the Server was closed.
func (s *Server) sleep(d time.Duration) bool {
	s.mu.Lock()
	stopped := s.stopped
	s.mu.Unlock()
	select {
	case <-time.After(d):
		return true
	case <-stopped:
		return false
	}
}

// tlsConfig returns the configuration for all connections, nil without TLS.
func (s *Server) tlsConfig() *tls.Config {
	if s.TLSConfig == nil || len(s.TLSConfig.NextProtos) > 0 {
		return s.TLSConfig
	}
	config := s.TLSConfig.Clone()
	config.NextProtos = []string{"http/1.1"}
	return config
}

// Addr returns the listener's address, or nil.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Port returns the listener's TCP port, or 0.
func (s *Server) Port() int {
	if addr, ok := s.Addr().(*net.TCPAddr); ok {
		return addr.Port
	}
	return 0
}

// URL returns the URL for clients, or nil. Unix sockets have ws+unix or wss+unix.
func (s *Server) URL() *url.URL {
	scheme := "ws"
	if s.TLSConfig != nil {
		scheme = "wss"
	}
	switch addr := s.Addr().(type) {
	case nil:
		return nil
	case *net.TCPAddr:
		host := addr.IP.String()
		if addr.IP.IsUnspecified() {
			host = "localhost"
		}
		return &url.URL{Scheme: scheme, Host: net.JoinHostPort(host, strconv.Itoa(addr.Port))}
	case *net.UnixAddr:
		return &url.URL{Scheme: scheme + "+unix", Path: addr.Name}
	default:
		return &url.URL{Scheme: scheme, Host: addr.String()}
	}
}

// File returns a copy of the listening socket, which the caller closes, for a process that takes over with ListenFile.
// A Unix socket's path survives Close. Errors are ErrNotListening and errors.ErrUnsupported.
func (s *Server) File() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil, ErrNotListening
	}
	if unix, ok := s.listener.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(false) // the path is the next process's, too
	}
	return listenerFile(s.listener)
}

// Pause leaves new clients in the system's queue until Resume.
func (s *Server) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resumed == nil {
		s.resumed = make(chan struct{})
	}
}

// Resume ends Pause.
func (s *Server) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resumed != nil {
		close(s.resumed)
		s.resumed = nil
	}
}

// Shutdown closes the listener and calls Handler.Shutdown.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.stopForGood()
	if s.Handler == nil {
		return err
	}
	return errors.Join(s.Handler.Shutdown(ctx), err)
}

// Drain closes the listener and calls Handler.Drain.
func (s *Server) Drain(ctx context.Context, spread time.Duration) error {
	err := s.stopForGood()
	if s.Handler == nil {
		return err
	}
	return errors.Join(s.Handler.Drain(ctx, spread), err)
}

// Close closes the listener and calls Handler.Close.
func (s *Server) Close() error {
	err := s.stopForGood()
	if s.Handler == nil {
		return err
	}
	return errors.Join(s.Handler.Close(), err)
}

func (s *Server) stopForGood() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	return s.stopListening()
}

// stopListening closes the listener.
func (s *Server) stopListening() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return ErrNotListening
	}
	err := s.acceptor.Close()
	close(s.stopped)
	s.listener = nil
	return err
}
