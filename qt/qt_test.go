package qt

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"flag"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	flag.Parse()
	slog.SetDefault(slog.New(panics{slog.DiscardHandler}))
	code := m.Run()
	if unexpected.Load() {
		code = 1
	}
	os.Exit(code)
}

var unexpected atomic.Bool

// panics is a Handler for the log that lets the tests fail if something panics that should not.
type panics struct{ slog.Handler }

func (panics) Enabled(context.Context, slog.Level) bool { return true }

func (panics) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if text := a.Value.String(); a.Key == "panic" && text != expectedPanic {
			unexpected.Store(true)
			fmt.Println("FAIL: " + r.Message + ": " + text)
		}
		return true
	})
	return nil
}

// expectedPanic is what slots of the tests panic with.
const expectedPanic = "in the slot"

// A spy records what a signal was emitted with, as QSignalSpy does.
type spy[T any] struct {
	mu    sync.Mutex
	calls []T
}

func (s *spy[T]) add(v T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, v)
}

func (s *spy[T]) all() []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]T(nil), s.calls...)
}

func (s *spy[T]) count() int { return len(s.all()) }

func spy0(s *Signal[func()]) *spy[struct{}] {
	x := new(spy[struct{}])
	s.Connect(func() { x.add(struct{}{}) })
	return x
}

func spy1[T any](s *Signal[func(T)]) *spy[T] {
	x := new(spy[T])
	s.Connect(x.add)
	return x
}

// A pair has both arguments of a signal.
type pair[A, B any] struct {
	a A
	b B
}

func spy2[A, B any](s *Signal[func(A, B)]) *spy[pair[A, B]] {
	x := new(spy[pair[A, B]])
	s.Connect(func(a A, b B) { x.add(pair[A, B]{a, b}) })
	return x
}

// try waits until ok is true, as QTRY_VERIFY does.
func try(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}

// tryCount waits until a spy has seen n signals, and for a moment more, so that one too many is noticed as well.
func tryCount[T any](t *testing.T, what string, s *spy[T], n int) {
	t.Helper()
	try(t, what, func() bool { return s.count() >= n })
	settle()
	if got := s.count(); got != n {
		t.Errorf("%s: %d times, want %d", what, got, n)
	}
}

// settle waits until the event loop has done what is due.
func settle() {
	done := make(chan struct{})
	InvokeMethod(func() { close(done) })
	<-done
}

// invoke calls f on the event loop and waits for it.
func invoke(f func()) {
	done := make(chan struct{})
	InvokeMethod(func() {
		defer close(done)
		f()
	})
	<-done
}

// listening returns a server that listens.
func listening(t *testing.T, mode SslMode) *WebSocketServer {
	t.Helper()
	server := NewWebSocketServer("", mode)
	if mode == SecureMode {
		server.SetSslConfiguration(&tls.Config{Certificates: []tls.Certificate{certificate(t, time.Hour, "localhost")}})
	}
	if !server.Listen(LocalHost, 0) {
		t.Fatal(server.ErrorString())
	}
	t.Cleanup(server.DeleteLater)
	return server
}

// echoing returns a server that echoes.
func echoing(t *testing.T, mode SslMode) *WebSocketServer {
	server := listening(t, mode)
	server.NewConnection.Connect(func() {
		socket := server.NextPendingConnection()
		socket.TextMessageReceived.Connect(func(m string) { socket.SendTextMessage(m) })
		socket.BinaryMessageReceived.Connect(func(m []byte) { socket.SendBinaryMessage(m) })
	})
	return server
}

// newClient returns a client that the end of the test deletes.
func newClient(t *testing.T, origin string) *WebSocket {
	w := NewWebSocket(origin, VersionLatest)
	t.Cleanup(func() {
		w.DeleteLater()
		w.Abort()
	})
	return w
}

// connect opens w and waits for it.
func connect(t *testing.T, w *WebSocket, server *WebSocketServer) {
	t.Helper()
	w.Open(server.ServerUrl().String())
	try(t, "the client is connected: "+w.ErrorString(), func() bool { return w.State() == ConnectedState })
}

// take returns the server's side of a connection, with its slots connected by f before it begins.
func take(t *testing.T, server *WebSocketServer, f func(*WebSocket)) *WebSocket {
	t.Helper()
	try(t, "a connection is pending", server.HasPendingConnections)
	var socket *WebSocket
	invoke(func() {
		socket = server.NextPendingConnection()
		if f != nil {
			f(socket)
		}
	})
	t.Cleanup(socket.Abort)
	return socket
}

// certificate returns a self-signed certificate for localhost that is valid for d from now on, or was until then.
func certificate(t *testing.T, d time.Duration, name string) tls.Certificate {
	t.Helper()
	return issued(t, tls.Certificate{}, d, name)
}

// issued returns a certificate that another one has signed, or its own key.
func issued(t *testing.T, issuer tls.Certificate, d time.Duration, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(d),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, any(key)
	if issuer.Leaf != nil {
		parent, signer = issuer.Leaf, issuer.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func mustAddr(s string) HostAddress { return netip.MustParseAddr(s) }

// acceptKey returns the value of Sec-WebSocket-Accept, RFC 6455 section 4.2.2.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
