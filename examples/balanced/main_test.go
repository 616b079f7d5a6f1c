package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/foyertest"
	"github.com/foyerws/foyer/internal/crowd"
)

// start serves for the time of the test, which plays a proxy.
func start(t *testing.T, proxies ...string) (*server, string) {
	t.Helper()
	s := newServer(proxies)
	go s.sockets.ForEach(t.Context(), greet)
	srv := httptest.NewServer(s.web.Handler)
	t.Cleanup(srv.Close)
	t.Cleanup(func() { s.sockets.Close() })
	return s, srv.URL
}

func dial(t *testing.T, url, forwardedFor string) (*foyer.Socket, string) {
	t.Helper()
	s, _, err := foyer.Dial(t.Context(), strings.Replace(url, "http", "ws", 1)+"/ws", &foyer.DialOptions{Header: http.Header{"X-Forwarded-For": {forwardedFor}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Abort() })
	_, p, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s, string(p)
}

func TestClientAddress(t *testing.T) {
	for _, test := range []struct{ proxy, forwardedFor, want string }{
		{"127.0.0.0/8", "203.0.113.7", "203.0.113.7"},
		{"127.0.0.0/8", "10.6.6.6, 203.0.113.7", "203.0.113.7"}, // the first is what the client claims
		{"192.0.2.0/24", "203.0.113.7", "127.0.0.1"},            // not from our proxy
	} {
		_, url := start(t, test.proxy)
		if _, got := dial(t, url, test.forwardedFor); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

func TestReadinessGoesRedFirst(t *testing.T) {
	s, url := start(t, "127.0.0.1/32")
	ready := func() int {
		resp, err := http.Get(url + "/ready")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := ready(); got != 200 {
		t.Error(got)
	}
	early, _ := dial(t, url, "")
	ended := make(chan error)
	go func() { ended <- s.end(300*time.Millisecond, 300*time.Millisecond) }()
	for begin := time.Now(); ready() == 200; {
		if time.Since(begin) > 250*time.Millisecond {
			t.Fatal("still ready")
		}
	}
	late, _ := dial(t, url, "") // sent here before the balancer saw it
	for _, socket := range []*foyer.Socket{early, late} {
		if socket.SendText(t.Context(), "hello"); socket.State() != foyer.StateOpen {
			t.Error(socket.Err())
		}
		if _, p, err := socket.Read(t.Context()); err != nil || string(p) != "hello" {
			t.Error(string(p), err)
		}
	}
	for _, socket := range []*foyer.Socket{early, late} {
		if _, _, err := socket.Read(t.Context()); err == nil || foyertest.Ended(t, socket).Code != foyer.CloseServiceRestart {
			t.Error(err)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestCrowd(t *testing.T) {
	_, url := start(t, "127.0.0.1/32")
	crowd.Come(t, url+"/ws", &foyer.DialOptions{Header: http.Header{"X-Forwarded-For": {"203.0.113.7"}}}, crowd.Echo("203.0.113.7"))
}
