package foyer

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/foyerws/foyer/internal/wstest"

	"github.com/gorilla/websocket"
)

// violation sends input behind a handshake and returns the code of the close frame that answers it, and how the socket
// ended.
func violation(t *testing.T, h *Handler, extensions string, input ...[]byte) (CloseCode, error) {
	t.Helper()
	closeHandler(t, h)
	conn := dialTCP(t, serveRaw(t, h))
	request := handshakeRequest()
	if extensions != "" {
		request = handshakeRequest("Sec-WebSocket-Extensions: " + extensions)
	}
	_, br := ask(t, conn, request)
	s := accept(t, h)
	ended := make(chan error, 1)
	go func() {
		for {
			if _, _, err := s.Read(context.Background()); err != nil {
				ended <- err
				return
			}
		}
	}()
	go conn.Write(bytes.Join(input, nil))
	header := make([]byte, 4)
	if _, err := io.ReadFull(br, header); err != nil || header[0] != 0x88 {
		t.Fatalf("answer %x, %v", header, err)
	}
	return CloseCode(header[2])<<8 | CloseCode(header[3]), <-ended
}

// TestTextIsUTF8 is RFC 6455 section 8.1. None of the inputs is a whole message: the bad byte alone must end the socket.
func TestTextIsUTF8(t *testing.T) {
	for name, input := range map[string][][]byte{
		"in the first fragment":    {wstest.Masked(0x01, "good\xffbad")},
		"in a continuation":        {wstest.Masked(0x01, "good"), wstest.Masked(0x00, "b\xc0")},
		"in the middle of a frame": {wstest.Masked(0x81, "ok\xfe"+strings.Repeat("x", 70000))[:200]},
		"surrogate":                {wstest.Masked(0x01, "\xed\xa0")},
		"beyond the last rune":     {wstest.Masked(0x01, "\xf4\x90")},
		"split over fragments":     {wstest.Masked(0x01, "\xe2\x82"), wstest.Masked(0x00, "\x28")},
		"cut off at the end":       {wstest.Masked(0x81, "\xe2\x82")},
	} {
		t.Run(name, func(t *testing.T) {
			if code, err := violation(t, &Handler{}, "", input...); code != CloseInvalidFramePayloadData || !errors.Is(err, ErrClosed) {
				t.Error(code, err)
			}
		})
	}
}

func TestUTF8CheckerAgreesWithTheStandardLibrary(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"a", "é", "€", "🙂", "\xff", "\xc3", "\xe2\x82", "\xf0\x9f\x99", "\xed\xa0\x80", "plain text "}
	for range 20000 {
		var text string
		for range r.IntN(6) {
			text += pieces[r.IntN(len(pieces)-r.IntN(len(pieces)))]
		}
		var c utf8Checker
		valid := true
		for rest := text; rest != "" && valid; {
			n := 1 + r.IntN(len(rest))
			valid = c.valid([]byte(rest[:n]))
			rest = rest[n:]
		}
		if got := valid && c.n == 0; got != utf8.ValidString(text) {
			t.Fatalf("%q: %v", text, got)
		}
	}
}

func TestSplitRunesPass(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	text := strings.Repeat("aé€🙂", 100)
	go func() {
		conn := c.NetConn()
		conn.Write(wstest.Masked(0x01, text[:1]))
		for i := 1; i < len(text); i++ {
			conn.Write(wstest.Masked(0x00, text[i:i+1]))
		}
		conn.Write(wstest.Masked(0x80, ""))
	}()
	if typ, p, err := s.Read(t.Context()); err != nil || typ != Text || string(p) != text {
		t.Error(typ, err)
	}
}

func TestMaxMessageSize(t *testing.T) {
	const limit = 1000
	big := strings.Repeat("x", limit+1)
	for _, frames := range [][][]byte{
		{wstest.Masked(0x82, big[1:])},
		{wstest.Masked(0x02, big[:400]), wstest.Masked(0x80, big[401:])},
	} {
		h := closeHandler(t, &Handler{MaxMessageSize: limit})
		c, s := connectTCP(t, h)
		c.NetConn().Write(bytes.Join(frames, nil))
		if _, p, err := s.Read(t.Context()); err != nil || len(p) != limit {
			t.Errorf("a message of the limit: %d bytes, %v", len(p), err)
		}
	}
	for name, input := range map[string][][]byte{
		"one frame":              {wstest.Masked(0x82, big)},
		"only its header":        {wstest.Masked(0x82, big)[:4]},
		"several frames":         {wstest.Masked(0x02, big[:400]), wstest.Masked(0x80, big[400:])},
		"frame of 2^62":          {{0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0}},
		"endless small frames":   append([][]byte{wstest.Masked(0x02, "")}, bytes.Repeat(wstest.Masked(0x00, "xxxxx"), 300)),
		"after an ordinary one":  {wstest.Masked(0x82, "fine"), wstest.Masked(0x82, big)},
		"several, one too large": {wstest.Masked(0x02, ""), wstest.Masked(0x00, big)[:4]},
	} {
		t.Run(name, func(t *testing.T) {
			code, err := violation(t, &Handler{MaxMessageSize: limit}, "", input...)
			if code != CloseMessageTooBig || !errors.Is(err, ErrMessageTooBig) {
				t.Error(code, err)
			}
		})
	}
}

