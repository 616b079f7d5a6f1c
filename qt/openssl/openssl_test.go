//go:build cgo && openssl

package openssl

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/foyerws/foyer/qt"
)

func answer(identity, key string) func(*qt.SslPreSharedKeyAuthenticator) {
	return func(a *qt.SslPreSharedKeyAuthenticator) {
		if identity != "" {
			a.SetIdentity([]byte(identity))
		}
		a.SetPreSharedKey([]byte(key))
	}
}

// pipe returns both ends of a connection through the loopback interface.
func pipe(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{a, b} {
		conn.SetDeadline(time.Now().Add(10 * time.Second))
	}
	return a, b
}

func TestBothWays(t *testing.T) {
	for _, ciphers := range []string{"", "PSK-AES256-CBC-SHA"} {
		b := Backend{IdentityHint: "hint", Ciphers: ciphers}
		near, far := pipe(t)
		client, server := b.Client(near, nil, answer("alice", "a key")), b.Server(far, nil, answer("", "a key"))
		sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
			failed := make(chan error, 1)
			go func() {
				_, err := way[0].Write(sent)
				failed <- err
			}()
			got := make([]byte, len(sent))
			if _, err := io.ReadFull(way[1], got); err != nil || !bytes.Equal(got, sent) {
				t.Fatal(err)
			}
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
		client.Close()
		if _, err := server.Read(make([]byte, 1)); err != io.EOF {
			t.Error(err)
		}
		server.Close()
		server.Close()
		if _, err := server.Write([]byte("x")); err == nil {
			t.Error("written after Close")
		}
	}
}

func TestWhoIsRefused(t *testing.T) {
	b := Backend{}
	long := strings.Repeat("x", 1000)
	for name, test := range map[string]struct{ clientIdentity, clientKey, serverKey string }{
		"another key":             {"alice", "a key", "another"},
		"no key on the client":    {"alice", "", "a key"},
		"no key on the server":    {"alice", "a key", ""},
		"a key that is too long":  {"alice", long, long},
		"an identity of that too": {long, "a key", "a key"},
	} {
		near, far := pipe(t)
		client, server := b.Client(near, nil, answer(test.clientIdentity, test.clientKey)), b.Server(far, nil, answer("", test.serverKey))
		failed := make(chan error, 1)
		go func() {
			_, err := server.Read(make([]byte, 1))
			server.Close()
			failed <- err
		}()
		_, err := client.Write([]byte("x"))
		if err == nil {
			_, err = client.Read(make([]byte, 1))
		}
		client.Close()
		if serverErr := <-failed; err == nil || serverErr == nil {
			t.Errorf("%s: %v, %v", name, err, serverErr)
		}
	}
}

// TestServerWithACertificate instead of the key is refused.
func TestServerWithACertificate(t *testing.T) {
	near, far := pipe(t)
	client := Backend{}.Client(near, nil, answer("alice", "a key"))
	go func() {
		conn := tls.Server(far, &tls.Config{})
		conn.Handshake()
		conn.Close()
	}()
	if _, err := client.Write([]byte("x")); err == nil {
		t.Error("the handshake succeeded")
	}
	client.Close()
}

func TestNotTLS(t *testing.T) {
	near, far := pipe(t)
	server := Backend{}.Server(far, nil, answer("", "a key"))
	near.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	if _, err := server.Read(make([]byte, 1)); err == nil || !strings.HasPrefix(err.Error(), "tls: ") {
		t.Error(err)
	}
	server.Close()
}

func TestDeadline(t *testing.T) {
	_, far := pipe(t)
	server := Backend{}.Server(far, nil, answer("", "a key"))
	server.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	var timeout net.Error
	if _, err := server.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Error(err)
	}
	server.Close()
}

func TestCiphersThatDoNotExist(t *testing.T) {
	_, far := pipe(t)
	server := Backend{Ciphers: "nonsense"}.Server(far, nil, nil)
	if _, err := server.Read(make([]byte, 1)); err == nil {
		t.Error("no error")
	}
	server.Close()
}

func TestServerAndSocket(t *testing.T) {
	qt.SetActiveBackend(Backend{IdentityHint: "the hint"})
	defer qt.SetActiveBackend(nil)
	server := qt.NewWebSocketServer("", qt.SecureMode)
	server.PreSharedKeyAuthenticationRequired.Connect(func(a *qt.SslPreSharedKeyAuthenticator) {
		a.SetPreSharedKey([]byte("key of " + string(a.Identity())))
	})
	server.NewConnection.Connect(func() {
		socket := server.NextPendingConnection()
		socket.TextMessageReceived.Connect(func(m string) { socket.SendTextMessage(m) })
	})
	if !server.Listen(qt.LocalHost, 0) {
		t.Fatal(server.ErrorString())
	}
	defer server.DeleteLater()
	for key, want := range map[string]string{"key of alice": "echoed", "another": "refused"} {
		got := make(chan string, 10)
		w := qt.NewWebSocket("", qt.VersionLatest)
		w.PreSharedKeyAuthenticationRequired.Connect(func(a *qt.SslPreSharedKeyAuthenticator) {
			a.SetIdentity([]byte("alice"))
			a.SetPreSharedKey([]byte(key))
		})
		w.Connected.Connect(func() { w.SendTextMessage("echoed") })
		w.TextMessageReceived.Connect(func(m string) { got <- m })
		w.ErrorOccurred.Connect(func(err qt.SocketError) { got <- "refused" })
		w.Open(server.ServerUrl().String())
		if heard := <-got; heard != want {
			t.Errorf("%s: %s, %s", key, heard, w.ErrorString())
		}
		w.DeleteLater()
	}
}

