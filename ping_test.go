package foyer

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/foyerws/foyer/internal/wstest"

	"github.com/gorilla/websocket"
)

func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{}
		c, s := connectPipe(t, h)
		payloads := make(chan string, 10)
		c.SetPingHandler(func(p string) error {
			payloads <- p
			time.Sleep(3 * time.Second)
			return c.WriteControl(websocket.PongMessage, []byte(p), time.Time{})
		})
		go c.ReadMessage()
		go s.Read(context.Background())
		for _, payload := range []string{"", "payload", strings.Repeat("x", 125)} {
			elapsed, err := s.Ping(t.Context(), []byte(payload))
			if got := <-payloads; err != nil || elapsed != 3*time.Second || payload != "" && got != payload || got == "" {
				t.Errorf("%q: %v, %v", got, elapsed, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Ping(ctx, nil); err != context.DeadlineExceeded || s.pings != nil {
			t.Error(err)
		}
		if _, err := s.Ping(ctx, make([]byte, 126)); err == nil {
			t.Error("a ping of 126 bytes")
		}
		go func() {
			time.Sleep(time.Second)
			s.Abort()
		}()
		if _, err := s.Ping(t.Context(), nil); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		time.Sleep(3 * time.Second) // for the client
	})
}

// TestPongsToTheLastOfSeveralPings is RFC 6455 section 5.5.3: a peer may answer only the last.
func TestPongToTheLastOfSeveralPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{}
		c, s := connectPipe(t, h)
		c.SetPingHandler(func(p string) error {
			if p == "last" {
				return c.WriteControl(websocket.PongMessage, []byte(p), time.Time{})
			}
			return nil
		})
		go c.ReadMessage()
		go s.Read(context.Background())
		first := make(chan error)
		go func() { _, err := s.Ping(t.Context(), []byte("first")); first <- err }()
		synctest.Wait()
		c.WriteControl(websocket.PongMessage, []byte("unasked for"), time.Time{})
		if _, err := s.Ping(t.Context(), []byte("last")); err != nil {
			t.Error(err)
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
		s.Abort()
	})
}

func TestPingsAreAnswered(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	go s.Read(context.Background())
	pongs := make(chan string, 1)
	c.SetPongHandler(func(p string) error { pongs <- p; return nil })
	go c.ReadMessage()
	c.WriteControl(websocket.PingMessage, []byte("are you there"), time.Time{})
	if got := <-pongs; got != "are you there" {
		t.Error(got)
	}
}

// TestPingFloodCostsNoMemory sends pings without ever reading the pongs.
func TestPingFloodCostsNoMemory(t *testing.T) {
	h := closeHandler(t, &Handler{MaxWriteBuffer: 5000})
	conn := dialTCP(t, serveRaw(t, h))
	ask(t, conn, handshakeRequest())
	s := accept(t, h)
	go s.Read(context.Background())
	ping := wstest.Masked(0x89, strings.Repeat("p", 125))
	for range 100000 {
		if _, err := conn.Write(ping); err != nil {
			t.Fatal(err)
		}
	}
	conn.Write(wstest.Masked(0x88, ""))
	<-s.Done()
	if closeCode(s) != CloseNoStatusReceived {
		t.Error(s.Err())
	}
}

func TestKeepaliveKeepsQuietSocketsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{}
		c, s := connectPipe(t, h)
		var pings atomic.Int32
		answer := c.PingHandler()
		c.SetPingHandler(func(p string) error { pings.Add(1); return answer(p) })
		go c.ReadMessage()
		go s.Read(context.Background())
		time.Sleep(10 * time.Minute)
		if s.State() != StateOpen || pings.Load() < 10 || pings.Load() > 20 {
			t.Errorf("%v after %d pings", s.State(), pings.Load())
		}
		s.Abort()
	})
}

func TestKeepaliveEndsSocketsOfVanishedPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{PingInterval: 10 * time.Second, PongTimeout: 5 * time.Second}
		c, s := connectPipe(t, h)
		go io.Copy(io.Discard, c.NetConn()) // takes bytes and answers nothing
		begin := time.Now()
		if _, _, err := s.Read(t.Context()); !errors.Is(err, ErrPingTimeout) || closeCode(s) != CloseAbnormalClosure {
			t.Error(err)
		}
		if took := time.Since(begin); took < 15*time.Second || took > 20*time.Second {
			t.Errorf("after %v", took)
		}
	})
}

func TestSocketThatNobodyReadsIsNotCalledDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{PingInterval: 10 * time.Second, PongTimeout: 5 * time.Second}
		c, s := connectPipe(t, h)
		go c.ReadMessage() // answers the ping, but the pong is not taken
		time.Sleep(time.Hour)
		if s.State() != StateOpen {
			t.Fatal(s.Err())
		}
		// A reader that comes late gets the whole of PongTimeout.
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		if _, _, err := s.Read(ctx); err != context.DeadlineExceeded || s.State() != StateOpen {
			t.Error(err)
		}
		s.Abort()
	})
}

func TestNegativePingIntervalIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{PingInterval: -1}
		c, s := connectPipe(t, h)
		c.SetPingHandler(func(string) error { t.Error("ping"); return nil })
		go c.ReadMessage()
		go s.Read(context.Background())
		time.Sleep(24 * time.Hour)
		if s.State() != StateOpen {
			t.Error(s.Err())
		}
		s.Abort()
	})
}