func TestMaxFrameSize(t *testing.T) {
	h := closeHandler(t, &Handler{MaxFrameSize: 100})
	c, s := connectTCP(t, h)
	c.NetConn().Write(append(wstest.Masked(0x02, strings.Repeat("x", 100)), wstest.Masked(0x80, strings.Repeat("x", 99))...))
	if _, p, err := s.Read(t.Context()); err != nil || len(p) != 199 {
		t.Error(len(p), err)
	}
	if code, err := violation(t, &Handler{MaxFrameSize: 100}, "", wstest.Masked(0x82, strings.Repeat("x", 101))); code != CloseMessageTooBig || !errors.Is(err, ErrMessageTooBig) {
		t.Error(code, err)
	}
}

// deflated compresses p as permessage-deflate does, RFC 7692 section 7.2.1.
func deflated(p string) string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression)
	io.WriteString(w, p)
	w.Flush()
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

func TestCompressedMessages(t *testing.T) {
	h := closeHandler(t, &Handler{Compression: CompressionContextTakeover, MaxMessageSize: 100000})
	conn := dialTCP(t, serveRaw(t, h))
	resp, _ := ask(t, conn, handshakeRequest("Sec-WebSocket-Extensions: permessage-deflate"))
	if !strings.HasPrefix(resp.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate") {
		t.Fatal(resp.Header)
	}
	s := accept(t, h)
	text := strings.Repeat("compress me, ", 5000)
	zipped := deflated(text)
	conn.Write(wstest.Masked(0xc1, zipped))
	conn.Write(append(wstest.Masked(0x41, zipped[:10]), wstest.Masked(0x80, zipped[10:])...))
	conn.Write(wstest.Masked(0x81, "plain"))
	for _, want := range []string{text, text, "plain"} {
		if _, p, err := s.Read(t.Context()); err != nil || string(p) != want {
			t.Fatalf("%d bytes, %v", len(p), err)
		}
	}
}

func TestCompressionBombIsCutOff(t *testing.T) {
	bomb := deflated(strings.Repeat("\x00", 16<<20))
	code, err := violation(t, &Handler{Compression: CompressionContextTakeover}, "permessage-deflate", wstest.Masked(0xc2, bomb))
	if code != CloseMessageTooBig || !errors.Is(err, ErrMessageTooBig) {
		t.Error(code, err)
	}
}

func TestCorruptCompressedData(t *testing.T) {
	code, err := violation(t, &Handler{Compression: CompressionContextTakeover}, "permessage-deflate", wstest.Masked(0xc2, "\xff\xff\xff\xff"))
	if code != CloseInvalidFramePayloadData || !errors.Is(err, ErrClosed) {
		t.Error(code, err)
	}
}

func TestReservedBits(t *testing.T) {
	for name, input := range map[string][]byte{
		"RSV1 on a continuation": append(wstest.Masked(0x42, deflated("x")), wstest.Masked(0xc0, "x")...),
		"RSV1 on a ping":         wstest.Masked(0xc9, ""),
		"RSV2":                   wstest.Masked(0xa1, ""),
	} {
		if code, _ := violation(t, &Handler{Compression: CompressionContextTakeover}, "permessage-deflate", input); code != CloseProtocolError {
			t.Errorf("%s: %v", name, code)
		}
	}
	if code, _ := violation(t, &Handler{Compression: CompressionContextTakeover}, "", wstest.Masked(0xc1, deflated("x"))); code != CloseProtocolError {
		t.Errorf("RSV1 without negotiation: %v", code)
	}
}

func TestCompressionIsOffByDefault(t *testing.T) {
	h := closeHandler(t, &Handler{})
	if resp, _ := ask(t, dialTCP(t, serveRaw(t, h)), handshakeRequest("Sec-WebSocket-Extensions: permessage-deflate")); resp.Header.Get("Sec-WebSocket-Extensions") != "" {
		t.Error("compression is not off by default")
	}
}

