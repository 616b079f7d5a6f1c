package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/foyerws/foyer/internal/frame"
	"github.com/foyerws/foyer/internal/wstest"
)

// script is a net.Conn whose reads and writes are scripted.
type script struct {
	net.Conn // nil: nothing else may be called
	mu       sync.Mutex
	reads    []any // []byte or error
	writes   []any // what each write may take: int or error; then all
	written  bytes.Buffer
	closed   bool
}

func (s *script) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.reads) == 0 {
		return 0, io.EOF
	}
	switch next := s.reads[0].(type) {
	case error:
		s.reads = s.reads[1:]
		return 0, next
	case []byte:
		n := copy(p, next)
		if s.reads[0] = next[n:]; n == len(next) {
			s.reads = s.reads[1:]
		}
		return n, nil
	}
	panic("bad script")
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.writes) > 0 {
		next := s.writes[0]
		s.writes = s.writes[1:]
		switch next := next.(type) {
		case error:
			return 0, next
		case int:
			n := min(next, len(p))
			s.written.Write(p[:n])
			return n, nil
		}
	}
	return s.written.Write(p)
}

func (s *script) Close() error { s.mu.Lock(); defer s.mu.Unlock(); s.closed = true; return nil }

func (s *script) SetDeadline(time.Time) error { return nil }

func (s *script) SetReadDeadline(time.Time) error { return nil }

func (s *script) SetWriteDeadline(time.Time) error { return nil }

// callbacks are an Owner.
type callbacks struct {
	control func(byte, []byte)
	failed  func(error)
	ready   func(onLoop bool)
}

func (o callbacks) Control(opcode byte, payload []byte) { o.control(opcode, payload) }

func (o callbacks) Wrote() {}

func (o callbacks) HungUp() {}

func (o callbacks) Ready(onLoop bool) { o.ready(onLoop) }

func (o callbacks) Failed(err error) {
	if o.failed != nil {
		o.failed(err)
	}
}

// framed returns a Conn on conn that has its handshake behind it.
func framed(conn net.Conn, early []byte, l Rules, control func(byte, []byte)) *Conn {
	c := New(conn, early)
	c.Frame(&l, callbacks{control: control})
	c.Open()
	return c
}

var server = Rules{Limits: frame.Limits{Server: true}}

// text is a masked text frame.
func text(p string) []byte { return wstest.Masked(0x81, p) }

// payloadOf reads the rest of the frame at hand.
func payloadOf(t *testing.T, c *Conn) string {
	var got []byte
	for c.Left() > 0 {
		p := make([]byte, 100)
		n, err := c.ReadPayload(p)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p[:n]...)
	}
	c.EndFrame()
	return string(got)
}

func TestReadsEndWithTheFrame(t *testing.T) {
	stream := append(text("one"), text("two")...)
	for size := 1; size <= len(stream); size++ {
		var reads []any
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			reads = append(reads, rest[:n])
			rest = rest[n:]
		}
		c := framed(&script{reads: reads}, nil, server, nil)
		for _, want := range []string{"one", "two"} {
			if err := c.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := payloadOf(t, c); got != want {
				t.Errorf("pieces of %d: %q, want %q", size, got, want)
			}
		}
		if err := c.Wait(t.Context()); err != io.EOF || c.Err() != io.EOF {
			t.Error(err)
		}
		if _, err := c.ReadPayload(make([]byte, 1)); err != io.EOF {
			t.Error(err)
		}
		if c.BytesIn() != uint64(len(stream)) {
			t.Error(c.BytesIn())
		}
	}
}

func TestControlFramesDoNotReachTheReader(t *testing.T) {
	var seen []string
	stream := append([]byte{0x89, 0x82, 1, 1, 1, 1, 'h' ^ 1, 'i' ^ 1}, text("data")...)
	stream = append(stream, 0x8a, 0x80, 0, 0, 0, 0, 0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8)
	c := framed(&script{reads: []any{stream}}, nil, server, func(op byte, p []byte) { seen = append(seen, string(rune('0'+op))+string(p)) })
	if err := c.Wait(t.Context()); err != nil || strings.Join(seen, ",") != "9hi" {
		t.Fatal(err, seen)
	}
	if err := c.Skip(); err != nil {
		t.Fatal(err)
	}
	var closed *frame.PeerClose
	if err := c.Wait(t.Context()); !errors.As(err, &closed) || closed.Code != 1000 || len(seen) != 2 || closed.Error() == "" {
		t.Error(err, seen)
	}
}

