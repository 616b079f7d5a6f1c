package foyer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
)

// frames reads the frames that a server sends until the end of a message, as "opcode:length" with a + where more follow.
func readFrames(t *testing.T, r io.Reader) (frames []string, message string) {
	t.Helper()
	for {
		var h [10]byte
		if _, err := io.ReadFull(r, h[:2]); err != nil {
			t.Fatal(err)
		}
		n := int(h[1])
		switch n {
		case 126:
			io.ReadFull(r, h[2:4])
			n = int(h[2])<<8 | int(h[3])
		case 127:
			io.ReadFull(r, h[2:10])
			n = int(h[6])<<24 | int(h[7])<<16 | int(h[8])<<8 | int(h[9])
		}
		p := make([]byte, n)
		if _, err := io.ReadFull(r, p); err != nil {
			t.Fatal(err)
		}
		more := ""
		if h[0]&0x80 == 0 {
			more = "+"
		}
		frames = append(frames, fmt.Sprintf("%d:%d%s", h[0]&0xf, n, more))
		message += string(p)
		if more == "" {
			return frames, message
		}
	}
}

func TestWriteSizes(t *testing.T) {
	for _, compression := range []bool{false, true} {
		h := closeHandler(t, &Handler{Compression: compressing(compression)})
		d := websocket.Dialer{EnableCompression: true}
		c, _, err := d.Dial("ws://"+serveRaw(t, h), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s := accept(t, h)
		for _, size := range []int{0, 1, 125, 126, 4095, 4096, 4097, 65535, 65536, 3 << 20} {
			want := strings.Repeat("é", size)
			sent := make(chan error, 1)
			go func() { sent <- s.SendText(t.Context(), want) }()
			typ, p, err := c.ReadMessage()
			if err != nil || typ != websocket.TextMessage || string(p) != want {
				t.Fatalf("compression %v, %d bytes: got %d, %v", compression, len(want), len(p), err)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
		}
		if s.traffic().messagesOut != 10 {
			t.Errorf("%d messages", s.traffic().messagesOut)
		}
	}
}

func TestOutgoingFrameSize(t *testing.T) {
	h := closeHandler(t, &Handler{OutgoingFrameSize: 10})
	conn := dialTCP(t, serveRaw(t, h))
	_, br := ask(t, conn, handshakeRequest())
	s := accept(t, h)
	for length, want := range map[int][]string{
		0:  {"2:0"},
		9:  {"2:9"},
		10: {"2:10"},
		11: {"2:10+", "0:1"},
		20: {"2:10+", "0:10"},
		25: {"2:10+", "0:10+", "0:5"},
	} {
		m := strings.Repeat("m", length)
		s.SendBinary(t.Context(), []byte(m))
		if frames, got := readFrames(t, br); !slices.Equal(frames, want) || got != m {
			t.Errorf("%d bytes: %v, want %v", length, frames, want)
		}
	}
	if dropped := Broadcast(slices.Values([]*Socket{s}), Text, bytes.Repeat([]byte("b"), 11)); dropped != nil {
		t.Error(dropped)
	}
	if frames, _ := readFrames(t, br); !slices.Equal(frames, []string{"1:10+", "0:1"}) {
		t.Error(frames)
	}
}

func TestConcurrentWritersDoNotMix(t *testing.T) {
	h := closeHandler(t, &Handler{PingInterval: 5 * time.Millisecond})
	c, s := connectTCP(t, h)
	const writers, each = 16, 50
	go s.Read(context.Background())
	var writing sync.WaitGroup
	for i := range writers {
		m := bytes.Repeat([]byte{byte('a' + i)}, 1+i*5000)
		writing.Go(func() {
			for n := range each {
				var err error
				switch n % 3 {
				case 0:
					err = s.Write(t.Context(), Binary, m)
				case 1:
					for err = s.TryWrite(Binary, m); err == ErrWriteBufferFull || err == ErrWriterOpen; err = s.TryWrite(Binary, m) {
						time.Sleep(time.Millisecond)
					}
				case 2:
					var w io.WriteCloser
					if w, err = s.Writer(t.Context(), Binary); err == nil {
						w.Write(m[:len(m)/2])
						w.Write(m[len(m)/2:])
						err = w.Close()
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	counts := map[byte]int{}
	for range writers * each {
		_, p, err := c.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		if len(p) != 1+int(p[0]-'a')*5000 || len(bytes.Trim(p, string(p[:1]))) > 0 {
			t.Fatalf("messages are mixed: %d bytes", len(p))
		}
		counts[p[0]]++
	}
	writing.Wait()
	for m, n := range counts {
		if n != each {
			t.Errorf("%d messages of %c", n, m)
		}
	}
}

// TestPeerThatDoesNotRead fills a socket's way to a peer that takes nothing.
func TestPeerThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{MaxWriteBuffer: 10000, PongTimeout: 20 * time.Second}
		_, s := connectPipe(t, h)
		message := make([]byte, 1000)
		n := 0
		for ; s.TryWrite(Binary, message) == nil; n++ {
		}
		if s.TryWrite(Binary, message) != ErrWriteBufferFull || n < 8 || n > 10 {
			t.Errorf("%d messages were taken", n)
		}
		if waiting := s.BytesToWrite(); waiting < 8000 || waiting > 10000 {
			t.Errorf("%d bytes wait", waiting)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Write(ctx, Binary, message); err != context.DeadlineExceeded || s.State() != StateOpen {
			t.Errorf("Write: %v", err)
		}
		if err := s.Flush(ctx); err != context.DeadlineExceeded {
			t.Errorf("Flush: %v", err)
		}
		begin := time.Now()
		if err := s.Write(t.Context(), Binary, message); !errors.Is(err, ErrPingTimeout) || !errors.Is(err, ErrClosed) {
			t.Errorf("Write: %v", err)
		}
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("the peer was given up after %v", took)
		}
	})
}

func TestWriteGoesOnWhenThereIsRoom(t *testing.T) {
	h := closeHandler(t, &Handler{MaxWriteBuffer: 100000})
	c, s := connectTCP(t, h)
	const n = 3000
	written := make(chan error)
	go func() {
		for range n {
			if err := s.Write(t.Context(), Binary, make([]byte, 5000)); err != nil {
				written <- err
				return
			}
		}
		written <- s.Flush(t.Context())
	}()
	eventually(t, "the buffer to fill", func() bool { return s.BytesToWrite() > 90000 })
	for range n {
		if _, p, err := c.ReadMessage(); err != nil || len(p) != 5000 {
			t.Fatal(err)
		}
		if waiting := s.BytesToWrite(); waiting > 100000 {
			t.Fatalf("%d bytes wait", waiting)
		}
	}
	if err := <-written; err != nil || s.BytesToWrite() != 0 {
		t.Error(err, s.BytesToWrite())
	}
}

func TestLongMessageThatIsCancelledBreaksTheConnection(t *testing.T) {
	besideOthers(t)
	for name, h := range map[string]*Handler{"lent": {}, "split": {OutgoingFrameSize: 5000}} {
		t.Run(name, func(t *testing.T) {
			closeHandler(t, h)
			_, s := connectTCP(t, h)
			long := make([]byte, 64<<20)
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if err := s.Write(ctx, Binary, long); !errors.Is(err, context.DeadlineExceeded) || s.State() != StateClosed {
				t.Error(err)
			}
		})
	}
}

func TestPostNeverKeepsTheCallersMemory(t *testing.T) {
	h := closeHandler(t, &Handler{MaxWriteBuffer: 64 << 20})
	c, s := connectTCP(t, h)
	p := bytes.Repeat([]byte("a"), 8<<20)
	if err := s.TryWrite(Binary, p); err != nil {
		t.Fatal(err)
	}
	clear(p)
	if _, got, err := c.ReadMessage(); err != nil || len(bytes.Trim(got, "a")) > 0 {
		t.Error("the message changed after Post", err)
	}
}

// TestLongMessagesStayWhole has messages of several kinds overlap with control frames and with each other: none may be
// written from memory that somebody else has by then.
func TestLongMessagesStayWhole(t *testing.T) {
	for name, h := range map[string]*Handler{
		"lent":  {MaxWriteBuffer: 64 << 20},
		"split": {MaxWriteBuffer: 64 << 20, OutgoingFrameSize: 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			closeHandler(t, h)
			c, s := connectTCP(t, h)
			go s.Read(context.Background())
			ctx, stopPinging := context.WithCancel(t.Context())
			defer stopPinging()
			go func() {
				for ctx.Err() == nil {
					s.Ping(ctx, nil)
				}
			}()
			const each = 50
			for i, write := range []func([]byte) error{
				func(p []byte) error { return s.Write(t.Context(), Binary, p) },
				func(p []byte) error { return s.Write(t.Context(), Binary, p) },
				func(p []byte) error { return s.TryWrite(Binary, p) },
				func(p []byte) error { return s.TryWrite(Binary, p) },
			} {
				go func() {
					p := make([]byte, 40000+50000*i)
					for n := range each {
						for j := range p {
							p[j] = byte(i*each + n)
						}
						if err := write(p); err != nil {
							t.Error(err)
						}
					}
				}()
			}
			for range 4 * each {
				_, p, err := c.ReadMessage()
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Count(p, p[:1]) != len(p) {
					t.Fatalf("a message of %d bytes was corrupted", len(p))
				}
			}
		})
	}
}

func TestPeerThatDoesNotReadIsEndedWithoutKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{PingInterval: -1, PongTimeout: 2 * time.Second, MaxWriteBuffer: 1000}
		_, s := connectPipe(t, h)
		s.Write(t.Context(), Binary, make([]byte, 900))
		begin := time.Now()
		if err := s.Write(t.Context(), Binary, make([]byte, 900)); !errors.Is(err, ErrPingTimeout) || time.Since(begin) > 4*time.Second {
			t.Error(err, time.Since(begin))
		}
	})
}

// endsLater is a context that ends after it was asked once.
type endsLater struct {
	context.Context
	asked int
}

func (c *endsLater) Err() error {
	if c.asked++; c.asked > 1 {
		return context.Canceled
	}
	return nil
}

func TestShortMessageThatBeganIsFinished(t *testing.T) {
	h := closeHandler(t, &Handler{OutgoingFrameSize: 100})
	c, s := connectTCP(t, h)
	if err := s.Write(&endsLater{Context: t.Context()}, Binary, make([]byte, 1000)); err != nil || s.State() != StateOpen {
		t.Error(err, s.State())
	}
	if _, p, err := c.ReadMessage(); err != nil || len(p) != 1000 {
		t.Error(len(p), err)
	}
}

// TestOutgoingFrameSizeOfServers looks at the frames around the limit.
func TestOutgoingFrameSizeOfServers(t *testing.T) {
	for _, test := range []struct{ limit, size, frames int }{
		{0, 1 << 20, 1}, {1000, 999, 1}, {1000, 1000, 1}, {1000, 1001, 2}, {1000, 2000, 2}, {1000, 2001, 3}, {1, 3, 3}, {1 << 17, 1 << 17, 1}, {1 << 17, 1<<17 + 1, 2},
	} {
		h := closeHandler(t, &Handler{OutgoingFrameSize: test.limit})
		conn := dialTCP(t, serveRaw(t, h))
		_, br := ask(t, conn, handshakeRequest())
		s := accept(t, h)
		go s.Write(t.Context(), Binary, make([]byte, test.size))
		frames, size := 0, 0
		for last := false; !last; frames++ {
			f := readFrame(t, br)
			if f.masked || test.limit > 0 && len(f.payload) > test.limit {
				t.Fatalf("a frame of %d bytes", len(f.payload))
			}
			size += len(f.payload)
			last = f.first&0x80 != 0
		}
		if frames != test.frames || size != test.size {
			t.Errorf("%d bytes with a limit of %d: %d bytes in %d frames", test.size, test.limit, size, frames)
		}
	}
}

// TestPingsPassLongMessages has 100 MiB under way in either direction, in fragments, and pings answered meanwhile.
func TestPingsPassLongMessages(t *testing.T) {
	t.Parallel()
	const size = 100 << 20
	h := closeHandler(t, &Handler{MaxMessageSize: -1, OutgoingFrameSize: 64 << 10})
	addr := serveRaw(t, h)
	c, _, err := Dial(t.Context(), "ws://"+addr, &DialOptions{MaxMessageSize: -1, OutgoingFrameSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Abort()
	s := accept(t, h)
	for _, way := range []struct{ from, to *Socket }{{s, c}, {c, s}} {
		received, stop := make(chan int64, 1), make(chan struct{})
		ctx, stopReading := context.WithCancel(t.Context())
		var reading sync.WaitGroup
		reading.Go(func() {
			_, r, err := way.to.Reader(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			n, _ := io.Copy(io.Discard, r)
			received <- n
			way.to.Read(ctx) // the last ping
		})
		reading.Go(func() { way.from.Read(ctx) }) // the pongs
		pings := make(chan int, 1)
		go func() {
			n := 0
			for {
				select {
				case <-stop:
					pings <- n
					return
				default:
				}
				if _, err := way.from.Ping(t.Context(), nil); err != nil {
					t.Error(err)
				}
				n++
			}
		}()
		w, err := way.from.Writer(t.Context(), Binary)
		if err != nil {
			t.Fatal(err)
		}
		piece := make([]byte, 1<<20)
		for range size >> 20 {
			if _, err := w.Write(piece); err != nil {
				t.Fatal(err)
			}
		}
		close(stop)
		w.Close()
		if n := <-received; n != size {
			t.Errorf("%d bytes came", n)
		}
		if n := <-pings; n < 5 {
			t.Errorf("%d pings were answered meanwhile", n)
		}
		stopReading()
		reading.Wait()
	}
}

// TestCompressionThreshold looks at which messages are compressed, and how well.
func TestCompressionThreshold(t *testing.T) {
	for _, test := range []struct {
		name                    string
		frame, threshold, level int
		size                    int
		compressed, writer      bool
		atMost, atLeast         int
	}{
		{name: "default, below", size: 127},
		{name: "default, at", size: 128, compressed: true},
		{name: "below, in frames", frame: 20, size: 100},
		{name: "set, below", threshold: 1000, size: 999},
		{name: "set, at", threshold: 1000, size: 1000, compressed: true},
		{name: "none", threshold: -1, size: 1, compressed: true},
		{name: "writer", size: 1, compressed: true, writer: true},
		{name: "best", level: 9, size: 20000, compressed: true, atMost: 1500},
		{name: "fastest", level: 1, size: 20000, compressed: true, atLeast: 1500},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := closeHandler(t, &Handler{Compression: CompressionContextTakeover, OutgoingFrameSize: test.frame, CompressionThreshold: test.threshold, CompressionLevel: test.level})
			conn := dialTCP(t, serveRaw(t, h))
			_, br := ask(t, conn, handshakeRequest("Sec-WebSocket-Extensions: permessage-deflate"))
			s := accept(t, h)
			var text strings.Builder
			for i := 0; text.Len() < test.size; i++ {
				fmt.Fprintf(&text, "%d lorem ipsum dolor %d sit amet ", i%7, i%11)
			}
			p := text.String()[:test.size]
			send := map[string]func(){
				"Write":     func() { s.Write(t.Context(), Text, []byte(p)) },
				"Post":      func() { s.TryWrite(Text, []byte(p)) },
				"Broadcast": func() { Broadcast(slices.Values([]*Socket{s}), Text, []byte(p)) },
			}
			if test.writer {
				send = map[string]func(){"Writer": func() {
					w, _ := s.Writer(t.Context(), Text)
					io.WriteString(w, p)
					w.Close()
				}}
			}
			for how, send := range send {
				send()
				compressed, size := false, 0
				for last, first := false, true; !last; first = false {
					f := readFrame(t, br)
					compressed = compressed || first && f.first&0x40 != 0
					last = f.first&0x80 != 0
					size += len(f.payload)
				}
				if compressed != test.compressed || !compressed && size != test.size || test.atMost > 0 && size > test.atMost || size < test.atLeast {
					t.Errorf("%s: compressed %v, %d bytes", how, compressed, size)
				}
			}
		})
	}
	defer func() {
		if v := recover(); v != "foyer: CompressionLevel is 1 to 9" {
			t.Error(v)
		}
	}()
	(&Handler{CompressionLevel: 10}).NextPending()
}
