package qt

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestSignals(t *testing.T) {
	var s Signal[func(int)]
	var got []string
	add := func(who string) func(int) {
		return func(n int) { got = append(got, who+strconv.Itoa(n)) }
	}
	emit := func(n int) { s.Emit(func(slot func(int)) { slot(n) }) }
	s.Connect(add("a"))
	b := s.Connect(add("b"))
	s.Connect(add("c"))
	var once *Connection
	once = s.Connect(func(int) {
		once.Disconnect()
		got = append(got, "once")
	})
	emit(1)
	settle()
	b.Disconnect()
	b.Disconnect()
	emit(2)
	settle()
	if !slices.Equal(got, []string{"a1", "b1", "c1", "once", "a2", "c2"}) {
		t.Error(got)
	}
	var d *Connection
	got = nil
	s.Connect(func(int) { d.Disconnect() })
	d = s.Connect(add("d")) // is disconnected by the slot before it
	s.Connect(add("e"))
	emit(3)
	settle()
	s.Disconnect()
	emit(4)
	settle()
	if !slices.Equal(got, []string{"a3", "c3", "e3"}) || s.isConnected() {
		t.Error(got)
	}
}

// TestSlotsRunOneAtATime on a goroutine that ends when there is nothing to do.
func TestSlotsRunOneAtATime(t *testing.T) {
	n := 0
	done := make(chan struct{})
	for range 100 {
		go func() {
			for range 100 {
				InvokeMethod(func() {
					if n++; n == 10000 {
						close(done)
					}
				})
			}
		}()
	}
	<-done
	try(t, "the goroutine ends", func() bool {
		application.mu.Lock()
		defer application.mu.Unlock()
		return !application.running && application.queue == nil
	})
}

// TestSlotsThatEndTheirGoroutine is what t.FailNow does in a slot.
func TestSlotsThatEndTheirGoroutine(t *testing.T) {
	InvokeMethod(runtime.Goexit)
	settle()
}

func TestExec(t *testing.T) {
	InvokeMethod(func() {
		Quit(3)
		Quit(4)
	})
	settle()
	if code := Exec(); code != 3 {
		t.Error(code)
	}
}

func TestCorsAuthenticator(t *testing.T) {
	a, b := NewWebSocketCorsAuthenticator("a"), NewWebSocketCorsAuthenticator("")
	if !a.Allowed() || a.Origin() != "a" {
		t.Error(a)
	}
	a.SetAllowed(false)
	a.Swap(b)
	if !a.Allowed() || a.Origin() != "" || b.Allowed() || b.Origin() != "a" {
		t.Error(a, b)
	}
	b.SetAllowed(true)
	if !b.Allowed() {
		t.Error(b)
	}
}

func TestNetworkProxy(t *testing.T) {
	p := NewNetworkProxy(HttpProxy, "proxy.example", 3128, "me", "secret")
	r := httptest.NewRequest("GET", "http://example.com/", nil)
	for kind, want := range map[ProxyType]string{
		HttpProxy: "http://me:secret@proxy.example:3128", Socks5Proxy: "socks5://me:secret@proxy.example:3128", NoProxy: "", FtpCachingProxy: "error",
	} {
		p.SetType(kind)
		u, err := p.find(r)
		got := ""
		if u != nil {
			got = u.String()
		}
		if got != strings.ReplaceAll(want, "error", "") || (err != nil) != (want == "error") {
			t.Error(kind, got, err)
		}
	}
	p.SetType(Socks5Proxy)
	p.SetHostName("localhost")
	p.SetPort(1080)
	p.SetUser("you")
	p.SetPassword("")
	if p.Type() != Socks5Proxy || p.HostName() != "localhost" || p.Port() != 1080 || p.User() != "you" || p.Password() != "" {
		t.Error(p)
	}
}

// TestAuthentication has a server and a proxy ask for a password.
func TestAuthentication(t *testing.T) {
	server := listening(t, NonSecureMode)
	protected := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="the server"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			defer conn.Close()
			conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
				acceptKey(r.Header.Get("Sec-WebSocket-Key")) + "\r\n\r\n"))
			conn.Read(make([]byte, 1))
		}
	}))
	t.Cleanup(protected.Close)
	w := newClient(t, "")
	target := "ws" + strings.TrimPrefix(protected.URL, "http")
	failed := spy1(&w.ErrorOccurred)
	w.Open(target)
	tryCount(t, "errorOccurred", failed, 1)
	realms := make(chan string, 10)
	w.AuthenticationRequired.Connect(func(a *Authenticator) {
		realms <- a.Realm()
		a.SetUser("me")
		a.SetPassword("secret")
	})
	w.Open(target)
	try(t, "connected", w.IsValid)
	if realm := <-realms; realm != "the server" || len(realms) != 0 {
		t.Error(realm)
	}

	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "Basic "+"bWU6c2VjcmV0" { // me:secret
			w.Header().Set("Proxy-Authenticate", `Basic realm="the proxy"`)
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
			server.HandleConnection(conn)
		}
	}))
	t.Cleanup(proxy.Close)
	u, _ := url.Parse(proxy.URL)
	port, _ := strconv.Atoi(u.Port())
	w.SetProxy(NewNetworkProxy(HttpProxy, u.Hostname(), uint16(port), "", ""))
	w.Open("ws://server.example/")
	tryCount(t, "errorOccurred", failed, 2)
	if failed.all()[1] != ProxyAuthenticationRequiredError {
		t.Error(failed.all(), w.ErrorString())
	}
	w.ProxyAuthenticationRequired.Connect(func(p NetworkProxy, a *Authenticator) {
		realms <- a.Realm()
		if p.HostName() == u.Hostname() {
			a.SetUser("me")
			a.SetPassword("secret")
		}
	})
	w.Open("ws://server.example/")
	try(t, "connected: "+w.ErrorString(), w.IsValid)
	if realm := <-realms; realm != "the proxy" || len(realms) != 0 || w.PeerName() != "server.example" {
		t.Error(realm, w.PeerName())
	}
}
