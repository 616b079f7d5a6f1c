package foyer

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/foyerws/foyer/internal/wstest"
)

// within fails the test when ch is not closed in time.
func within(t *testing.T, limit time.Duration, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(limit):
		t.Fatalf("%s: not within %v", what, limit)
	}
}

// departures are the ways in which a client goes without a close frame.
var departures = map[string]func(*net.TCPConn){
	"FIN": func(c *net.TCPConn) { c.Close() },
	"RST": func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
}

// A program that neither reads nor writes notices at once that its client has left, on Linux.
func TestPeerThatLeavesIsNoticedAtOnce(t *testing.T) {
	for name, leave := range departures {
		for kind, program := range map[string]func(context.Context, *Socket){
			"waits":     func(ctx context.Context, s *Socket) { <-ctx.Done() },
			"CloseRead": func(ctx context.Context, s *Socket) { s.CloseRead(); <-ctx.Done() },
			"writes": func(ctx context.Context, s *Socket) {
				for s.Write(ctx, Text, []byte("tick")) == nil {
					select {
					case <-time.After(10 * time.Millisecond):
					case <-ctx.Done():
					}
				}
			},
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				h := closeHandler(t, &Handler{})
				returned := make(chan struct{})
				go h.ForEach(context.Background(), func(ctx context.Context, s *Socket) {
					program(ctx, s)
					close(returned)
				})
				conn := dialTCP(t, serveRaw(t, h))
				ask(t, conn, handshakeRequest())
				eventually(t, "the socket", func() bool { return h.Stats().Accepted == 1 })
				leave(conn)
				within(t, 2*time.Second, "the end of the context", returned)
				eventually(t, "the end of the socket", func() bool { st := h.Stats(); return st.Open == 0 && st.Closed[CloseAbnormalClosure] == 1 })
			})
		}
	}
}

// What a client sent before it left can still be read, with contexts that have ended because it left, and derived ones.
func TestMessagesBeforeAFINAreRead(t *testing.T) {
	h := closeHandler(t, &Handler{})
	conn := dialTCP(t, serveRaw(t, h))
	ask(t, conn, handshakeRequest())
	got := make(chan []string, 1)
	left := make(chan error, 1)
	proceed := make(chan struct{})
	go h.ForEach(t.Context(), func(ctx context.Context, s *Socket) {
		<-ctx.Done()
		left <- context.Cause(ctx)
		<-proceed
		var messages []string
		for {
			derived, cancel := context.WithTimeout(ctx, time.Minute)
			_, p, err := s.Read(derived)
			cancel()
			if err != nil {
				if !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Error(err)
				}
				break
			}
			messages = append(messages, string(p))
		}
		got <- messages
	})
	for _, m := range []string{"one", "two", "three"} {
		conn.Write(wstest.Masked(0x81, m))
	}
	conn.CloseWrite()
	if err := <-left; !errors.Is(err, errLeft) {
		t.Error(err)
	}
	if st := h.Stats(); st.Open != 1 {
		t.Error("the socket has ended, and with it what was not read")
	}
	close(proceed)
	if messages := <-got; len(messages) != 3 {
		t.Error(messages)
	}
	eventually(t, "the end of the socket", func() bool { return h.Stats().Open == 0 })
}

// A message that is being read in small pieces is read to its end though the client has left.
func TestReaderOutlivesItsPeer(t *testing.T) {
	for _, compression := range []bool{false, true} {
		h := closeHandler(t, &Handler{Compression: compressing(compression)})
		c := dialCompressed(t, serveRaw(t, h), nil)
		s := accept(t, h)
		want := strings.Repeat("0123456789", 200)
		c.WriteMessage(1, []byte(want))
		c.NetConn().Close()
		ctx, cancel := context.WithCancel(s.Context())
		defer cancel()
		_, r, err := s.Reader(ctx)
		if err != nil {
			t.Fatal(err)
		}
		within(t, 2*time.Second, "the end of the context", ctx.Done())
		var got strings.Builder
		for b := make([]byte, 7); err == nil; {
			var n int
			n, err = r.Read(b)
			got.Write(b[:n])
		}
		if err != io.EOF || got.String() != want {
			t.Errorf("%d bytes, %v", got.Len(), err)
		}
		within(t, 2*time.Second, "the end of the socket", s.Done())
	}
}

// A client that left behind input that nobody reads is gone after PongTimeout.
func TestUnreadInputBeforeAFINEndsAfterPongTimeout(t *testing.T) {
	h := closeHandler(t, &Handler{PingInterval: -1, PongTimeout: 200 * time.Millisecond})
	conn := dialTCP(t, serveRaw(t, h))
	ask(t, conn, handshakeRequest())
	s := accept(t, h)
	ctx := s.Context()
	conn.Write(wstest.Masked(0x81, "unread"))
	conn.CloseWrite()
	within(t, 2*time.Second, "the end of the context", ctx.Done())
	if s.State() != StateOpen {
		t.Error("before anybody could have read")
	}
	within(t, 5*time.Second, "the end of the socket", s.Done())
	if err := s.Err(); !errors.Is(err, errLeft) {
		t.Error(err)
	}
}

