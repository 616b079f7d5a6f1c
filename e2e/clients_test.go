// Package e2e has foyer talk to real programs: other WebSocket libraries, curl, a browser. A program that is not
// installed is a skipped test, or a failed one where FOYER_E2E=all says that all of them are there.
package e2e

import (
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"

	"github.com/foyerws/foyer"
)

// program returns the path of a program.
func program(t *testing.T, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("real programs take their time")
	}
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv("FOYER_E2E") == "all":
		t.Fatalf("%s is not installed", name)
	default:
		t.Skipf("%s is not installed", name)
	}
	return path
}

// compressionModes are all modes of compression.
var compressionModes = []foyer.CompressionMode{foyer.CompressionDisabled, foyer.CompressionNoContextTakeover, foyer.CompressionContextTakeover}

// servers serves an echo through net/http and through a Server, and returns the URLs.
func servers(t *testing.T, compression foyer.CompressionMode) map[string]string {
	t.Helper()
	h := &foyer.Handler{Compression: compression, Origins: foyer.AnyOrigin(), Subprotocols: []string{"chat.v1"}}
	go h.ForEach(context.Background(), echoes)
	srv := httptest.NewServer(h)
	s := &foyer.Server{Handler: h}
	if err := s.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close(); s.Close() })
	return map[string]string{"net/http": strings.Replace(srv.URL, "http", "ws", 1), "Server": s.URL().String()}
}

// echoes is a ForEach function.
func echoes(ctx context.Context, s *foyer.Socket) {
	for {
		t, p, err := s.Read(ctx)
		if err != nil || s.Write(ctx, t, p) != nil {
			return
		}
	}
}

var payloads = []string{"", "hello", strings.Repeat("é", 5000), strings.Repeat("0123456789", 100000)}

func TestGorilla(t *testing.T) {
	for _, compression := range compressionModes {
		for name, url := range servers(t, compression) {
			t.Run(name, func(t *testing.T) {
				d := gorilla.Dialer{EnableCompression: true}
				c, _, err := d.Dial(url, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				for _, typ := range []int{gorilla.TextMessage, gorilla.BinaryMessage} {
					for _, want := range payloads {
						c.WriteMessage(typ, []byte(want))
						if got, p, err := c.ReadMessage(); err != nil || got != typ || string(p) != want {
							t.Fatalf("%d bytes of type %d, %v", len(p), got, err)
						}
					}
				}
				c.WriteMessage(gorilla.CloseMessage, gorilla.FormatCloseMessage(4000, "bye"))
				if _, _, err := c.ReadMessage(); !gorilla.IsCloseError(err, 4000) {
					t.Error(err)
				}
			})
		}
	}
}

func TestCoder(t *testing.T) {
	for _, mode := range []coder.CompressionMode{coder.CompressionDisabled, coder.CompressionNoContextTakeover, coder.CompressionContextTakeover} {
		for name, url := range servers(t, foyer.CompressionContextTakeover) {
			t.Run(name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				c, _, err := coder.Dial(ctx, url, &coder.DialOptions{CompressionMode: mode})
				if err != nil {
					t.Fatal(err)
				}
				defer c.CloseNow()
				c.SetReadLimit(2 << 20)
				for _, typ := range []coder.MessageType{coder.MessageText, coder.MessageBinary} {
					for _, want := range payloads {
						if err := c.Write(ctx, typ, []byte(want)); err != nil {
							t.Fatal(err)
						}
						if got, p, err := c.Read(ctx); err != nil || got != typ || string(p) != want {
							t.Fatalf("%d bytes of type %v, %v", len(p), got, err)
						}
					}
				}
				reading := c.CloseRead(ctx)
				if err := c.Ping(reading); err != nil {
					t.Error(err)
				}
				if err := c.Close(4000, "bye"); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestCurl(t *testing.T) {
	curl := program(t, "curl")
	for name, url := range servers(t, foyer.CompressionDisabled) {
		t.Run(name, func(t *testing.T) {
			ask := func(header ...string) string {
				args := []string{"-si", "--http1.1", "--max-time", "1", strings.Replace(url, "ws", "http", 1) + "/"}
				for _, h := range header {
					args = append(args, "-H", h)
				}
				out, err := exec.Command(curl, args...).Output()
				var exit *exec.ExitError
				if err != nil && !errors.As(err, &exit) {
					t.Fatal(err)
				}
				return string(out)
			}
			handshake := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}
			if out := ask(handshake...); !strings.HasPrefix(out, "HTTP/1.1 101 ") || !strings.Contains(out, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
				t.Errorf("handshake: %q", out)
			}
			if out := ask(); !strings.HasPrefix(out, "HTTP/1.1 426 ") || !strings.Contains(out, "This is a WebSocket endpoint.") {
				t.Errorf("plain request: %q", out)
			}
			if out := ask(append(handshake[:2:2], "Sec-WebSocket-Version: 8", handshake[3])...); !strings.HasPrefix(out, "HTTP/1.1 426 ") || !strings.Contains(out, "Sec-Websocket-Version: 13") {
				t.Errorf("old version: %q", out)
			}
		})
	}
}