func TestEndsOfInput(t *testing.T) {
	reset := errors.New("reset")
	for name, tt := range map[string]struct {
		reads []any
		want  error
	}{
		"between frames":    {nil, io.EOF},
		"in a header":       {[]any{[]byte{0x81}}, io.ErrUnexpectedEOF},
		"in a ping":         {[]any{[]byte{0x89, 0x82, 0, 0, 0, 0, 1}}, io.ErrUnexpectedEOF},
		"between fragments": {[]any{[]byte{0x01, 0x80, 0, 0, 0, 0}}, io.ErrUnexpectedEOF},
		"in a payload":      {[]any{text("hello")[:8]}, io.ErrUnexpectedEOF},
		"reset":             {[]any{reset}, reset},
		"reset in a frame":  {[]any{text("hello")[:8], reset}, reset},
		"no progress":       {[]any{[]byte{}}, io.ErrNoProgress},
	} {
		c := framed(&script{reads: tt.reads}, nil, server, nil)
		var err error
		for err == nil {
			if err = c.Wait(t.Context()); err == nil {
				err = c.Skip()
			}
		}
		if err != tt.want || c.Err() != tt.want {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

func TestLongPayloadsAreReadWhereTheyAreWanted(t *testing.T) {
	payload := bytes.Repeat([]byte("x"), 60000)
	header := []byte{0x82, 0xfe, byte(len(payload) >> 8), byte(len(payload) & 0xff), 0, 0, 0, 0}
	c := framed(&script{reads: []any{header, payload, text("next")}}, nil, server, nil)
	if err := c.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100000)
	n, err := c.ReadPayload(p)
	if err != nil || n != len(payload) || c.in != nil {
		t.Errorf("%d bytes at once, %v, a buffer %v", n, err, c.in != nil)
	}
	c.EndFrame()
	if err := c.Wait(t.Context()); err != nil || c.Left() != 4 {
		t.Error(err, c.Left())
	}
}

func TestReadBeforeTheHandshake(t *testing.T) {
	c := New(&script{}, []byte("early"))
	if string(c.Peek()) != "early" || !c.Unread() {
		t.Error(c.Peek())
	}
	if err := c.Next(); err == nil {
		t.Error("frames before Frame")
	}
	long := New(&script{}, make([]byte, 100000))
	if len(long.Peek()) != 100000 {
		t.Error(len(long.Peek()))
	}
	long.Discard(100000)
	if long.Unread() {
		t.Error("unread")
	}
}

func TestWritesLeaveInOrder(t *testing.T) {
	s := &script{}
	c := New(s, nil)
	c.Write([]byte("kept until Open, "))
	if s.written.Len() > 0 {
		t.Error("left before Open")
	}
	c.Frame(&server, callbacks{})
	c.Open()
	first := &Frame{First: frame.Binary, Payload: []byte("held"), Leave: WithNext}
	long := &Frame{First: 0, Payload: bytes.Repeat([]byte("x"), 3*bufferSize)}
	lent := &Frame{First: frame.Final, Payload: bytes.Repeat([]byte("y"), LendSize), Lent: true}
	want := []byte("kept until Open, ")
	var mark uint64
	for _, f := range []*Frame{first, long, lent} {
		var err error
		if mark, err = c.Send(f); err != nil {
			t.Fatal(err)
		}
		want = append(frame.AppendHeader(want, f.First, len(f.Payload)), f.Payload...)
	}
	if err := c.WaitWritten(t.Context(), mark); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(s.written.Bytes(), want) || c.Written() != uint64(len(want)) || c.BytesToWrite() != 0 {
		t.Errorf("%d bytes, want %d", s.written.Len(), len(want))
	}
}

// TestWhoMaySend goes through what keeps a frame from being taken in.
func TestWhoMaySend(t *testing.T) {
	c := framed(&script{}, nil, server, nil)
	message := &Frame{First: frame.Final | frame.Binary, Payload: make([]byte, 10), Room: Room{Max: 20}}
	ping := &Frame{First: frame.Final | frame.Ping}
	send := func(f *Frame, want error) {
		t.Helper()
		if _, err := c.Send(f); err != want {
			t.Errorf("%v, want %v", err, want)
		}
	}
	if err := c.Claim(Streaming, 0, Room{}); err != nil || c.Claimed() != Streaming {
		t.Fatal(err)
	}
	send(message, ErrClaimed)
	send(ping, nil)
	if err := c.Claim(Preparing, 0, Room{}); err != ErrClaimed {
		t.Error(err)
	}
	if err := c.WaitPrepared(); err != nil {
		t.Error("a wait for a Writer", err)
	}
	free := make(chan error)
	go func() { free <- c.WaitClaim(t.Context()) }()
	claimed := *message
	claimed.Claimed = true
	send(&claimed, nil)
	c.Unclaim(Now)
	if err := <-free; err != nil {
		t.Error(err)
	}
	c.Flush(t.Context())
	long := *message
	long.Payload = make([]byte, 30)
	send(&long, ErrNoRoom)
	if err := c.Claim(Preparing, 30, message.Room); err != ErrNoRoom {
		t.Error(err)
	}
	long.Room.Alone = true
	send(&long, nil)
	send(&Frame{First: frame.Final | frame.Close}, nil)
	send(message, ErrCloseSent)
	send(ping, ErrCloseSent)
	if err := c.Claim(Preparing, 0, Room{}); err != ErrCloseSent {
		t.Error(err)
	}
}

func TestFailedWrites(t *testing.T) {
	reset := errors.New("reset")
	for name, tt := range map[string]struct {
		writes []any
		want   error
	}{"error": {[]any{reset}, reset}, "short": {[]any{2}, io.ErrShortWrite}, "later": {[]any{5, reset}, reset}} {
		s := &script{writes: tt.writes}
		c := New(s, nil)
		failed := make(chan error, 2)
		c.Frame(&server, callbacks{failed: func(err error) { failed <- err }})
		c.Open()
		c.Write([]byte("hello"))
		c.Flush(t.Context())
		c.Write([]byte("world"))
		if err := <-failed; err != tt.want {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.Send(&Frame{}); err != tt.want {
			t.Errorf("%s: send: %v", name, err)
		}
		if c.BytesToWrite() != 0 {
			t.Errorf("%s: %d bytes wait", name, c.BytesToWrite())
		}
	}
}

func TestPartialWritesGoOn(t *testing.T) {
	ours, theirs := tcpPair(t)
	c := framed(ours, nil, server, nil)
	want := bytes.Repeat([]byte("0123456789"), 1<<20)
	for rest := want; len(rest) > 0; {
		n := min(100000, len(rest))
		c.Write(rest[:n])
		rest = rest[n:]
	}
	if c.BytesToWrite() == 0 {
		t.Error("the kernel took ten megabytes that nobody reads")
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(theirs, got); err != nil || !bytes.Equal(got, want) {
		t.Error("the bytes are not the same", err)
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Error(err)
	}
}

func tcpPair(t *testing.T) (ours, theirs net.Conn) { return pair(t, "tcp", "127.0.0.1:0") }

func pair(t *testing.T, network, addr string) (ours, theirs net.Conn) {
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	theirs, err = net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ours, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	theirs.SetDeadline(time.Now().Add(20 * time.Second))
	return ours, theirs
}

func TestQuietConnectionsHoldNoBuffer(t *testing.T) {
	ours, theirs := tcpPair(t)
	c := framed(ours, nil, server, nil)
	waited := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { waited <- c.Wait(ctx) }()
	for !c.Waiting() {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-waited; err != ErrInterrupted || c.in != nil {
		t.Errorf("%v, a buffer %v", err, c.in != nil)
	}
	theirs.Write(text("hello"))
	if err := c.Wait(t.Context()); err != nil || c.in == nil {
		t.Error(err)
	}
	c.Skip()
	if c.in != nil {
		t.Error("the buffer was not given back")
	}
}

// TestOnlyTheLentPayloadIsNotCopied has the caller change its memory after the call.
func TestOnlyTheLentPayloadIsNotCopied(t *testing.T) {
	s := &script{}
	c := New(s, nil)
	c.Frame(&server, callbacks{})
	lent, other := bytes.Repeat([]byte("l"), LendSize), bytes.Repeat([]byte("o"), LendSize)
	c.Send(&Frame{First: 0, Payload: lent, Lent: true})
	c.Send(&Frame{First: 0, Payload: other})
	clear(other) // is its owner's again
	c.Open()
	c.Flush(t.Context())
	if got := s.written.String(); strings.Count(got, "o") != LendSize || strings.Count(got, "l") != LendSize {
		t.Error("the caller's memory was written after the call")
	}
}