// A client that is there and answers no ping is noticed though the program does not read.
func TestSilentPeerIsNoticedThoughNobodyReads(t *testing.T) {
	h := closeHandler(t, &Handler{PingInterval: 100 * time.Millisecond, PongTimeout: 200 * time.Millisecond})
	conn := dialTCP(t, serveRaw(t, h))
	ask(t, conn, handshakeRequest())
	s := accept(t, h)
	within(t, 5*time.Second, "the end", s.Done())
	if err := s.Err(); !errors.Is(err, ErrPingTimeout) {
		t.Error(err)
	}
}

// Input that nobody reads hides the answers of a client; its kernel's acknowledgements count then.
func TestUnreadInputDoesNotMakeAPeerDead(t *testing.T) {
	h := closeHandler(t, &Handler{PingInterval: 50 * time.Millisecond, PongTimeout: 100 * time.Millisecond})
	conn := dialTCP(t, serveRaw(t, h))
	ask(t, conn, handshakeRequest())
	s := accept(t, h)
	conn.Write(wstest.Masked(0x81, "unread"))
	time.Sleep(time.Second)
	if _, p, err := s.Read(t.Context()); err != nil || string(p) != "unread" {
		t.Error(string(p), err)
	}
}

// Where the end can only be read, as behind TLS, it is noticed by the sweep.
func TestPeerThatLeavesOverTLS(t *testing.T) {
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	for name, leave := range map[string]func(*tls.Conn){
		"goodbye": func(c *tls.Conn) { c.Close() },
		"FIN":     func(c *tls.Conn) { c.NetConn().Close() },
		"RST":     func(c *tls.Conn) { c.NetConn().(*net.TCPConn).SetLinger(0); c.NetConn().Close() },
	} {
		t.Run(name, func(t *testing.T) {
			h := closeHandler(t, &Handler{PingInterval: 100 * time.Millisecond, PongTimeout: time.Second})
			srv := &Server{Handler: h, TLSConfig: &tls.Config{Certificates: certificate.TLS.Certificates}}
			if err := srv.Listen("tcp", "127.0.0.1:0"); err != nil {
				t.Fatal(err)
			}
			defer srv.Close()
			conn := tls.Client(dialTCP(t, srv.Addr().String()), &tls.Config{InsecureSkipVerify: true})
			ask(t, conn, handshakeRequest())
			s := accept(t, h)
			ctx := s.Context()
			short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			s.Read(short) // whose end must not hide that of the client
			leave(conn)
			within(t, time.Second, "the end of the context", ctx.Done())
			within(t, 3*time.Second, "the end", s.Done())
		})
	}
}

func TestCloseReadAnswersForAProgramThatOnlyWrites(t *testing.T) {
	for name, dial := range transports(t) {
		t.Run(name, func(t *testing.T) {
			h := closeHandler(t, &Handler{})
			c := dial(t, h)
			s := accept(t, h)
			s.CloseRead()
			s.CloseRead()
			if _, _, err := s.Read(t.Context()); err != ErrReading {
				t.Error(err)
			}
			ponged := make(chan struct{}, 1)
			c.SetPongHandler(func(string) error { ponged <- struct{}{}; return nil })
			received := make(chan error, 1)
			go func() {
				for {
					_, p, err := c.ReadMessage()
					if err != nil || string(p) == "news" {
						received <- err
						return
					}
				}
			}()
			c.WriteMessage(2, make([]byte, 100000))
			c.WriteMessage(1, []byte("nobody wants this"))
			c.WriteControl(9, []byte("ping"), time.Now().Add(time.Second))
			within(t, 5*time.Second, "the pong", ponged)
			if s.State() != StateOpen {
				t.Error(s.Err())
			}
			s.SendText(t.Context(), "news")
			if err := <-received; err != nil {
				t.Error(err)
			}
			c.WriteControl(8, []byte("\x0f\xa0"), time.Now().Add(time.Second))
			within(t, 5*time.Second, "the end", s.Done())
			if closeCode(s) != 4000 {
				t.Error(s.Err())
			}
		})
	}
}

// A ForEach function that has called CloseRead ends its socket as others do.
func TestCloseReadInForEach(t *testing.T) {
	h := closeHandler(t, &Handler{})
	go h.ForEach(t.Context(), func(ctx context.Context, s *Socket) { s.CloseRead() })
	c := dial(t, serveRaw(t, h), nil)
	if _, _, err := c.ReadMessage(); err == nil {
		t.Error("the socket lives on")
	}
	eventually(t, "its end", func() bool { return h.Stats().Closed[CloseNormalClosure] == 1 })
}

