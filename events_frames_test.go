package foyer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/foyerws/foyer/internal/wstest"

	"github.com/gorilla/websocket"
)

// TestEndInTheMiddleOfAMessage has a peer vanish there: all must end with it.
func TestEndInTheMiddleOfAMessage(t *testing.T) {
	besideOthers(t)
	begun := map[string][]byte{
		"fragment":     wstest.Masked(0x01, "first"),
		"long message": wstest.Masked(0x82, strings.Repeat("x", 60000))[:30000],
		"violation":    append(wstest.Masked(0x01, "first"), 0x81, 0x80, 0, 0, 0, 0),
		"bad UTF-8":    append(wstest.Masked(0x01, "first"), wstest.Masked(0x80, "\xff")...),
	}
	for name, dial := range transports(t) {
		for what, begun := range begun {
			t.Run(name+", "+what, func(t *testing.T) {
				h := closeHandler(t, &Handler{})
				c := dial(t, h)
				s := accept(t, h)
				closed := make(chan struct{})
				s.Handle(Events{Closed: func(*Socket, CloseCode, string) { close(closed) }})
				c.NetConn().Write(begun)
				if what != "violation" && what != "bad UTF-8" {
					time.Sleep(5 * time.Millisecond)
					c.NetConn().Close()
				}
				<-closed
				quiet := 0
				eventually(t, "the end of the last turn", func() bool { // and not one after the other
					if stacks := leftGoroutines(0); strings.Contains(stacks, "converse(") || strings.Contains(stacks, "turn(") {
						quiet = 0
					}
					quiet++
					return quiet == 5
				})
			})
		}
	}
}

// TestControlFramesDoNotCutIntoMessages has pongs go out while long messages do.
func TestControlFramesDoNotCutIntoMessages(t *testing.T) {
	besideOthers(t)
	write := map[string]func(*Socket, []byte) error{
		"Write": func(s *Socket, p []byte) error { return s.Write(context.Background(), Binary, p) },
		"Writer": func(s *Socket, p []byte) error {
			w, err := s.Writer(context.Background(), Binary)
			if err != nil {
				return err
			}
			w.Write(p)
			return w.Close()
		},
	}
	for how, write := range write {
		t.Run(how, func(t *testing.T) {
			h := closeHandler(t, &Handler{})
			c, s := connectTCP(t, h)
			s.Handle(Events{})
			message := bytes.Repeat([]byte("x"), 20000)
			go func() {
				for write(s, message) == nil {
				}
			}()
			go func() {
				for c.WriteControl(websocket.PingMessage, []byte("pingpingping"), time.Now().Add(time.Second)) == nil {
				}
			}()
			for range 3000 {
				if _, p, err := c.ReadMessage(); err != nil || !bytes.Equal(p, message) {
					t.Fatalf("%d bytes, %v", len(p), err)
				}
			}
			c.Close()
		})
	}
}

func TestAbortWhileClosing(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	closed := make(chan CloseCode, 1)
	s.Handle(Events{
		Closing: func(s *Socket) { s.Abort(); time.Sleep(20 * time.Millisecond) },
		Closed:  func(_ *Socket, code CloseCode, _ string) { closed <- code },
	})
	sayGoodbye(c, 1000, "")
	if code := <-closed; code != CloseAbnormalClosure {
		t.Error(code)
	}
}

func TestKeepaliveInTheMiddleOfAMessage(t *testing.T) {
	h := closeHandler(t, &Handler{PingInterval: 50 * time.Millisecond, PongTimeout: 100 * time.Millisecond})
	c, s := connectTCP(t, h)
	ends := make(chan error, 1)
	s.Handle(Events{Error: func(_ *Socket, err error) { ends <- err }})
	c.NetConn().Write(wstest.Masked(0x01, "and then nothing"))
	if err := <-ends; !errors.Is(err, ErrPingTimeout) {
		t.Error(err)
	}
}