func TestReadThatIsCancelledBetweenMessagesDoesNoHarm(t *testing.T) {
	for name, connect := range map[string]func(testing.TB, *Handler) (*websocket.Conn, *Socket){"tcp": connectTCP, "pipe": connectPipe} {
		t.Run(name, func(t *testing.T) {
			h := closeHandler(t, &Handler{})
			c, s := connect(t, h)
			go c.ReadMessage()
			for i := range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*100*time.Microsecond)
				if _, _, err := s.Read(ctx); err != context.DeadlineExceeded {
					t.Fatal(err)
				}
				cancel()
				if _, _, err := s.Read(ctx); err != context.DeadlineExceeded {
					t.Fatal(err)
				}
				// Pings are answered between messages and do not make a read uncancellable.
				go c.NetConn().Write(wstest.Masked(0x89, "ping"))
				ctx, cancel = context.WithTimeout(t.Context(), 5*time.Millisecond)
				if _, _, err := s.Read(ctx); err != context.DeadlineExceeded {
					t.Fatal(err)
				}
				cancel()
				go c.NetConn().Write(wstest.Masked(0x81, "hello"))
				if _, p, err := s.Read(t.Context()); err != nil || string(p) != "hello" {
					t.Fatal(string(p), err)
				}
			}
		})
	}
}

func TestReadThatIsCancelledInAMessageBreaksTheConnection(t *testing.T) {
	for name, begun := range map[string][]byte{"frame": wstest.Masked(0x81, "hello")[:8], "fragments": wstest.Masked(0x01, "hello")} {
		t.Run(name, func(t *testing.T) {
			h := closeHandler(t, &Handler{})
			c, s := connectTCP(t, h)
			c.NetConn().Write(begun)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if _, _, err := s.Read(ctx); !errors.Is(err, ErrClosed) || !errors.Is(err, context.DeadlineExceeded) || closeCode(s) != CloseAbnormalClosure {
				t.Error(err)
			}
		})
	}
}

func TestMessageThatIsCutOffIsNotDelivered(t *testing.T) {
	for name, begun := range map[string][]byte{"frame": wstest.Masked(0x81, "hello")[:8], "fragments": wstest.Masked(0x01, "hello")} {
		t.Run(name, func(t *testing.T) {
			h := closeHandler(t, &Handler{})
			c, s := connectTCP(t, h)
			c.NetConn().Write(begun)
			c.NetConn().Close()
			if _, p, err := s.Read(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) || p != nil {
				t.Errorf("%q, %v", p, err)
			}
		})
	}
}

func TestOnlyOneGoroutineReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{}
		_, s := connectPipe(t, h)
		go s.Read(context.Background())
		synctest.Wait()
		if _, _, err := s.Read(t.Context()); err != ErrReading {
			t.Error(err)
		}
		if _, _, err := s.Reader(t.Context()); err != ErrReading {
			t.Error(err)
		}
		s.Abort()
	})
}