// Ping in a function of Events cannot see its pong. It must not wait for ever.
func TestPingInAFunctionOfEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{PongTimeout: 3 * time.Second}
		c, s := connectPipe(t, h)
		failed := make(chan error, 1)
		s.Handle(Events{Message: func(s *Socket, _ MessageType, _ []byte) {
			_, err := s.Ping(context.Background(), nil)
			failed <- err
		}})
		go c.ReadMessage()
		c.WriteMessage(1, nil)
		if err := <-failed; err != ErrPingTimeout || s.State() != StateOpen {
			t.Error(err, s.State())
		}
		h.Close()
	})
}

// wrapped is a connection that hides what it is, as those of many listeners do.
type wrapped struct{ net.Conn }

// acceptWrapped returns a client's connection and its socket, over TCP that the server knows nothing of.
func acceptWrapped(t *testing.T, h *Handler) (*net.TCPConn, *Socket) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn := dialTCP(t, l.Addr().String())
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go h.HandleConnection(wrapped{theirs})
	ask(t, conn, handshakeRequest())
	return conn, accept(t, h)
}

// leaveWithMessages sends n messages and a close frame, and closes the connection.
func leaveWithMessages(conn net.Conn, n int) {
	for range n {
		conn.Write(wstest.Masked(0x82, strings.Repeat("m", 3000)))
	}
	conn.Write(wstest.Masked(0x88, "\x03\xe8"))
	conn.Close()
}

// A program that reads slowly gets all that its client sent before it left, however long that takes.
func TestSlowReaderGetsEverything(t *testing.T) {
	slow(t)
	const messages = 20
	slow := func() { time.Sleep(20 * time.Millisecond) }
	for name, program := range map[string]func(*Socket, *atomic.Int32){
		"Read": func(s *Socket, n *atomic.Int32) {
			for {
				if _, _, err := s.Read(s.Context()); err != nil {
					return
				}
				slow()
				n.Add(1)
			}
		},
		"Events": func(s *Socket, n *atomic.Int32) {
			s.Handle(Events{Message: func(*Socket, MessageType, []byte) { slow(); n.Add(1) }})
		},
		"NetConn": func(s *Socket, n *atomic.Int32) {
			conn := NetConn(s.Context(), s, Binary)
			for b := make([]byte, 3000); ; n.Add(1) {
				if _, err := io.ReadFull(conn, b); err != nil {
					return
				}
				slow()
			}
		},
		"after a write": func(s *Socket, n *atomic.Int32) {
			s.SendText(background, "the client has left, and its kernel says so")
			for {
				if _, _, err := s.Read(s.Context()); err != nil {
					return
				}
				slow()
				n.Add(1)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := closeHandler(t, &Handler{PongTimeout: 100 * time.Millisecond})
			conn := dialTCP(t, serveRaw(t, h))
			ask(t, conn, handshakeRequest())
			s := accept(t, h)
			leaveWithMessages(conn, messages)
			time.Sleep(20 * time.Millisecond)
			var n atomic.Int32
			go program(s, &n)
			within(t, 10*time.Second, "the end", s.Done())
			eventually(t, "the last message", func() bool { return n.Load() == messages })
			if closeCode(s) != CloseNormalClosure {
				t.Error(s.Err())
			}
		})
	}
}

// The same over HTTP/2, whose connection ends as well.
func TestMessagesBeforeTheEndOfAnHTTP2Connection(t *testing.T) {
	h := closeHandler(t, &Handler{PingInterval: 100 * time.Millisecond})
	url, client := serveHTTP2(t, true, h)
	c, _ := openStream(t, client, url)
	s := accept(t, h)
	for range 3 {
		c.Write(wstest.Masked(0x81, "hello"))
	}
	c.Write(wstest.Masked(0x88, "\x03\xe8"))
	c.CloseWrite()
	time.Sleep(20 * time.Millisecond)
	client.CloseIdleConnections()
	c.Close()
	time.Sleep(300 * time.Millisecond)
	for range 3 {
		if _, p, err := s.Read(s.Context()); err != nil || string(p) != "hello" {
			t.Fatal(string(p), err)
		}
	}
}

// A half-read message is read to its end, also where the end of the client can only be read.
func TestHalfReadMessageOnAWrappedConnection(t *testing.T) {
	besideOthers(t)
	h := closeHandler(t, &Handler{PingInterval: 50 * time.Millisecond})
	conn, s := acceptWrapped(t, h)
	conn.Write(wstest.Masked(0x82, "0123456789"))
	conn.CloseWrite()
	_, r, err := s.Reader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.Read(make([]byte, 1))
	time.Sleep(400 * time.Millisecond)
	if rest, err := io.ReadAll(r); string(rest) != "123456789" || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Error("a second end:", n, err)
	}
}

func TestSilentPeerOnAWrappedConnection(t *testing.T) {
	_, s := acceptWrapped(t, closeHandler(t, &Handler{PingInterval: 100 * time.Millisecond, PongTimeout: 100 * time.Millisecond}))
	within(t, 5*time.Second, "the end", s.Done())
	if err := s.Err(); !errors.Is(err, ErrPingTimeout) {
		t.Error(err)
	}
}