// TestFrameHasTheBoundariesOnTheWire sends messages in all sorts of fragments, in pieces of all sizes.
func TestFrameHasTheBoundariesOnTheWire(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("0123456789", 3000)
	messages := [][]string{
		{"whole"}, {""}, {"one", "two", "three"}, {"", "", "x", ""}, {"", ""}, {big}, {big, "small", big}, {"small", big},
		{strings.Repeat("a", 100), strings.Repeat("b", 600), "c"}, {"h\xc3", "\xa4llo"},
	}
	var want []string
	var stream []byte
	for i, fragments := range messages {
		for j, payload := range fragments {
			b0 := byte(0)
			if j == 0 {
				b0 = byte(1 + i%2)
			}
			last := j == len(fragments)-1
			if last {
				b0 |= 0x80
			}
			stream = append(stream, wstest.Masked(b0, payload)...)
			if i%3 == 2 {
				stream = append(stream, wstest.Masked(0x89, "ping")...)
			}
			want = append(want, fmt.Sprintf("%v frame of %d, %q..., %v", MessageType(1+i%2), len(payload), payload[:min(len(payload), 10)], last))
		}
		whole := strings.Join(fragments, "")
		want = append(want, fmt.Sprintf("%v message of %d", MessageType(1+i%2), len(whole)))
	}
	for name, dial := range transports(t) {
		for _, piece := range []int{1, 7, 1000, 1 << 20} {
			if piece == 1 && (name == "TLS" || name == "net.Pipe") {
				continue // a system call and a record for each byte
			}
			t.Run(fmt.Sprint(name, ", pieces of ", piece), func(t *testing.T) {
				h := closeHandler(t, &Handler{})
				c := dial(t, h)
				go io.Copy(io.Discard, c.NetConn())
				s := accept(t, h)
				var d diary
				e := d.events()
				e.Message = func(_ *Socket, t MessageType, p []byte) { d.note("%v message of %d", t, len(p)) }
				e.Frame = func(_ *Socket, t MessageType, p []byte, last bool) {
					d.note("%v frame of %d, %q..., %v", t, len(p), p[:min(len(p), 10)], last)
				}
				s.Handle(e)
				for rest := stream; len(rest) > 0; {
					n := min(piece, len(rest))
					if _, err := c.NetConn().Write(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				eventually(t, "the last message", func() bool { return len(d.all()) >= len(want) })
				if got := d.all(); !slices.Equal(got, want) {
					t.Errorf("%s\ninstead of\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				s.Abort()
			})
		}
	}
}

// TestFramesComeBeforeTheirMessageIsComplete has the rest of a message come only after its first frames were told of.
func TestFramesComeBeforeTheirMessageIsComplete(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	frames := make(chan string, 10)
	s.Handle(Events{Frame: func(_ *Socket, _ MessageType, p []byte, last bool) { frames <- fmt.Sprint(string(p), last) }})
	for _, step := range []struct {
		send []byte
		told int
	}{
		{wstest.Masked(0x01, "one"), 1}, {wstest.Masked(0x00, ""), 0} /* an empty one is reported with the next */, {wstest.Masked(0x00, "two"), 2}, {wstest.Masked(0x80, "three"), 1},
	} {
		c.NetConn().Write(step.send)
		for range step.told {
			select {
			case <-frames:
			case <-time.After(5 * time.Second):
				t.Fatalf("%q was not told of", step.send)
			}
		}
	}
}

func TestACompressedMessageIsOneFrame(t *testing.T) {
	h := closeHandler(t, &Handler{Compression: CompressionContextTakeover})
	c := dialCompressed(t, serveRaw(t, h), nil)
	s := accept(t, h)
	frames := make(chan string, 10)
	s.Handle(Events{Frame: func(_ *Socket, _ MessageType, p []byte, last bool) { frames <- fmt.Sprint(len(p), last) }})
	w, _ := c.NextWriter(websocket.TextMessage)
	for range 20 {
		io.WriteString(w, strings.Repeat("lorem ipsum ", 1000))
	}
	w.Close()
	if f := <-frames; f != "240000 true" {
		t.Error(f)
	}
}

// TestBytesWrittenAddUp compares what was told with what came.
func TestBytesWrittenAddUp(t *testing.T) {
	for name, dial := range transports(t) {
		t.Run(name, func(t *testing.T) {
			h := closeHandler(t, &Handler{})
			c := dial(t, h)
			s := accept(t, h)
			var told, calls atomic.Int64
			eventually(t, "the end of the handshake", func() bool { return s.BytesToWrite() == 0 })
			s.Handle(Events{BytesWritten: func(_ *Socket, n int) {
				told.Add(int64(n))
				calls.Add(1)
			}})
			sent := int64(0)
			for _, n := range []int{0, 10, 1000, 100000, 300000} {
				go s.Write(t.Context(), Binary, make([]byte, n))
				header := 2
				if n > 125 {
					header = 4
				}
				if n > 65535 {
					header = 10
				}
				sent += int64(header + n)
				if _, p, err := c.ReadMessage(); err != nil || len(p) != n {
					t.Fatal(len(p), err)
				}
			}
			eventually(t, "all bytes", func() bool { return told.Load() == sent })
			if calls.Load() < 2 {
				t.Errorf("%d calls", calls.Load())
			}
		})
	}
}

// TestCloseInBytesWritten and other things that one may do there.
func TestCloseInBytesWritten(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	closed := make(chan CloseCode, 1)
	s.Handle(Events{
		BytesWritten: func(s *Socket, n int) {
			if s.BytesToWrite() == 0 {
				s.Close(4000, "")
			}
		},
		Closed: func(_ *Socket, code CloseCode, _ string) { closed <- code },
	})
	s.SendText(t.Context(), "hello")
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			break
		}
	}
	if code := <-closed; code != 4000 {
		t.Error(code)
	}
}

// TestBytesWrittenWhileListenBegins counts what is written at the same time.
func TestBytesWrittenWhileListenBegins(t *testing.T) {
	h := closeHandler(t, &Handler{})
	addr := serveRaw(t, h)
	for range 200 {
		c := dial(t, addr, nil)
		go io.Copy(io.Discard, c.NetConn())
		s := accept(t, h)
		begun := make(chan struct{})
		go func() {
			close(begun)
			for range 5 {
				s.SendText(context.Background(), "hello")
			}
		}()
		<-begun
		s.Handle(Events{BytesWritten: func(*Socket, int) {}})
		eventually(t, "all bytes", func() bool {
			l := s.events.Load()
			l.calls.Lock()
			defer s.returnCalls(l)
			return s.traffic().messagesOut == 5 && l.written == s.wire.Written()
		})
		c.Close()
	}
}
