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
	"sync/atomic"
	"time"

	"github.com/foyerws/foyer/internal/wire"
)

// A Server feeds the connections of a listener to a Handler, without net/http in between. It is for programs that serve
// nothing but WebSockets on a port.
//
// A Server listens on one address at a time. All methods are safe for concurrent use; a Server must not be copied.
type Server struct {
	// Handler performs the handshakes and holds the sockets. It must not be nil.
	Handler *Handler

	// TLSConfig, if not nil, makes the Server speak wss. It needs a certificate. Where it names no protocols,
	// "http/1.1" is put in, the only one that a Server speaks; for HTTP/2 there is net/http. It is read when the Server
	// starts to listen; later changes have no effect.
	TLSConfig *tls.Config

	mu       sync.Mutex // guards:
	listener net.Listener
	acceptor *wire.Acceptor // on the same socket, if it is ours; may be nil
	closed   bool
	resumed  chan struct{} // closed by Resume; nil while not paused
	stopped  chan struct{} // closed when the listener is

	waiting atomic.Int32    // goroutines that wait for a connection to perform its handshake
	handoff chan *wire.Conn // to them
}

var (
	errNoHandler   = errors.New("foyer: Server.Handler is nil")
	errIsListening = errors.New("foyer: already listening")
)

// Listen listens on addr and serves in the background. network is "tcp", "tcp4", "tcp6" or "unix"; port 0 chooses a free
// one, see Port.
func (s *Server) Listen(network, addr string) error {
	l, err := listen(network, addr)
	if err != nil {
		return err
	}
	return s.serveInBackground(l)
}

// ListenFile is Listen on a listening socket that was opened elsewhere: by systemd, or by the process that this one
// replaces (see File). It works on a copy of f, which stays the caller's.
func (s *Server) ListenFile(f *os.File) error {
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	return s.serveInBackground(l)
}

func (s *Server) serveInBackground(l net.Listener) error {
	a := wire.NewAcceptor(l)
	if err := s.open(l, a); err != nil {
		l.Close()
		return err
	}
	next := s.acceptFrom(l, a)
	go s.accept(next)
	return nil
}

// ListenAndServe listens on a TCP address and serves until the Server is closed. It always returns an error, which is
// ErrClosed then.
func (s *Server) ListenAndServe(addr string) error {
	l, err := listen("tcp", addr)
	if err != nil {
		return err
	}
	return s.serve(l, wire.NewAcceptor(l))
}

// listen turns TCP keepalive off, whose four system calls for each connection foyer's own pings make superfluous.
func listen(network, addr string) (net.Listener, error) {
	config := net.ListenConfig{KeepAlive: -1}
	return config.Listen(context.Background(), network, addr)
}

// Serve serves the connections of l, any listener, until the Server is closed, and closes l. It always returns an error,
// which is ErrClosed then, or an *AcceptError.
func (s *Server) Serve(l net.Listener) error { return s.serve(l, nil) }

func (s *Server) serve(l net.Listener, a *wire.Acceptor) error {
	if err := s.open(l, a); err != nil {
		l.Close()
		return err
	}
	return s.accept(s.acceptFrom(l, a))
}

// open makes l, and a on it, what the Server listens on. a is closed when that is not possible.
func (s *Server) open(l net.Listener, a *wire.Acceptor) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		if err != nil && a != nil {
			a.Close()
		}
	}()
	switch {
	case s.Handler == nil:
		return errNoHandler
	case s.closed:
		return ErrClosed
	case s.listener != nil:
		return errIsListening
	}
	s.Handler.init()
	s.listener, s.acceptor, s.stopped, s.handoff = l, a, make(chan struct{}), make(chan *wire.Conn)
	return nil
}

