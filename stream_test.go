package foyer_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
)

// TestNetConn is what golang.org/x/net demands of a net.Conn.
func TestNetConn(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	t.Parallel()
	streams := func(t *testing.T, dial func(h *foyer.Handler, o *foyer.DialOptions) (client, server *foyer.Socket)) {
		nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
			h := &foyer.Handler{CloseTimeout: time.Second}
			client, server := dial(h, &foyer.DialOptions{CloseTimeout: time.Second})
			a := foyer.NetConn(context.Background(), client, foyer.Binary)
			b := foyer.NetConn(context.Background(), server, foyer.Binary)
			return a, b, func() { a.Close(); b.Close(); h.Close() }, nil
		})
	}
	t.Run("ws", func(t *testing.T) {
		streams(t, func(h *foyer.Handler, o *foyer.DialOptions) (client, server *foyer.Socket) {
			return dialServer(t, h, nil, o)
		})
	})
	t.Run("wss", func(t *testing.T) {
		srv := httptest.NewTLSServer(nil)
		defer srv.Close()
		streams(t, func(h *foyer.Handler, o *foyer.DialOptions) (client, server *foyer.Socket) {
			o.TLSConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig
			return dialServer(t, h, srv.TLS, o)
		})
	})
	t.Run("net.Pipe", func(t *testing.T) {
		streams(t, func(h *foyer.Handler, o *foyer.DialOptions) (client, server *foyer.Socket) {
			return foyertest.PairWith(t, h, "ws://example.com/", o)
		})
	})
}

// dialServer returns both ends of a socket over TCP, with TLS if there is a config.
func dialServer(t *testing.T, h *foyer.Handler, config *tls.Config, o *foyer.DialOptions) (client, server *foyer.Socket) {
	t.Helper()
	s := &foyer.Server{Handler: h, TLSConfig: config}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	client = foyertest.Dial(t, s.URL().String(), o)
	server, err := h.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestNetConnEnds(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(s *foyer.Socket)
		want func(error) bool
	}{
		{"1000", func(s *foyer.Socket) { s.Close(foyer.CloseNormalClosure, "") }, func(err error) bool { return err == io.EOF }},
		{"1001", func(s *foyer.Socket) { s.Close(foyer.CloseGoingAway, "") }, func(err error) bool { return err == io.EOF }},
		{"4000", func(s *foyer.Socket) { s.Close(4000, "") }, func(err error) bool { return errors.Is(err, foyer.ErrClosed) }},
		{"aborted", func(s *foyer.Socket) { s.Abort() }, func(err error) bool { return errors.Is(err, foyer.ErrClosed) && !errors.Is(err, io.EOF) }},
		{"other type", func(s *foyer.Socket) { s.SendText(context.Background(), "text") }, func(err error) bool {
			return err.Error() == "foyer: text message in a stream of binary messages"
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := foyertest.Pair(t, &foyer.Handler{})
			c := foyer.NetConn(t.Context(), client, foyer.Binary)
			server.SendBinary(t.Context(), []byte("one"))
			server.SendBinary(t.Context(), nil)
			server.SendBinary(t.Context(), []byte("two"))
			go test.end(server)
			p, err := io.ReadAll(c)
			if err == nil {
				err = io.EOF
			}
			if string(p) != "onetwo" && test.name != "aborted" || !test.want(err) {
				t.Errorf("%q, %v", p, err)
			}
			if _, err := c.Read(make([]byte, 1)); !test.want(err) {
				t.Error(err)
			}
		})
	}
}