func TestReader(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	text := strings.Repeat("stream ", 20000)
	go func() {
		for range 3 {
			c.WriteMessage(websocket.TextMessage, []byte(text))
		}
		c.WriteMessage(websocket.BinaryMessage, []byte("dropped"))
		c.WriteMessage(websocket.BinaryMessage, []byte("wanted"))
	}()
	for range 3 {
		typ, r, err := s.Reader(t.Context())
		if err != nil || typ != Text {
			t.Fatal(err)
		}
		if n, err := r.Read(nil); n != 0 || err != nil {
			t.Error(n, err)
		}
		if err := iotest.TestReader(r, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	_, dropped, err := s.Reader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dropped.Read(make([]byte, 3))
	if typ, p, err := s.Read(t.Context()); err != nil || string(p) != "wanted" || typ != Binary {
		t.Error(string(p), err)
	}
	if _, err := dropped.Read(make([]byte, 3)); err != errDropped {
		t.Error(err)
	}
	if s.traffic().messagesIn != 5 {
		t.Errorf("%d messages", s.traffic().messagesIn)
	}
}

func TestReaderEndsWithItsContext(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	c.NetConn().Write(wstest.Masked(0x02, "begun"))
	ctx, cancel := context.WithCancel(t.Context())
	_, r, err := s.Reader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	io.ReadFull(r, make([]byte, 5))
	cancel()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestStrings(t *testing.T) {
	for got, want := range map[string]string{
		Text.String(): "text", Binary.String(): "binary", MessageType(9).String(): "invalid message type",
		StateOpen.String(): "open", StateClosed.String(): "closed", State(9).String(): "invalid state",
		(&TLSError{Err: io.EOF}).Error():                      "foyer: TLS handshake with <nil>: EOF",
		(&AcceptError{Err: io.EOF}).Error():                   "foyer: accept: EOF",
		(&HandshakeError{Status: 403, Reason: "No."}).Error(): "foyer: handshake refused with status 403: No.",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if (&PanicError{Value: 1}).Unwrap() != nil {
		t.Error("a panic that is no error has one")
	}
}

func TestReadAfterAnAbandonedReaderHonoursItsContext(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	c.NetConn().Write(wstest.Masked(0x02, "begun"))
	if _, _, err := s.Reader(context.Background()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := s.Read(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}

	c, s = connectTCP(t, h)
	c.NetConn().Write(wstest.Masked(0x02, "begun"))
	ended, end := context.WithCancel(t.Context())
	if _, _, err := s.Reader(ended); err != nil {
		t.Fatal(err)
	}
	end()
	c.NetConn().Write(append(wstest.Masked(0x80, "ended"), wstest.Masked(0x82, "next")...))
	if _, p, err := s.Read(t.Context()); err != nil || string(p) != "next" {
		t.Error(string(p), err)
	}
}

// TestFinalDeflateBlock is RFC 7692 section 7.2.3.4.
func TestFinalDeflateBlock(t *testing.T) {
	final := func(p string) string {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, 1)
		io.WriteString(w, p)
		w.Close()
		return b.String() + "\x00"
	}
	h := closeHandler(t, &Handler{Compression: CompressionContextTakeover})
	conn := dialTCP(t, serveRaw(t, h))
	ask(t, conn, handshakeRequest("Sec-WebSocket-Extensions: permessage-deflate"))
	s := accept(t, h)
	conn.Write(wstest.Masked(0xc1, final("Hello")))
	if _, p, err := s.Read(t.Context()); err != nil || string(p) != "Hello" {
		t.Fatal(string(p), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := s.Read(ctx); err != context.DeadlineExceeded || s.State() != StateOpen {
		t.Error(err)
	}
	code, err := violation(t, &Handler{Compression: CompressionContextTakeover}, "permessage-deflate", wstest.Masked(0x41, final("Hello")), wstest.Masked(0x80, "\x00"))
	if code != CloseInvalidFramePayloadData || !errors.Is(err, ErrClosed) {
		t.Error(code, err)
	}
}

// rudeTimeout is a net.Conn whose timeouts are errors of its own.
type rudeTimeout struct{ net.Conn }

type ownTimeout struct{}

func (ownTimeout) Error() string   { return "too late" }
func (ownTimeout) Timeout() bool   { return true }
func (ownTimeout) Temporary() bool { return true }

func (r rudeTimeout) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = ownTimeout{}
	}
	return n, err
}

func TestTimeoutsOfOtherKinds(t *testing.T) {
	h := closeHandler(t, &Handler{})
	ours, theirs := net.Pipe()
	defer ours.Close()
	go h.HandleConnection(rudeTimeout{theirs})
	ask(t, ours, handshakeRequest())
	s := accept(t, h)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, _, err := s.Read(ctx); err != context.DeadlineExceeded || s.State() != StateOpen {
		t.Error(err)
	}
}

func TestReaderThatIsDroppedMeanwhile(t *testing.T) {
	h := closeHandler(t, &Handler{})
	c, s := connectTCP(t, h)
	go func() {
		for i := range 50 {
			c.NetConn().Write(append(wstest.Masked(0x02, "begin"), wstest.Masked(0x80, "end")...))
			c.NetConn().Write(wstest.Masked(0x82, string(rune('0'+i%10))))
		}
	}()
	for range 50 {
		_, r, err := s.Reader(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		copied := make(chan string, 1)
		go func() {
			p, err := io.ReadAll(r)
			if err == nil && string(p) != "beginend" {
				t.Errorf("%q was taken for the whole message", p)
			}
			copied <- string(p)
		}()
		for {
			if _, _, err := s.Read(t.Context()); err == nil {
				break
			} else if err != ErrReading {
				t.Fatal(err)
			}
		}
		<-copied
	}
}

// What is left to do on the reading side is done, by the goroutine that wanted to or by the one that had the side at that moment.
func TestNothingIsLeftOnTheReadingSide(t *testing.T) {
	h := closeHandler(t, &Handler{MaxPending: -1, CloseTimeout: time.Minute})
	addr := serveRaw(t, h)
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	for round := range rounds {
		c := dial(t, addr, nil)
		s := accept(t, h)
		c.WriteMessage(websocket.TextMessage, []byte("hello"))
		read := make(chan struct{})
		go func() {
			s.Read(context.Background())
			close(read)
		}()
		looked := make(chan struct{})
		go func() {
			for range 20 {
				s.checkPeerCloser()
			}
			close(looked)
		}()
		for range round % 50 {
			runtime.Gosched()
		}
		s.Close(CloseNormalClosure, "")
		go c.ReadMessage() // answers the close frame
		<-read
		<-looked
		select {
		case <-s.Done():
		case <-time.After(20 * time.Second):
			t.Fatal("the answer to the close frame is not read")
		}
		eventually(t, "the wire to be forgotten", func() bool {
			if !s.reading.side.TryLock() {
				return false
			}
			defer s.returnReading()
			return s.wire.Err() != nil
		})
		c.Close()
	}
}