// The delays before accepting again after a temporary error.
const (
	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// accept accepts connections until the listener is closed.
func (s *Server) accept(next func() (*wire.Conn, error)) error {
	delay := minAcceptDelay
	for {
		c, err := next()
		if err == nil {
			delay = minAcceptDelay
			s.whenResumed()
			select {
			case s.handoff <- c:
			default:
				go s.handle(c)
			}
			continue
		}
		if !s.IsListening() {
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

// acceptFrom returns the function that waits for the next connection.
func (s *Server) acceptFrom(l net.Listener, a *wire.Acceptor) func() (*wire.Conn, error) {
	config := s.tlsConfig()
	if a != nil && config == nil {
		return a.Accept
	}
	return func() (*wire.Conn, error) {
		conn, err := l.Accept()
		if err != nil {
			return nil, err
		}
		if config != nil {
			conn = tls.Server(conn, config)
		}
		return wire.New(conn, nil), nil
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

// maxIdleHandlers is how many goroutines that performed a handshake wait for the next. Their stacks have grown to what it
// takes, which costs a twentieth of a handshake.
const maxIdleHandlers = 4

// handle performs the handshake on c, and then perhaps on others.
func (s *Server) handle(c *wire.Conn) {
	s.mu.Lock()
	handoff, stopped := s.handoff, s.stopped
	s.mu.Unlock()
	for {
		s.Handler.handle(c) // which reports its errors
		if s.waiting.Add(1) > maxIdleHandlers {
			s.waiting.Add(-1)
			return
		}
		select {
		case c = <-handoff:
			s.waiting.Add(-1)
		case <-stopped:
			s.waiting.Add(-1)
			return
		}
	}
}

// Addr returns the address that the Server listens on, nil when it does not.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Port returns the TCP port that the Server listens on, 0 when it does not listen on one.
func (s *Server) Port() int {
	if addr, ok := s.Addr().(*net.TCPAddr); ok {
		return addr.Port
	}
	return 0
}

// URL returns the URL that clients connect to, nil when the Server does not listen. The host of a Server that listens on
// all addresses is localhost; a Unix socket has the scheme ws+unix or wss+unix and its path.
func (s *Server) URL() *url.URL {
	scheme := "ws"
	if s.Secure() {
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

// IsListening reports whether the Server has a listener, paused or not.
func (s *Server) IsListening() bool { return s.Addr() != nil }

// Secure reports whether the Server speaks wss.
func (s *Server) Secure() bool { return s.TLSConfig != nil }

// File returns a copy of the listening socket's file, for a process that takes over (see ListenFile); the caller closes
// it. It returns ErrNotListening without a listener, and errors.ErrUnsupported when that has no file. From then on closing
// the Server leaves the path of a Unix socket in place.
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

// Pause stops accepting connections until Resume. Clients that connect meanwhile wait in the system's queue; sockets that
// are open or pending stay.
func (s *Server) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resumed == nil {
		s.resumed = make(chan struct{})
	}
}

// Resume accepts connections again.
func (s *Server) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resumed != nil {
		close(s.resumed)
		s.resumed = nil
	}
}

// Shutdown closes the listener and then the Handler, as Handler.Shutdown does. It returns ErrNotListening, after shutting
// down the Handler, if there was no listener.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.stopForGood()
	if s.Handler == nil {
		return err
	}
	return errors.Join(s.Handler.Shutdown(ctx), err)
}

// Drain closes the listener and then the Handler, as Handler.Drain does. Connections that were accepted before are served, if
// their handshake is over in that time. Where another process listens on the same socket (see File), no client finds the door shut.
func (s *Server) Drain(ctx context.Context, spread time.Duration) error {
	err := s.stopForGood()
	if s.Handler == nil {
		return err
	}
	return errors.Join(s.Handler.Drain(ctx, spread), err)
}

// Close closes the listener and then the Handler, as Handler.Close does.
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
	err := s.listener.Close()
	if s.acceptor != nil {
		s.acceptor.Close()
	}
	close(s.stopped)
	s.listener = nil
	return err
}