func TestNetConnClose(t *testing.T) {
	client, server := foyertest.Pair(t, &foyer.Handler{})
	c := foyer.NetConn(t.Context(), client, foyer.Text)
	read := make(chan string, 1)
	go func() {
		_, p, _ := server.Read(t.Context())
		read <- string(p)
		server.Read(t.Context())
		close(read)
	}()
	c.Write([]byte("last words"))
	begin := time.Now()
	if err := errors.Join(c.Close(), c.Close()); err != nil || time.Since(begin) > 4*time.Second {
		t.Error(err, time.Since(begin))
	}
	if p := <-read; p != "last words" {
		t.Errorf("%q", p)
	}
	<-read
	if end := foyertest.Ended(t, server); end.Code != foyer.CloseNormalClosure {
		t.Error(end)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestNetConnEndsWithItsContext(t *testing.T) {
	client, server := foyertest.Pair(t, &foyer.Handler{})
	ctx, cancel := context.WithCancel(t.Context())
	c := foyer.NetConn(ctx, client, foyer.Binary)
	go server.Read(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-server.Done()
}

// TestNetConnDeadlinesBreakNothing has a deadline pass in the middle of a message, and during a write that finds no
// room.
func TestNetConnDeadlinesBreakNothing(t *testing.T) {
	h := &foyer.Handler{MaxMessageSize: -1}
	client, server := foyertest.Pair(t, h)
	c := foyer.NetConn(t.Context(), server, foyer.Binary)
	w, err := client.Writer(t.Context(), foyer.Binary)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "first half, ")
	client.Flush(t.Context())
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	io.WriteString(w, "second half")
	w.Close()
	c.SetReadDeadline(time.Time{})
	p := make([]byte, 100)
	if n, err := io.ReadFull(c, p[:23]); string(p[:n]) != "first half, second half" {
		t.Errorf("%q, %v", p[:n], err)
	}

	c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	sent := 0
	for err = nil; err == nil; {
		var n int
		n, err = c.Write(bytes.Repeat([]byte("x"), 100<<10))
		sent += n
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) || sent < 1<<19 {
		t.Error(err, sent)
	}
	c.SetWriteDeadline(time.Time{})
	go c.Write([]byte("end"))
	got := 0
	for {
		_, p, err := client.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if string(p) == "end" {
			break
		}
		got += len(p)
	}
	if got != sent {
		t.Errorf("%d bytes of %d", got, sent)
	}
}

func TestJSON(t *testing.T) {
	client, server := foyertest.Pair(t, &foyer.Handler{})
	type point struct{ X, Y int }
	if err := foyer.WriteJSON(t.Context(), client, point{1, 2}); err != nil {
		t.Fatal(err)
	}
	client.SendText(t.Context(), "{")
	foyer.WriteJSON(t.Context(), client, []int{3})
	var p point
	if err := foyer.ReadJSON(t.Context(), server, &p); err != nil || p != (point{1, 2}) {
		t.Error(p, err)
	}
	if err := foyer.ReadJSON(t.Context(), server, &p); err == nil {
		t.Error("half a message was taken")
	}
	var list []int
	if err := foyer.ReadJSON(t.Context(), server, &list); err != nil || len(list) != 1 {
		t.Error(list, err)
	}
	if err := foyer.WriteJSON(t.Context(), client, func() {}); err == nil {
		t.Error("a function was sent")
	}
	go client.Close(foyer.CloseNormalClosure, "")
	if err := foyer.ReadJSON(t.Context(), server, &p); !errors.Is(err, foyer.ErrClosed) {
		t.Error(err)
	}
}

// TestNetConnWrites looks at how long writes are cut, and whether they stay together.
func TestNetConnWrites(t *testing.T) {
	client, server := foyertest.Pair(t, &foyer.Handler{})
	a, b := foyer.NetConn(t.Context(), client, foyer.Text), foyer.NetConn(t.Context(), server, foyer.Text)
	text := "x" + strings.Repeat("é", 1<<16)
	go a.Write([]byte(text))
	p := make([]byte, len(text))
	if _, err := io.ReadFull(b, p); err != nil || string(p) != text {
		t.Fatal(err)
	}

	const size = 1 << 18
	for _, letter := range []string{"a", "b"} {
		go a.Write([]byte(strings.Repeat(letter, size)))
	}
	p = make([]byte, 2*size)
	if _, err := io.ReadFull(b, p); err != nil {
		t.Fatal(err)
	}
	if first := strings.Repeat(string(p[0]), size); !strings.HasPrefix(string(p), first) || p[size] == p[0] {
		t.Error("two writes have mixed")
	}
	if n, err := b.Read(nil); n != 0 || err != nil {
		t.Error(n, err)
	}
}

func TestNetConnCloseEndsWhatWaits(t *testing.T) {
	client, _ := foyertest.PairWith(t, &foyer.Handler{}, "ws://example.com/", &foyer.DialOptions{CloseTimeout: time.Second})
	c := foyer.NetConn(t.Context(), client, foyer.Binary)
	ends := make(chan error, 2)
	go func() {
		var err error
		for err == nil {
			_, err = c.Write(make([]byte, 1<<16)) // nobody reads
		}
		ends <- err
	}()
	go func() {
		_, err := c.Read(make([]byte, 1))
		ends <- err
	}()
	time.Sleep(50 * time.Millisecond)
	go c.Close()
	for range 2 {
		select {
		case err := <-ends:
			if !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
		case <-time.After(500 * time.Millisecond):
			t.Error("it still waits")
		}
	}
}
