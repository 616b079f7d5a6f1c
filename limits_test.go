package foyer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/foyerws/foyer/internal/wstest"

	"github.com/gorilla/websocket"
)

func TestLimitsOfASocketChange(t *testing.T) {
	for _, compressed := range []bool{false, true} {
		h := closeHandler(t, &Handler{MaxMessageSize: 10, MaxFrameSize: 5, Compression: compressing(compressed), CompressionThreshold: 1})
		s, c := dialled(t, h, &DialOptions{OutgoingFrameSize: 5, Compression: compressing(compressed), CompressionThreshold: 1})
		s.SetLimits(Limits{MaxMessageSize: 1000})
		c.SetLimits(Limits{OutgoingFrameSize: 100})
		long := strings.Repeat("0123456789", 30)
		if err := c.SendText(t.Context(), long); err != nil {
			t.Fatal(err)
		}
		if _, p, err := s.Read(t.Context()); err != nil || string(p) != long {
			t.Fatalf("compressed %v: %q, %v", compressed, p, err)
		}
		s.SetLimits(Limits{MaxMessageSize: 299})
		c.SendText(t.Context(), long)
		if _, _, err := s.Read(t.Context()); !errors.Is(err, ErrMessageTooBig) {
			t.Errorf("compressed %v: %v", compressed, err)
		}
	}
}

func TestOutgoingFramesOfASocketChange(t *testing.T) {
	h := closeHandler(t, &Handler{})
	conn := dialTCP(t, serveRaw(t, h))
	_, r := ask(t, conn, handshakeRequest())
	s := accept(t, h)
	s.SetLimits(Limits{OutgoingFrameSize: 3})
	s.SendText(t.Context(), "abcd")
	s.SetLimits(Limits{})
	s.SendText(t.Context(), "efgh")
	want := string(wstest.Plain(0x01, "abc")) + string(wstest.Plain(0x80, "d")) + string(wstest.Plain(0x81, "efgh"))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTryPingDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := connectPipe(t, &Handler{})
		payloads := make(chan string, 10)
		c.SetPingHandler(func(p string) error {
			payloads <- p
			return c.WriteControl(websocket.PongMessage, []byte(p), time.Time{})
		})
		go c.ReadMessage()
		pongs := make(chan string, 10)
		s.Handle(Events{Pong: func(s *Socket, elapsed time.Duration, payload []byte) { pongs <- string(payload) }})
		for _, payload := range []string{"", "are you there"} {
			if err := s.TryPing([]byte(payload)); err != nil {
				t.Fatal(err)
			}
			if sent, answered := <-payloads, <-pongs; sent != payload || answered != payload {
				t.Errorf("%q: sent %q, answered %q", payload, sent, answered)
			}
		}
		if s.TryPing(make([]byte, 126)) == nil {
			t.Error("a ping of 126 bytes")
		}
		s.Abort()
		if err := s.TryPing(nil); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		time.Sleep(time.Second) // for the client
	})
}

// TestTryPingToAPeerThatDoesNotRead does not fill the memory.
func TestTryPingToAPeerThatDoesNotRead(t *testing.T) {
	h := closeHandler(t, &Handler{MaxWriteBuffer: 1000})
	s, _ := dialled(t, h, nil)
	defer s.Abort()
	for range 1 << 20 {
		if err := s.TryPing(make([]byte, 125)); err != nil {
			if err != ErrWriteBufferFull {
				t.Error(err)
			}
			return
		}
	}
	t.Error("the pings have no end")
}

func TestTargetWithoutPath(t *testing.T) {
	for allowed, status := range map[bool]int{false: 400, true: 101} {
		h := closeHandler(t, &Handler{AllowEmptyPath: allowed})
		resp, _ := ask(t, dialTCP(t, serveRaw(t, h)), strings.Replace(handshakeRequest(), "/chat", "?room=1", 1))
		if resp.StatusCode != status {
			t.Errorf("allowed %v: %v", allowed, resp.Status)
		}
		if allowed {
			if r := accept(t, h).Request(); r.URL.Path != "/" || r.URL.RawQuery != "room=1" {
				t.Error(r.URL)
			}
		}
	}
}

func TestContextOfTheHooksEndsWithTheHandshake(t *testing.T) {
	for _, timeout := range []time.Duration{0, -1} {
		ended := make(chan struct{})
		h := closeHandler(t, &Handler{HandshakeTimeout: timeout, Authorize: func(r *http.Request) (http.Header, error) {
			context.AfterFunc(r.Context(), func() { close(ended) })
			return nil, nil
		}})
		ask(t, dialTCP(t, serveRaw(t, h)), handshakeRequest())
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Errorf("timeout %v: the context goes on", timeout)
		}
	}
}
