package main

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/foyerws/foyer"
	"github.com/foyerws/foyer/internal/crowd"
	"github.com/foyerws/foyer/internal/syncbuf"
)

// start runs the program until the test ends and returns the URL of its WebSocket.
func start(t *testing.T, args ...string) (url string, log *syncbuf.Buffer) {
	t.Helper()
	log = new(syncbuf.Buffer)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, append([]string{"-addr", "127.0.0.1:0"}, args...), log) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	pattern := regexp.MustCompile(`websocket=(\S+)`)
	for range 500 {
		if m := pattern.FindStringSubmatch(log.String()); m != nil {
			return m[1], log
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("no address in the log: %s", log)
	return "", nil
}

var client = websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, EnableCompression: true}

func dial(t *testing.T, url string) *websocket.Conn {
	t.Helper()
	c, _, err := client.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	return c
}

func TestEcho(t *testing.T) {
	for _, args := range [][]string{{}, {"-mode", "read"}, {"-raw"}, {"-raw", "-mode", "read"}, {"-tls"}, {"-raw", "-tls"}, {"-compression", "-v"}, {"-raw", "-compression"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			url, _ := start(t, args...)
			for _, path := range []string{"", "/any/path"} {
				c := dial(t, url+path)
				for typ, want := range map[int]string{websocket.TextMessage: "höllo", websocket.BinaryMessage: strings.Repeat("\x00\xff", 50000)} {
					c.WriteMessage(typ, []byte(want))
					if got, p, err := c.ReadMessage(); err != nil || got != typ || string(p) != want {
						t.Errorf("echo of type %d: %d bytes of type %d, %v", typ, len(p), got, err)
					}
				}
				c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""))
				if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 1000) {
					t.Error(err)
				}
			}
		})
	}
}

func TestBroadcast(t *testing.T) {
	url, _ := start(t)
	a, b := dial(t, url+"/broadcast"), dial(t, url+"/broadcast")
	for _, c := range []*websocket.Conn{a, b} { // both are in the room once each hears itself
		c.WriteMessage(websocket.TextMessage, []byte("hello"))
		if _, p, err := c.ReadMessage(); err != nil || string(p) != "hello" {
			t.Fatal(string(p), err)
		}
	}
	b.WriteMessage(websocket.TextMessage, []byte("to all"))
	for _, c := range []*websocket.Conn{a, b} {
		for got := ""; got != "to all"; {
			_, p, err := c.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			got = string(p)
		}
	}
}

func TestPageAndPaths(t *testing.T) {
	url, _ := start(t)
	page := strings.TrimSuffix(strings.Replace(url, "ws", "http", 1), "ws")
	resp, err := http.Get(page)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || !strings.Contains(string(body), "new WebSocket") {
		t.Error(resp.Status)
	}
	raw, _ := start(t, "-raw")
	if _, resp, _ := client.Dial(strings.TrimSuffix(raw, "/ws")+"/elsewhere", nil); resp == nil || resp.StatusCode != 404 {
		t.Error(resp)
	}
}

func TestOrigins(t *testing.T) {
	for _, tt := range []struct {
		origins, origin string
		status          int
	}{
		{"", "https://a.example", 403},
		{"https://a.example,https://b.example", "https://b.example", 101},
		{"https://a.example,https://b.example", "https://c.example", 403},
		{"*", "https://c.example", 101},
	} {
		url, log := start(t, "-origins", tt.origins)
		c, resp, _ := client.Dial(url, http.Header{"Origin": {tt.origin}})
		if c != nil {
			c.Close()
		}
		if resp == nil || resp.StatusCode != tt.status || tt.status == 403 && !strings.Contains(log.String(), "handshake refused") {
			t.Errorf("%+v: %v", tt, resp)
		}
	}
}

func TestSocketsAreClosedAtTheEnd(t *testing.T) {
	for _, args := range [][]string{{}, {"-raw"}} {
		done := make(chan error, 1)
		t.Run(strings.Join(args, " "), func(t *testing.T) { // the program ends with this test
			url, _ := start(t, args...)
			c, _, err := client.Dial(url, nil)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				_, _, err := c.ReadMessage()
				done <- err
			}()
		})
		if err := <-done; !websocket.IsCloseError(err, 1001) {
			t.Error(err)
		}
	}
}

func TestBadFlags(t *testing.T) {
	if err := run(t.Context(), []string{"-nonsense"}, io.Discard); err == nil {
		t.Error("no error")
	}
	if err := run(t.Context(), []string{"-addr", "256.0.0.1:0"}, io.Discard); err == nil {
		t.Error("no error")
	}
	if err := run(t.Context(), []string{"-raw", "-addr", "256.0.0.1:0"}, io.Discard); err == nil {
		t.Error("no error")
	}
}

// A hundred clients that come at once are all served, with every limit as it is by default.
func TestCrowd(t *testing.T) {
	for _, args := range [][]string{{}, {"-mode", "read"}, {"-raw"}, {"-raw", "-mode", "read"}, {"-tls"}, {"-raw", "-tls"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			url, log := start(t, args...)
			crowd.Come(t, url, &foyer.DialOptions{TLSConfig: client.TLSClientConfig}, crowd.Echo(""))
			if strings.Contains(log.String(), "refused") {
				t.Error(log)
			}
		})
	}
}

// What net/http would let through, a header line of 64 KiB, is refused.
func TestLongRequests(t *testing.T) {
	url, _ := start(t)
	for name, o := range map[string]foyer.DialOptions{
		"header": {Header: http.Header{"X-Long": {strings.Repeat("x", 10<<10)}}},
		"huge":   {Header: http.Header{"X-Long": {strings.Repeat("x", 60<<10)}}},
	} {
		_, resp, err := foyer.Dial(t.Context(), url, &o)
		if err == nil || resp == nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Error(name, resp, err)
		}
	}
}
