package foyer

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// dialled returns both ends of a socket over TCP.
func dialled(t *testing.T, h *Handler, o *DialOptions) (server, client *Socket) {
	client, _, err := Dial(t.Context(), "ws://"+serveRaw(t, closeHandler(t, h)), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Abort() })
	return accept(t, h), client
}

// TestTryWriteWaitsForNoWriter has messages that are compressed and Writers take turns. A Writer stays open until something
// that must not wait has returned a few times.
func TestTryWriteWaitsForNoWriter(t *testing.T) {
	besideOthers(t)
	s, c := dialled(t, &Handler{Compression: CompressionContextTakeover, CompressionThreshold: -1}, &DialOptions{Compression: CompressionContextTakeover})
	c.CloseRead()
	ctx, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	returned, over := make(chan struct{}), make(chan struct{})
	var writers sync.WaitGroup
	writers.Go(func() {
		for p := make([]byte, 4<<10); ctx.Err() == nil; {
			s.Write(ctx, Binary, p)
		}
	})
	writers.Go(func() {
		for ctx.Err() == nil {
			w, err := s.Writer(t.Context(), Text)
			if err != nil {
				return
			}
			for range 3 {
				select {
				case <-returned:
				case <-over:
				case <-time.After(20 * time.Second):
					t.Error("it waits")
				}
			}
			w.Close()
			time.Sleep(time.Millisecond)
		}
	})
	for ctx.Err() == nil {
		s.TryWrite(Text, []byte("hello hello"))
		Broadcast(slices.Values([]*Socket{s}), Text, []byte("to all"))
		select {
		case returned <- struct{}{}:
		default:
		}
	}
	close(over)
	writers.Wait()
}

// TestCloseDuringAWriter ends the socket in order, though the Writer finds that nothing may be sent any more.
func TestCloseDuringAWriter(t *testing.T) {
	besideOthers(t)
	h := closeHandler(t, &Handler{})
	addr := serveRaw(t, h)
	times := 300
	if testing.Short() {
		times = 100
	}
	for i := range times {
		c, _, err := Dial(t.Context(), "ws://"+addr, &DialOptions{MaxMessageSize: -1})
		if err != nil {
			t.Fatal(err)
		}
		c.CloseRead()
		s := accept(t, h)
		w, err := s.Writer(t.Context(), Binary)
		if err != nil {
			t.Fatal(err)
		}
		written := make(chan struct{})
		go func() {
			defer close(written)
			for p := make([]byte, 5000); err == nil; {
				_, err = w.Write(p)
			}
			w.Close()
		}()
		time.Sleep(time.Duration(i%10) * 50 * time.Microsecond)
		s.Close(CloseNormalClosure, "bye")
		<-written
		within(t, 5*time.Second, "the end", s.Done())
		if closeCode(s) != CloseNormalClosure {
			t.Fatalf("round %d: %v", i, s.Err())
		}
		within(t, 5*time.Second, "the client's end", c.Done())
	}
}

// TestNothingOfASplitMessageIsRead after Write has returned: the memory is the caller's again.
func TestNothingOfASplitMessageIsRead(t *testing.T) {
	for round := range 5 {
		s, c := dialled(t, &Handler{OutgoingFrameSize: 512, MaxWriteBuffer: 64 << 20}, &DialOptions{MaxMessageSize: -1})
		got := make(chan []byte)
		go func() {
			_, r, err := c.Reader(t.Context())
			if err != nil {
				got <- nil
				return
			}
			time.Sleep(50 * time.Millisecond)
			p, _ := io.ReadAll(r)
			got <- p
		}()
		time.AfterFunc(time.Duration(1+3*round)*time.Millisecond, func() { s.Close(CloseNormalClosure, "") })
		p := bytes.Repeat([]byte("a"), 8<<20)
		s.Write(t.Context(), Binary, p)
		for i := range p {
			p[i] = 'X'
		}
		if i := bytes.IndexByte(<-got, 'X'); i >= 0 {
			t.Fatalf("round %d: the peer has at %d what was written after Write had returned", round, i)
		}
	}
}

// TestMaskGeneratorOfManyGoroutines need not be safe for them.
func TestMaskGeneratorOfManyGoroutines(t *testing.T) {
	n := uint32(0)
	s, c := dialled(t, &Handler{}, &DialOptions{MaskGenerator: func() uint32 { n++; return n }})
	s.CloseRead()
	c.CloseRead()
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range 200 {
				c.TryWrite(Text, []byte("x"))
			}
		})
	}
	writers.Wait()
	c.Abort()
	if n < 800 {
		t.Error(n)
	}
}

// TestMaskGeneratorThatEndsItsGoroutine in the middle of a message breaks the connection: the peer has half of it.
func TestMaskGeneratorThatEndsItsGoroutine(t *testing.T) {
	var n atomic.Int32
	_, c := dialled(t, &Handler{}, &DialOptions{OutgoingFrameSize: 4, MaskGenerator: func() uint32 {
		if n.Add(1) == 2 {
			runtime.Goexit()
		}
		return 7
	}})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.TryWrite(Text, []byte("hello hello"))
	}()
	<-ended
	if err := c.TryWrite(Text, []byte("next")); err == nil || c.State() != StateClosed {
		t.Error(err, c.State())
	}
}

// TestUnfinishedMessagesHoldLittle though messages before them were long.
func TestUnfinishedMessagesHoldLittle(t *testing.T) {
	for come, most := range map[int]int{1: 4 << 10, 1000: 8000, 200_000: 1 << 20} {
		m := &message{kind: Binary, store: make([]byte, 0, 1<<20)}
		if m = m.modest(come); cap(m.store) > most || m.kind != Binary {
			t.Errorf("%d bytes have come: %d are held", come, cap(m.store))
		}
	}
}
