package foyer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/foyerws/foyer/internal/wstest"

	"github.com/gorilla/websocket"
)

func TestWriter(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	w, err := s.Writer(t.Context(), Text)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.TryWrite(Text, nil); err != ErrWriterOpen {
		t.Errorf("TryWrite while a Writer is open: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.SendText(ctx, "waits"); err != context.DeadlineExceeded {
		t.Errorf("Write while a Writer is open: %v", err)
	}
	if _, err := s.Writer(ctx, Text); err != context.DeadlineExceeded {
		t.Errorf("a second Writer: %v", err)
	}
	waiting := make(chan error)
	go func() { waiting <- s.SendText(t.Context(), "second") }()
	io.WriteString(w, "fir")
	io.WriteString(w, "st")
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, err := io.WriteString(w, "x"); err != io.ErrClosedPipe || w.Close() != io.ErrClosedPipe {
		t.Errorf("write after close: %v", err)
	}
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	for _, want := range []string{"first", "second"} {
		if _, p, err := c.ReadMessage(); err != nil || string(p) != want {
			t.Error(string(p), err)
		}
	}
	if _, err := s.Writer(t.Context(), 7); err != errBadMessageType {
		t.Error(err)
	}
}

func TestWriterOfAClosedSocket(t *testing.T) {
	h := closeHandler(t, &Handler{})
	_, s := connectTCP(t, h)
	w, err := s.Writer(t.Context(), Text)
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error)
	go func() { waiting <- s.SendText(context.Background(), "x") }()
	time.Sleep(time.Millisecond)
	s.Abort()
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := io.WriteString(w, "x"); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := w.Close(); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestControlFramesPassBetweenFragments(t *testing.T) {
	h := closeHandler(t, &Handler{})
	conn := dialTCP(t, serveRaw(t, h))
	_, br := ask(t, conn, handshakeRequest())
	s := accept(t, h)
	go s.Read(context.Background())
	w, err := s.Writer(t.Context(), Binary)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(make([]byte, 20000))
	conn.Write(wstest.Masked(0x89, "hi"))
	var frames []string
	for range 2 { // two pieces are long enough to leave before the end
		b := make([]byte, 4)
		io.ReadFull(br, b)
		n := int(b[2])<<8 | int(b[3])
		io.CopyN(io.Discard, br, int64(n))
		frames = append(frames, fmt.Sprint(b[0], " ", n))
		if len(frames) == 1 {
			pong, _ := br.Peek(4)
			if string(pong) != "\x8a\x02hi" {
				t.Errorf("between the fragments: %q", pong)
			}
			break
		}
	}
	s.Abort()
}

// openWriter returns the client and the server of a socket, a Writer of the server, and what ends the Writer's context.
func openWriter(t *testing.T) (*websocket.Conn, *Socket, io.WriteCloser, context.CancelFunc) {
	t.Helper()
	c, s := connectTCP(t, closeHandler(t, &Handler{}))
	ctx, cancel := context.WithCancel(t.Context())
	w, err := s.Writer(ctx, Text)
	if err != nil {
		t.Fatal(err)
	}
	return c, s, w, cancel
}

func TestWriterEndsWithItsContext(t *testing.T) {
	for _, end := range []func(io.WriteCloser) error{
		func(w io.WriteCloser) error { _, err := w.Write([]byte("b")); return err },
		io.WriteCloser.Close,
	} {
		_, s, w, cancel := openWriter(t)
		w.Write([]byte("a"))
		cancel()
		if err := end(w); !errors.Is(err, context.Canceled) || s.State() != StateClosed {
			t.Error(err, s.State())
		}
	}
}

// TestContextOfAnAbandonedWriter ends, and with it what others wait for.
func TestContextOfAnAbandonedWriter(t *testing.T) {
	_, s, w, cancel := openWriter(t)
	waiting := make(chan error)
	go func() { waiting <- s.SendText(t.Context(), "second") }()
	cancel()
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	var closed *CloseError
	if err := w.Close(); !errors.As(err, &closed) || closed.Err != context.Canceled {
		t.Error(err)
	}
}

// TestContextBehindAWriter does nothing any more.
func TestContextBehindAWriter(t *testing.T) {
	c, s, w, cancel := openWriter(t)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := s.SendText(t.Context(), "second"); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"", "second"} {
		if _, p, err := c.ReadMessage(); err != nil || string(p) != want {
			t.Error(string(p), err)
		}
	}
}
