package foyer

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

func TestHandshakeTimeoutBoundsTheHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last lastError
		h := &Handler{OnError: last.set, Authorize: func(r *http.Request) (http.Header, error) {
			<-r.Context().Done()
			return nil, nil
		}}
		h.SetHandshakeTimeout(3 * time.Second)
		begin := time.Now()
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		r.Header = http.Header{"Connection": {"upgrade"}, "Upgrade": {"WebSocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {testKey}}
		h.ServeHTTP(w, r)
		if w.Code != http.StatusRequestTimeout || !errors.Is(last.get(), ErrHandshakeTimeout) || time.Since(begin) != 3*time.Second {
			t.Error(w.Code, last.get(), time.Since(begin))
		}
	})
}

func TestPanickingOnErrorIsContained(t *testing.T) {
	var log strings.Builder
	h := closeHandler(t, &Handler{
		OnError: func(error) { panic("in OnError") },
		Logger:  slog.New(slog.NewTextHandler(&log, nil)),
	})
	r := httptest.NewRequest("GET", "/", nil)
	h.ServeHTTP(httptest.NewRecorder(), r)
	if !strings.Contains(log.String(), "in OnError") || !strings.Contains(log.String(), "handshake refused") {
		t.Error(log.String())
	}
	h.config.logger = nil
	h.ServeHTTP(httptest.NewRecorder(), r)
}

// TestHooksThatEndTheirGoroutine is what t.FailNow does in a hook.
func TestHooksThatEndTheirGoroutine(t *testing.T) {
	var last lastError
	h := closeHandler(t, &Handler{MaxPending: 1, MaxOpen: 1, OnError: last.set, Authorize: func(r *http.Request) (http.Header, error) {
		if r.URL.Path == "/exit" {
			runtime.Goexit()
		}
		return nil, nil
	}})
	go h.ForEach(t.Context(), func(context.Context, *Socket) { runtime.Goexit() })
	addr := serveRaw(t, h)
	gone := dialTCP(t, addr)
	io.WriteString(gone, strings.Replace(handshakeRequest(), "/chat", "/exit", 1))
	eventually(t, "the hook's end to be reported", func() bool { return errors.Is(last.get(), errHookGoexit) })
	if _, err := gone.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection is open: %v", err)
	}
	if _, _, err := dial(t, addr, nil).ReadMessage(); !websocket.IsCloseError(err, 1011) {
		t.Error(err)
	}
}

// Slow hooks hold no places: clients that are known at once pass those that are not.
func TestHooksHoldNoPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		proceed := make(chan struct{})
		d := door{t, &Handler{MaxPending: 1, Authorize: func(r *http.Request) (http.Header, error) {
			switch r.Header.Get("X-Name") {
			case "slow":
				<-proceed
			case "panics":
				panic("in a hook")
			}
			return nil, nil
		}}}
		defer d.h.Close()
		slow := d.knock("slow")
		if code := decided(d.knock("panics")); code != 500 {
			t.Error(code)
		}
		if code := decided(d.knock("quick")); code != 101 {
			t.Error(code)
		}
		d.h.NextPending()
		close(proceed)
		synctest.Wait()
		if code := decided(slow); code != 101 {
			t.Error(code)
		}
	})
}

func TestHooksAreBounded(t *testing.T) {
	h := closeHandler(t, &Handler{Authorize: func(*http.Request) (http.Header, error) { return nil, nil }})
	h.asking.Store(maxWaiting)
	addr := serveRaw(t, h)
	if resp, _ := ask(t, dialTCP(t, addr), handshakeRequest()); resp.StatusCode != 503 || h.asking.Load() != maxWaiting {
		t.Error(resp.Status, h.asking.Load())
	}
	h.asking.Store(maxWaiting - 1)
	if resp, _ := ask(t, dialTCP(t, addr), handshakeRequest()); resp.StatusCode != 101 {
		t.Error(resp.Status)
	}
}