// TestBothSendAtOnce more than the network can hold.
func TestBothSendAtOnce(t *testing.T) {
	near, far := pipe(t)
	client, server := Backend{}.Client(near, nil, answer("alice", "a key")), Backend{}.Server(far, nil, answer("", "a key"))
	failed := make(chan error, 4)
	for _, c := range []net.Conn{client, server} {
		defer c.Close()
		go func() {
			_, err := c.Write(make([]byte, 32<<20))
			failed <- err
		}()
		go func() {
			_, err := io.CopyN(io.Discard, c, 32<<20)
			failed <- err
		}()
	}
	for range 4 {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
}

// TestManyHandshakesHoldFewThreads has 300 clients wait for a slot that takes its time.
func TestManyHandshakesHoldFewThreads(t *testing.T) {
	held := make(chan struct{})
	var handshakes sync.WaitGroup
	before := pprof.Lookup("threadcreate").Count()
	for range 300 {
		near, far := pipe(t)
		client := Backend{}.Client(near, nil, answer("alice", "a key"))
		server := Backend{}.Server(far, nil, func(a *qt.SslPreSharedKeyAuthenticator) {
			<-held
			a.SetPreSharedKey([]byte("a key"))
		})
		handshakes.Go(func() { client.Write([]byte("x")) })
		handshakes.Go(func() { server.Read(make([]byte, 1)) })
		defer client.Close()
		defer server.Close()
	}
	time.Sleep(200 * time.Millisecond)
	if n := pprof.Lookup("threadcreate").Count() - before; n > 150 {
		t.Errorf("%d threads", n)
	}
	close(held)
	handshakes.Wait()
}

// TestSlotsThatAreLate answer when nobody waits any more.
func TestSlotsThatAreLate(t *testing.T) {
	qt.SetActiveBackend(Backend{})
	defer qt.SetActiveBackend(nil)
	server := qt.NewWebSocketServer("", qt.SecureMode)
	server.SetHandshakeTimeout(100 * time.Millisecond)
	late := make(chan struct{}, 10)
	server.PreSharedKeyAuthenticationRequired.Connect(func(a *qt.SslPreSharedKeyAuthenticator) {
		time.Sleep(200 * time.Millisecond)
		a.SetPreSharedKey([]byte("a key"))
		late <- struct{}{}
	})
	failed := make(chan string, 10)
	server.ServerError.Connect(func(code qt.CloseCode) { failed <- server.ErrorString() })
	if !server.Listen(qt.LocalHost, 0) {
		t.Fatal(server.ErrorString())
	}
	defer server.DeleteLater()
	conn, err := net.Dial("tcp", server.ServerUrl().Host)
	if err != nil {
		t.Fatal(err)
	}
	client := Backend{}.Client(conn, nil, answer("alice", "a key"))
	defer client.Close()
	client.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := client.Write([]byte("x")); err == nil {
		client.Read(make([]byte, 1))
	}
	<-late
	if text := <-failed; text == "" {
		t.Error("no error")
	}
}

// TestKeyThatIsWrong is reported on both sides.
func TestKeyThatIsWrong(t *testing.T) {
	qt.SetActiveBackend(Backend{})
	defer qt.SetActiveBackend(nil)
	server := qt.NewWebSocketServer("", qt.SecureMode)
	server.PreSharedKeyAuthenticationRequired.Connect(func(a *qt.SslPreSharedKeyAuthenticator) {
		a.SetPreSharedKey([]byte("a key"))
		if string(a.Identity()) == "nobody" {
			panic("refused")
		}
	})
	refused := make(chan qt.CloseCode, 10)
	server.ServerError.Connect(func(code qt.CloseCode) { refused <- code })
	server.Listen(qt.LocalHost, 0)
	defer server.DeleteLater()
	for identity, key := range map[string]string{"alice": "another", "nobody": "a key"} {
		w := qt.NewWebSocket("", qt.VersionLatest)
		failed := make(chan qt.SocketError, 10)
		w.ErrorOccurred.Connect(func(err qt.SocketError) { failed <- err })
		w.PreSharedKeyAuthenticationRequired.Connect(func(a *qt.SslPreSharedKeyAuthenticator) {
			a.SetIdentity([]byte(identity))
			a.SetPreSharedKey([]byte(key))
		})
		w.Open(server.ServerUrl().String())
		if err := <-failed; err != qt.SslHandshakeFailedError {
			t.Errorf("%s: %v %s", identity, err, w.ErrorString())
		}
	}
	if code := <-refused; code != qt.CloseCodeTlsHandshakeFailed {
		t.Error(code, server.ErrorString())
	}
}
